"""Chronos and TimesFM on two ranks: disjoint batches, the numbers of one process, under every kind of sharding.

The library's own `fit` draws the same batches on every rank; ours are shared out. Chronos-Bolt ties three embeddings,
Chronos T5 ties its output layer to them too, which each strategy has to keep tied.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from itertools import chain
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from support import tiny, tiny_weights

from tstune.models.registry import load_model

pytestmark = pytest.mark.slow

STRATEGIES = ("ddp", "fsdp2", "deepspeed_zero2", "deepspeed_zero3")
STEPS, PER_EPOCH = 8, 4
RECIPES = {
    "bolt_full": ("chronos_bolt", {"tuning": {"mode": "full"}}),
    "bolt_lora": ("chronos_bolt", {"tuning": {"mode": "lora"}, "lora": {"rank": 4}}),
    "chronos2_full": (
        "chronos2",
        {"tuning": {"mode": "full"}, "data": {"conditional_columns": ["dose"], "time_features": ["hour_of_day"]}},
    ),
    "chronos2_lora": ("chronos2", {"tuning": {"mode": "lora"}, "lora": {"rank": 4}}),
    "t5_full": ("chronos_t5", {"tuning": {"mode": "full"}}),
    "t5_lora": ("chronos_t5", {"tuning": {"mode": "lora"}, "lora": {"rank": 4}}),
    "timesfm_full": ("timesfm", {"tuning": {"mode": "full"}}),
    "timesfm_lora": ("timesfm", {"tuning": {"mode": "lora"}, "lora": {"rank": 4}}),
}
BASE = {
    "model": {"dropout": 0.0},  # its random numbers are drawn per rank
    "training": {"max_steps": STEPS, "eval_every_steps": PER_EPOCH},
    "evaluation": {"batch_size": 10, "baselines": [], "report": False},
    # of 402 windows 3 x 32 and a rest of 3: the ranks get 2 and 1
    "data": {"train_fraction": 99.5 / 402, "train_fraction_from": "uniform"},
}
both = pytest.mark.parametrize("recipe", RECIPES)
each = pytest.mark.parametrize("strategy", STRATEGIES)


class Runs:
    """What one launch left behind."""

    def __init__(self, folder: Path, num_ranks: int) -> None:
        self.folder, self.num_ranks = folder, num_ranks

    def ranks(self, recipe: str) -> list[dict]:
        return [tiny.read_json(self.folder / f"{recipe}-rank{rank}.json") for rank in range(self.num_ranks)]

    def losses(self, recipe: str, key: str = "train_loss") -> list[float]:
        return [row[key] for row in self.ranks(recipe)[0]["history"] if key in row]

    def weights(self, recipe: str) -> dict[str, torch.Tensor]:
        return load_file(self.folder / recipe / "model" / "model.safetensors")


@pytest.fixture(scope="module")
def train(tmp_path_factory: pytest.TempPathFactory, launch_probe: Callable[..., subprocess.CompletedProcess]):
    """Launch a strategy once; it trains all recipes one after another."""
    desk = tmp_path_factory.mktemp("desk")
    tiny.write_series(desk / "series.csv")
    # weights of a size that training and rounding do not blow up
    checkpoints = {
        name: tiny_weights.WRITERS[name](desk / name, initializer_factor=0.3)
        for name in ("chronos_bolt", "chronos2", "chronos_t5")
    }
    checkpoints["timesfm"] = tiny_weights.write_timesfm(desk / "timesfm")
    launched: dict[str, Runs] = {}

    def train(strategy: str) -> Runs:
        if strategy not in launched:
            num_ranks = 1 if strategy == "cpu" else 2
            folder = desk / strategy
            folder.mkdir()
            paths = []
            for name, (family, changes) in RECIPES.items():
                sections = tiny.merged(tiny.merged(BASE, changes), {"model": {"type": family}})
                sections["training"] = sections["training"] | {"per_device_batch_size": 32 // num_ranks}
                values = tiny.recipe(desk / "series.csv", folder / name, checkpoints[family], **sections)
                paths.append(tiny.write_recipe(folder / f"{name}.yaml", values))
            done = launch_probe(strategy, "strategy_probe.py", folder, *paths, num_processes=num_ranks)
            assert done.returncode == 0, done.stderr
            launched[strategy] = Runs(folder, num_ranks)
        return launched[strategy]

    return train


@each
@both
def test_ranks_see_disjoint_batches_that_are_the_epoch(
    recipe: str, strategy: str, train: Callable[[str], Runs]
) -> None:
    (single,), ranks = train("cpu").ranks(recipe), train(strategy).ranks(recipe)
    assert len(single["epoch"]) == 99
    for first in range(0, STEPS, PER_EPOCH):
        seen = [set(chain(*rank["windows"][first : first + PER_EPOCH])) for rank in ranks]
        assert not seen[0] & seen[1]
        assert sorted(chain(*seen)) == sorted(single["epoch"])
    for step in range(STEPS):
        assert ranks[0]["windows"][step] + ranks[1]["windows"][step] == single["windows"][step]


@each
@both
def test_the_strategy_took_hold(recipe: str, strategy: str, train: Callable[[str], Runs]) -> None:
    for rank in train(strategy).ranks(recipe):
        assert rank["world_size"] == 2
        cut = strategy in ("fsdp2", "deepspeed_zero3")
        whole = rank["whole_values"]
        assert rank["local_values"] == pytest.approx(whole / 2, rel=0.05) if cut else rank["local_values"] == whole
        assert rank["wrapped_blocks"] == (rank["blocks"] if strategy == "fsdp2" else 0)
        assert rank["blocks"] == (3 if recipe.startswith(("bolt", "t5")) else 2)


@each
@both
def test_the_numbers_are_those_of_one_process(recipe: str, strategy: str, train: Callable[[str], Runs]) -> None:
    alone, together = train("cpu"), train(strategy)
    assert together.losses(recipe) == pytest.approx(alone.losses(recipe), rel=1e-4)
    validation = together.losses(recipe, "validation_loss")
    assert validation == pytest.approx(alone.losses(recipe, "validation_loss"), rel=1e-4)
    assert validation[-1] < validation[0]
    given, expected = together.weights(recipe), alone.weights(recipe)
    assert given.keys() == expected.keys()
    for name, tensor in given.items():
        # by its norm: where a gradient is nothing but rounding, Adam makes a whole step of it
        assert (tensor - expected[name]).norm() <= 1e-2 * expected[name].norm() + 1e-6, name


@each
@both
def test_what_they_save_forecasts_in_one_process(recipe: str, strategy: str, train: Callable[[str], Runs]) -> None:
    runs = train(strategy)
    loaded = load_model(runs.folder / recipe)
    found = loaded.predict(loaded.config.data.path)["load"].tolist()
    for rank in runs.ranks(recipe):
        assert found == pytest.approx(rank["forecast"], rel=1e-4)
