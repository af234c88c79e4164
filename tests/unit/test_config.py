"""YAML, overrides and the schema: what a user writes is what runs, or every mistake is named at once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tstune.config.managers import SimpleConfigManager
from tstune.config.schema import RunConfig
from tstune.config.section import FAMILIES, section_classes
from tstune.config.validation import leaf_paths, section_at, validate
from tstune.errors import ConfigError
from tstune.models.registry import families, model_class

MANAGER = SimpleConfigManager()
Write = Callable[[str], Path]


def load(path: Path, *overrides: str) -> RunConfig:
    return MANAGER.load_config(path, overrides)


def message(path: Path, *overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        MANAGER.load_config(path, overrides)
    return str(caught.value)


# What wins


def test_an_empty_file_is_the_default_run(write_config: Write):
    assert load(write_config("")) == RunConfig()


def test_default_then_file_then_override(write_config: Write):
    path = write_config("seed: 1\nmodel: {context_length: 128, prediction_length: 24}\n")
    config = load(path, "model.prediction_length=12", "output_dir=runs/a=b")
    assert config.seed == 1
    assert config.model.context_length == 128
    assert config.model.prediction_length == 12
    assert config.output_dir == "runs/a=b"  # only the first = separates
    assert config.data == RunConfig().data


def test_the_last_of_two_overrides_counts(write_config: Write):
    assert load(write_config(""), "seed=1", "seed=2").seed == 2


def test_an_override_replaces_a_list_as_a_whole(write_config: Write):
    path = write_config("evaluation: {horizons: [30min, 60min, 120min]}")
    assert load(path, "evaluation.horizons=[15min]").evaluation.horizons == ["15min"]


def test_an_override_can_reach_a_section_the_file_does_not_have(write_config: Write):
    assert load(write_config("seed: 1"), "data.split.train=0.5").data.split.train == 0.5


def test_shares_over_a_recipe_with_a_published_split_are_refused_until_one_of_the_two_goes(write_config: Write):
    path = write_config("data: {source: brist1d_open, path: x, split: {preset: brist1d}}")
    for share in ("train: 0.5", "train: 0.7", "test: 0.2"):  # the default too is something that was asked for
        said, name = message(path, f"data.split={{{share}}}"), share.partition(":")[0]
        assert f"preset brist1d says what {name} would say; leave out one of the two, or set preset to null" in said
    split = load(path, "data.split={train: 0.5, preset: null}").data.split
    assert (split.train, split.preset) == (0.5, None)
    kept = load(path, "data.split={purge: 3}")
    assert kept.data.split.preset == "brist1d"
    SimpleConfigManager().save_config(kept, path.with_name("saved.yaml"))
    assert load(path.with_name("saved.yaml")) == kept


# Values


@pytest.mark.parametrize(("text", "value"), [("1e-4", 1e-4), ("5E-4", 5e-4), ("1.5e-3", 1.5e-3), ("0.01", 0.01)])
def test_scientific_notation_is_a_float_in_yaml_and_on_the_command_line(write_config: Write, text: str, value: float):
    from_yaml = load(write_config(f"training: {{learning_rate: {text}}}")).training.learning_rate
    from_override = load(write_config(""), f"training.learning_rate={text}").training.learning_rate
    assert from_yaml == from_override == value
    assert type(from_yaml) is type(from_override) is float


def test_null_and_lists_on_the_command_line(write_config: Write):
    path = write_config("training: {max_grad_norm: 2.0}")
    config = load(path, "training.max_grad_norm=null", "evaluation.horizons=[30min,6]")
    assert config.training.max_grad_norm is None
    assert config.evaluation.horizons == ["30min", 6]


def test_interpolation_reads_other_keys_of_file_and_command_line(write_config: Write):
    path = write_config(
        "model: {context_length: 96}\ndata: {test_stride: '${model.context_length}'}\n"
        "seed: 3\noutput_dir: runs/len${model.context_length}/seed${seed}\n"
    )
    assert load(path).output_dir == "runs/len96/seed3"
    config = load(path, "seed=4", "model.context_length=48")
    assert config.output_dir == "runs/len48/seed4"
    assert config.data.test_stride == 48


def test_interpolation_reads_the_environment(write_config: Write, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TSTUNE_TEST_FOLDER", "somewhere")
    assert load(write_config("output_dir: ${oc.env:TSTUNE_TEST_FOLDER}/run")).output_dir == "somewhere/run"


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("seed: ${nowhere}", "nowhere"),
        ("seed: ${seed}", "ecursive"),
        ("output_dir: ${oc.env:TSTUNE_TEST_NOT_SET}", "TSTUNE_TEST_NOT_SET"),
        ("output_dir: ${unknown_resolver:1}", "unknown_resolver"),
        ("output_dir: '${unclosed'", "${unclosed"),
    ],
)
def test_an_interpolation_that_leads_nowhere_is_one_line(write_config: Write, text: str, part: str):
    text = message(write_config(text))
    assert part in text
    assert "config.yaml" in text


# Mistakes


def test_all_mistakes_come_in_one_message_with_their_fix(write_config: Write):
    path = write_config(
        "model: {contextlength: 64, prediction_length: 0}\n"
        "data: {split: {trian: 0.5}}\n"
        "training: {num_epochs: many, loss: rmse}\n"
        "seeed: 1\n"
    )
    text = message(path, "evaluation.batch_sise=8", "training.max_steps=-1")
    assert "8 problems" in text
    assert "model.contextlength: unknown key, did you mean model.context_length?" in text
    assert (
        "model.prediction_length: input should be greater than or equal to 1 or input should be 'auto' (got 0)" in text
    )
    assert "data.split.trian: unknown key, did you mean data.split.train?" in text
    assert "training.num_epochs: input should be a valid integer" in text
    assert "(got 'many')" in text
    assert "training.loss: input should be 'mse', 'mae' or 'huber' (got 'rmse')" in text
    assert "seeed: unknown key, did you mean seed?" in text
    assert "evaluation.batch_sise: unknown key, did you mean evaluation.batch_size?" in text
    assert "training.max_steps: input should be greater than or equal to 1 (got -1)" in text


def test_a_key_in_the_wrong_section_is_found(write_config: Write):
    text = message(write_config("learning_rate: 1e-3\nmodel: {num_epochs: 3}"))
    assert "learning_rate: unknown key, did you mean training.learning_rate?" in text
    assert "model.num_epochs: unknown key, did you mean training.num_epochs?" in text


@pytest.mark.parametrize(
    ("override", "meant"),
    [
        ("model.name=x", " (keys here: type, pretrained"),  # not data.rename
        ("model.renam=x", ", did you mean data.rename?"),
        ("training.batch_size=8", ", did you mean training.per_device_batch_size?"),  # not evaluation.batch_size
        ("data.train=0.5", ", did you mean data.split.train?"),
        ("training.lr=0.1", " (keys here: "),  # not the one other key with lr in it
        ("training.mode=full", ", did you mean data.split.mode or tuning.mode?"),
    ],
)
def test_the_same_section_is_looked_at_first(override: str, meant: str, write_config: Write):
    key = override.partition("=")[0]
    assert f"1 problem: {key}: unknown key{meant}" in message(write_config("seed: 1"), override)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("data:\n  source:csv\n  path: x.csv\n", "is not valid YAML: line 2: source:csv has no blank after its colon"),
        ("data:\n  path:/x.csv\n  source: csv\n", "line 2: path:/x.csv has no blank after its colon"),
        ("data.source:csv\n\nmodel:\n", "is not valid YAML: line 1: data.source:csv has no blank after its colon"),
        (
            "data:\n  path: a\n  source:csv\nseed: 1\n",
            "line 3: source:csv has no blank after its colon; write source: csv",
        ),
        ("data:\n  source:csv\nseed: 1\n", "data: input should be a valid dictionary or instance of DataSection (got"),
        ("data:\n  source:csv\nseed: 1\n", "source:csv has no blank after its colon; write source: csv"),
    ],
)
def test_a_blank_that_is_missing_after_a_colon_is_named_where_it_is_missing(text, told, write_config: Write):
    assert told in message(write_config(text))


def test_a_dotted_key_in_a_file_is_said_with_the_way_to_write_it(write_config: Write):
    text = message(write_config("data.path: x.csv\ndata: {split.train: 0.5}"))
    assert "data.path: unknown key, write it as data: {path: …}" in text
    assert "data.split.train: unknown key, write it as data: {split: {train: …}}" in text


def test_an_unknown_key_like_no_other_lists_its_neighbours(write_config: Write):
    text = message(write_config("data: {split: {xyzzy: 1}}"))
    assert "data.split.xyzzy: unknown key (keys here: train, validation, test, borders, borders_at, preset," in text


WRONG_VALUES = [
    ("seed", "-1"),
    ("seed", "1.5"),
    ("overwrite", "perhaps"),
    ("output_dir", "null"),
    ("model.type", "lstm"),
    ("model.pretrained", "5"),
    ("model.context_length", "3"),
    ("data.max_gap", "1.5"),
    ("data.max_gap", "[1]"),
    ("data.max_gap", "-1"),
    ("data.split.train", "1.0"),
    ("data.split.borders", "published"),
    ("data.split.borders", "[1,2]"),
    ("data.split.borders", "[1,x,3]"),
    ("evaluation.horizons", "30min"),
    ("evaluation.horizons", "[1.5]"),
    ("training.learning_rate", "0"),
    ("training.learning_rate", "-0.001"),
    ("training.learning_rate", "fast"),
    ("training.learning_rate", ".nan"),
    ("training.learning_rate", ".inf"),
    ("training.warmup_fraction", "1"),
    ("training.weight_decay", ".nan"),
    ("training.scheduler", "cosine"),
]


@pytest.mark.parametrize(("key", "value"), WRONG_VALUES)
def test_a_wrong_value_is_one_problem_named_by_its_key(write_config: Write, key: str, value: str):
    text = message(write_config(""), f"{key}={value}")
    assert f": 1 problem: {key}" in text
    assert ".literal[" not in text
    assert ".int" not in text


@pytest.mark.parametrize(("key", "value"), WRONG_VALUES)
def test_a_wrong_value_does_not_hide_another_mistake(write_config: Write, key: str, value: str):
    text = message(write_config("evaluation: {num_plots: -1}"), f"{key}={value}")
    assert key in text
    assert "evaluation.num_plots: input should be greater than or equal to 0 (got -1)" in text


def test_shares_beyond_the_whole_series(write_config: Write):
    text = message(write_config("data: {split: {train: 0.8}}"))
    assert "data.split: train + validation + test is 1.1, more than the whole series (1.0)" in text


def test_shares_do_not_matter_once_there_are_borders(write_config: Write):
    config = load(write_config("data: {split: {train: 0.9, borders: [10, 20, 30]}}"))
    assert config.data.split.borders == (10, 20, 30)


def test_borders_must_grow(write_config: Write):
    assert "borders [10, 10, 20] must grow" in message(write_config("data: {split: {borders: [10, 10, 20]}}"))


def test_zero_shot_needs_weights(write_config: Write):
    text = message(write_config("tuning: {mode: zero_shot}"))
    assert "tuning.mode=zero_shot needs weights but model.pretrained is null" in text


def test_a_section_that_is_not_a_mapping(write_config: Write):
    assert "model: input should be a valid dictionary" in message(write_config("model: 3"))
    assert "training: input should be a valid dictionary" in message(write_config("training:\n  - a"))


@pytest.mark.parametrize("override", ["seed", "--seed=1", "=1", " =1", "-x", "training.learning_rate 5e-4"])
def test_an_override_that_is_not_key_value(write_config: Write, override: str):
    text = message(write_config(""), "seed=1", override)
    assert text == f"override {override!r} is not of the form key=value, e.g. training.learning_rate=5e-4"


@pytest.mark.parametrize("override", ["output_dir={a", "output_dir=[1", "output_dir=${x"])
def test_an_override_whose_value_is_not_yaml(write_config: Write, override: str):
    assert "override cannot be read" in message(write_config(""), override)


@pytest.mark.parametrize("override", ["evaluation.horizons[0]=15min", "evaluation.horizons.0=15min"])
def test_an_override_of_one_element_of_a_list_is_a_user_error(write_config: Write, override: str):
    assert "evaluation.horizons" in message(write_config("evaluation: {horizons: [30min]}"), override)


@pytest.mark.parametrize("where", ["file", "command line"])
def test_the_mandatory_mark_of_omegaconf_is_not_passed_over(write_config: Write, where: str):
    if where == "file":
        text = message(write_config("output_dir: ???"))
    else:
        text = message(write_config("output_dir: runs/a"), "output_dir=???")
    assert "output_dir" in text


def test_a_missing_file(tmp_path: Path):
    assert (
        message(tmp_path / "no.yaml")
        == f"config file {tmp_path / 'no.yaml'} does not exist; recipes lie under recipes/"
    )
    assert "does not exist" in message(tmp_path)  # a folder is no file


@pytest.mark.parametrize(
    "text",
    ["model: [1", "\tseed: 1", "seed: 1\nseed: 2", "a: b: c", "---\nseed: 1\n---\nseed: 2", "seed: @x"],
    ids=["bracket", "tab", "key twice", "two colons", "two documents", "reserved"],
)
def test_text_that_is_not_yaml(write_config: Write, text: str):
    assert "config.yaml is not valid YAML" in message(write_config(text))


def test_bytes_that_are_not_utf8(tmp_path: Path):
    path = tmp_path / "config.yaml"
    path.write_bytes("output_dir: Gr\xfc\xdfe".encode("latin-1"))
    assert "is not valid YAML" in message(path)


@pytest.mark.parametrize("text", ["- model\n- data", "[]", "42", "3.5", "true"])
def test_yaml_that_holds_no_sections(write_config: Write, text: str):
    assert "must hold sections such as model: and data:" in message(write_config(text))


@pytest.mark.parametrize("text", ["just words", "1: 2", "model: {1: 2}"])
def test_yaml_whose_keys_are_no_keys(write_config: Write, text: str):
    assert "1 problem" in message(write_config(text))


# Saving


UNUSUAL = {
    "model": {"pretrained": "1e-3", "context_length": 64, "dropout": 0.1 + 0.2},
    "data": {
        "source": "csv",
        "path": "Größe 血糖.csv",
        "timestamp_format": "%d/%m/%Y %H:%M",
        "item_id_column": "null",
        "target_columns": ["1", "yes", "2024-01-01", "a: b", "~", "", "# no comment"],
        "max_gap": "9",
        "unit": "on",
        "split": {"borders": [10, 20, 30]},
    },
    "training": {"learning_rate": 1e-4, "weight_decay": 1 / 3},
    "evaluation": {"horizons": ["30min", 6, "12"]},
    "output_dir": "1",
}


@pytest.mark.parametrize("values", [{}, UNUSUAL], ids=["default", "unusual values"])
def test_saved_and_loaded_again_it_is_the_same_run(tmp_path: Path, values: dict):
    config = validate(values, "test")
    MANAGER.save_config(config, tmp_path / "saved.yaml")
    again = load(tmp_path / "saved.yaml")
    assert again == config
    assert again.model_dump() == config.model_dump()


def test_what_is_saved_is_resolved_and_complete(write_config: Write, tmp_path: Path):
    config = load(write_config("seed: 3\noutput_dir: runs/${seed}"))
    MANAGER.save_config(config, tmp_path / "saved.yaml")
    text = (tmp_path / "saved.yaml").read_text(encoding="utf-8")
    assert "runs/3" in text
    assert "${" not in text
    missing = [path for path in leaf_paths() if f"{path.rsplit('.', 1)[-1]}:" not in text]
    assert missing == []


def test_every_recipe_loads_and_survives_saving(tmp_path: Path):
    recipes = sorted((Path(__file__).resolve().parents[2] / "recipes").glob("ttm/**/*.yaml"))
    assert len(recipes) >= 6
    for recipe in recipes:
        config = load(recipe)
        MANAGER.save_config(config, tmp_path / "saved.yaml")
        assert load(tmp_path / "saved.yaml") == config, recipe


# Checking what is at hand


def test_validate_config_takes_a_mapping_or_a_run(caplog):
    assert MANAGER.validate_config(RunConfig()) is True
    assert MANAGER.validate_config({"seed": 1}) is True
    assert MANAGER.validate_config({"sed": 1}) is False
    assert "configuration: 1 problem: sed: unknown key, did you mean seed" in caplog.text


def test_a_run_cannot_be_changed_under_way():
    with pytest.raises(ValueError, match="frozen"):
        RunConfig().seed = 1


def test_the_section_of_a_family_is_that_of_its_class():
    assert {family: model_class(family).section for family in families()} == FAMILIES


def test_every_key_is_documented():
    undocumented = []
    for family in section_classes():
        paths = list(leaf_paths(family=family))
        assert len(paths) > 60
        assert len(set(paths)) == len(paths)
        for path in paths:
            *parents, leaf = path.split(".")
            field = section_at(parents, family).model_fields[leaf]
            if leaf != "seed" and not (field.description or "").strip():
                undocumented.append(path)
    assert undocumented == []


@pytest.mark.parametrize(
    ("yaml", "said"),
    [
        (
            "{type: chronos}",
            f"model.type: unknown model family; choose one of {', '.join(section_classes())} (got 'chronos')",
        ),
        ("{type: chronos2, d_model: 3}", "model.d_model: unknown key"),
        ("{type: chronos2, prediction_lenght: 3}", "model.prediction_lenght: unknown key, did you mean model.pred"),
        ("{type: chronos_bolt, context_length: x}", "model.context_length: input should be a valid integer"),
        ("{typ: chronos2}", "model.typ: unknown key, did you mean model.type?"),
    ],
)
def test_each_model_family_has_its_own_keys(write_config: Write, yaml: str, said: str):
    with pytest.raises(ConfigError) as error:
        load(write_config(f"model: {yaml}"))
    assert said in str(error.value)


@pytest.mark.parametrize("text", ["no", "'no'", "false"])
def test_an_unquoted_no_is_the_word(write_config: Write, text: str):
    assert load(write_config(f"training: {{mixed_precision: {text}}}")).training.mixed_precision == "no"
    with pytest.raises(ConfigError, match=r"training\.mixed_precision: input should be 'no', 'fp16', 'bf16' or 'auto'"):
        load(write_config("training: {mixed_precision: half}"))
    assert load(write_config("training: {mixed_precision: yes}")).training.mixed_precision == "auto"


@pytest.mark.parametrize("text", ["off", "'off'", "false"])
def test_an_unquoted_off_is_the_word(write_config: Write, text: str):
    assert load(write_config(f"tuning: {{interpolate: {text}}}")).tuning.interpolate == "off"
    assert load(write_config("tuning: {interpolate: on}")).tuning.interpolate == "auto"
