"""Trackers that write down their calls, and fail or interrupt the process at a chosen one."""

from __future__ import annotations

import json
import os
import signal
import socket
import time
from abc import abstractmethod
from pathlib import Path

from tstune.tracking.interfaces import ExperimentTracker

Call = tuple[str, tuple]


class Recorder(ExperimentTracker):
    """Appends every call that succeeds to `calls`, and to a file if it has one.

    Args:
        log: JSONL file, which outlives the object.
        fails: called with the method and its arguments; returns the exception to raise, or None.
    """

    name = "recorder"

    def __init__(self, log=None, fails=None):
        self.calls: list[Call] = []
        self.attempts: list[str] = []
        self.fails = fails or (lambda method, *arguments: None)
        self.log = log

    def settings(self):
        return {"log": self.log}

    def start_experiment(self, experiment_name, config, run_id=None):
        self._take("start_experiment", experiment_name, config, run_id)
        return run_id

    def log_params(self, params):
        self._take("log_params", dict(params))

    def log_metrics(self, metrics, step=None):
        self._take("log_metrics", dict(metrics), step)

    def log_model(self, model_path, model_name):
        self._take("log_model", model_path, model_name)

    def log_artifact(self, path, name=None):
        self._take("log_artifact", path, name)

    def log_figure(self, figure, name):
        self._take("log_figure", figure, name)

    def watch_model(self, module):
        self._take("watch_model", module)

    def end_experiment(self, status="FINISHED"):
        self._take("end_experiment", status)
        return "done"

    def steps(self):
        return [arguments[1] for method, arguments in self.calls if method == "log_metrics"]

    def methods(self):
        return [method for method, _ in self.calls]

    def _take(self, method, *arguments):
        self.attempts.append(method)
        error = self.fails(method, *arguments)
        if error is not None:
            raise error
        self.calls.append((method, arguments))
        if self.log is not None:
            with open(self.log, "a", encoding="utf-8") as stream:
                stream.write(json.dumps([method, *arguments], default=str) + "\n")


class Switch:
    """A `fails` that is on while `is_down`."""

    def __init__(self, error=ConnectionError, is_down=False):
        self.is_down, self.error = is_down, error

    def __call__(self, method, *arguments):
        return self.error("away") if self.is_down else None


class AtStep(Recorder):
    """Does something once, when the row of a step is logged; both come from the environment."""

    name = "at_step"

    def log_metrics(self, metrics, step=None):
        if step == int(os.environ["AT_STEP"]) and "train_loss" in metrics:
            self.act()

    @abstractmethod
    def act(self):
        """What happens at that step."""


class CtrlC(AtStep):
    """Somebody presses Ctrl-C."""

    def act(self):
        signal.raise_signal(signal.SIGINT)


class Preemption(AtStep):
    """The scheduler takes the machine away, once."""

    def act(self):
        marker = Path(os.environ["AT_STEP_ONCE"])
        if not marker.exists():
            marker.touch()
            signal.raise_signal(signal.SIGTERM)


class ServerKiller(AtStep):
    """Kills the process group of a server and waits until its port is closed."""

    def act(self):
        os.killpg(int(os.environ["KILLED_SERVER"]), signal.SIGKILL)
        address = ("127.0.0.1", int(os.environ["KILLED_PORT"]))
        for _ in range(1000):
            with socket.socket() as probe:
                if probe.connect_ex(address) != 0:
                    return
            time.sleep(0.01)
        raise AssertionError("the server is still there")
