"""One of two ranks has little memory: both take the same smaller parts of a batch, and compute the same."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from itertools import chain
from pathlib import Path

import pytest
from support import tiny

Launch = Callable[..., subprocess.CompletedProcess]

STEPS, PER_RANK, FITS = 10, 16, 5
PART = 4  # 16, 8 and 4 windows are tried


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("desk")
    tiny.write_series(folder / "series.csv")
    tiny.write_checkpoint(folder / "checkpoint", dropout=0.0, head_dropout=0.0)
    return folder


def write_recipe(desk: Path, name: str, folder: Path | None = None, **changes: dict) -> Path:
    folder = folder or desk
    training = {"max_steps": STEPS, "eval_every_steps": STEPS, "per_device_batch_size": PER_RANK}
    sections = {
        "tuning": {"mode": "full"},
        "training": training | {"auto_batch_size": True},
        "evaluation": {"baselines": [], "report": False},
    }
    sections = tiny.merged(sections, changes)
    values = tiny.recipe(desk / "series.csv", folder / name, desk / "checkpoint", **sections)
    return tiny.write_recipe(folder / f"{name}.yaml", values)


@pytest.fixture(scope="module")
def launched(desk: Path, launch: Launch) -> subprocess.CompletedProcess:
    recipes = [write_recipe(desk, name) for name in ("plenty", f"fits-{FITS}")]
    done = launch("ddp", "tests/launch/memory_probe.py", desk, *recipes, num_processes=2)
    assert done.returncode == 0, done.stderr
    return done


@pytest.fixture(scope="module")
def plenty(desk: Path, launched: subprocess.CompletedProcess) -> list[dict]:
    return [tiny.read_json(desk / f"plenty-rank{rank}.json") for rank in (0, 1)]


@pytest.fixture(scope="module")
def little(desk: Path, launched: subprocess.CompletedProcess) -> list[dict]:
    return [tiny.read_json(desk / f"fits-{FITS}-rank{rank}.json") for rank in (0, 1)]


def sizes(rank: dict) -> list[int]:
    """Windows of each forward pass, without the trials before training: those that failed left no note."""
    return list(map(len, rank["windows"]))


def losses(rank: dict) -> list[float]:
    return [row["train_loss"] for row in rank["history"] if "train_loss" in row]


def test_both_ranks_halve_to_the_same_size(plenty: list[dict], little: list[dict]) -> None:
    assert [sizes(rank) for rank in plenty] == [[PER_RANK] * (1 + STEPS)] * 2
    parts = [PART] * (STEPS * PER_RANK // PART)
    assert sizes(little[0]) == [16, 8, PART, *parts]  # rank 0 has the memory, and goes along
    assert sizes(little[1]) == [PART, *parts]


def test_batches_and_losses_stay_the_same(plenty: list[dict], little: list[dict]) -> None:
    for rank in (0, 1):
        whole, in_parts = plenty[rank]["windows"][-STEPS:], little[rank]["windows"][-STEPS * PER_RANK // PART :]
        assert list(chain(*whole)) == list(chain(*in_parts))
        assert len(losses(little[rank])) == STEPS
        assert losses(little[rank]) == pytest.approx(losses(plenty[rank]), rel=1e-6)


def test_one_line_says_so(launched: subprocess.CompletedProcess) -> None:
    lines = [line for line in launched.stderr.splitlines() if "out of memory" in line]
    assert lines == [
        f"out of memory with {PER_RANK} windows at once: each step takes them in 4 parts of {PART}; same result, slower"
    ]


# The last batch of the epoch is uneven: on 2 ranks 5 and 4 windows, or 3 and 2 in parts of one; on 3 ranks 5, 4 and 4.
UNEVEN = [
    pytest.param(strategy, *case, marks=[] if (strategy, case) == ("fsdp2", (2, 41, FITS)) else pytest.mark.slow)
    for strategy in ("ddp", "fsdp2", "deepspeed_zero2", "deepspeed_zero3")
    for case in ((2, 41, FITS), (2, 37, 1), (3, 61, FITS))
]


@pytest.mark.parametrize(("strategy", "ranks", "windows", "fits"), UNEVEN)
def test_fault_12_uneven_last_batch_ends(
    strategy: str, ranks: int, windows: int, fits: int, desk: Path, launch: Launch, tmp_path: Path
) -> None:
    steps = {"max_steps": 4, "eval_every_steps": 4}
    data = {"train_fraction": (windows + 0.5) / 402, "train_fraction_from": "uniform"}
    names = ("plenty", f"fits-{fits}")
    recipes = [write_recipe(desk, name, tmp_path, training=steps, data=data) for name in names]
    done = launch(strategy, "tests/launch/memory_probe.py", tmp_path, *recipes, num_processes=ranks)
    assert done.returncode == 0, done.stderr
    whole, in_parts = (
        [tiny.read_json(tmp_path / f"{name}-rank{rank}.json") for rank in range(ranks)] for name in names
    )
    assert {len(record["epoch"]) for record in whole} == {windows}
    assert losses(in_parts[0]) == pytest.approx(losses(whole[0]), rel=1e-5)


@pytest.mark.slow
def test_not_even_one_window_fits(desk: Path, run_ranks: Callable[..., list[subprocess.CompletedProcess]]) -> None:
    recipe = write_recipe(desk, "fits-0")
    before = tiny.snapshot(desk)
    probe = Path("tests") / "launch" / "memory_probe.py"
    ranks = run_ranks(str(probe), desk, recipe, num_ranks=2, ACCELERATE_USE_CPU="true")
    assert [rank.returncode for rank in ranks] == [2, 2], ranks[0].stderr
    (error,) = [line for rank in ranks for line in rank.stderr.splitlines() if line.startswith("error: ")]
    assert error.startswith(
        f"error: out of memory even with one window at a time (training.per_device_batch_size={PER_RANK}): try "
    )
    assert not any("Traceback" in rank.stderr for rank in ranks)
    assert tiny.snapshot(desk) == before
