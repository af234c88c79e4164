"""TTMConfig: flat keywords over the one schema, with the names of the design documents and of the recipes."""

from __future__ import annotations

import copy
import inspect
import pickle
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from tstune import ModelConfig, RunConfig, TTMConfig
from tstune.config.flat import ALIASES, SWITCHES, flat_class, flat_paths
from tstune.config.managers import SimpleConfigManager
from tstune.config.section import OWN, section_classes
from tstune.config.validation import leaf_paths, section_at
from tstune.errors import ConfigError
from tstune.models.registry import families, flat_classes, model_class

# The call printed in the design document the project began with.
SEED_CALL = {
    "model_path": "ibm-granite/granite-timeseries-ttm-r2",
    "context_length": 512,
    "forecast_length": 96,
    "batch_size": 64,
    "learning_rate": 1e-4,
    "early_stopping_patience": 10,
    "gradient_clip_val": 1.0,
    "fp16": True,
    "freeze_backbone": True,
}
# The same run in the words of a recipe.
RECIPE_CALL = {
    "pretrained": "ibm-granite/granite-timeseries-ttm-r2",
    "context_length": 512,
    "prediction_length": 96,
    "per_device_batch_size": 64,
    "learning_rate": 1e-4,
    "early_stopping_patience": 10,
    "max_grad_norm": 1.0,
    "mixed_precision": "fp16",
    "tuning_mode": "decoder",
}
RECIPE_YAML = """
model: {type: ttm, pretrained: ibm-granite/granite-timeseries-ttm-r2, context_length: 512, prediction_length: 96}
tuning: {mode: decoder}
training:
  per_device_batch_size: 64
  learning_rate: 1e-4
  early_stopping_patience: 10
  max_grad_norm: 1.0
  mixed_precision: fp16
"""

# it holds the keywords of every family
FLAT_PATHS = flat_paths()
TTM_NAMES = [name for name, path in FLAT_PATHS.items() if path in set(leaf_paths())]


def at(config: RunConfig, path: str) -> object:
    value: object = config
    for part in path.split("."):
        value = getattr(value, part)
    return value


# One schema, two spellings


def test_the_printed_call_the_recipe_names_and_the_yaml_are_one_run(write_config: Callable[[str], Path]):
    seed, recipe = TTMConfig(**SEED_CALL), TTMConfig(**RECIPE_CALL)
    from_yaml = SimpleConfigManager().load_config(write_config(RECIPE_YAML))
    assert seed == recipe
    assert seed.run_config == from_yaml


def test_the_printed_call_without_freezing_starts_from_the_weights():
    call = {name: value for name, value in SEED_CALL.items() if name != "freeze_backbone"}
    config = TTMConfig(**call)
    assert config.model_path == "ibm-granite/granite-timeseries-ttm-r2"
    assert config.tuning_mode == "full"
    assert config.freeze_backbone is False


@pytest.mark.parametrize(("keyword", "value"), SEED_CALL.items())
def test_every_printed_keyword_reads_back(keyword: str, value: object):
    assert getattr(TTMConfig(**SEED_CALL), keyword) == value


def test_every_leaf_of_the_schema_has_exactly_one_flat_name():
    paths = {path for family in section_classes() for path in leaf_paths(family=family)}
    assert len(paths) > 60
    assert set(leaf_paths()) < paths
    assert Counter(FLAT_PATHS.values()) == Counter(paths)  # a collision of names would drop a path


def test_no_second_name_hides_a_flat_name():
    names = [*FLAT_PATHS, *ALIASES, *SWITCHES]
    assert [name for name, count in Counter(names).items() if count > 1] == []
    assert set(ALIASES.values()) <= set(FLAT_PATHS)
    assert {target for target, _ in SWITCHES.values()} <= set(FLAT_PATHS)
    own = {name for name in dir(ModelConfig) if not name.startswith("_")} - {"model_type"}
    assert own & set(names) == set()  # a method or attribute would win over the keyword


def test_no_keyword_is_the_default_run():
    assert TTMConfig().run_config == RunConfig()
    assert len(TTM_NAMES) > 60
    assert [name for name in TTM_NAMES if getattr(TTMConfig(), name) != at(RunConfig(), FLAT_PATHS[name])] == []


