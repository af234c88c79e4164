"""The folder a run leaves behind: written aside and renamed, so that a folder that exists is whole."""

from __future__ import annotations

import glob
import json
import math
import os
import shutil
import socket
from collections.abc import Mapping
from pathlib import Path

import psutil

from tstune.config.managers import SimpleConfigManager
from tstune.config.schema import RunConfig
from tstune.errors import OutputError


class RunFolder:
    """Context manager around a folder that appears only when `commit` is called.

    Args:
        output_dir: where the folder will be; None keeps nothing on disk.
        overwrite: replace a folder that is already there.
        is_main: only the main process touches the disk.
        inputs: key -> file or folder the run reads; it must not lie in the folder that is replaced.
        resumes: this run goes on where a dead one stopped, so what that one left half-written is removed.

    Attributes:
        path: folder to write into while the run goes on, None where nothing is to be written.

    Raises:
        OutputError: the folder exists, or cannot be written.
    """

    def __init__(
        self,
        output_dir: str | Path | None,
        overwrite: bool = False,
        is_main: bool = True,
        inputs: Mapping[str, str | None] | None = None,
        resumes: bool = False,
    ) -> None:
        self.final = Path(output_dir) if output_dir is not None else None
        self.path: Path | None = None
        self._overwrite = overwrite
        self._inputs = inputs or {}
        self._resumes = resumes
        self._active = self.final is not None and is_main
        self._created_parents: list[Path] = []

    def __enter__(self) -> RunFolder:
        if not self._active:
            return self
        try:
            self._refuse_to_clobber()
            aside = self.final.parent / f"{self._aside_prefix}{socket.gethostname()}-{os.getpid()}"
            self._remove_leftovers()
            for parent in reversed([self.final.parent, *self.final.parent.parents]):
                if not parent.exists():
                    parent.mkdir()
                    self._created_parents.append(parent)
            aside.mkdir()
            self.path = aside
        except OSError as error:
            self._remove_traces()
            raise OutputError(f"output_dir={self.final} cannot be written: {error.strerror}") from None
        return self

    def __exit__(self, error_type: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        if self.path is not None:
            self._remove_traces()
            if isinstance(error, OSError):
                raise OutputError(f"output_dir={self.final} cannot be written: {error.strerror}") from None

    def commit(self) -> None:
        """Put the finished folder in its place, in one rename."""
        if self.path is None:
            return
        self._refuse_to_clobber()
        for file in self.path.rglob("*"):
            if file.is_file():
                _fsync(file)
        replaced = None
        if self.final.exists():
            replaced = self.path.with_name(f"{self.path.name}-old")
            self.final.rename(replaced)
        try:
            self.path.rename(self.final)
        except OSError:
            if replaced is not None:
                replaced.rename(self.final)
            raise
        self.path = None
        if replaced is not None:
            shutil.rmtree(replaced)

    def write_json(self, name: str, content: object) -> None:
        """Write one JSON file."""
        if self.path is not None:
            text = json.dumps(finite(content), indent=2, allow_nan=False)
            (self.path / name).write_text(text + "\n", encoding="utf-8")

    def _refuse_to_clobber(self) -> None:
        if self.final.is_symlink():
            raise OutputError(f"output_dir={self.final} is a link; give the folder itself or another output_dir")
        if self.final.is_file():
            raise OutputError(f"output_dir={self.final} is a file; choose another output_dir")
        if self.final.is_dir() and any(self.final.iterdir()) and not self._overwrite:
            raise OutputError(
                f"output_dir={self.final} already holds files; set overwrite=true or choose another output_dir"
            )
        if not self.final.is_dir():
            return
        place = self.final.resolve()
        if Path.cwd().is_relative_to(place):
            raise OutputError(f"output_dir={self.final} cannot be written: it holds the current folder")
        for key, path in self._inputs.items():
            if path is not None and Path(path).exists() and Path(path).resolve().is_relative_to(place):
                raise OutputError(
                    f"output_dir={self.final} holds {key}={path}, which overwrite=true would delete; "
                    "choose another output_dir"
                )

    @property
    def _aside_prefix(self) -> str:
        return f".{self.final.name}.partial-"

    def _remove_leftovers(self) -> None:
        """Remove what runs with this output_dir left that were killed on this machine, or that this one replaces."""
        for folder in self.final.parent.glob(f"{glob.escape(self._aside_prefix)}*"):
            host, _, process = folder.name.removeprefix(self._aside_prefix).rpartition("-")
            here = host == socket.gethostname()
            if self._resumes or (here and process.isdigit() and not psutil.pid_exists(int(process))):
                shutil.rmtree(folder)

    def _remove_traces(self) -> None:
        if self.path is not None:
            shutil.rmtree(self.path, ignore_errors=True)
        for parent in reversed(self._created_parents):
            if parent.is_dir() and not any(parent.iterdir()):
                parent.rmdir()
        self.path = None


def is_finished(config: RunConfig) -> bool:
    """True if the run of this configuration is done: its folder is there, whole, and of the same settings."""
    path = Path(config.output_dir) / "config.yaml"
    if not path.is_file():
        return False
    done = SimpleConfigManager().load_config(str(path), [])
    return done.model_copy(update={"overwrite": config.overwrite, "tracking": config.tracking}) == config


def finite(content: object) -> object:
    """The same with None for NaN and infinity, which JSON does not have."""
    if isinstance(content, dict):
        return {name: finite(value) for name, value in content.items()}
    if isinstance(content, list | tuple):
        return [finite(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content


def _fsync(file: Path) -> None:
    with file.open("rb") as stream:
        os.fsync(stream.fileno())
