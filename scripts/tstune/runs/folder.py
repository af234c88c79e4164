"""The folder a run leaves behind: what is in it, read and written in one place, and how it comes to be whole."""

from __future__ import annotations

import glob
import json
import math
import os
import re
import shutil
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import pandas as pd
import psutil
from pydantic import TypeAdapter

from tstune.config.managers import load_saved_config
from tstune.config.schema import RunConfig
from tstune.errors import FolderError, OutputError, Preempted
from tstune.foreign_files import damage, read_json, read_object, read_plain_yaml, read_rows
from tstune.runtime.children import is_alive
from tstune.runtime.files import is_disk_trouble, sync_all
from tstune.runtime.signals import StopSignal

CONFIG, METRICS, VERDICT, MANIFEST = "config.yaml", "metrics.json", "verdict.json", "manifest.json"
EVALUATION, WINDOWS, ENVIRONMENT, HISTORY = "evaluation.json", "windows.parquet", "environment.json", "history.jsonl"
FORECASTS, COHORT, PER_ITEM = "forecasts.parquet", "cohort.csv", "per_item.json"
TRACKING, README = "tracking.json", "README.md"
TRAINING_METADATA = "training_metadata.json"
PREPROCESSOR, MODEL, ADAPTER, PLOTS, CHECKPOINTS = "preprocessor.json", "model", "adapter", "plots", "checkpoints"

_KEYS = {VERDICT: ("model",), MANIFEST: ("source",), PREPROCESSOR: ("model_type",)}
"""JSON files of a run -> keys without which it is no such file."""


