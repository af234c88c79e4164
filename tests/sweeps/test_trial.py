"""The process of a trial and what is read from it; with real processes that do nothing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from tstune.config.schema import RunConfig
from tstune.runtime.children import Child
from tstune.sweeps.study import TrialFailed, TrialLost, check_ended, read_loss
from tstune.tracking.follow import FollowedMetric

PATIENCE = 60
# A launcher that dies on SIGTERM; its worker, in a session of its own, takes no notice of it at all.
STUBBORN = """
import os, subprocess, sys, time
worker = "import os, signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(os.getpid(), flush=True); time.sleep(600)"
subprocess.Popen([sys.executable, "-c", worker], start_new_session=True)
time.sleep(600)
"""  # noqa: E501


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def started(log) -> int:
    """Number of the process that has written it to the log."""
    deadline = time.monotonic() + PATIENCE
    while not log.exists() or not log.read_text().endswith("\n"):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return int(log.read_text().split()[-1])


def wait_until_gone(pid: int) -> None:
    deadline = time.monotonic() + PATIENCE
    while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline, f"process {pid} is still there"
        time.sleep(0.05)


def outcome(command: list[str], log, **options) -> None:
    with Child(command, log, **options) as process:
        while not process.has_ended:
            time.sleep(0.02)
        check_ended(process)


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr("tstune.runtime.children.END_SECONDS", 1)


def test_a_trial_that_is_ended_is_gone_with_all_its_processes(tmp_path, impatient):
    log = tmp_path / "log"
    with Child(python(STUBBORN), log) as process:
        worker = started(log)
        everyone = psutil.Process(process.pid).children(recursive=True)
        assert worker in [one.pid for one in everyone]
        assert len(everyone) == 2
        process.end()
        assert process.has_ended
        assert not any(one.is_running() for one in everyone)
        with pytest.raises(TrialLost):
            check_ended(process)


def test_leaving_the_context_ends_it_too(tmp_path):
    log = tmp_path / "log"
    with Child(python("import os, time; print(os.getpid(), flush=True); time.sleep(600)"), log):
        pid = started(log)
    assert not psutil.pid_exists(pid)


def test_it_does_not_outlive_a_sweep_that_is_killed(tmp_path):
    log = tmp_path / "log"
    sweep = f"""
import sys, time
sys.path.insert(0, {str(os.path.dirname(sys.modules["tstune"].__file__) + "/..")!r})
from pathlib import Path
from tstune.runtime import children
children.END_SECONDS = 1
process = children.Child([sys.executable, "-c", {STUBBORN!r}], Path({str(log)!r}))
time.sleep(600)
"""
    killed = subprocess.Popen(python(sweep))
    try:
        worker = started(log)
        guard = psutil.Process(killed.pid).children()[0]
    finally:
        killed.send_signal(signal.SIGKILL)
        killed.wait()
    wait_until_gone(worker)
    wait_until_gone(guard.pid)


def test_a_command_that_is_done_leaves_no_worker_behind(tmp_path, impatient):
    log = tmp_path / "log"
    outcome(python(STUBBORN.replace("time.sleep(600)\n", "time.sleep(1)\n")), log)
    assert not psutil.pid_exists(started(log))


def test_the_storage_url_is_not_handed_down(tmp_path, monkeypatch):
    monkeypatch.setenv("TSTUNE_SWEEP_STORAGE", "postgresql://user:s3cret@host/sweeps")
    monkeypatch.setenv("SOMETHING_ELSE", "kept")
    outcome(python("import os; print(dict(os.environ))"), tmp_path / "log", hidden=["TSTUNE_SWEEP_STORAGE"])
    said = (tmp_path / "log").read_text()
    assert "'SOMETHING_ELSE': 'kept'" in said
    assert "s3cret" not in said


REASONS = {
    "error: data.path: no such file": "data.path: no such file",
    "error: first\nerror (rank 1): second": "first",
    "noise\nTraceback (most recent call last):\n  File x\nValueError: odd\n  more": "ValueError: odd",
    "torch.OutOfMemoryError: CUDA out of memory\nsubprocess.CalledProcessError: Command": (
        "torch.OutOfMemoryError: CUDA out of memory"
    ),
    "[rank1]: RuntimeError: nccl\ntorch.distributed.elastic.multiprocessing.errors.ChildFailedError: \n": (
        "RuntimeError: nccl"
    ),
}


@pytest.mark.parametrize("said", REASONS)
def test_the_reason_of_a_failure(said, tmp_path):
    with pytest.raises(TrialFailed) as failed:
        outcome(python(f"print({said!r}); raise SystemExit(1)"), tmp_path / "log")
    assert str(failed.value) == REASONS[said]


def test_a_failure_without_a_word_names_the_log(tmp_path):
    log = tmp_path / "3.log"
    log.write_text("error: of an earlier attempt\n")
    with pytest.raises(TrialFailed) as failed:
        outcome(python("raise SystemExit(3)"), log)
    assert str(failed.value) == f"ended with code 3 and without a word; see {log}"


@pytest.mark.parametrize(
    "code",
    [
        "import os, signal; os.kill(os.getpid(), signal.SIGTERM)",
        "print('preempted: SIGTERM'); raise SystemExit(1)",
        "import os, signal; os.kill(os.getppid(), signal.SIGTERM); import time; time.sleep(600)",
        "import os, signal; os.kill(os.getppid(), signal.SIGKILL)",
    ],
)
def test_a_trial_that_somebody_ended_has_not_failed(code, tmp_path):
    with pytest.raises(TrialLost):
        outcome(python(code), tmp_path / "log")


def test_success_is_silent(tmp_path):
    outcome(python("print('error: a word in its output')"), tmp_path / "log")


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
    (checkpoints / "tracking.json").write_text('{"run_id": "the')
    assert list(losses.new()) == [], "half-written"
    (checkpoints / "tracking.json").write_text('{"run_id": "the_run"}')
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


@pytest.mark.parametrize(
    ("training", "reason"),
    [(None, "nothing was trained"), ({"best_validation_loss": None}, "its validation loss is not a number")],
)
def test_a_run_without_a_loss_has_failed(training, reason, tmp_path):
    (tmp_path / "environment.json").write_text(json.dumps({"training": training}))
    with pytest.raises(TrialFailed, match=reason):
        read_loss(tmp_path)


def test_the_loss_of_a_run(tmp_path):
    (tmp_path / "environment.json").write_text(json.dumps({"training": {"best_validation_loss": 0.123456789012345}}))
    assert read_loss(tmp_path) == 0.123456789012345
