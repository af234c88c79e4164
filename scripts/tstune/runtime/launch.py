"""A fine-tuning as a process of its own: `accelerate launch`, or a fork where one process on one device is all."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import yaml

from tstune.errors import ConfigError
from tstune.runtime.children import Child, ForkedChild

SCRIPT = Path(__file__).resolve().parents[2] / "finetune_ttm.py"
LIBRARIES = (
    "tstune.runs.finetune",
    "tstune.models.ttm",
    "tsfm_public.models.tinytimemixer.modeling_tinytimemixer",
    "sklearn.linear_model",
    "deepspeed",
)
"""What a run loads before it begins: seconds for each trial, or once for all."""
_PLACES = ("machine_rank", "main_process_ip", "main_process_port", "num_machines")


@dataclass(frozen=True)
class Launch:
    """How a run is launched.

    Attributes:
        accelerate_config: file of accelerate_configs/, None for Accelerate's defaults.
        num_processes: None takes what the file or the machine says.
    """

    accelerate_config: str | None = None
    num_processes: int | None = None

    def start(self, recipe: Path, log: Path, hidden: Collection[str] = ()) -> Child:
        """Start a trial; its log gets what it says, and it does not get the hidden environment variables."""
        if self._is_one_process:
            return ForkedChild(SCRIPT, ["--config", str(recipe)], LIBRARIES, log, hidden)
        return Child(self.command(recipe), log, hidden)

    @property
    def _is_one_process(self) -> bool:
        """Whether `accelerate launch` would start one process and tell it nothing: no file, no second GPU."""
        home = os.environ.get("HF_HOME", os.path.join(os.environ.get("XDG_CACHE_HOME", "~/.cache"), "huggingface"))
        defaults = (Path(home).expanduser() / "accelerate" / f"default_config.{kind}" for kind in ("yaml", "json"))
        told = self.accelerate_config is not None or any(file.exists() for file in defaults)
        gpus = len(list(Path("/dev").glob("nvidia[0-9]*")))
        return not told and (self.num_processes == 1 or (self.num_processes is None and gpus <= 1))

    def command(self, recipe: Path) -> list[str]:
        """Words that start a trial."""
        # -P: the current folder may hold a file named like a library
        words = [sys.executable, "-P", "-m", "accelerate.commands.launch", "--quiet", *self._options]
        words += ["--main_process_port", "0"]  # a free one: several may share the machine
        return [*words, str(SCRIPT), "--config", str(recipe)]

    def shown(self, recipe: Path) -> str:
        """The same for a reader."""
        return shlex.join(["accelerate", "launch", *self._options, "scripts/finetune_ttm.py", "--config", str(recipe)])

    def settings(self) -> dict[str, object]:
        """What of it may change a result, as flat names (`ConfigError`: the file cannot be used for trials)."""
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
