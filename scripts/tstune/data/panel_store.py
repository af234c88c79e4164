"""Panels in folders: large arrays written piece by piece and mapped to be read, and the cache of prepared ones.

    <data.cache>/<hash>/       a panel
    <data.cache>/<hash>.lock   held by the process that prepares it
    <data.cache>/files/        hashes of the input files

The hash covers the content of the input files, every setting that the panel depends on, and the code that prepares it,
so a folder is never out of date; folders that are no longer wanted can be deleted.
"""

from __future__ import annotations

import errno
import fcntl
import glob
import hashlib
import json
import os
import shutil
import socket
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import IO

import numpy as np
import pandas as pd
from pydantic_core import from_json

from tstune.config.schema import DataSection
from tstune.data.cleaning import CleaningReport, CleaningRules, clean_table
from tstune.data.files import find_files
from tstune.data.frequency import StepCounts
from tstune.data.panel import Origin, Panel, file_sha256, without_rows
from tstune.data.preprocess import build_panel
from tstune.data.sources import load_source, stream_source
from tstune.data.table import ITEM, TIMESTAMP, Pieces, Roles, SourceTable, TableStream
from tstune.domains import source_files
from tstune.errors import CheckpointError, ConfigError, DataError, OutputError
from tstune.foreign_files import read_object
from tstune.runtime.logs import logger

_LARGE = {"values": np.dtype("<f4"), "status": np.dtype("u1"), "timestamps": np.dtype("<M8[ns]")}
_SMALL = ("segment_start", "segment_item", "segment_position", "item_length", "level")
_ABOUT, _STATICS = "panel.json", "statics.parquet"
_BLOCK = 1 << 22


class DamagedPanel(Exception):
    """The files of a stored panel are not those that were written; what is wrong with them."""


