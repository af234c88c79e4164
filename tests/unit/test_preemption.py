"""SIGTERM raises where nothing is lost and waits where something would be."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from tstune.errors import EXIT_REQUEUE, Preempted, exits_cleanly
from tstune.runtime.signals import StopSignal


def terminate() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def test_the_signal_raises_and_is_noted():
    with StopSignal() as stop, pytest.raises(Preempted):
        terminate()
    assert stop.requested


def test_deferred_it_is_only_noted():
    with StopSignal() as stop:
        with stop.deferred():
            with stop.deferred():
                terminate()
            assert stop.requested
            terminate()
        with pytest.raises(Preempted):
            terminate()


def test_the_handler_before_comes_back():
    before = signal.getsignal(signal.SIGTERM)
    with StopSignal():
        assert signal.getsignal(signal.SIGTERM) != before
    assert signal.getsignal(signal.SIGTERM) == before


def test_outside_the_main_thread_nothing_is_installed():
    before, seen = signal.getsignal(signal.SIGTERM), []

    def run() -> None:
        with StopSignal() as stop:
            seen.append((stop.requested, signal.getsignal(signal.SIGTERM)))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert seen == [(False, before)]


@pytest.mark.parametrize(("rank", "lines"), [("0", 1), ("1", 0)])
def test_a_script_ends_with_the_code_that_requeues(rank, lines, monkeypatch, capsys):
    monkeypatch.setenv("RANK", rank)

    @exits_cleanly
    def main() -> int:
        raise Preempted("checkpoint of step 3 written")

    assert main() == EXIT_REQUEUE == 75
    assert capsys.readouterr().err.count("preempted: checkpoint of step 3 written\n") == lines
