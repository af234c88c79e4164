"""Every recipe and every documented training command is the same run in both config managers."""

from __future__ import annotations

from collections import Counter
from functools import cache
from pathlib import Path

import pytest
from documented import PLACEHOLDER, READMES, ROOT, Command, commands, load_script, parse
from support import tiny

from tstune.config.managers import HydraConfigManager, SimpleConfigManager
from tstune.config.schema import RunConfig

SIMPLE, HYDRA = SimpleConfigManager(), HydraConfigManager()
COMPOSED = "recipes/hydra/ttm.yaml"
GROUPS = ROOT / "recipes/hydra"
RECIPES = sorted(
    path.relative_to(ROOT).as_posix()
    for path in (ROOT / "recipes").rglob("*.yaml")
    if GROUPS not in path.parents and path.parent.name != "comparison"  # several runs in one file
)
# A new one must be counted here; a place is a README with --config or with --hydra.
NUM_RECIPES, NUM_COMMANDS, NUM_PLACES = 73, 52, 12

TRAINING_SCRIPTS = (
    "scripts/finetune_ttm.py",
    "scripts/finetune_chronos.py",
    "scripts/finetune_timegpt.py",
    "scripts/pretrain_ttm.py",
)

MODES = ("zero_shot", "head", "decoder", "bias", "lora", "dora", "full", "from_scratch")
FEW_SHOT = ("lora", "dora")  # the recipes of ETTh1 that train on its first 5 %
BRIST1D = "model=builtin_512_96 data=brist1d_split"
SIX_HOURS = (
    "model.prediction_length=24 data.min_context=6h data.train_stride=2 training.eval_every_steps=100 "
    "evaluation.context_steps=6h"
)
QUANTILES = "forecast.quantiles=[0.025,0.1,0.25,0.5,0.75,0.9,0.975]"
SAME_RUN = {
    **{f"cgm_sample/{mode}": f"data=cgm_sample tuning={mode}" for mode in MODES},
    **{f"etth1/{mode}": f"data={'etth1_few_shot' if mode in FEW_SHOT else 'etth1'} tuning={mode}" for mode in MODES},
    "etth1/few_shot_5pct": "data=etth1_few_shot",
    "etth1/r1_decoder": "data=etth1 tuning=decoder model.pretrained=ibm-granite/granite-timeseries-ttm-r1 "
    "+model.revision=1024_96_v1 model.context_length=1024",
    "cgm_sample/demo": "model=builtin_512_96 data=cgm_sample model.pretrained=builtin:glucose "
    "training.learning_rate=1e-4 tuning.interpolate=auto",
    "cgm_sample/small": "model=scratch_small training=small tuning=from_scratch data.train_stride=3",
    "cgm_sample/short_context": f"model=builtin_512_96 data=cgm_sample {SIX_HOURS} training.num_epochs=6 "
    "training.learning_rate=2e-3 training.context_dropping=0.8",
    "cgm_sample/six_hours": f"model=builtin_512_96 data=cgm_sample tuning=full {SIX_HOURS} model.context_length=96 "
    "training.num_epochs=3 training.learning_rate=1e-3 training.context_dropping=1.0 "
    "training.context_dropping_range=[6h,6h] evaluation.baselines=[persistence,context_mean,ridge]",
    "cgm_sample/conformal": f"model=builtin_512_96 data=cgm_sample {QUANTILES}",
    "cgm_sample/quantile_head": f"model=builtin_512_96 data=cgm_sample {QUANTILES} forecast.method=quantile_head",
    "brist1d_open/per_item": "data=brist1d_open tuning=per_item",
    **{f"brist1d_open/{mode}": f"{BRIST1D} tuning={mode}" for mode in ("zero_shot", "decoder")},
    "brist1d_open/full": f"{BRIST1D} tuning=full data.train_stride=3",
    "brist1d_open/eight_hours": f"{BRIST1D} tuning=full model.pretrained=builtin:glucose data.train_stride=3 "
    "tuning.interpolate=auto training.num_epochs=2 training.per_device_batch_size=128 training.learning_rate=1e-4",
    "brist1d_open/conformal": f"{BRIST1D} tuning=decoder {QUANTILES}",
    "brist1d_open/one_hour": f"{BRIST1D} tuning.mode=skip_head data.train_stride=1 model.prediction_length=12 "
    "model.pretrained=builtin model.skip_steps=48 training.num_epochs=10 training.ema_decay=0.995 "
    "training.per_device_batch_size=1024 training.learning_rate=2e-3 training.step_decay=1.25 "
    "training.weight_decay=1.0 training.early_stopping_patience=10 training.eval_every_steps=100 "
    "evaluation.horizons=[15min,30min,45min,60min]",
}
# What an option needs beside it to be a run.
WITH = {"data/csv": "data.path=a.csv", "model/scratch_small": "tuning=from_scratch"}


