"""Callbacks and a source that tests name by their dotted path."""

from __future__ import annotations

import os
import signal

import psutil

from tstune.training.callbacks import Callback, TrainingState


class Notes(Callback):
    """Writes down every call."""

    def __init__(self) -> None:
        self.calls: list[tuple] = []

    def on_train_begin(self, state: TrainingState) -> None:
        self.calls.append(("begin", state.step, state.total_steps))

    def on_pre_optimizer_step(self, state: TrainingState) -> None:
        has_gradients = any(parameter.grad is not None for parameter in state.module.parameters())
        self.calls.append(("gradients", state.step, has_gradients))

    def on_step_end(self, state: TrainingState) -> None:
        self.calls.append(("step", state.step, state.learning_rate > 0))

    def on_log(self, state: TrainingState, row: dict) -> None:
        self.calls.append(("log", row["step"], state.is_main))

    def on_validation(self, state: TrainingState, loss: float) -> None:
        self.calls.append(("validation", state.step, loss > 0))

    def on_train_end(self, state: TrainingState) -> None:
        self.calls.append(("end", state.step, None))


class StopsAtThree(Callback):
    """Has seen enough after three steps."""

    def on_step_end(self, state: TrainingState) -> None:
        state.should_stop = state.step >= 2  # takes effect with the next step


class KillsWorkers(Callback):
    """The system takes the processes that load windows."""

    def on_step_end(self, state: TrainingState) -> None:
        for child in psutil.Process().children(recursive=True):
            os.kill(child.pid, signal.SIGKILL)


def no_file(data: object) -> object:
    """A source whose own file is missing."""
    return open("/nowhere/readings.bin")


def no_service(data: object) -> object:
    """A source whose service does not answer."""
    raise ConnectionRefusedError("the service on port 7 does not answer")