# A value other than the default for every keyword whose kind is simple; the rest is listed below.
def other_value(default: object) -> object:
    if isinstance(default, bool):
        return not default
    if isinstance(default, int):
        return default + 1
    if isinstance(default, float):
        return default / 2 if default else 0.5
    raise AssertionError(default)


CONFIGS = {family: flat_class(family) for family in flat_classes().values()}
SIMPLE = [
    (family, name)
    for family, config in CONFIGS.items()
    for name, path in FLAT_PATHS.items()
    if path in set(leaf_paths(family=family))
    and (family == "ttm" or path not in set(leaf_paths()))  # what all families share is tried once
    and isinstance(at(config().run_config, path), bool | int | float)
    and not path.startswith(("lora.", "tuning.noise_start"))  # these need others beside them
]


def test_every_family_has_its_flat_class():
    nested = {"ensemble", "stack", OWN}  # lists of members, options of your own: these have no flat form
    baselines = {name for name in families() if model_class(name).is_baseline}  # ModelConfig(model_type="ridge")
    assert sorted(CONFIGS) == sorted(set(section_classes()) - nested - baselines)
    assert ModelConfig(model_type="ridge", context_length=24).run_config.model.type == "ridge"


@pytest.mark.parametrize(("family", "name"), SIMPLE)
def test_each_keyword_sets_its_own_path_and_no_other(family: str, name: str):
    default = CONFIGS[family]().run_config
    value = other_value(at(default, FLAT_PATHS[name]))
    config = CONFIGS[family](**{name: value})
    changed = [path for path in leaf_paths(family=family) if at(config.run_config, path) != at(default, path)]
    assert changed == [FLAT_PATHS[name]]
    assert getattr(config, name) == value


def test_enough_keywords_were_tried():
    assert len(SIMPLE) >= 25


# Mistakes


@pytest.mark.parametrize(
    ("keywords", "parts"),
    [
        ({"model_path": "a", "pretrained": "b"}, ("model_path", "pretrained", "'a'", "'b'")),
        ({"forecast_length": 24, "prediction_length": 48}, ("forecast_length", "prediction_length", "24", "48")),
        ({"batch_size": 8, "per_device_batch_size": 16}, ("batch_size", "per_device_batch_size", "8", "16")),
        ({"gradient_clip_val": 1.0, "max_grad_norm": None}, ("gradient_clip_val", "max_grad_norm", "None")),
        ({"fp16": True, "bf16": True}, ("fp16", "bf16", "mixed_precision")),
        ({"fp16": True, "mixed_precision": "no"}, ("fp16", "mixed_precision", "'no'")),
        ({"freeze_backbone": True, "tuning_mode": "full"}, ("freeze_backbone", "tuning_mode", "'full'")),
    ],
)
def test_two_names_for_one_thing_that_disagree(keywords: dict, parts: tuple[str, ...]):
    for order in (keywords, dict(reversed(keywords.items()))):
        with pytest.raises(ConfigError) as caught:
            TTMConfig(**order)
        assert "both set" in str(caught.value)
        assert [part for part in parts if part not in str(caught.value)] == []


def test_two_names_that_agree_are_no_conflict():
    config = TTMConfig(forecast_length=24, prediction_length=24, fp16=True, mixed_precision="fp16")
    assert config.prediction_length == 24
    assert config.fp16 is True


def test_a_switch_that_is_off_asks_for_nothing():
    assert TTMConfig(fp16=False).run_config == RunConfig()
    assert TTMConfig(fp16=False, bf16=True).mixed_precision == "bf16"
    assert TTMConfig(bf16=True).fp16 is False


def test_not_freezing_fits_every_mode_that_trains_the_backbone():
    assert TTMConfig(freeze_backbone=False, tuning_mode="from_scratch").tuning_mode == "from_scratch"
    assert TTMConfig(freeze_backbone=False, pretrained="folder").tuning_mode == "full"