@cache
def documented_runs() -> dict[tuple[str, str], list[Command]]:
    """(README, option) -> its commands that train from a file."""
    found: dict[tuple[str, str], list[Command]] = {}
    for readme in READMES:
        for command in commands(readme):
            if any(script in command.words for script in TRAINING_SCRIPTS):
                option = "--hydra" if parse(command).hydra is not None else "--config"
                found.setdefault((readme, option), []).append(command)
    return found


RUNS = [
    pytest.param(command, id=f"{readme}:{option}:{n}")
    for (readme, option), listed in documented_runs().items()
    for n, command in enumerate(listed)
]


def options(group: str) -> list[str]:
    return sorted(path.stem for path in (GROUPS / group).glob("*.yaml"))


@pytest.fixture(autouse=True)
def _in_the_root(monkeypatch):
    monkeypatch.chdir(ROOT)


def test_how_many_recipes_and_commands_are_compared():
    assert len(RECIPES) == NUM_RECIPES
    assert len(RUNS) == NUM_COMMANDS
    assert len(documented_runs()) == NUM_PLACES


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_is_the_same_run(recipe):
    config = SIMPLE.load_config(recipe)
    assert isinstance(config, RunConfig)
    assert_same(HYDRA.load_config(recipe), config)


@pytest.mark.parametrize("command", RUNS)
def test_a_documented_command_is_the_same_run(command, tmp_path):
    arguments = parse(command)
    overrides = [override for override in arguments.overrides if override != PLACEHOLDER]
    if arguments.hydra is None:
        config = SIMPLE.load_config(arguments.config, overrides)
        assert (config != SIMPLE.load_config(arguments.config)) == bool(overrides), "each override counts"
        assert_same(HYDRA.load_config(arguments.config, overrides), config)
    else:  # a plain manager cannot compose; what was composed it reads
        config = HYDRA.load_config(arguments.hydra, overrides)
        HYDRA.save_config(config, tmp_path / "composed.yaml")
        assert_same(SIMPLE.load_config(tmp_path / "composed.yaml"), config)


@pytest.mark.parametrize("recipe", SAME_RUN)
def test_a_composition_is_the_recipe(recipe):
    config = SIMPLE.load_config(f"recipes/ttm/{recipe}.yaml")
    composed = HYDRA.load_config(COMPOSED, SAME_RUN[recipe].split())
    assert composed.output_dir != config.output_dir
    assert_same(composed, config.model_copy(update={"output_dir": composed.output_dir}))


def test_every_plain_recipe_of_these_data_sets_has_its_composition():
    folders = {name.partition("/")[0] for name in SAME_RUN}
    assert sorted(SAME_RUN) == sorted(
        recipe.removeprefix("recipes/ttm/").removesuffix(".yaml")
        for recipe in RECIPES
        if recipe.split("/")[1] == "ttm"
        and recipe.split("/")[2] in folders
        and not recipe.endswith(("/tiny.yaml", "/refit.yaml"))
    )


def test_the_groups_are_those_of_the_design():
    assert sorted(path.name for path in GROUPS.iterdir() if path.is_dir()) == [
        "data",
        "model",
        "tracking",
        "training",
        "tuning",
    ]
    assert set(MODES) < set(options("tuning"))


@pytest.mark.parametrize(
    ("group", "option"), [(group, option) for group in sorted(g.name for g in GROUPS.iterdir() if g.is_dir())
                          for option in options(group)],
)  # fmt: skip
def test_every_option_is_part_of_a_valid_run(group, option):
    config = HYDRA.load_config(COMPOSED, [f"{group}={option}", *WITH.get(f"{group}/{option}", "").split()])
    if group == "tuning":
        assert config.tuning.mode == option or option == "per_item"
    if group == "tracking":
        expected = {"none": [], "files": ["file"], "all": ["file", "mlflow", "wandb", "tensorboard"]}
        assert config.tracking.trackers == expected.get(option, [option])


