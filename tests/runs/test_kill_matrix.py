"""A run that is stopped at any state, by any signal, and started again ends as if nothing had been."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import forked
import pytest
from support import tiny

import finetune_ttm
from tstune.errors import EXIT_INTERRUPTED, EXIT_OK, EXIT_REQUEUE, EXIT_USER_ERROR
from tstune.registry import open_registry
from tstune.registry.model_registry import ModelRegistry
from tstune.runs import folder, life
from tstune.runs.finetune import FineTuning
from tstune.runs.folder import RunFolder
from tstune.training import loop

STEPS = 6
AUTO = "training.resume_from_checkpoint=auto"
SETTINGS = {
    "tuning": {"mode": "lora"},
    "training": {"max_steps": STEPS, "eval_every_steps": 2, "log_every_steps": 1},
    "evaluation": {"baselines": ["persistence"], "num_plots": 0, "report": False},
    "tracking": {"trackers": ["file"], "experiment": "e", "register_as": "tiny"},
}

# state that is on disk -> where the signal comes
PLACES: dict[str, Callable[[Callable], None]] = {
    "begun": lambda act: forked.before(FineTuning, "judge_before", act),
    "training": lambda act: forked.before(loop._Run, "_step", act, calls=4),
    "trained": lambda act: forked.before(FineTuning, "judge_after", act),
    "judged": lambda act: forked.before(FineTuning, "commit", act),
    "inside the commit": lambda act: forked.before(life, "put_in_place", act),
    "renamed, not noted": lambda act: forked.after(life, "put_in_place", act),
    "committed": lambda act: forked.before(FineTuning, "track", act),
    "tracked": lambda act: forked.before(FineTuning, "register", act),
    "registered, not noted": lambda act: forked.after(ModelRegistry, "register_once", act),
}
SIGNALS = {signal.SIGTERM: EXIT_REQUEUE, signal.SIGINT: EXIT_INTERRUPTED, signal.SIGKILL: -signal.SIGKILL}
# Every state once and every signal three times; the other 18 pairs are slow.
PAIRS = [
    pytest.param(state, number, id=f"{state}-{number.name}", marks=pytest.mark.slow if (place + turn) % 3 else [])
    for place, state in enumerate(PLACES)
    for turn, number in enumerate(SIGNALS)
]


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_desk(tmp_path_factory.mktemp("desk"), **SETTINGS)


class Place:
    """Where one run and what it is registered in lie."""

    def __init__(self, desk: Path, home: Path) -> None:
        home.mkdir(exist_ok=True)
        self.home, self.run, self.log = home, home / "run", home / "log"
        self.arguments = [
            *("--config", str(desk / "recipe.yaml"), f"output_dir={self.run}"),
            *(f"tracking.folder={home / 'tracked'}", f"tracking.registry={home / 'registry'}"),
        ]

    def start(self, prepare: Callable[[], None], *settings: str) -> int:
        return forked.start([*self.arguments, *settings], self.log, prepare)

    def finish(self, *settings: str) -> int:
        return finetune_ttm.main([*self.arguments, *settings])

    def result(self) -> dict[str, bytes]:
        names = ["history.jsonl", "metrics.json", "model/model.safetensors", "adapter/adapter_model.safetensors"]
        return {name: (self.run / name).read_bytes() for name in names}

    def assert_once(self) -> None:
        """Tracked once, registered once, and nothing beside the folder."""
        (tracked,) = (self.home / "tracked/files/e").iterdir()
        assert tracked.name == RunFolder(self.run).run_id
        assert (tracked / "artifacts/metrics.json").read_bytes() == (self.run / "metrics.json").read_bytes()
        assert [version.version for version in open_registry(self.home / "registry").versions("tiny")] == [1]
        assert sorted(path.name for path in self.home.iterdir()) == ["log", "registry", "run", "tracked"]


@pytest.fixture(scope="module")
def whole(desk: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What a run that was left alone gives."""
    place = Place(desk, tmp_path_factory.mktemp("whole"))
    place.log.touch()
    assert place.finish() == EXIT_OK
    place.assert_once()
    assert b"validation_loss" in place.result()["history.jsonl"]
    return place.result()


def test_the_matrix_is_whole():
    assert len(PLACES) == 9
    assert len(SIGNALS) == 3
    assert {state for state in life._ORDER if state != "registered"} <= set(PLACES)