class RunFolder:
    """The files of one run, by name. Everything that reads or writes a run folder does it here.

    Every reader raises a `FolderError` in one line that names the file: it is missing, damaged, or another thing; every
    writer an `OutputError` if the disk refuses it.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    def has(self, name: str) -> bool:
        """True if this file or folder is there."""
        return (self.path / name).exists()

    def require(self, *names: str) -> RunFolder:
        """Return the folder if it holds all of these (`FolderError`: it does not)."""
        if not self.path.is_dir():
            raise FolderError(f"{self.path} is no folder; give the output_dir of a finished run")
        for name in names or (CONFIG, PREPROCESSOR, MANIFEST, METRICS):
            if not self.has(name):
                raise FolderError(f"{self.path} is not a finished run: {name} is missing; give a run's output_dir")
        return self

    # Readers

    def read_text(self, name: str) -> str:
        """Content of a text file."""
        path = self._there(name)
        with damage(path, FolderError, "cannot be read"):
            return path.read_text(encoding="utf-8")

    def read_json(self, name: str, *keys: str) -> dict:
        """Content of a JSON file that holds names with values; those without which it is no such file, and `keys`."""
        return read_object(self._there(name), FolderError, (*_KEYS.get(name, ()), *keys))

    def read_rows(self, name: str) -> list[dict]:
        """Content of a JSON file that holds a list of rows."""
        rows = read_json(self._there(name), FolderError)
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise FolderError(f"{self.path / name} is damaged: it does not hold a list of rows")
        return rows

    def _there(self, name: str) -> Path:
        if not self.has(name):
            raise FolderError(f"{self.path / name} is missing; give the output_dir of a finished run")
        return self.path / name

    def read_yaml(self, name: str) -> dict:
        """Content of a YAML file that holds names with values, whichever version of the project wrote it."""
        values = read_plain_yaml(self._there(name), FolderError) or {}
        if not isinstance(values, dict):
            raise FolderError(f"{self.path / name} is damaged: it does not hold names with values")
        return values

    def read_optional(self, name: str) -> dict:
        """The same; empty where there is no such file."""
        return self.read_json(name) if self.has(name) else {}

    @property
    def config(self) -> RunConfig:
        """The resolved configuration, as it was saved; a `ConfigError` if it is of another time."""
        return self.config_with(())

    def config_with(self, overrides: Sequence[str]) -> RunConfig:
        """The same with ``key=value`` changes."""
        self.require(CONFIG)
        return load_saved_config(self.path / CONFIG, overrides)

    @property
    def metrics(self) -> dict[str, dict[str, dict[str, float | None]]]:
        """Part -> model -> metric -> value."""
        values = self.read_json(METRICS)
        with damage(self.path / METRICS, FolderError):
            return TypeAdapter(dict[str, dict[str, dict[str, int | float | None]]]).validate_python(values)

    @property
    def history(self) -> list[dict]:
        """Rows of the training log, none if nothing was trained."""
        return read_rows(self._there(HISTORY), FolderError)

    def read_table(self, name: str, columns: list[str] | None = None) -> pd.DataFrame:
        """Content of a Parquet file: `windows.parquet`, see `tstune.evaluation.record`, or `forecasts.parquet`."""
        with damage(self.path / name, FolderError):
            return pd.read_parquet(self.path / name, columns=columns)

    @property
    def run_id(self) -> str | None:
        """Id of the run in the trackers."""
        run_id = self.read_optional(TRACKING).get("run_id")
        if not isinstance(run_id, str | None):
            raise FolderError(f"{self.path / TRACKING} is damaged: run_id is {run_id!r}")
        return run_id

    # Writers

    def write_text(self, name: str, text: str) -> None:
        """Write a text file."""
        with writing(self.path / name) as path:
            path.write_text(text, encoding="utf-8")

    def write_json(self, name: str, content: object) -> None:
        """Write a JSON file; NaN and infinity, which JSON does not have, become null."""
        self.write_text(name, json.dumps(finite(content), indent=2, allow_nan=False) + "\n")

    def write_table(self, name: str, table: pd.DataFrame) -> None:
        """Write what `read_table` reads."""
        with writing(self.path / name) as path:
            table.to_parquet(path, index=False)


class NewFolder:
    """Context manager around a folder that appears, whole, when `commit` is called; until then `folder` is written.

    Where output_dir is None, and on processes that are not the main one, `folder` is None. What is read, `inputs` by
    key, must not lie in the folder that is replaced. `key` is what errors call it, a setting or a flag (``--output``).
    """

    def __init__(
        self,
        output_dir: str | Path | None,
        overwrite: bool = False,
        is_main: bool = True,
        inputs: Mapping[str, str | None] | None = None,
        key: str = "output_dir",
    ) -> None:
        self.final = Path(output_dir) if output_dir is not None else None
        self.folder: RunFolder | None = None
        self._overwrite, self._inputs, self._key = overwrite, inputs or {}, key
        self._active = self.final is not None and is_main
        self._parents: list[Path] = []

    def __enter__(self) -> NewFolder:
        if self._active:
            refuse_to_clobber(self.final, self._overwrite, self._inputs, self._key)
            aside = self.final.parent / f"{self._prefix}{_sign()}"
            self._parents = make_parents(self.final, self._key)
            try:
                with writing(self.final, self._key):
                    self._remove_leftovers()
                    aside.mkdir()
            except OutputError:
                remove_empty_parents(self._parents)
                raise
            self.folder = RunFolder(aside)
        return self

    def __exit__(self, *_: object) -> None:
        if self.folder is not None:
            shutil.rmtree(self.folder.path, ignore_errors=True)
        remove_empty_parents(self._parents)

    @property
    def _prefix(self) -> str:
        return f".{self.final.name}.partial-{socket.gethostname()}-"

    def _remove_leftovers(self) -> None:
        """Of processes that were killed on this machine."""
        for folder in self.final.parent.glob(f"{glob.escape(self._prefix)}*"):
            if _is_left(folder.name.removeprefix(self._prefix)):
                shutil.rmtree(folder)

    def commit(self) -> None:
        """Put the finished folder in its place."""
        if self.folder is None:
            return
        refuse_to_clobber(self.final, self._overwrite, self._inputs, self._key)
        path, self.folder = self.folder.path, None
        put_in_place(path, self.final, path.with_name(f"{path.name}-old"), self._key)


@contextmanager
def replacing(final: Path, overwrite: bool, inputs: Mapping[str, str | None]) -> Iterator[None]:
    """An empty folder, ``--output``, by its final name; what was there, or nothing, comes back unless all goes well.

    What a process left that was killed inside is put back by the next one.
    """
    with writing(final, "--output"), StopSignal():
        prefix = put_back_left(final)
        refuse_to_clobber(final, overwrite, inputs, "--output")
        old, parents = final.with_name(f"{prefix}{_sign()}"), make_parents(final, "--output")
        try:
            final.mkdir(exist_ok=True)  # an empty folder stands for none
            final.rename(old)
            final.mkdir()
            yield
        except BaseException as error:
            if old.exists():
                _put_back(old, final)
            remove_empty_parents(parents)
            if isinstance(error, Preempted | KeyboardInterrupt):
                raise type(error)(f"{final} is as it was; the same command begins anew") from None
            raise
        shutil.rmtree(old.rename(old.with_name(f".{final.name}.old-{os.getpid()}")))  # half of it is not put back


def put_back_left(final: Path) -> str:
    """Put back what a process left that was killed inside `replacing`; returns how such folders' names begin."""
    prefix = f".{final.name}.replaced-{socket.gethostname()}-"
    for old in final.parent.glob(f"{glob.escape(prefix)}*"):
        sign = old.name.removeprefix(prefix)
        if not _is_left(sign):
            raise OutputError(
                f"--output {final} belongs to process {sign.split('-')[0]}; wait, or choose another folder"
            )
        _put_back(old, final)
    return prefix