class PanelWriter:
    """Writes one panel from panels of some of its items each, in the order of the items.

    Memory does not grow with the rows. Files are written and flushed, never mapped, so that a full disk is an
    `OSError` and not a signal.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._arrays: dict[str, _ArrayFile] = {}
        self._digest = hashlib.sha256()
        self._first: Panel | None = None
        self.item_ids: list[str] = []
        """Items so far."""
        self._small: dict[str, list[np.ndarray]] = {name: [] for name in _SMALL}

    def __enter__(self) -> PanelWriter:
        return self

    def __exit__(self, *_: object) -> None:
        for array in self._arrays.values():
            array.stream.close()

    def append(self, panel: Panel) -> None:
        """Add the items of a panel behind those that are there."""
        if self._first is None:
            self._first = panel
            for name, dtype in _LARGE.items():
                path = self._folder / f"{name}.npy"
                self._arrays[name] = _ArrayFile(path, dtype, getattr(panel, name).shape[1:])
        if (panel.roles, panel.frequency) != (self._first.roles, self._first.frequency):
            raise DataError("the pieces of this data have different channels or grids; set data.cache=null")
        rows = self._arrays["values"].rows
        self._small["segment_start"].append(panel.segment_start[:-1] + rows)
        self._small["segment_item"].append(panel.segment_item + len(self.item_ids))
        self._small["segment_position"].append(panel.segment_position)
        self._small["item_length"].append(panel.item_length)
        none = np.zeros((len(panel.item_ids), panel.values.shape[1]))
        self._small["level"].append(none if panel.level is None else panel.level)
        self.item_ids += panel.item_ids
        for name, array in self._arrays.items():
            array.append(getattr(panel, name))
        self._digest.update(np.ascontiguousarray(panel.values))

    def finish(self, origin: Origin) -> None:
        """Write what is not an array, and how to tell that everything is whole."""
        rows = self._arrays["values"].rows
        self._small["segment_start"].append(np.array([rows]))
        for name, pieces in self._small.items():
            values = np.concatenate(pieces).astype("<f8" if name == "level" else "<i8")
            self._arrays[name] = _ArrayFile(self._folder / f"{name}.npy", values.dtype, values.shape[1:])
            self._arrays[name].append(values)
        files = {name: array.finish() for name, array in self._arrays.items()}
        with self._arrays["status"].path.open("rb") as stream:  # `Panel.fingerprint` takes all values first
            stream.seek(self._arrays["status"].begin)
            while block := stream.read(_BLOCK):
                self._digest.update(block)
        level = np.concatenate(self._small["level"])
        if level.any():
            self._digest.update(level)
        if origin.table.statics is not None:
            origin.table.statics.to_parquet(self._folder / _STATICS)
            files["statics"] = _check_of(self._folder / _STATICS)
        about = {
            "fingerprint": self._digest.hexdigest(),
            "item_ids": self.item_ids,
            "roles": asdict(self._first.roles),
            "frequency": self._first.frequency,
            "origin": origin.to_dict(),
            "files": files,
        }
        text = json.dumps(about)
        whole = json.dumps({"check": zlib.crc32(text.encode()), "about": text})
        with (self._folder / _ABOUT).open("w", encoding="utf-8") as stream:
            stream.write(whole)
            _flush(stream)


def open_panel(folder: Path) -> tuple[Panel, Origin]:
    """Map a stored panel: its large arrays are read-only and take memory only while the system has some to spare.

    Every file is read once and compared with its checksum.

    Raises:
        DamagedPanel: a file is missing or not what was written.
    """
    about = _about(folder)
    for name, expected in about["files"].items():
        path = folder / (_STATICS if name == "statics" else f"{name}.npy")
        if not path.is_file():
            raise DamagedPanel(f"{path.name} is missing")
        if path.stat().st_size != expected["size"] or _check_of(path) != expected:
            raise DamagedPanel(f"{path.name} is not what was written")
    # np.asarray: the same memory without the cost of np.memmap at every slice
    large = {name: np.asarray(np.load(folder / f"{name}.npy", mmap_mode="r")) for name in _LARGE}
    small = {name: np.load(folder / f"{name}.npy") for name in _SMALL}
    small["level"] = small["level"] if small["level"].any() else None
    statics = pd.read_parquet(folder / _STATICS) if "statics" in about["files"] else None
    origin = Origin.from_dict(about["origin"], statics)
    panel = Panel(
        **large,
        **small,
        item_ids=tuple(about["item_ids"]),
        roles=Roles.from_dict(about["roles"]),
        frequency=about["frequency"],
        known_fingerprint=about["fingerprint"],
    )
    return panel, origin


def _about(folder: Path) -> dict:
    try:
        whole = read_object(folder / _ABOUT, keys=("about", "check"))
        if zlib.crc32(whole["about"].encode()) != whole["check"]:
            raise ValueError
        return from_json(whole["about"])
    except (ValueError, AttributeError):
        raise DamagedPanel(f"{_ABOUT} is missing or not what was written") from None


class _ArrayFile:
    """A .npy file that grows; numpy leaves room in its header for a larger number of rows."""

    def __init__(self, path: Path, dtype: np.dtype, row_shape: tuple[int, ...]) -> None:
        self.path, self.rows = path, 0
        self._dtype, self._row_shape = dtype, row_shape
        self.stream = path.open("wb")
        self.begin = self._write_header()

    def append(self, rows: np.ndarray) -> None:
        self.stream.write(np.ascontiguousarray(rows, self._dtype).reshape(-1).view(np.uint8))
        self.rows += len(rows)

    def finish(self) -> dict[str, int]:
        self.stream.seek(0)
        if self._write_header() != self.begin:
            raise RuntimeError(f"the header of {self.path.name} grew")
        _flush(self.stream)
        self.stream.close()
        return _check_of(self.path)

    def _write_header(self) -> int:
        header = {"descr": np.lib.format.dtype_to_descr(self._dtype), "fortran_order": False}
        np.lib.format.write_array_header_1_0(self.stream, header | {"shape": (self.rows, *self._row_shape)})
        return self.stream.tell()


def _flush(stream: IO) -> None:
    stream.flush()
    os.fsync(stream.fileno())


def _check_of(path: Path) -> dict[str, int]:
    """Size and CRC-32 of a file."""
    check, size = 0, 0
    with path.open("rb") as stream:
        while block := stream.read(_BLOCK):
            check, size = zlib.crc32(block, check), size + len(block)
    return {"size": size, "crc32": check}


_NOT_OF_THE_PANEL = {
    *("cache", "scaling", "split", "min_context", "mirror_train_windows", "train_fraction", "train_fraction_from"),
    *("train_stride", "validation_stride", "test_stride", "targets_only"),
}
"""Settings of what is made of a panel afterwards; any other changes the hash."""

_READS_NO_FILE = ("cgm_sample", "simulated_t1d")
_SETTLED = 2.0
"""Seconds; a file changed more recently could change again without another time of change."""
_UNITS_DIFFER = "unit_contradicts_values"
_OUT_OF_ORDER = "rows_out_of_order"


def read_panel(config: DataSection, rules: CleaningRules, table: SourceTable | None = None) -> tuple[Panel, Origin]:
    """The panel of a source or a table, from the cache if there is one.

    Args:
        config: the `data` section of a run.
        rules: its cleaning rules.
        table: readings to use instead of the configured source; they are in memory already and never stored.

    Raises:
        ConfigError, DataError: naming what is wrong with the configuration or the data.
        OutputError: the cache cannot be written.
    """
    if table is not None or config.cache is None:
        table = _prepared(load_source(config) if table is None else table, config, rules)
        panel = _build(table, config)
        return panel, Origin.of(table, panel.item_ids)
    try:
        return _cached(config, rules, Path(config.cache))
    except OSError as error:
        raise OutputError(f"data.cache={config.cache} cannot be used: {error.strerror or error}") from None


def _prepared(table: SourceTable, config: DataSection, rules: CleaningRules, log: bool = True) -> SourceTable:
    return clean_table(table, rules, log).with_settings(config.fill, tuple(config.time_features))


def _build(table: SourceTable, config: DataSection, frequency: str | None = None) -> Panel:
    return build_panel(table, frequency or config.frequency, config.max_gap)


def _cached(config: DataSection, rules: CleaningRules, cache: Path) -> tuple[Panel, Origin]:
    stream = stream_source(config)
    paths = _input_files(config) if stream is None else stream.files
    cache.mkdir(parents=True, exist_ok=True)
    files = [{"path": path, "sha256": remembered_sha256(Path(path), cache / "files")} for path in paths]
    folder = cache / _key(config, files)
    if folder.is_dir():
        try:
            return open_panel(folder)
        except DamagedPanel as damage:
            logger.warning("data.cache: %s is damaged (%s) and made again", folder, damage)
    with _locked(folder.with_suffix(".lock")):
        if folder.is_dir():  # by the process that held the lock, or it is the damaged one
            try:
                return open_panel(folder)
            except DamagedPanel:
                shutil.rmtree(folder)
        begin = time.perf_counter()
        with _aside(folder) as aside:
            if stream is None:
                table = _prepared(load_source(config), config, rules)
                with PanelWriter(aside) as writer:
                    writer.append(_build(table, config))
                    writer.finish(Origin.of(table, writer.item_ids))
            else:
                _write_streamed(stream, files, config, rules, aside)
            try:
                aside.rename(folder)
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise
                logger.info("data.cache: another machine was faster to write %s", folder)
        panel, origin = open_panel(folder)
        seconds = time.perf_counter() - begin
        logger.info("data.cache: %s rows prepared in %.1f s, in %s", f"{panel.num_rows:,}", seconds, folder)
        return panel, origin


def _input_files(config: DataSection) -> list[str]:
    """Files of a source that reads everything at once."""
    if ":" in config.source:
        raise ConfigError(
            f"data.cache: nothing says what data.source={config.source} reads, so its panel could be out of date; "
            "write its table to a file and take source parquet, or set data.cache=null"
        )
    if config.path is None:
        if config.source not in _READS_NO_FILE:
            load_source(config)  # says what is missing
            raise ConfigError(f"data.cache needs data.path with source {config.source}; set it, or data.cache=null")
        return []
    path = Path(config.path)
    files = path.rglob("*") if path.is_dir() else find_files(config.path)
    return sorted(str(file) for file in files if file.is_file())


def _key(config: DataSection, files: list[dict[str, str]]) -> str:
    settings = config.model_dump(mode="json", exclude=_NOT_OF_THE_PANEL)
    content = json.dumps({"settings": settings, "files": files, "code": _code_sha256()}, sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:32]


def _code_sha256() -> str:
    """Of the modules that make panels, so that nobody has to remember to raise a version number."""
    digest = hashlib.sha256()
    for path in [*sorted(Path(__file__).parent.rglob("*.py")), *source_files()]:
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold a file alone; the system lets go of it when a process dies."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    waiting = False
    try:
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if not waiting:
                    logger.info("data.cache: another process prepares %s; waiting for it", path.stem)
                waiting = True
                time.sleep(0.05)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def _aside(folder: Path) -> Iterator[Path]:
    """A folder to write into, gone afterwards if it has not been renamed.

    The lock says that nobody on this machine writes the same panel, so what is left was left by killed processes; a
    shared file system need not pass the lock on to other machines.
    """
    prefix = f".{folder.name}.partial-{socket.gethostname()}-"
    for left in folder.parent.glob(f"{glob.escape(prefix)}*"):
        shutil.rmtree(left)
    aside = folder.parent / f"{prefix}{os.getpid()}"
    aside.mkdir()
    try:
        yield aside
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def remembered_sha256(path: Path, memory: Path) -> str:
    """SHA-256 of a file's content.

    Args:
        path: the file.
        memory: folder of a small file per path; what cannot be written there is computed again.
    """
    try:
        found = path.stat()
    except OSError as error:
        raise DataError(f"data file {path} cannot be read: {error.strerror}") from None
    # the time of change cannot be set back by copying or by touch
    now = [found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns]
    note = memory / hashlib.sha256(os.fsencode(path.resolve())).hexdigest()
    try:
        remembered = read_object(note, keys=("file", "sha256"))
        if remembered["file"] == now:
            return remembered["sha256"]
    except CheckpointError:
        remembered = None  # not there, or damaged
    try:
        digest = file_sha256(path)
    except OSError as error:
        raise DataError(f"data file {path} cannot be read: {error.strerror}") from None
    if time.time() - found.st_ctime > _SETTLED and os.access(memory.parent, os.W_OK):
        memory.mkdir(exist_ok=True)
        aside = note.with_name(f"{note.name}.{os.getpid()}")
        aside.write_text(json.dumps({"file": now, "sha256": digest}), encoding="utf-8")
        aside.replace(note)
    return digest


def _write_streamed(
    stream: TableStream, files: list[dict[str, str]], config: DataSection, rules: CleaningRules, folder: Path
) -> None:
    """Prepare all pieces and write their panel into a folder.

    The result is that of reading everything at once, with two exceptions in what cleaning says about glucose: the
    usual distance of readings, which conflicting ones undercut, is that of a piece, and where `data.unit` contradicts
    the values, the median that is shown is that of the first piece.
    """
    scratch = folder / "scratch"
    scratch.mkdir()
    pieces = stream.open(scratch)
    frequency = config.frequency or frequency_of(pieces)
    merged = _Merged()
    with PanelWriter(folder) as writer:
        for table in pieces.tables():
            table = _prepared(table, config, rules, log=False)
            if merged.add(table):
                writer.append(_build(table, config, frequency))
        merged.finish(pieces.in_order)
        about = replace(merged.about, files=stream.files, notes=merged.notes | dict(stream.notes))
        about = about if stream.licence is None else replace(about, licence=stream.licence)
        writer.finish(Origin(about, merged.num_readings, sorted(merged.names - set(writer.item_ids)), files))
    shutil.rmtree(scratch)


def frequency_of(pieces: Pieces) -> str:
    """The grid step that the pieces name, else the most common one."""
    steps = StepCounts()
    for table in pieces.tables():
        if table.frequency is not None:
            return table.frequency
        frame = table.frame.sort_values([ITEM, TIMESTAMP], kind="stable")
        starts = np.flatnonzero(np.diff(pd.factorize(frame[ITEM])[0], prepend=-1))
        steps.add(frame[TIMESTAMP].to_numpy("datetime64[ns]"), starts)
    return steps.most_common()


class _Merged:
    """What the pieces say together."""

    def __init__(self) -> None:
        self.about: SourceTable | None = None
        self.names: set[str] = set()
        self.notes: dict[str, object] = {}
        self.num_readings = 0
        self._cleaning: dict[str, dict] = {}
        self._statics: list[pd.DataFrame] = []
        self._any_readings = False

    def add(self, table: SourceTable) -> bool:
        """Take note of a piece; returns whether it has a reading of a target."""
        own = table.frame[ITEM].astype(str).unique()
        first, self.about = self.about, self.about or without_rows(table)
        has_readings = bool(table.frame[list(table.roles.target)].notna().to_numpy().any())
        if first is not None and table.roles != first.roles:
            raise DataError(
                f"series {own[0]!r} has columns {', '.join(table.roles.columns)}, the first one "
                f"{', '.join(first.roles.columns)}; name the common ones in data.target_columns"
            )
        if first is not None and table.frequency != first.frequency:
            raise DataError(f"series of several steps ({first.frequency}, {table.frequency}); set data.frequency")
        if has_readings and not self._any_readings:
            self.about, self._any_readings = without_rows(table), True
        elif has_readings and table.unit != self.about.unit:
            raise DataError(
                f"targets from series {own[0]!r} on look like {table.unit}, those before like {self.about.unit}; "
                "convert one, or set data.unit to read all as one"
            )
        self.names.update(own)
        self.num_readings += len(table.frame)
        for name, value in table.notes.items():
            adds_up = isinstance(value, int) and not isinstance(value, bool)
            self.notes[name] = value + self.notes.get(name, 0) if adds_up else value
        for name, finding in table.cleaning.items():
            self._add_finding(name, finding)
        if table.statics is not None:
            self._statics.append(table.statics)
        return has_readings

    def finish(self, in_order: bool) -> None:
        """Put together what was merged."""
        if not self._any_readings:
            names = "" if self.about is None else f" of target column(s) {', '.join(self.about.roles.target)}"
            raise DataError(f"no observed value{names} in any series")
        if not in_order:
            self._cleaning.setdefault(_OUT_OF_ORDER, {"count": 0, "action": "sorted", "by_item": {}, "examples": []})
        for line in CleaningReport(self._cleaning).lines():
            logger.info("cleaning: %s", line)
        statics = pd.concat(self._statics) if self._statics else None
        self.about = replace(self.about, cleaning=self._cleaning, statics=statics)

    def _add_finding(self, name: str, finding: dict) -> None:
        before = self._cleaning.get(name)
        if before is not None and name == _UNITS_DIFFER:  # is said once, whatever the pieces
            return
        report = CleaningReport({} if before is None else {name: before})
        counted = ("count", "action", "by_item", "examples")
        rest = {key: value for key, value in finding.items() if key not in counted}
        if before is not None:  # of runs of readings at the sensor's limit; the rest is the same in every piece
            if "runs" in rest:
                rest["runs"] += before["runs"]
            if "longest_run_minutes" in rest:
                rest["longest_run_minutes"] = max(rest["longest_run_minutes"], before["longest_run_minutes"])
        report.add(name, finding["count"], finding["action"], finding["by_item"], finding["examples"], **rest)
        self._cleaning[name] = report[name]
