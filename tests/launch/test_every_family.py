"""Every trained family on two ranks: disjoint batches that are the epoch, and the numbers of one process.

One launch of a strategy trains its recipes one after another; `test_strategies.py` looks at TTM. The libraries' own
`fit` draws the same batches on every rank; ours are shared out. Chronos-Bolt ties three embeddings, Chronos T5 ties its
output layer to them too, which each strategy has to keep tied. Batch normalisation has other numbers on several ranks,
each of which sees its own windows; what it must not have is other statistics on each.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import pytest
from safetensors.torch import load_file
from support import tiny

from tstune.config.section import section_class
from tstune.config.validation import validate
from tstune.models.registry import load_model
from tstune.runtime.distributed import DistributedManager

sys.path.append(str(Path(__file__).parents[1] / "models"))
from families import FOUNDATION

sys.path.append(str(Path(__file__).parent))
import strategy_probe

STRATEGIES = ("ddp", "fsdp2", "deepspeed_zero2", "deepspeed_zero3")
MODES = {"full": {"tuning": {"mode": "full"}}, "lora": {"tuning": {"mode": "lora"}, "lora": {"rank": 4}}}
RECIPES = {
    f"{family}_{mode}": (family, sections)
    for family in FOUNDATION
    for mode, sections in MODES.items()
    if family != "ttm"
}
CALENDAR = {"conditional_columns": ["dose"], "time_features": ["hour_of_day"]}
RECIPES["chronos2_full"] = ("chronos2", MODES["full"] | {"data": CALENDAR})
RECIPES["patchtst_batchnorm"] = ("patchtst", MODES["full"])
FAST = ("chronos_bolt_full", "flowstate_full", "patchtst_full", "fracast_full")  # one of each library, under DDP
NOT_CUT = {"fracast_full", "fracast_lora"}  # under DDP alone
CASES = [
    pytest.param(
        (strategy, name), id=f"{strategy}-{name}", marks=[] if strategy == "ddp" and name in FAST else pytest.mark.slow
    )
    for strategy in STRATEGIES
    for name in RECIPES
    if strategy == "ddp" or name not in NOT_CUT
]
PER_EPOCH, WINDOWS = 4, 99  # 3 x 32 and a rest of 3: the ranks get 2 and 1
STEPS = {"flowstate": 4, "patchtst_fm": 4, "fracast": 4}  # 8 of the others
BLOCKS = {"chronos_bolt": 3, "chronos_t5": 3, "fracast": 0}  # 2 of the others
BASE = {
    "evaluation": {"batch_size": 10, "baselines": [], "report": False},
    "data": {"train_fraction": (WINDOWS + 0.5) / 402, "train_fraction_from": "uniform"},
}
LEARNING_RATES = {"patchtst": 0.003, "patchtsmixer": 0.003}
# weights of a size that training and rounding do not blow up
SMALLER = {"initializer_factor": 0.3}
WRITTEN_WITH = dict.fromkeys(("chronos_bolt", "chronos2", "chronos_t5"), SMALLER)


@dataclass(frozen=True)
class Case:
    """A recipe: the record of one process, those of two ranks, and where both ran."""

    family: str
    recipe: str
    strategy: str
    single: dict
    ranks: list[dict]
    alone: Path
    together: Path

    @property
    def steps(self) -> int:
        return STEPS.get(self.family, 8)


@pytest.fixture(scope="module")
def trained(
    tmp_path_factory: pytest.TempPathFactory, launch: Callable[..., subprocess.CompletedProcess]
) -> Callable[[str, str], Case]:
    """Train a recipe with all that are launched together with it, and in this process alone."""
    desk = tmp_path_factory.mktemp("families")
    tiny.write_series(desk / "series.csv")

    def write(folder: Path, name: str, num_ranks: int) -> Path:
        family, changes = RECIPES[name]
        checkpoint = desk / "weights" / name
        if not checkpoint.is_dir():
            norm = {"norm_type": "layernorm"} if family == "patchtst" and "batchnorm" not in name else {}
            FOUNDATION[family].write(checkpoint, **WRITTEN_WITH.get(family, {}), **norm)
        drawn_per_rank = {"dropout", "head_dropout"} & section_class(family).model_fields.keys()
        steps = STEPS.get(family, 8)
        training = {"max_steps": steps, "eval_every_steps": PER_EPOCH, "per_device_batch_size": 32 // num_ranks}
        training["learning_rate"] = LEARNING_RATES.get(family, 0.01)
        sections = {"model": {"type": family} | dict.fromkeys(drawn_per_rank, 0.0), "training": training}
        sections = tiny.merged(tiny.merged(BASE, changes), sections)
        values = tiny.recipe(desk / "series.csv", folder / name, checkpoint, **sections)
        return tiny.write_recipe(folder / f"{name}.yaml", values)

    def trained(strategy: str, name: str) -> Case:
        alone = desk / "alone"
        alone.mkdir(exist_ok=True)
        if not (alone / f"{name}-rank0.json").exists():
            config = strategy_probe.SimpleConfigManager().load_config(write(alone, name, 1))
            model = strategy_probe.probe_of(config.model.type)(config)
            manager = DistributedManager(validate({}, "test").distributed)
            strategy_probe.run(model, manager, alone / f"{name}-rank0.json")
        is_fast = strategy == "ddp" and name in FAST
        together = desk / f"{strategy}-{'fast' if is_fast else 'slow'}"
        if not together.exists():
            together.mkdir()
            with_it = (
                {one for one in RECIPES if (one in FAST) == is_fast} if strategy == "ddp" else set(RECIPES) - NOT_CUT
            )
            paths = [write(together, one, 2) for one in RECIPES if one in with_it]
            done = launch(strategy, "tests/launch/strategy_probe.py", together, *paths, num_processes=2)
            assert done.returncode == 0, done.stderr
        single, *ranks = (
            tiny.read_json(folder / f"{name}-rank{rank}.json")
            for folder, rank in ((alone, 0), (together, 0), (together, 1))
        )
        return Case(RECIPES[name][0], name, strategy, single, ranks, alone / name, together / name)

    return trained


@pytest.fixture(scope="module", params=CASES)
def case(request: pytest.FixtureRequest, trained: Callable[[str, str], Case]) -> Case:
    return trained(*request.param)


def losses(record: dict, key: str) -> list[float]:
    return [row[key] for row in record["history"] if key in row]


def test_ranks_see_disjoint_batches_that_are_the_epoch(case: Case) -> None:
    assert len(case.single["epoch"]) == WINDOWS
    for first in range(0, case.steps, PER_EPOCH):
        seen = [set(chain(*rank["windows"][first : first + PER_EPOCH])) for rank in case.ranks]
        assert not seen[0] & seen[1]
        assert sorted(chain(*seen)) == sorted(case.single["epoch"])
    for step in range(case.steps):
        assert case.ranks[0]["windows"][step] + case.ranks[1]["windows"][step] == case.single["windows"][step]


def test_the_strategy_took_hold(case: Case) -> None:
    for rank in case.ranks:
        assert rank["world_size"] == 2
        cut, whole = case.strategy in ("fsdp2", "deepspeed_zero3"), rank["whole_values"]
        assert rank["local_values"] == pytest.approx(whole / 2, rel=0.05) if cut else rank["local_values"] == whole
        assert rank["blocks"] == BLOCKS.get(case.family, 2)
        assert rank["wrapped_blocks"] == (rank["blocks"] if case.strategy == "fsdp2" else 0)


def test_the_numbers_are_those_of_one_process(case: Case) -> None:
    first, second = case.ranks
    assert second["history"] in (first["history"], [])
    validation = losses(first, "validation_loss")
    assert validation[-1] < validation[0]
    given, expected = (load_file(run / "model/model.safetensors") for run in (case.together, case.alone))
    assert given.keys() == expected.keys()
    if case.recipe == "patchtst_batchnorm":
        means = [name for name in given if name.endswith("running_mean")]
        assert len(means) == 4
        for name in means:  # its batches are halves, so near, not equal
            assert 0 < (given[name] - expected[name]).norm() < 0.5 * expected[name].norm()
        return
    for key in ("train_loss", "validation_loss"):
        assert losses(first, key) == pytest.approx(losses(case.single, key), rel=1e-4)
    assert len(losses(first, "train_loss")) == case.steps
    for name, tensor in given.items():
        if name.endswith("k_proj.bias"):  # softmax is blind to it: its gradient is rounding, of which Adam makes steps
            continue
        # by its norm: where a gradient is nothing but rounding, Adam makes a whole step of it
        assert (tensor - expected[name]).norm() <= 1e-2 * expected[name].norm() + 1e-6, name


def test_what_they_save_forecasts_in_one_process(case: Case) -> None:
    """So both ranks end with one model, statistics included."""
    loaded = load_model(case.together)
    found = loaded.predict(loaded.config.data.path)["load"].tolist()
    for rank in case.ranks:
        assert found == pytest.approx(rank["forecast"], rel=1e-4)