@pytest.mark.parametrize(
    "keywords",
    [{"freeze_backbone": False, "tuning_mode": "decoder"}, {"fp16": False, "mixed_precision": "fp16"}],
    ids=["freeze_backbone", "fp16"],
)
def test_a_switch_that_is_off_contradicts_what_it_would_switch_on(keywords: dict):
    for order in (keywords, dict(reversed(keywords.items()))):
        with pytest.raises(ConfigError, match=next(iter(keywords))):
            TTMConfig(**order)


def test_a_switch_is_true_or_false():
    with pytest.raises(ConfigError, match="fp16 must be True or False, got 'yes'"):
        TTMConfig(fp16="yes")


@pytest.mark.parametrize(
    ("keyword", "suggestion"),
    [
        ("contextlength", "context_length"),
        ("forcast_length", "forecast_length"),
        ("freeze_backbon", "freeze_backbone"),
        ("learning_rat", "learning_rate"),
        ("gradient_clip_value", "gradient_clip_val"),
    ],
)
def test_an_unknown_keyword_gets_a_suggestion(keyword: str, suggestion: str):
    with pytest.raises(ConfigError, match=f"unknown keyword '{keyword}', did you mean '{suggestion}'"):
        TTMConfig(**{keyword: 1})


def test_an_unknown_keyword_like_no_other():
    with pytest.raises(ConfigError, match=r"^unknown keyword 'xyzzy'$"):
        TTMConfig(xyzzy=1)


def test_wrong_values_come_all_at_once():
    with pytest.raises(ConfigError) as caught:
        TTMConfig(context_length=1, batch_size="many", loss="rmse")
    assert "TTMConfig: 3 problems" in str(caught.value)
    for path in ("model.context_length", "training.per_device_batch_size", "training.loss"):
        assert path in str(caught.value)


def test_an_unknown_attribute_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no parameter 'contxt_length', did you mean 'context_length'"):
        TTMConfig().contxt_length  # noqa: B018
    assert not hasattr(TTMConfig(), "shape")


# What Python users see


def test_signature_and_docstring_cover_every_flat_name():
    parameters = inspect.signature(TTMConfig).parameters
    assert len(parameters) >= 30
    assert list(parameters) == TTM_NAMES
    lines = {
        line.split(" (default ", 1)[0].strip(): line for line in TTMConfig.__doc__.splitlines() if "(default " in line
    }
    assert set(lines) == set(TTM_NAMES)
    for name, line in lines.items():
        assert f"(default {at_default(name)!r}):" in line, name
        assert len(line.split("): ", 1)[1]) > 10, f"{name} is not explained"
    for name in (*ALIASES, *SWITCHES):
        assert name in TTMConfig.__doc__


def at_default(name: str) -> object:
    *parents, leaf = FLAT_PATHS[name].split(".")
    return section_at(parents).model_fields[leaf].default


def test_signature_defaults_are_those_of_the_schema():
    for name, parameter in inspect.signature(TTMConfig).parameters.items():
        assert parameter.kind is inspect.Parameter.KEYWORD_ONLY
        assert parameter.default == at_default(name), name


def test_to_dict_holds_every_keyword_and_makes_the_same_config():
    config = TTMConfig(**SEED_CALL, split_borders=(10, 20, 30), horizons=["30min", 6], max_gap="45min")
    values = config.to_dict()
    assert list(values) == TTM_NAMES
    assert values["prediction_length"] == 96
    assert values["split_borders"] == (10, 20, 30)
    assert TTMConfig(**values) == config


def test_repr_shows_what_differs_from_the_default_and_can_be_read_back():
    config = TTMConfig(forecast_length=24, learning_rate=1e-4)
    assert repr(config) == "TTMConfig(prediction_length=24, learning_rate=0.0001)"
    assert eval(repr(config), {"TTMConfig": TTMConfig}) == config


def test_configs_compare_copy_and_pickle():
    config = TTMConfig(seed=3)
    assert config != TTMConfig(seed=4)
    assert config != "TTMConfig(seed=3)"
    for twin in (copy.deepcopy(config), pickle.loads(pickle.dumps(config))):
        assert twin == config
        assert twin.seed == 3
