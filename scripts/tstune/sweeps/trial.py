"""One trial as a process: started, followed while it trains, ended, read."""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from tstune.config.schema import RunConfig
from tstune.sweeps import guard
from tstune.sweeps.checks import METRIC
from tstune.sweeps.storage import ENVIRONMENT_VARIABLE
from tstune.tracking.run import remembered_run

END_SECONDS = 20
"""From SIGTERM to SIGKILL; SLURM allows a whole job about 30."""

_NOT_THE_CAUSE = ("CalledProcessError", "ChildFailedError")


class TrialFailed(Exception):
    """The trial ended by itself without a result; the message is the reason."""


class TrialLost(Exception):
    """The trial was ended from outside."""


class TrialProcess:
    """A launched trial and all processes it starts. Leaving the context ends what still runs.

    Args:
        command: words of the launch.
        log: file its output is appended to.
    """

    def __init__(self, command: list[str], log: Path) -> None:
        self.log = log
        self._begins_at = log.stat().st_size if log.exists() else 0
        with log.open("ab") as stream:
            self._process = subprocess.Popen(
                [sys.executable, "-I", guard.__file__, str(END_SECONDS), *command],
                stdin=subprocess.PIPE,
                stdout=stream,
                stderr=subprocess.STDOUT,
                env={name: value for name, value in os.environ.items() if name != ENVIRONMENT_VARIABLE},
                start_new_session=True,  # Ctrl-C is for the sweep, which ends its trial by itself
            )

    def __enter__(self) -> TrialProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()
        self._process.stdin.close()

    @property
    def pid(self) -> int:
        """Of the guard, which lives as long as any process of the trial."""
        return self._process.pid

    @property
    def has_ended(self) -> bool:
        """True once nothing of it runs."""
        return self._process.poll() is not None

    def end(self) -> None:
        """End it and wait until it is gone."""
        if not self.has_ended:
            self._process.terminate()
            self._process.wait()

    def check(self) -> None:
        """Say how it ended.

        Raises:
            TrialFailed: with the reason it gave.
            TrialLost: somebody ended it.
        """
        code = self._process.returncode
        if code == 0:
            return
        with self.log.open("rb") as stream:
            stream.seek(self._begins_at)
            said = stream.read().decode("utf-8", errors="replace").splitlines()
        if code == guard.ENDED or code < 0 or any(line.startswith("preempted: ") for line in said):
            raise TrialLost
        raise TrialFailed(_reason(said) or f"ended with code {code} and without a word; see {self.log}")


class ValidationLosses:
    """The validation losses of a run, as they appear in the files of its tracker.

    Args:
        config: the run, with the file tracker.
    """

    def __init__(self, config: RunConfig) -> None:
        self._output_dir = Path(config.output_dir)
        self._folder = Path(config.tracking.folder) / "files" / config.tracking.experiment
        self._metrics: Path | None = None
        self._offset = 0
        self._last_step = -1
        self._count = 0

    @property
    def run_folder(self) -> Path | None:
        """What the file tracker writes, once the run has begun."""
        return self._metrics.parent if self._metrics else None

    def new(self) -> Iterator[tuple[int, int, float]]:
        """Yield (number, optimizer step, loss) of each validation since the last call.

        Number 0 are the weights the training starts from, if they are validated; then the validations are counted.
        """
        for row in self._rows():
            step, loss = row["step"], row.get(METRIC)
            if loss is None or step <= self._last_step:  # a run that goes on repeats some steps
                continue
            self._last_step = step
            self._count += step > 0
            yield self._count, step, loss

    def _rows(self) -> Iterator[dict]:
        if self._metrics is None:
            self._metrics = self._find()
        if self._metrics is None or not self._metrics.exists():
            return
        with self._metrics.open("rb") as stream:
            stream.seek(self._offset)
            for line in stream:
                if not line.endswith(b"\n"):  # it is being written
                    return
                self._offset += len(line)
                yield json.loads(line)

    def _find(self) -> Path | None:
        """The run notes its id beside its checkpoints while it goes on, and in its folder at the end."""
        for folder in (Path(f"{self._output_dir}.checkpoints"), self._output_dir):
            try:
                run_id = remembered_run(folder)
            except (json.JSONDecodeError, FileNotFoundError):  # this very moment it is written, or moved
                continue
            if run_id is not None:
                return self._folder / run_id / "metrics.jsonl"
        return None


def read_loss(folder: Path) -> float:
    """Best validation loss of a finished run.

    Raises:
        TrialFailed: it has none.
    """
    environment = json.loads((folder / "environment.json").read_text(encoding="utf-8"))
    training = environment["training"]
    if training is None:
        raise TrialFailed("nothing was trained, so there is no validation loss")
    loss = training[f"best_{METRIC}"]
    if loss is None or not math.isfinite(loss):
        raise TrialFailed("its validation loss is not a number")
    return loss


def _reason(said: list[str]) -> str | None:
    """Our own error line, else the last exception that is not the launcher's report of it."""
    own = [line for line in said if re.match(r"error( \(rank \d+\))?: ", line)]
    if own:
        return own[0].partition(": ")[2]
    raised = [re.sub(r"^\[rank\d+\]: ?", "", line) for line in said]
    raised = [line for line in raised if re.match(r"[\w.]*(Error|Exception|Interrupt)\b", line)]
    raised = [line for line in raised if not any(name in line for name in _NOT_THE_CAUSE)]
    return raised[-1] if raised else None
