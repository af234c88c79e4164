"""PatchTST and PatchTSMixer on two ranks: disjoint batches, and the numbers of one process, under every sharding.

Batch normalisation has other numbers on several ranks, each of which sees its own windows; what it must not have is
other statistics on each.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from itertools import chain
from pathlib import Path

import pytest
from safetensors.torch import load_file
from support import tiny, tiny_weights

from tstune.models.registry import load_model

pytestmark = pytest.mark.slow

STRATEGIES = ("ddp", "fsdp2", "deepspeed_zero2", "deepspeed_zero3")
STEPS, PER_EPOCH = 8, 4
LAYERNORM, BATCHNORM = "layernorm", "batchnorm"
RECIPES = {
    "layernorm": ("patchtst", LAYERNORM, {"tuning": {"mode": "full"}}),
    "layernorm_lora": ("patchtst", LAYERNORM, {"tuning": {"mode": "lora"}, "lora": {"rank": 4}}),
    "batchnorm": ("patchtst", BATCHNORM, {"tuning": {"mode": "full"}}),
    "mixer": ("patchtsmixer", None, {"tuning": {"mode": "full"}}),
    "mixer_lora": ("patchtsmixer", None, {"tuning": {"mode": "lora"}, "lora": {"rank": 4}}),
}
BASE = {
    "model": {"dropout": 0.0, "head_dropout": 0.0},  # its random numbers are drawn per rank
    "training": {"max_steps": STEPS, "eval_every_steps": PER_EPOCH, "learning_rate": 0.003},
    "evaluation": {"batch_size": 10, "baselines": [], "report": False},
    # of 402 windows 3 x 32 and a rest of 3: the ranks get 2 and 1
    "data": {"train_fraction": 99.5 / 402, "train_fraction_from": "uniform"},
}
each = pytest.mark.parametrize("strategy", STRATEGIES)
every = pytest.mark.parametrize("recipe", RECIPES)
Train = Callable[[str], Path]


@pytest.fixture(scope="module")
def train(tmp_path_factory: pytest.TempPathFactory, launch_probe: Callable[..., subprocess.CompletedProcess]) -> Train:
    """Launch a strategy once; it trains all recipes one after another. Returns the folder they lie in."""
    desk = tmp_path_factory.mktemp("desk")
    tiny.write_series(desk / "series.csv")
    launched: dict[str, Path] = {}

    def train(strategy: str) -> Path:
        if strategy not in launched:
            num_ranks = 1 if strategy == "cpu" else 2
            folder = desk / strategy
            folder.mkdir()
            paths = []
            for name, (family, norm, changes) in RECIPES.items():
                checkpoint = desk / f"{family}-{norm}"
                tiny_weights.WRITERS[family](checkpoint, **({"norm_type": norm} if norm else {}))
                sections = tiny.merged(tiny.merged(BASE, changes), {"model": {"type": family}})
                sections["training"] = sections["training"] | {"per_device_batch_size": 32 // num_ranks}
                values = tiny.recipe(desk / "series.csv", folder / name, checkpoint, **sections)
                paths.append(tiny.write_recipe(folder / f"{name}.yaml", values))
            done = launch_probe(strategy, "strategy_probe.py", folder, *paths, num_processes=num_ranks)
            assert done.returncode == 0, done.stderr
            launched[strategy] = folder
        return launched[strategy]

    return train


def ranks(folder: Path, recipe: str) -> list[dict]:
    return [tiny.read_json(path) for path in sorted(folder.glob(f"{recipe}-rank*.json"))]


def losses(folder: Path, recipe: str, key: str = "train_loss") -> list[float]:
    return [row[key] for row in ranks(folder, recipe)[0]["history"] if key in row]


@each
@every
def test_ranks_see_disjoint_batches_that_are_the_epoch(recipe: str, strategy: str, train: Train) -> None:
    (single,), both = ranks(train("cpu"), recipe), ranks(train(strategy), recipe)
    assert len(single["epoch"]) == 99
    for first in range(0, STEPS, PER_EPOCH):
        seen = [set(chain(*rank["windows"][first : first + PER_EPOCH])) for rank in both]
        assert not seen[0] & seen[1]
        assert sorted(chain(*seen)) == sorted(single["epoch"])


@each
@every
def test_the_strategy_took_hold(recipe: str, strategy: str, train: Train) -> None:
    both = ranks(train(strategy), recipe)
    assert len(both) == 2
    for rank in both:
        cut = strategy in ("fsdp2", "deepspeed_zero3")
        whole = rank["whole_values"]
        assert rank["local_values"] == pytest.approx(whole / 2, rel=0.05) if cut else rank["local_values"] == whole
        assert rank["blocks"] == 2
        assert rank["wrapped_blocks"] == (2 if strategy == "fsdp2" else 0)


@each
@every
def test_the_numbers_are_those_of_one_process(recipe: str, strategy: str, train: Train) -> None:
    alone, together = train("cpu"), train(strategy)
    validation = losses(together, recipe, "validation_loss")
    assert validation[-1] < validation[0]
    given, expected = (
        load_file(folder / recipe / "model" / "model.safetensors") for folder in (together, alone)
    )  # fmt: skip
    assert given.keys() == expected.keys()
    if recipe == "batchnorm":
        means = [name for name in given if name.endswith("running_mean")]
        assert len(means) == 4
        for name in means:  # its batches are halves, so near, not equal
            assert 0 < (given[name] - expected[name]).norm() < 0.5 * expected[name].norm()
        return
    assert losses(together, recipe) == pytest.approx(losses(alone, recipe), rel=1e-4)
    assert validation == pytest.approx(losses(alone, recipe, "validation_loss"), rel=1e-4)
    for name, tensor in given.items():
        if name.endswith("k_proj.bias"):  # softmax is blind to it: its gradient is rounding, of which Adam makes steps
            continue
        assert (tensor - expected[name]).norm() <= 1e-2 * expected[name].norm() + 1e-6, name


@each
@every
def test_what_they_save_forecasts_in_one_process(recipe: str, strategy: str, train: Train) -> None:
    """So both ranks end with one model, statistics included."""
    folder = train(strategy)
    loaded = load_model(folder / recipe)
    found = loaded.predict(loaded.config.data.path)["load"].tolist()
    for rank in ranks(folder, recipe):
        assert found == pytest.approx(rank["forecast"], rel=1e-4)
