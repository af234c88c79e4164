"""Every trained family on two ranks: disjoint batches that are the epoch, and the numbers of one process.

One launch trains them all, one after another; `test_strategies.py` and `test_chronos_ranks.py` look at the other ways
to share the work.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path

import pytest
from safetensors.torch import load_file
from support import tiny

from tstune.config.section import section_class
from tstune.config.validation import validate
from tstune.models.registry import available_models, load_model
from tstune.runtime.distributed import DistributedManager

sys.path.append(str(Path(__file__).parents[1] / "models"))
from families import ALL, FOUNDATION

sys.path.append(str(Path(__file__).parent))
import strategy_probe

STEPS, PER_EPOCH, WINDOWS = 4, 2, 35  # 32 and a rest of 3: the ranks get 2 and 1
BASE = {
    "tuning": {"mode": "full"},
    "training": {"max_steps": STEPS, "eval_every_steps": PER_EPOCH, "scheduler": "constant", "learning_rate": 0.003},
    "evaluation": {"batch_size": 10, "baselines": [], "report": False},
    "data": {"train_fraction": (WINDOWS + 0.5) / 402, "train_fraction_from": "uniform"},
}
# batch statistics are those of each process's own windows: several do not give the numbers of one
WRITTEN_WITH = {"patchtst": {"norm_type": "layernorm"}}
families = pytest.mark.parametrize("family", FOUNDATION)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, launch_probe: Callable[..., subprocess.CompletedProcess]) -> Path:
    """Folders `alone` and `together`, each with a run of every family and a record of every rank."""
    desk = tmp_path_factory.mktemp("families")
    tiny.write_series(desk / "series.csv")
    checkpoints = {
        name: family.write(desk / "weights" / name, **WRITTEN_WITH.get(name, {})) for name, family in FOUNDATION.items()
    }
    paths: dict[str, list[Path]] = {"alone": [], "together": []}
    for (where, found), ranks in zip(paths.items(), (1, 2), strict=True):
        (desk / where).mkdir()
        for name, checkpoint in checkpoints.items():
            keys = section_class(name).model_fields
            drawn_per_rank = {key: 0.0 for key in ("dropout", "head_dropout") if key in keys}
            sections = tiny.merged(BASE, {"model": {"type": name} | drawn_per_rank})
            sections["training"] |= {"per_device_batch_size": 32 // ranks}
            values = tiny.recipe(desk / "series.csv", desk / where / name, checkpoint, **sections)
            found.append(tiny.write_recipe(desk / where / f"{name}.yaml", values))
    done = launch_probe("ddp", "strategy_probe.py", desk / "together", *paths["together"], num_processes=2)
    assert done.returncode == 0, done.stderr
    manager = DistributedManager(validate({}, "test").distributed)
    for path in paths["alone"]:
        config = strategy_probe.SimpleConfigManager().load_config(str(path))
        model = strategy_probe.probe_of(config.model.type)(config)
        strategy_probe.run(model, manager, desk / "alone" / f"{path.stem}-rank0.json")
    return desk


def records(runs: Path, family: str) -> Iterator[dict]:
    """One process, then both ranks."""
    yield tiny.read_json(runs / "alone" / f"{family}-rank0.json")
    for rank in range(2):
        yield tiny.read_json(runs / "together" / f"{family}-rank{rank}.json")


def test_every_family_with_a_network_is_here() -> None:
    assert set(FOUNDATION) <= set(available_models())
    assert len(ALL) == len(available_models())


@families
def test_ranks_see_disjoint_batches_that_are_the_epoch(family: str, runs: Path) -> None:
    alone, *ranks = records(runs, family)
    assert [rank["world_size"] for rank in ranks] == [2, 2]
    assert len(alone["epoch"]) == WINDOWS
    for first in range(0, STEPS, PER_EPOCH):
        seen = [set(chain(*rank["windows"][first : first + PER_EPOCH])) for rank in ranks]
        assert not seen[0] & seen[1]
        assert sorted(chain(*seen)) == sorted(alone["epoch"])
    for step in range(STEPS):
        assert ranks[0]["windows"][step] + ranks[1]["windows"][step] == alone["windows"][step]


@families
def test_the_numbers_are_those_of_one_process(family: str, runs: Path) -> None:
    alone, first, second = records(runs, family)
    assert first["history"] == second["history"] or second["history"] == []
    losses = [[row["train_loss"] for row in one["history"] if "train_loss" in row] for one in (alone, first)]
    assert len(losses[0]) == STEPS
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)
    given, expected = (load_file(runs / where / family / "model/model.safetensors") for where in ("together", "alone"))
    assert given.keys() == expected.keys()
    for name, tensor in given.items():
        if name.endswith("k_proj.bias"):
            continue  # moves every score of a query alike, so its gradient is nothing but rounding
        # by its norm: where a gradient is nothing but rounding, Adam makes a whole step of it
        assert (tensor.double() - expected[name].double()).norm() <= 2e-2 * expected[name].double().norm() + 1e-6, name


@families
def test_what_they_save_forecasts_in_one_process(family: str, runs: Path) -> None:
    _, *ranks = records(runs, family)
    loaded = load_model(runs / "together" / family)
    found = loaded.predict(loaded.config.data.path)["load"].tolist()
    for rank in ranks:
        assert found == pytest.approx(rank["forecast"], rel=1e-4)
