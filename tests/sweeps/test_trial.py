"""How a trial ended and what it found; with real processes that do nothing."""

from __future__ import annotations

import json
import sys
import time

import pytest

from tstune.runtime.children import Child
from tstune.sweeps.study import TrialFailed, TrialLost, check_ended, read_loss


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