def _sign() -> str:
    """Of this process, for the name of a folder it works on: a number alone is given again after it has ended."""
    return f"{os.getpid()}-{psutil.Process().create_time()}"


def _is_left(sign: str) -> bool:
    """True if that process is gone, or is this one, which has not put its own there yet."""
    found = re.fullmatch(r"(\d+)(?:-(\d+\.\d+))?", sign)
    if not found:
        return False
    process, began = int(found[1]), found[2]
    lives = psutil.pid_exists(process) if began is None else is_alive(process, float(began))
    return process == os.getpid() or not lives


def _put_back(old: Path, final: Path) -> None:
    shutil.rmtree(final, ignore_errors=True)
    old.rename(final)
    remove_empty_parents([final])


def refuse_full(key: str, folder: Path | None, overwrite: bool) -> None:
    """Stop before anything is read or computed that could not be written to a folder, which a setting or flag names."""
    places = () if folder is None else (folder, *folder.parents)
    there = next((place for place in places if os.path.lexists(place)), None)
    if there is not None and not there.is_dir():
        above = "" if there == folder else f" cannot be written: {there}"
        raise OutputError(f"{named(key, folder)}{above} is a file; choose another {key}")
    if folder is not None and not overwrite and folder.is_dir() and any(folder.iterdir()):
        fix = "add --overwrite or choose another folder"
        if not key.startswith("--"):
            fix = f"set overwrite=true or choose another {key}"
        raise OutputError(f"{named(key, folder)} already holds files; {fix}")


def refuse_to_clobber(final: Path, overwrite: bool, inputs: Mapping[str, str | None], key: str = "output_dir") -> None:
    """Raise an `OutputError` if a folder, which is said by this key, must not be written there."""
    what = named(key, final)
    with writing(final, key):
        if final.is_symlink():
            raise OutputError(f"{what} is a link; give the folder itself or another {key}")
        refuse_full(key, final, overwrite)
        if not final.is_dir():
            return
        place = final.resolve()
        if Path.cwd().is_relative_to(place):
            raise OutputError(f"{what} cannot be written: it holds the current folder")
        for name, path in inputs.items():
            if path is not None and Path(path).exists() and Path(path).resolve().is_relative_to(place):
                held = f"{what} holds {named(name, path)}"
                raise OutputError(f"{held}, which overwriting would delete; choose another {key}")


def put_in_place(new: Path, final: Path, replaced: Path, key: str = "output_dir") -> None:
    """Rename a finished folder to its final name; a folder that is there waits in `replaced` until that is done.

    A crash between the two renames leaves both, whole; `recover_replaced` then puts the old one back.
    """
    with writing(final, key):
        sync_all(new)
        if final.exists():
            final.rename(replaced)
        try:
            new.rename(final)
        except OSError:
            if replaced.exists():
                replaced.rename(final)
            raise
    shutil.rmtree(replaced, ignore_errors=True)


def recover_replaced(final: Path, replaced: Path) -> None:
    """What `put_in_place` left when it was killed: the old folder goes back, or away if the new one is there."""
    if not replaced.exists():
        return
    if final.exists():
        shutil.rmtree(replaced, ignore_errors=True)
    else:
        replaced.rename(final)


@contextmanager
def writing(path: Path, key: str = "") -> Iterator[Path]:
    """Whatever the disk refuses in here is said in one line, about this path and the key that names it."""
    try:
        yield path
    except Exception as error:
        if not is_disk_trouble(error):
            raise
        what = named(key, path) if key else path
        raise OutputError(f"{what} cannot be written: {getattr(error, 'strerror', None) or error}") from None


def named(key: str, path: Path) -> str:
    """What a message calls a place: the setting or flag that names it, and its value."""
    if " " in key:  # its value is in it
        return key
    return f"{key} {path}" if key.startswith("--") else f"{key}={path}"


def make_parents(path: Path, key: str = "output_dir") -> list[Path]:
    """Create the folders above a path; returns those that were not there."""
    made: list[Path] = []
    try:
        with writing(path, key):
            for parent in reversed(path.parents):
                if not parent.exists():
                    parent.mkdir(exist_ok=True)
                    made.append(parent)
    except OutputError:
        remove_empty_parents(made)
        raise
    return made


def remove_empty_parents(parents: list[Path]) -> None:
    """Remove what `make_parents` made, as far as nothing was put there."""
    for parent in reversed(parents):
        if parent.is_dir() and not any(parent.iterdir()):
            parent.rmdir()


def finite(content: object) -> object:
    """The same with None for NaN and infinity, which JSON does not have."""
    if isinstance(content, dict):
        return {name: finite(value) for name, value in content.items()}
    if isinstance(content, list | tuple):
        return [finite(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content
