"""Start a run, kill it at a chosen moment, start it again."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import psutil
from launched import ROOT, free_port

import finetune_ttm
from tstune.runtime.logs import logger

Moment = Callable[[], bool]


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

    def start(self, *settings: str) -> subprocess.Popen:
        """Start it; what it says goes to files beside the run folder."""
        arguments = ["--config", self.recipe, f"output_dir={self.output_dir}", *self.settings, *settings]
        script = ["scripts/finetune_ttm.py", *arguments]
        command = [sys.executable, *script]
        if self.num_processes > 1:
            command = [
                Path(sys.executable).parent / "accelerate",
                "launch",
                "--config_file",
                "accelerate_configs/ddp.yaml",
            ]
            command += ["--num_processes", self.num_processes, "--main_process_port", free_port(), *script]
        environment = os.environ | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
        with self.log.open("a") as log:
            return subprocess.Popen(
                list(map(str, command)), cwd=ROOT, env=environment, stdout=log, stderr=log, start_new_session=True
            )

    @property
    def log(self) -> Path:
        """All it said, over all its lives."""
        return Path(f"{self.output_dir}.log")

    def finish(self, *settings: str) -> int:
        """Run to the end and return the exit code; one process runs in this one, which saves the start."""
        if self.num_processes > 1:
            return self.start(*settings).wait(timeout=300)
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

    def kill(self, when: Moment, *settings: str) -> bool:
        """Start it and SIGKILL all its processes at the moment; False if it was done before."""
        process = self.start(*settings)
        deadline = time.monotonic() + 300
        while not when():
            if process.poll() is not None:
                return False
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.001)
        everyone = [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]
        for one in everyone:
            try:
                one.send_signal(signal.SIGKILL)
            except psutil.NoSuchProcess:
                continue  # it fell with its parent
        process.wait()
        psutil.wait_procs(everyone, timeout=30)
        return True

    def inside_a_write(self, after: int) -> Moment:
        """While a checkpoint is being written, once there is one beyond the step."""

        def now() -> bool:
            return self.newest_step() > after and any(self.checkpoints.glob(".step-*.partial"))

        return now

    def beyond(self, step: int, delay: float) -> Moment:
        """So many seconds after the checkpoint of a step appeared."""

        def now() -> bool:
            if self.newest_step() < step:
                return False
            time.sleep(delay)
            return True

        return now
