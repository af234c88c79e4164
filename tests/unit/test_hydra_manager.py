"""Composition by Hydra: the same values as plain YAML, one line per mistake, nothing left behind."""

from __future__ import annotations

import logging
import os
import random
import warnings
from collections.abc import Callable
from pathlib import Path

import hydra
import pytest
import yaml
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.singleton import Singleton
from omegaconf import OmegaConf
from omegaconf.basecontainer import BaseContainer
from support import tiny

from tstune.config.managers import ConfigManager, HydraConfigManager, SimpleConfigManager, to_hydra
from tstune.config.schema import RunConfig
from tstune.errors import ConfigError

MANAGER = HydraConfigManager()
Write = Callable[[str], Path]

GROUPS = {
    "run.yaml": (
        "defaults:\n  - model: small\n  - data: csv\n  - tuning: head\n"
        "  - optional extra: ${data}_${tuning}\n  - _self_\n"
        "output_dir: runs/${data.source}/${tuning.mode}/${model.context_length}\n"
        "training: {num_epochs: 3}\n"
    ),
    "model/small.yaml": "context_length: 64\nprediction_length: 8\n",
    "model/large.yaml": "defaults: [small]\ncontext_length: 256\n",
    "data/csv.yaml": "source: csv\npath: a.csv\n",
    "data/own.yaml": "source: csv\npath: ???\n",
    "tuning/head.yaml": "mode: head\n",
    "tuning/off.yaml": "mode: full\n",
    "tuning/lora.yaml": "# @package _global_\ntuning: {mode: lora}\nlora: {rank: 4}\ntraining: {learning_rate: 1e-2}\n",
    "tuning/loop.yaml": "# @package _global_\ntuning: {mode: lora}\nlora: {rank: '${seed}'}\nseed: ${lora.rank}\n",
    "tuning/round.yaml": "defaults: [trip]\n",
    "tuning/trip.yaml": "defaults: [round]\n",
    "tuning/broken.yaml": "mode: [\n",
    "tuning/scalar.yaml": "42\n",
    "tuning/typo.yaml": "mood: head\n",
    "extra/csv_lora.yaml": "# @package _global_\ntraining: {weight_decay: 0.5}\n",
}


@pytest.fixture(autouse=True)
def _without_what_others_left() -> None:
    for name in ("now", "hydra", "python_version"):  # hydra.initialize leaves them in the process
        if OmegaConf.has_resolver(name):
            OmegaConf.clear_resolver(name)


@pytest.fixture
def groups(tmp_path: Path) -> Path:
    """The primary config of a small set of groups."""
    for name, text in GROUPS.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    return tmp_path / "run.yaml"


def load(path: Path, *overrides: str) -> RunConfig:
    return MANAGER.load_config(path, overrides)


