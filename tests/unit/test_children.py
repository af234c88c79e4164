"""Programs that are started: ended with all they started, whoever dies; with real processes that do nothing."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from tstune.runtime.children import ENDED, Child, ForkedChild, StopRequest

PATIENCE = 600
# A launcher that dies on SIGTERM; its worker, in a session of its own, takes no notice of it at all.
STUBBORN = """
import os, subprocess, sys, time
worker = "import os, signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(os.getpid(), flush=True); time.sleep(600)"
subprocess.Popen([sys.executable, "-c", worker], start_new_session=True)
time.sleep(600)
"""  # noqa: E501


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


@pytest.fixture(params=["command", "fork"])
def child(request, tmp_path):
    """Starts Python code, as a command or as a fork of the server of this process."""

    def start(code: str, log, **options) -> Child:
        if request.param == "command":
            return Child(python(code), log, **options)
        script = tmp_path / "script.py"
        script.write_text(code)
        return ForkedChild(script, [], ["psutil", "no_such_module"], log, **options)

    return start


def started(log) -> int:
    """Number of the process that has written it to the log."""
    deadline = time.monotonic() + PATIENCE
    while not log.exists() or not log.read_text().endswith("\n"):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return int(log.read_text().split()[-1])


def wait_until_gone(pid: int) -> None:
    deadline = time.monotonic() + PATIENCE
    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        while process.status() != psutil.STATUS_ZOMBIE:
            assert time.monotonic() < deadline, f"process {pid} is still there"
            time.sleep(0.05)


def run(process: Child) -> Child:
    with process:
        while not process.has_ended:
            time.sleep(0.02)
    return process


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr("tstune.runtime.children.END_SECONDS", 1)


def test_a_trial_that_is_ended_is_gone_with_all_its_processes(tmp_path, impatient, child):
    log = tmp_path / "log"
    with child(STUBBORN, log) as process:
        worker = started(log)
        everyone = psutil.Process(process.pid).children(recursive=True)
        assert worker in [one.pid for one in everyone]
        assert len(everyone) == 2
        process.end()
        assert process.has_ended
        assert not any(one.is_running() for one in everyone)
        assert process.code == ENDED


def test_leaving_the_context_ends_it_too(tmp_path, child):
    log = tmp_path / "log"
    with child("import os, time; print(os.getpid(), flush=True); time.sleep(600)", log):
        pid = started(log)
    assert not psutil.pid_exists(pid)


@pytest.mark.parametrize(
    "start",
    ["Child([sys.executable, '-c', {code!r}], Path({log!r}))", "ForkedChild(Path({script!r}), [], [], Path({log!r}))"],
    ids=["command", "fork"],
)
def test_it_does_not_outlive_a_sweep_that_is_killed(tmp_path, start):
    log, script = tmp_path / "log", tmp_path / "script.py"
    script.write_text(STUBBORN)
    sweep = f"""
import sys, time
sys.path.insert(0, {str(os.path.dirname(sys.modules["tstune"].__file__) + "/..")!r})
from pathlib import Path
from tstune.runtime import children
children.END_SECONDS = 1
process = children.{start.format(code=STUBBORN, log=str(log), script=str(script))}
print(process.pid, flush=True)
time.sleep(600)
"""
    killed = subprocess.Popen(python(sweep), stdout=subprocess.PIPE)
    try:
        worker = started(log)
        guard = int(killed.stdout.readline())
    finally:
        killed.send_signal(signal.SIGKILL)
        killed.wait()
    wait_until_gone(worker)
    wait_until_gone(guard)


def test_a_command_that_is_done_leaves_no_worker_behind(tmp_path, impatient, child):
    log = tmp_path / "log"
    once_it_has_spoken = f"for _ in range(60_000):\n    if os.path.getsize({str(log)!r}): break\n    time.sleep(0.01)\n"
    run(child(STUBBORN.replace("time.sleep(600)\n", once_it_has_spoken), log))
    assert not psutil.pid_exists(started(log))


def test_the_storage_url_is_not_handed_down(tmp_path, monkeypatch, child):
    monkeypatch.setenv("TSTUNE_SWEEP_STORAGE", "postgresql://user:s3cret@host/sweeps")
    monkeypatch.setenv("SOMETHING_ELSE", "kept")
    run(child("import os; print(dict(os.environ))", tmp_path / "log", hidden=["TSTUNE_SWEEP_STORAGE"]))
    said = (tmp_path / "log").read_text()
    assert "'SOMETHING_ELSE': 'kept'" in said
    assert "s3cret" not in said


def test_how_it_ended(tmp_path, child):
    log = tmp_path / "log"
    assert run(child("raise SystemExit(3)", log)).code == 3
    assert run(child("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", log)).code == -signal.SIGKILL
    assert run(child("raise ValueError('why it ended')", log)).why() == "ValueError: why it ended"


def test_what_it_took(tmp_path):
    assert run(Child(python("x = b'x' * (200 << 20)"), tmp_path / "log")).peak_memory_mib > 200
    held = b"x" * (200 << 20)  # ours, which the child's own process was forked from
    assert 1 < run(Child(python("pass"), tmp_path / "log")).peak_memory_mib < len(held) / 2**21


def test_signals_are_noted_and_a_second_ctrl_c_is_not():
    before = signal.getsignal(signal.SIGTERM)
    with StopRequest() as stop:
        assert stop.signal is None
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.signal == signal.SIGTERM
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGTERM) is before
    with StopRequest() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.signal == signal.SIGINT
