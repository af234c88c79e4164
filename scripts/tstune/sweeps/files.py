"""The files of a sweep: where they lie, and how several jobs can write the same one."""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tstune.config.managers import SimpleConfigManager
from tstune.config.schema import RunConfig
from tstune.errors import OutputError


@dataclass(frozen=True)
class SweepFolder:
    """``<output>/``: the report, and under ``trials/`` a recipe, a log and a run folder for each trial."""

    path: Path

    @property
    def trials(self) -> Path:
        """Folder of the trials."""
        return self.path / "trials"

    @property
    def best_recipe(self) -> Path:
        """Recipe that reruns the best trial."""
        return self.path / "best.yaml"

    def run(self, number: int) -> Path:
        """Run folder of a trial."""
        return self.trials / str(number)

    def recipe(self, number: int) -> Path:
        """What the trial is launched with."""
        return self.trials / f"{number}.yaml"

    def log(self, number: int) -> Path:
        """What the trial says."""
        return self.trials / f"{number}.log"

    def make(self) -> None:
        """Make the folders.

        Raises:
            OutputError: they cannot be made.
        """
        try:
            self.trials.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"--output {self.path} cannot be written: {error.strerror}") from None

    def save_recipe(self, config: RunConfig, path: Path) -> None:
        """Write a complete recipe."""
        with aside(path) as partial:
            SimpleConfigManager().save_config(config, partial)

    def holds(self, config: RunConfig) -> bool:
        """True if the run of this configuration is done; who tracks it, and under what name, does not matter."""
        path = Path(config.output_dir) / "config.yaml"
        if not path.is_file():
            return False
        done = SimpleConfigManager().load_config(path)
        return done.model_copy(update={"tracking": config.tracking}) == config

    def remove_weights(self, number: int) -> None:
        """Keep what a trial tells, not what it has learnt."""
        shutil.rmtree(Path(f"{self.run(number)}.checkpoints"), ignore_errors=True)
        shutil.rmtree(self.run(number) / "checkpoints", ignore_errors=True)
        for file in self.run(number).rglob("*.safetensors"):
            file.unlink(missing_ok=True)

    @staticmethod
    def remove_models(run_folder: Path) -> None:
        """Remove the copies of models that the file tracker keeps of a run."""
        shutil.rmtree(run_folder / "models", ignore_errors=True)


@contextmanager
def aside(path: Path) -> Iterator[Path]:
    """A file to write to, which replaces `path` when it is whole; each process has its own."""
    partial = path.with_name(f".{path.name}.{socket.gethostname()}-{os.getpid()}.partial")
    try:
        yield partial
        partial.replace(path)
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error.strerror}") from None
    finally:
        partial.unlink(missing_ok=True)