def message(path: Path, *overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        MANAGER.load_config(path, overrides)
    text = str(caught.value)
    assert "\n" not in text
    return text


def both(path: Path, *overrides: str) -> RunConfig:
    """The run in this manager, after checking that it is the same in the plain one."""
    expected = SimpleConfigManager().load_config(path, overrides)
    config = load(path, *overrides)
    assert repr(config.model_dump()) == repr(expected.model_dump())  # repr tells 1 from 1.0 and True
    return config


# Composition


def test_it_is_a_config_manager():
    assert isinstance(MANAGER, ConfigManager)


def test_options_in_the_order_of_the_list_then_the_file_then_the_command_line(groups: Path):
    config = load(groups)
    assert config.model.context_length == 64
    assert config.data.path == "a.csv"
    assert config.tuning.mode == "head"
    assert config.training.num_epochs == 3
    assert config.output_dir == "runs/csv/head/64"
    assert load(groups, "training.num_epochs=5").training.num_epochs == 5


def test_choosing_options(groups: Path):
    config = load(groups, "model=large", "tuning=lora")
    assert config.model.context_length == 256
    assert config.model.prediction_length == 8  # from the option that this one builds on
    assert config.lora.rank == 4
    assert config.training.learning_rate == 0.01
    assert config.training.weight_decay == 0.5  # what the pair csv and lora needs
    assert load(groups).training.weight_decay == RunConfig().training.weight_decay


def test_an_option_by_a_name_that_yaml_reads_as_a_truth_value(groups: Path):
    assert load(groups, "tuning=off", "model.pretrained=x").tuning.mode == "full"


def test_keys_of_a_section_that_is_a_group_too(groups: Path):
    config = load(groups, "data={path: other.csv, test_stride: 2}")
    assert (config.data.source, config.data.path, config.data.test_stride) == ("csv", "other.csv", 2)


def test_adding_setting_and_removing(groups: Path):
    assert load(groups, "+training.max_steps=7").training.max_steps == 7
    assert load(groups, "++training.num_epochs=7").training.num_epochs == 7
    assert load(groups, "~training.num_epochs").training.num_epochs == RunConfig().training.num_epochs
    assert load(groups, "~training.num_epochs=3").training.num_epochs == RunConfig().training.num_epochs
    without = load(groups, "~training", "++training.max_steps=2")
    assert (without.training.num_epochs, without.training.max_steps) == (RunConfig().training.num_epochs, 2)


def test_a_group_is_left_out_with_a_tilde_and_added_with_a_plus(groups: Path, tmp_path: Path):
    (tmp_path / "plain.yaml").write_text("defaults:\n  - tuning: lora\n  - _self_\nseed: 1\n")
    assert load(tmp_path / "plain.yaml").lora.rank == 4
    assert load(tmp_path / "plain.yaml", "~tuning") == RunConfig(seed=1)
    assert load(tmp_path / "plain.yaml", "+model=large").model.context_length == 256


def test_the_package_of_an_option_can_be_given(groups: Path, tmp_path: Path):
    (tmp_path / "split.yaml").write_text("defaults:\n  - shares@data.split: even\n  - _self_\n")
    (tmp_path / "shares").mkdir()
    (tmp_path / "shares/even.yaml").write_text("{train: 0.4, validation: 0.3, test: 0.3}")
    (tmp_path / "shares/most.yaml").write_text("{train: 0.6}")
    assert load(tmp_path / "split.yaml").data.split.train == 0.4
    assert load(tmp_path / "split.yaml", "shares@data.split=most").data.split.train == 0.6


def test_interpolation_reaches_over_groups_and_command_line(groups: Path):
    config = load(groups, "data.test_stride=${model.prediction_length}", "model.prediction_length=6")
    assert config.data.test_stride == 6
    assert load(groups, "model=large").output_dir == "runs/csv/head/256"


def test_what_is_saved_is_one_plain_file(groups: Path, tmp_path: Path):
    config = load(groups, "tuning=lora")
    MANAGER.save_config(config, tmp_path / "saved.yaml")
    assert both(tmp_path / "saved.yaml") == config
    assert "defaults" not in (tmp_path / "saved.yaml").read_text()


def test_validate_config_takes_a_mapping_or_a_run(caplog):
    assert MANAGER.validate_config(RunConfig()) is True
    assert MANAGER.validate_config({"sed": 1}) is False
    assert "sed: unknown key, did you mean seed" in caplog.text


@pytest.mark.parametrize(
    "name",
    ["v1.2.yaml", "my recipe.yaml", "größe.yaml", "a=b.yaml", "a b/c@d/e.yaml", "${x}.yaml", "hydra/config.yaml"],
)
def test_any_name_of_file_and_folder(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("seed: 3")
    assert load(path).seed == 3
    monkeypatch.chdir(path.parent)
    assert load(Path(path.name), "seed=4").seed == 4


# The same as plain YAML

FILES = [
    "",
    "model:\n",
    "seed: 0x10",
    "seed: 010",
    "seed: 1_000",
    "overwrite: on",
    "overwrite: 'yes'",
    "output_dir: 2024-01-01",
    "output_dir: '1e-3'\ntraining: {learning_rate: 1e-3}",
    "training: {learning_rate: 1e-3, weight_decay: .5, max_grad_norm: 1}",
    "training: {learning_rate: auto, mixed_precision: 'no', cache_frozen_features: 'off'}",
    "data: {max_gap: 12, unit: 'null', path: ~, timestamp_format: '%d/%m/%Y %H:%M'}",
    "evaluation: {horizons: [30min, 6, '12']}",
    "model: {context_length: 96}\ndata: {test_stride: '${model.context_length}'}\noutput_dir: r/${data.test_stride}",
    "data: &d {unit: mg}\n",
    "output_dir: \\${seed}",
]

OVERRIDES = [
    "data.timestamp_format=%d/%m/%Y %H:%M",
    "data.target_columns=[glucose]",
    "data.target_columns=[a, 'b c', \"d,e\", 2024-01-01]",
    "evaluation.horizons=[6h, 24h]",
    "evaluation.horizons=[6h,24h,3]",
    "evaluation.horizons=[]",
    "data.path=P*.csv.gz",
    "data.path=/a b/c.d/e=f,g.csv",
    "data.path=C:\\Users\\me\\x.csv",
    "data.path=\\\\host\\share\\",
    "data.path='quoted text'",
    "data.path=\"double 'single' inside\"",
    "data.path=it's",
    "data.path=…/ETTh1.csv",
    "data.path=Größe 血糖.csv",
    "data.path=a#b",
    "data.path=(a)",
    "data.path=choice(a,b)",
    "data.path=${output_dir}/x",
    "data.path=\\${output_dir}",
    "data.path=$HOME/~x",
    "data.path=a,b",
    "data.path=null",
    "data.path=~",
    "data.path=",
    "data.path= spaced ",
    "data.path=nan",
    "data.path=inf",
    "data.path=a: b",
    "data.path='1'",
    "data.path='null'",
    "data.path='true'",
    "data.path=2024-01-01",
    "data.path=12:30:00",
    "data.path=@here",
    "data.path=`x`",
    "data.path=<<",
    "data.path='???'x",
    "data.unit=mg/dL",
    "data.unit=°C",
    "data.unit=y",
    "data.frequency=5min",
    "data.max_gap=45",
    "data.max_gap=045",
    "data.max_gap='45'",
    "data.max_gap=0x10",
    "data.max_gap=0b11",
    "data.max_gap=0o17",
    "data.max_gap=1_000",
    "training.learning_rate=5e-4",
    "training.learning_rate=5E-4",
    "training.learning_rate=1e-3",
    "training.learning_rate=.5",
    "training.learning_rate=1.",
    "training.learning_rate=+1e-2",
    "training.learning_rate=1e3",
    "training.learning_rate=auto",
    "training.max_grad_norm=null",
    "training.max_grad_norm=1",
    "training.mixed_precision='no'",
    "training.mixed_precision=no",
    "training.cache_frozen_features=off",
    "training.cache_frozen_features='off'",
    "training.num_epochs=3.0",
    "training.num_epochs=1e2",
    "training.num_epochs=010",
    "training.num_epochs=09",
    "training.num_epochs=[1,2]",
    "overwrite=on",
    "overwrite=off",
    "overwrite=yes",
    "overwrite=True",
    "overwrite=TRUE",
    "overwrite=tRuE",
    "overwrite=1",
    "data.split={train: 0.5, validation: 0.2, test: 0.3}",
    "data.split={train: 0.5}",
    "data.split={train:0.5}",
    "data.split.borders=[10, 20, 30]",
    "data.split.borders=standard",
    "pretraining.series={trend: 0.5, noise: 1e-2}",
    "model=null",
    "model={context_length: 128}",
    "seed=-1",
    "seed=4294967295",
    "seed=99999999999999999999",
    "seed=1,2",
    "output_dir=runs/a=b",
    "output_dir=- a",
    "output_dir='a\nb'",
    "output_dir={a",
    "output_dir=[1",
    "output_dir=${nowhere}",
    "output_dir=${output_dir}",
    "output_dir=???",
    "trainig.learning_rate=1",
    "training.learning-rate=1",
    "model.context_lenght=128",
    "seed",
    "--seed=1",
    "=1",
]
PLAIN = "output_dir: runs/x\ndata: {path: before.csv, split: {train: 0.6}}\nevaluation: {horizons: [1h]}\n"


@pytest.mark.parametrize("text", FILES)
def test_a_plain_file_is_the_same_run(write_config: Write, text: str):
    same(write_config(text))


@pytest.mark.parametrize("override", OVERRIDES)
def test_an_override_is_the_same_run_or_the_same_mistake(write_config: Write, override: str):
    same(write_config(PLAIN), override)


def test_most_of_the_overrides_above_are_runs(write_config: Write):
    path = write_config(PLAIN)
    valid = [override for override in OVERRIDES if not isinstance(outcome(SimpleConfigManager(), path, override), str)]
    assert len(OVERRIDES) == len(set(OVERRIDES)) >= 95
    assert len(valid) >= 65


def test_unusual_values_survive_saving(tmp_path: Path):
    values = {
        "data": {"path": "1e-3", "unit": "on", "target_columns": ["1", "yes", "2024-01-01", "a: b", "~", "", "# no"]},
        "training": {"weight_decay": 1 / 3},
        "output_dir": "0x10",
    }
    config = RunConfig.model_validate(values)
    MANAGER.save_config(config, tmp_path / "saved.yaml")
    assert both(tmp_path / "saved.yaml") == config


@pytest.mark.parametrize("tries", [250, pytest.param(3000, marks=pytest.mark.slow)])
def test_random_texts_mean_the_same_in_hydra_s_grammar_as_in_yaml(tries: int, tmp_path: Path):
    draw, parser = random.Random(0), OverridesParser.create()
    alphabet = "ab10 .-+eE_'\"\\%{}[]():,=@/~#&*!?|<>`^;\tü…"
    num_read = 0
    for _ in range(tries):
        text = "".join(draw.choices(alphabet, k=draw.randrange(9)))
        try:
            value = OmegaConf.to_container(OmegaConf.from_dotlist([f"x={text}"]), resolve=False)["x"]
        except Exception:
            continue
        if isinstance(value, dict) or text.endswith("???"):
            continue
        override = parser.parse_override(to_hydra(f"x={text}", tmp_path))
        assert not override.is_sweep_override(), text
        assert (override.key_or_group, repr(override.value())) == ("x", repr(value)), text
        num_read += 1
    assert num_read > tries / 2


def same(path: Path, *overrides: str) -> None:
    expected = outcome(SimpleConfigManager(), path, *overrides)
    assert outcome(MANAGER, path, *overrides) == expected


def outcome(manager: ConfigManager, path: Path, *overrides: str) -> str | list:
    """The run with the types of its values, or the mistake."""
    try:
        return [repr(manager.load_config(path, overrides).model_dump())]
    except ConfigError as error:
        return str(error).replace("full_key: value", "full_key: output_dir")


# Mistakes


@pytest.mark.parametrize(
    ("overrides", "parts"),
    [
        (["tuning=lorra"], ["run.yaml: tuning has no option 'lorra'; choices: broken, head, loop, lora,"]),
        (["tuning="], ["tuning has no option ''", "head"]),
        (["tuning=a,b"], ["tuning has no option 'a,b'"]),
        (["tunning=lora"], ["run.yaml: 1 problem: tunning: unknown key, did you mean tuning?"]),
        (["training.learning_rat=1"], ["did you mean training.learning_rate?"]),
        (["tuning=typo", "output_dir=x"], ["tuning.mood: unknown key, did you mean tuning.mode?"]),
        (["data=own"], ["run.yaml: data.path is ??? and must be given: data.path=…"]),
        (["tuning=loop"], ["run.yaml", "lora.rank: Recursive interpolation"]),
        (["tuning=round"], ["run.yaml: the defaults lists of its groups lead back to themselves"]),
        (["tuning=broken"], ["run.yaml", "tuning/broken.yaml", "line 2"]),
        (["tuning=scalar"], ["run.yaml: a file of its groups cannot be used", "int"]),
        (["+training.num_epochs=4"], ["run.yaml: Could not append", "already at 'training.num_epochs'"]),
        (["+output_dir='a b'"], ["Either remove + prefix: 'output_dir='a b''"]),
        (["+tuning=lora"], ["run.yaml", "Multiple values for tuning"]),
        (["++tuning=lora"], ["force-add of config groups is not supported: '++tuning=lora'"]),
        (["~training.nothing"], ["run.yaml: Could not delete from config. 'training.nothing' does not exist."]),
        (["~training.num_epochs=9"], ["is 3 and not 9"]),
        (["~tuning=lora"], ["Could not delete 'tuning=lora'. No match in the defaults list"]),
        (["tuning@lora=head"], ["Could not override 'tuning@lora'", "Did you mean to override tuning?"]),
        (["data.path=${seed}"], ["data.path: Interpolation key 'seed' not found", "not the defaults of the schema"]),
        (["data.path=${now:%Y}"], ["data.path: Unsupported interpolation type now"]),
        (["data.path=${hydra:runtime.cwd}"], ["data.path: Unsupported interpolation type hydra"]),
        (["hydra.run.dir=x"], ["'hydra.run.dir=x': settings of Hydra itself have no effect here"]),
        (["+hydra.job.name=x"], ["settings of Hydra itself have no effect here"]),
        (["hydra/launcher=joblib"], ["settings of Hydra itself have no effect here"]),
        (["größe=1"], ["override 'größe=1': 'größe' is no key"]),
        (["a b=1"], ["'a b' is no key"]),
        (["model..x=1"], ["'model..x' is no key"]),
        (["+++seed=1"], ["override '+++seed=1': +++ is none of Hydra's prefixes"]),
        (["~"], ["is not of the form key=value"]),
        (["+seed"], ["is not of the form key=value"]),
        (["seed=1", "lr 3"], ["override 'lr 3' is not of the form key=value"]),
        (["data.path=!!binary aGVsbG8="], ["a value of type bytes has no place"]),
    ],
)
def test_a_mistake_is_one_line(groups: Path, overrides: list[str], parts: list[str]):
    text = message(groups, *overrides)
    assert [part for part in parts if part not in text] == [], text


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("defaults: 3", "defaults must be a list"),
        ("defaults:\n  - model: gone\n  - _self_\n", "model has no option 'gone'; choices: large, small"),
        ("defaults:\n  - nothing: gone\n", "nothing has no option 'gone'; choices: none"),
        ("defaults:\n  - nothing\n", "Could not load 'nothing'."),
        ("defaults:\n  - tuning: ???\n", "You must specify 'tuning', e.g, tuning=<OPTION> Available options: broken"),
        ("defaults:\n  - tuning: ${data}\n", "Error resolving interpolation '${data}'"),
        ("defaults:\n  - model: small\n  - model: large\n", "model"),
        ("hydra: {run: {dir: x}}", "hydra: only hydra.searchpath has a meaning here"),
        ("hydra: {job: {chdir: true}}", "hydra: only hydra.searchpath has a meaning here"),
        ("model: [1", "is not valid YAML"),
        ("- a", "must hold sections such as model: and data:"),
        ("a: &x [*x]", "or hold themselves"),
        ("seed: ???", "seed is ??? and must be given: seed=… on the command line"),
        ("seed: ${seed}", "seed: Recursive interpolation detected"),
        ("data: {max_gap: '${training.max_steps}'}", "'training.max_steps' not found; an interpolation sees what"),
    ],
)
def test_a_mistake_in_the_primary_file_is_one_line(groups: Path, text: str, part: str):
    groups.write_text(text)
    line = message(groups)
    assert "run.yaml" in line
    assert part in line