@cache
def learning_rate(training: str, tuning: str) -> float:
    return HYDRA.load_config(COMPOSED, [f"training={training}", f"tuning={tuning}"]).training.learning_rate


@pytest.mark.parametrize("pair", options("training/special"))
def test_what_a_pair_needs_counts_for_this_pair_alone(pair):
    training = next(name for name in options("training") if pair.startswith(f"{name}_"))
    tuning = pair.removeprefix(f"{training}_")
    assert tuning in options("tuning")
    assert learning_rate(training, tuning) != learning_rate(training, "head")


def test_every_file_of_the_groups_is_loaded():
    files = Counter(path.relative_to(GROUPS).parts[0] for path in GROUPS.rglob("*.yaml"))
    assert files == {"ttm.yaml": 1, "model": 3, "data": 6, "tuning": 9, "training": 14, "tracking": 6}
    text = (GROUPS / "README.md").read_text(encoding="utf-8")
    for group in ("model", "data", "tuning", "training", "tracking"):
        (row,) = [line for line in text.splitlines() if line.startswith(f"| `{group}=` |")]
        listed = [word.strip("` ") for word in row.split("|")[2].split(",")]
        assert sorted(listed) == options(group)


def test_a_choice_on_the_command_line_wins_over_the_one_that_comes_with_the_data():
    assert HYDRA.load_config(COMPOSED, ["data=etth1"]).training.num_epochs == 5
    assert HYDRA.load_config(COMPOSED, ["data=etth1", "training=small"]).training.loss == "huber"


def test_a_composed_run_trains_to_the_same_weights(tmp_path, monkeypatch, capsys):
    finetune = load_script("scripts/finetune_ttm.py")
    monkeypatch.chdir(tmp_path)
    values = tiny.recipe(tiny.write_series(tmp_path / "series.csv"), Path("runs/plain"), training={"max_steps": 2})
    tiny.write_recipe(tmp_path / "plain.yaml", values)
    primary = {"defaults": [*({name: "tiny"} for name in ("model", "data", "tuning", "training")), "_self_"]}
    for name in ("model", "data", "tuning", "training"):
        (tmp_path / name).mkdir()
        tiny.write_recipe(tmp_path / name / "tiny.yaml", values.pop(name))
    tiny.write_recipe(tmp_path / "composed.yaml", primary | values)
    before = set(tmp_path.iterdir())
    assert finetune.main(["--config", "plain.yaml"]) == 0
    assert finetune.main(["--hydra", "composed.yaml", "output_dir=runs/composed", "+evaluation.num_plots=0"]) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith("error: composed.yaml: Could not append to config.")
    assert finetune.main(["--hydra", "composed.yaml", "output_dir=runs/composed"]) == 0
    plain, composed = (tmp_path / "runs" / name / "model/model.safetensors" for name in ("plain", "composed"))
    assert composed.read_bytes() == plain.read_bytes()
    assert set(tmp_path.iterdir()) - before == {tmp_path / "runs"}, "no folder of Hydra's own"
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == ["composed", "plain"]


def test_one_file_is_needed_and_not_two(capsys):
    parse_args = load_script("scripts/finetune_ttm.py").parse_args
    assert parse_args(["--hydra", "a.yaml", "~b", "+c=1", "d=2"]).overrides == ["~b", "+c=1", "d=2"]
    for words, complaint in (([], "is required"), (["--config", "a", "--hydra", "b"], "not allowed with")):
        with pytest.raises(SystemExit, match="2"):
            parse_args(words)
        assert complaint in capsys.readouterr().err


def assert_same(config: RunConfig, expected: RunConfig) -> None:
    assert config.model_dump() == expected.model_dump()
    assert types_of(config.model_dump()) == types_of(expected.model_dump())


def types_of(value: object) -> object:
    if isinstance(value, dict):
        return {key: types_of(item) for key, item in value.items()}
    return [types_of(item) for item in value] if isinstance(value, list | tuple) else type(value)
