"""Start a run, kill it at an exact moment, start it again."""

from __future__ import annotations

import logging
import os
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import psutil
from launched import ROOT, free_port
from support.forks import ACCELERATE, Fork

import finetune_ttm
from tstune.runtime.logs import logger
from tstune.training import checkpoint
from tstune.training.callbacks import Callback, TrainingState


class Waits(Callback):
    """A callback of every run here: it stands still where the environment says so, until a signal comes.

    WAITS names the file that says it does, AFTER a step, and INSIDE a function of `tstune.training.checkpoint`, at the
    begin of which it then stands in the next checkpoint.
    """

    def on_step_end(self, state: TrainingState) -> None:
        if not state.is_main or str(state.step) != os.environ.get("AFTER"):
            return
        if name := os.environ.get("INSIDE"):
            function = getattr(checkpoint, name)
            setattr(checkpoint, name, lambda *given, **named: stand_still() or function(*given, **named))
        else:
            stand_still()


def stand_still() -> None:
    """Until SIGTERM, if it is not SIGKILL."""
    Path(os.environ["WAITS"]).touch()
    stop = signal.getsignal(signal.SIGTERM).__self__
    while not stop.requested:
        time.sleep(0.005)


@dataclass(frozen=True)
class Run:
    """The command of a run on 1 or more CPU processes, and where its files lie."""

    recipe: Path
    output_dir: Path
    num_processes: int = 1
    settings: Sequence[str] = ()

    @property
    def checkpoints(self) -> Path:
        """Where checkpoints lie while the run goes on."""
        return Path(f"{self.output_dir}.checkpoints")

    def start(self, *settings: str, **environment: str) -> Fork:
        """Start it; what it says goes to files beside the run folder."""
        script = ["scripts/finetune_ttm.py", "--config", self.recipe, f"output_dir={self.output_dir}"]
        script += [*self.settings, *settings]
        command = [sys.executable, *script]
        if self.num_processes > 1:
            command = [ACCELERATE, "launch", "--config_file", "accelerate_configs/ddp.yaml"]
            command += ["--num_processes", self.num_processes, "--main_process_port", free_port(), *script]
        environment |= {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "WAITS": str(self.waits)}
        environment["PYTHONPATH"] = f"{ROOT / 'tests'}:{Path(__file__).parent}"
        return Fork(command, cwd=ROOT, env=os.environ | environment, log=self.log)

    @property
    def log(self) -> Path:
        """All it said, over all its lives."""
        return Path(f"{self.output_dir}.log")

    @property
    def waits(self) -> Path:
        """The file that says that it stands still."""
        return Path(f"{self.output_dir}.waits")

    def finish(self, *settings: str) -> int:
        """Run to the end and return the exit code; one process runs in this one, which saves the start."""
        if self.num_processes > 1:
            return self.start(*settings).wait()
        arguments = ["--config", self.recipe, f"output_dir={self.output_dir}", *self.settings, *settings]
        with self.log.open("a") as log, redirect_stdout(log), redirect_stderr(log):
            before, logger.handlers = logger.handlers, [logging.StreamHandler(log)]
            try:
                return finetune_ttm.main(list(map(str, arguments)))
            finally:
                logger.handlers = before

    def newest_step(self) -> int:
        """Step of the newest checkpoint; 0 without one."""
        return max((int(path.name.removeprefix("step-")) for path in self.checkpoints.glob("step-*")), default=0)

    def start_and_wait(self, after: int, inside: str = "") -> Fork:
        """Start it; it stands still at the end of a step, or in the checkpoint after it inside a function."""
        self.waits.unlink(missing_ok=True)
        process = self.start(AFTER=str(after), INSIDE=inside)
        while not self.waits.exists():
            assert process.poll() is None, self.log.read_text()
            time.sleep(0.005)
        return process

    def kill(self, after: int, inside: str = "") -> None:
        """Start it and SIGKILL all its processes where it stands."""
        process = self.start_and_wait(after, inside)
        everyone = [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]
        for one in everyone:
            try:
                one.send_signal(signal.SIGKILL)
            except psutil.NoSuchProcess:
                continue  # it fell with its parent
        process.wait()
        psutil.wait_procs(everyone, timeout=30)