def test_a_missing_file(tmp_path: Path):
    path = tmp_path / "no.yaml"
    assert message(path) == f"config file {path} does not exist; recipes lie under recipes/"
    assert "does not exist" in message(tmp_path)


def test_a_file_hydra_cannot_name(tmp_path: Path):
    (tmp_path / "run.yml").write_text("seed: 1")
    assert "run.yml: Hydra reads files that end in .yaml only" in message(tmp_path / "run.yml")


def test_the_plain_manager_says_who_reads_a_defaults_list(groups: Path):
    with pytest.raises(ConfigError, match="has a defaults list: give it with --hydra instead of --config"):
        SimpleConfigManager().load_config(groups)


# Nothing left behind


def state() -> tuple:
    """What Hydra changes in a process that it runs."""
    root = logging.getLogger()
    return (
        dict(Singleton._instances),
        dict(BaseContainer._resolvers),
        GlobalHydra in Singleton._instances,
        os.getcwd(),
        dict(os.environ),
        root.level,
        list(root.handlers),
        list(warnings.filters),
    )


@pytest.mark.parametrize(
    "overrides", [[], ["tuning=lora"], ["tuning=gone"], ["tuning=broken"], ["tuning=round"], ["+output_dir=x"]]
)
def test_no_trace_in_the_process_nor_on_the_disk(groups: Path, overrides: list[str], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(groups.parent)
    before, files = state(), tiny.snapshot(groups.parent)
    try:
        load(groups, *overrides)
    except ConfigError:
        assert overrides not in ([], ["tuning=lora"])
    assert state() == before
    assert not OmegaConf.has_resolver("now")
    assert tiny.snapshot(groups.parent) == files


def test_a_program_that_runs_in_hydra_keeps_its_own(groups: Path, tmp_path: Path):
    other = tmp_path / "other"
    other.mkdir()
    (other / "app.yaml").write_text("name: ${now:%Y}\n")
    kept = state()
    try:
        with hydra.initialize_config_dir(str(other), version_base="1.2", job_name="app"):
            inside = state()
            assert load(groups, "tuning=lora").lora.rank == 4
            assert "Unsupported interpolation type now" not in message(groups, "tuning=gone")
            assert state() == inside
            assert hydra.version.getbase().minor == 2
            assert len(hydra.compose("app").name) == 4
    finally:
        Singleton._instances, BaseContainer._resolvers = kept[0], kept[1]


def test_the_result_is_plain(groups: Path):
    dumped = load(groups).model_dump(mode="json")
    assert "hydra" not in dumped
    assert yaml.safe_load(yaml.safe_dump(dumped)) == dumped
