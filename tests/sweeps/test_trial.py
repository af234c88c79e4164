"""How a trial ended and what it found; with real processes that do nothing."""

from __future__ import annotations

import json
import sys
import time

import pytest

from tstune.config.schema import RunConfig
from tstune.runtime.children import Child
from tstune.sweeps.study import FollowedMetric, TrialFailed, TrialLost, check_ended, read_loss


def outcome(code: str, log) -> None:
    with Child([sys.executable, "-c", code], log) as process:
        while not process.has_ended:
            time.sleep(0.02)
        check_ended(process)


REASONS = {
    "error: data.path: no such file": "data.path: no such file",
    "error: first\nerror (rank 1): second": "first",
    "noise\nTraceback (most recent call last):\n  File x\nValueError: odd\n  more": "ValueError: odd",
    "torch.OutOfMemoryError: CUDA\nsubprocess.CalledProcessError: Command": "torch.OutOfMemoryError: CUDA",
    "[rank1]: RuntimeError: nccl\ntorch.distributed.elastic.ChildFailedError: \n": "RuntimeError: nccl",
}
LOST = (
    "import os, signal; os.kill(os.getpid(), signal.SIGTERM)",
    "print('preempted: SIGTERM'); raise SystemExit(1)",
    "import os, signal; os.kill(os.getppid(), signal.SIGTERM); import time; time.sleep(600)",
    "import os, signal; os.kill(os.getppid(), signal.SIGKILL)",
)


@pytest.mark.parametrize("said", REASONS)
def test_the_reason_of_a_failure(said, tmp_path):
    with pytest.raises(TrialFailed) as failed:
        outcome(f"print({said!r}); raise SystemExit(1)", tmp_path / "log")
    assert str(failed.value) == REASONS[said]


def test_a_failure_without_a_word_names_the_log(tmp_path):
    log = tmp_path / "3.log"
    log.write_text("error: of an earlier attempt\n")
    with pytest.raises(TrialFailed) as failed:
        outcome("raise SystemExit(3)", log)
    assert str(failed.value) == f"ended with code 3 and without a word; see {log}"


@pytest.mark.parametrize("code", LOST)
def test_a_trial_that_somebody_ended_has_not_failed(code, tmp_path):
    with pytest.raises(TrialLost):
        outcome(code, tmp_path / "log")


def test_success_is_silent(tmp_path):
    outcome("print('error: a word in its output')", tmp_path / "log")


def test_the_loss_of_a_run_and_a_run_without_one(tmp_path):
    file = tmp_path / "environment.json"
    file.write_text(json.dumps({"training": {"best_validation_loss": 0.123456789012345}}))
    assert read_loss(tmp_path) == 0.123456789012345
    for training, reason in ((None, "nothing was trained"), ({"best_validation_loss": None}, "is not a number")):
        file.write_text(json.dumps({"training": training}))
        with pytest.raises(TrialFailed, match=reason):
            read_loss(tmp_path)


# A metric of a run, followed in the files that its tracker writes


@pytest.fixture
def followed(tmp_path):
    """A run whose files the test writes, the way the tracker does."""
    tracking = {"folder": str(tmp_path / "t"), "experiment": "e"}
    config = RunConfig.model_validate({"output_dir": str(tmp_path / "run"), "tracking": tracking})
    file = tmp_path / "t/files/e/the_run/metrics.jsonl"
    return FollowedMetric(config, "validation_loss"), tmp_path / "run.checkpoints", file


def row(step, **metrics) -> str:
    return json.dumps({"time": "now", "step": step} | metrics) + "\n"


def test_validation_losses_are_read_as_they_appear(followed):
    losses, checkpoints, file = followed
    assert list(losses.new()) == []
    checkpoints.mkdir()
    (checkpoints / "state.json").write_text('{"run_id": "the')
    assert list(losses.new()) == [], "half-written"
    (checkpoints / "state.json").write_text('{"run_id": "the_run"}')
    assert list(losses.new()) == [], "nothing is logged yet"
    file.parent.mkdir(parents=True)
    file.write_text(row(0, validation_loss=3.0) + row(5, train_loss=2.5))
    assert list(losses.new()) == [(0, 0, 3.0)]
    with file.open("a") as stream:
        stream.write(row(10, validation_loss=2.0))
        stream.write(row(20, validation_loss=1.5)[:-9])
    assert list(losses.new()) == [(1, 10, 2.0)], "a line without its end is left for later"
    with file.open("a") as stream:
        stream.write(row(20, validation_loss=1.5)[-9:])
        stream.write(row(None, **{"test/fine_tuned/rmse": 1.0}))
        stream.write(row(10, validation_loss=9.0))
        stream.write(row(30, validation_loss=None))
        stream.write(row(40, validation_loss=1.0))
    assert list(losses.new()) == [(2, 20, 1.5), (3, 40, 1.0)], "a resumed run repeats steps; NaN is null"
    assert list(losses.new()) == []
    assert losses.file == file


def test_a_run_that_was_too_quick_to_follow_is_read_at_its_end(followed, tmp_path):
    losses, _, file = followed
    file.parent.mkdir(parents=True)
    file.write_text(row(10, validation_loss=2.0))
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "tracking.json").write_text('{"run_id": "the_run"}')
    assert list(losses.new()) == [(1, 10, 2.0)], "without a validation of the starting weights the first is number 1"
