"""One trial: the command that starts it, its validation losses while it trains, what it leaves."""

from __future__ import annotations

import json
import math
import shlex
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml

from tstune.config.schema import RunConfig
from tstune.errors import ConfigError
from tstune.runtime.children import ENDED, Child
from tstune.sweeps.space import METRIC
from tstune.tracking.run import remembered_run

SCRIPT = Path(__file__).resolve().parents[2] / "finetune_ttm.py"
_PLACES = ("machine_rank", "main_process_ip", "main_process_port", "num_machines")


class TrialFailed(Exception):
    """The trial ended by itself without a result; the message is the reason."""


class TrialLost(Exception):
    """The trial was ended from outside."""


@dataclass(frozen=True)
class Launch:
    """How a run is launched.

    Attributes:
        accelerate_config: file of accelerate_configs/, None for Accelerate's defaults.
        num_processes: None takes what the file or the machine says.
    """

    accelerate_config: str | None = None
    num_processes: int | None = None

    def command(self, recipe: Path) -> list[str]:
        """Words that start a trial."""
        # -P: the current folder may hold a file named like a library
        words = [sys.executable, "-P", "-m", "accelerate.commands.launch", "--quiet", *self._options]
        words += ["--main_process_port", "0"]  # a free one: trials of several jobs may share the machine
        return [*words, str(SCRIPT), "--config", str(recipe)]

    def shown(self, recipe: Path) -> str:
        """The same for a reader."""
        return shlex.join(["accelerate", "launch", *self._options, "scripts/finetune_ttm.py", "--config", str(recipe)])

    def settings(self) -> dict[str, object]:
        """What of it may change a result, as flat names.

        Raises:
            ConfigError: the file cannot be used for trials.
        """
        values = {} if self.accelerate_config is None else self._file()
        if self.num_processes is not None or not values:
            values["num_processes"] = self.num_processes
        return {f"accelerate.{name}": value for name, value in values.items() if name not in _PLACES}

    @property
    def _options(self) -> list[str]:
        options = [] if self.accelerate_config is None else ["--config_file", self.accelerate_config]
        return options if self.num_processes is None else [*options, "--num_processes", str(self.num_processes)]

    def _file(self) -> dict[str, object]:
        told = f"--accelerate-config {self.accelerate_config}"
        try:
            values = yaml.safe_load(Path(self.accelerate_config).read_text(encoding="utf-8"))
        except OSError:
            raise ConfigError(f"{told} does not exist; such files lie under accelerate_configs/") from None
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise ConfigError(f"{told} is not valid YAML: {error}") from None
        if not isinstance(values, dict):
            raise ConfigError(f"{told} does not hold keys with values")
        if values.get("num_machines", 1) not in (1, None):
            raise ConfigError(
                f"{told}: a trial runs on one machine, num_machines is {values['num_machines']}; "
                "start the sweep on each machine with the same --study and --storage instead"
            )
        several = values.get("distributed_type", "NO") not in ("NO", False)  # YAML may read a bare NO as false
        if several and self.num_processes is None and values.get("num_processes", -1) == -1:
            raise ConfigError(f"{told} leaves the number open: give --num-processes too")
        return values


class ValidationLosses:
    """The validation losses of a run, as they appear in the files of its tracker.

    Args:
        config: the run, with the file tracker.

    Attributes:
        file: where they appear, once the run has begun.
    """

    def __init__(self, config: RunConfig) -> None:
        self.file: Path | None = None
        self._output_dir = Path(config.output_dir)
        self._runs = Path(config.tracking.folder) / "files" / config.tracking.experiment
        self._offset, self._last_step, self._count = 0, -1, 0

    def new(self) -> Iterator[tuple[int, int, float]]:
        """Yield (number, optimizer step, loss) of each validation since the last call.

        Number 0 are the weights the training starts from, if they are validated; then the validations are counted.
        """
        self.file = self.file or self._find()
        if self.file is None or not self.file.exists():
            return
        with self.file.open("rb") as stream:
            stream.seek(self._offset)
            for line in stream:
                if not line.endswith(b"\n"):  # it is being written
                    return
                self._offset += len(line)
                row = json.loads(line)
                step, loss = row["step"], row.get(METRIC)
                if loss is not None and step > self._last_step:  # a run that goes on repeats some steps
                    self._last_step = step
                    self._count += step > 0
                    yield self._count, step, loss

    def _find(self) -> Path | None:
        """The run notes its id beside its checkpoints while it goes on, and in its folder at the end."""
        for folder in (Path(f"{self._output_dir}.checkpoints"), self._output_dir):
            try:
                run_id = remembered_run(folder)
            except (json.JSONDecodeError, FileNotFoundError):  # this very moment it is written, or moved
                continue
            if run_id is not None:
                return self._runs / run_id / "metrics.jsonl"
        return None


def check_ended(child: Child) -> None:
    """Say how a trial's process ended.

    Raises:
        TrialFailed: with the reason it gave.
        TrialLost: somebody ended it.
    """
    if child.code == 0:
        return
    if child.code == ENDED or any(line.startswith("preempted: ") for line in child.said()):
        raise TrialLost
    raise TrialFailed(child.why() or f"ended with code {child.code} and without a word; see {child.log}")


def read_loss(folder: Path) -> float:
    """Best validation loss of a finished run.

    Raises:
        TrialFailed: it has none.
    """
    training = json.loads((folder / "environment.json").read_text(encoding="utf-8"))["training"]
    if training is None:
        raise TrialFailed("nothing was trained, so there is no validation loss")
    loss = training[f"best_{METRIC}"]
    if loss is None or not math.isfinite(loss):
        raise TrialFailed("its validation loss is not a number")
    return loss
