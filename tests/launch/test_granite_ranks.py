"""FlowState and PatchTST-FM on two ranks: disjoint batches, and the numbers of one process."""

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

STEPS = 4
RECIPES = {
    "flowstate_full": ("flowstate", {"tuning": {"mode": "full"}}),
    "flowstate_lora": ("flowstate", {"tuning": {"mode": "lora"}, "lora": {"rank": 4}}),
    # its random numbers are drawn per rank
    "patchtst_fm_full": ("patchtst_fm", {"tuning": {"mode": "full"}, "model": {"dropout": 0.0}}),
    "patchtst_fm_lora": ("patchtst_fm", {"tuning": {"mode": "lora"}, "lora": {"rank": 4}, "model": {"dropout": 0.0}}),
}
BLOCKS = 2  # of either network
BASE = {
    "training": {"max_steps": STEPS, "eval_every_steps": STEPS},
    "evaluation": {"batch_size": 10, "baselines": [], "report": False},
    # of 402 windows 3 x 32 and a rest of 3: the ranks get 2 and 1
    "data": {"train_fraction": 99.5 / 402, "train_fraction_from": "uniform"},
}
STRATEGIES = ("ddp", "fsdp2", "deepspeed_zero2", "deepspeed_zero3")


@pytest.fixture(scope="module")
def train(tmp_path_factory: pytest.TempPathFactory, launch_probe: Callable[..., subprocess.CompletedProcess]):
    """Launch a strategy; it trains all recipes one after another."""
    desk = tmp_path_factory.mktemp("desk")
    tiny.write_series(desk / "series.csv")
    checkpoints = {name: tiny_weights.WRITERS[name](desk / name) for name in ("flowstate", "patchtst_fm")}

    def train(strategy: str) -> Path:
        num_ranks = 1 if strategy == "cpu" else 2
        folder = desk / strategy
        if not folder.is_dir():
            folder.mkdir()
            paths = []
            for name, (family, changes) in RECIPES.items():
                sections = tiny.merged(tiny.merged(BASE, changes), {"model": {"type": family}})
                sections["training"] = sections["training"] | {"per_device_batch_size": 32 // num_ranks}
                values = tiny.recipe(desk / "series.csv", folder / name, checkpoints[family], **sections)
                paths.append(tiny.write_recipe(folder / f"{name}.yaml", values))
            done = launch_probe(strategy, "strategy_probe.py", folder, *paths, num_processes=num_ranks)
            assert done.returncode == 0, done.stderr
        return folder

    return train


def losses(record: dict, key: str) -> list[float]:
    return [row[key] for row in record["history"] if key in row]


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("recipe", RECIPES)
def test_two_ranks_are_one_process(recipe: str, strategy: str, train: Callable[[str], Path]) -> None:
    alone, together = train("cpu"), train(strategy)
    single = tiny.read_json(alone / f"{recipe}-rank0.json")
    ranks = [tiny.read_json(together / f"{recipe}-rank{rank}.json") for rank in (0, 1)]

    seen = [set(chain(*rank["windows"])) for rank in ranks]
    assert not seen[0] & seen[1]
    assert sorted(chain(*seen)) == sorted(single["epoch"])
    for rank in ranks:
        assert rank["world_size"] == 2
        assert rank["wrapped_blocks"] == (BLOCKS if strategy == "fsdp2" else 0)
        whole = rank["whole_values"]
        cut = strategy in ("fsdp2", "deepspeed_zero3")
        assert rank["local_values"] == pytest.approx(whole / 2, rel=0.05) if cut else rank["local_values"] == whole

    for key in ("train_loss", "validation_loss"):
        assert losses(ranks[0], key) == pytest.approx(losses(single, key), rel=1e-4)
    assert losses(single, "validation_loss")[-1] < losses(single, "validation_loss")[0]
    given, expected = (load_file(folder / recipe / "model" / "model.safetensors") for folder in (together, alone))
    assert given.keys() == expected.keys()
    for name, tensor in given.items():
        # by its norm: where a gradient is nothing but rounding, Adam makes a whole step of it
        assert (tensor - expected[name]).norm() <= 1e-2 * expected[name].norm() + 1e-6, name
    loaded = load_model(together / recipe)
    found = loaded.predict(loaded.config.data.path)["load"].tolist()
    assert found == pytest.approx(ranks[0]["forecast"], rel=1e-4)
    assert found == pytest.approx(ranks[1]["forecast"], rel=1e-4)