@pytest.mark.parametrize(("state", "number"), PAIRS)
def test_stopped_and_started_again(state: str, number: signal.Signals, desk: Path, whole: dict, tmp_path: Path):
    place = Place(desk, tmp_path / "home")
    code = forked.wait(place.start(lambda: PLACES[state](forked.send(number))))
    said = place.log.read_text()
    assert code == SIGNALS[number], said
    if number != signal.SIGKILL:
        (line,) = [line for line in said.splitlines() if line.startswith(("preempted: ", "interrupted: "))]
        is_lost = state == "begun" or (state == "training" and number == signal.SIGINT)
        assert ("nothing was written" in line) == is_lost, line
        assert (AUTO in line) == (not is_lost), line
    assert place.finish(AUTO) == EXIT_OK
    assert place.result() == whole
    place.assert_once()
    assert place.finish(AUTO) == EXIT_OK, "once more there is nothing to do"
    place.assert_once()


@pytest.mark.parametrize("first", [False, True], ids=["before", "between"])
def test_a_replaced_folder_is_never_lost(first: bool, desk: Path, whole: dict, tmp_path: Path):
    """Fault 5: overwrite=true that is killed around its two renames."""
    place = Place(desk, tmp_path / "home")
    place.log.touch()
    assert place.finish("seed=8") == EXIT_OK
    old = place.result()
    assert old != whole
    renamed = lambda: forked.after(folder.Path, "rename", forked.send(signal.SIGKILL))  # noqa: E731
    prepare = lambda: forked.before(life, "put_in_place", renamed if first else forked.send(signal.SIGKILL))  # noqa: E731
    assert forked.wait(place.start(prepare, "overwrite=true", "tracking.register_as=null")) == -signal.SIGKILL
    kept = place.run if place.run.exists() else Path(f"{place.run}.checkpoints/replaced")
    assert (kept / "metrics.json").read_bytes() == old["metrics.json"]
    assert place.finish("overwrite=true", "tracking.register_as=null", AUTO) == EXIT_OK
    assert place.result() == whole
    assert not Path(f"{place.run}.checkpoints").exists()


def test_two_at_once_one_wins(desk: Path, whole: dict, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """Fault 1: the second start of a resumed run stops before it touches anything."""
    place, held, goes_on = Place(desk, tmp_path / "home"), tmp_path / "held", tmp_path / "go"

    def hold() -> None:
        held.touch()
        deadline = time.monotonic() + 600
        while not goes_on.exists() and time.monotonic() < deadline:
            time.sleep(0.02)

    def held_in_training() -> None:
        forked.before(loop._Run, "_step", hold, calls=3)

    first = place.start(held_in_training, AUTO)
    while not held.exists():
        assert os.waitpid(first, os.WNOHANG) == (0, 0), place.log.read_text()
        time.sleep(0.02)
    before = tiny.snapshot(place.home)
    for settings in ([AUTO], [], ["overwrite=true"]):
        capsys.readouterr()
        assert place.finish(*settings) == EXIT_USER_ERROR
        (error,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
        assert f"belongs to a run that is going on (process {first} on " in error
    assert tiny.snapshot(place.home) == before
    goes_on.touch()
    assert forked.wait(first) == EXIT_OK
    assert place.result() == whole
    place.assert_once()


def test_the_lock_of_another_machine_is_watched(desk: Path, whole: dict, tmp_path: Path, monkeypatch):
    """A file that is touched is of a live run, one that stays still is of a dead one, whatever the clocks say."""
    place = Place(desk, tmp_path / "home")
    lock = Path(f"{place.run}.checkpoints/lock")
    lock.parent.mkdir()
    lock.write_text('{"host": "elsewhere", "pid": 1, "began": 0.0}')
    monkeypatch.setattr(life, "_SILENCE_SECONDS", 3.0)
    child = os.fork()
    if not child:
        while True:
            os.utime(lock)
            time.sleep(0.2)
    try:
        assert place.finish(AUTO) == EXIT_USER_ERROR
    finally:
        os.kill(child, signal.SIGKILL)
        forked.wait(child)
    place.log.touch()
    assert place.finish(AUTO) == EXIT_OK
    assert place.result() == whole


def test_a_lock_of_a_dead_process_with_a_new_owner_of_its_number(desk: Path, tmp_path: Path):
    """The process number is in use again, by another program: it began at another time."""
    place = Place(desk, tmp_path / "home")
    lock = Path(f"{place.run}.checkpoints/lock")
    lock.parent.mkdir()
    lock.write_text(f'{{"host": "{os.uname().nodename}", "pid": {os.getppid()}, "began": 1.0}}')
    assert place.finish() == EXIT_OK
