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
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pandas as pd

from tstune.config.schema import DataSection
from tstune.data.cleaning import CleaningReport, CleaningRules, clean_table
from tstune.data.files import find_files
from tstune.data.frequency import StepCounts
from tstune.data.panel import Origin, Panel, without_rows
from tstune.data.preprocess import build_panel
from tstune.data.sources import load_source, stream_source
from tstune.data.table import ITEM, TIMESTAMP, Roles, SourceTable, TableStream
from tstune.domains import source_files
from tstune.errors import CheckpointError, ConfigError, DataError, OutputError
from tstune.foreign_files import broken_seal, damage, read_object, seal, sha256_of
from tstune.runtime.logs import logger

_LARGE = {"values": np.dtype("<f4"), "status": np.dtype("u1"), "timestamps": np.dtype("<M8[ns]")}
_ABOUT, _SEGMENTS, _STATICS = "panel.json", "segments.npz", "statics.parquet"
_BLOCK = 1 << 22


class DamagedPanel(Exception):
    """The files of a stored panel are not those that were written; what is wrong with them."""


class PanelWriter:
    """Writes one panel from panels of some of its items each, in the order of the items.

    Memory does not grow with the rows. Files are written, never mapped, so that a full disk is an `OSError` and not a
    signal.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._streams = {name: (folder / f"{name}.bin").open("wb") for name in _LARGE}
        self._digest = hashlib.sha256()
        self._first: Panel | None = None
        self._rows = 0
        self._small: dict[str, list[np.ndarray]] = {}
        self.item_ids: list[str] = []
        """Items so far."""

    def __enter__(self) -> PanelWriter:
        return self

    def __exit__(self, *_: object) -> None:
        for stream in self._streams.values():
            stream.close()

    def append(self, panel: Panel) -> None:
        """Add the items of a panel behind those that are there."""
        self._first = self._first or panel
        if (panel.roles, panel.frequency) != (self._first.roles, self._first.frequency):
            raise DataError("the pieces of this data have different channels or grids; set data.cache=null")
        small = {
            "segment_start": panel.segment_start[:-1] + self._rows,
            "segment_item": panel.segment_item + len(self.item_ids),
            "segment_position": panel.segment_position,
            "item_length": panel.item_length,
            "level": np.zeros((len(panel.item_ids), panel.values.shape[1])) if panel.level is None else panel.level,
        }
        for name, values in small.items():
            self._small.setdefault(name, []).append(values)
        for name, dtype in _LARGE.items():
            self._streams[name].write(np.ascontiguousarray(getattr(panel, name), dtype).reshape(-1).view(np.uint8))
        self._digest.update(np.ascontiguousarray(panel.values))
        self._rows += panel.num_rows
        self.item_ids += panel.item_ids

    def finish(self, origin: Origin) -> None:
        """Write what does not grow with the rows, and how to tell that everything is whole."""
        for stream in self._streams.values():
            stream.close()
        self._small["segment_start"].append(np.array([self._rows]))
        small = {name: np.concatenate(pieces) for name, pieces in self._small.items()}
        with Path(self._streams["status"].name).open("rb") as stream:  # `Panel.fingerprint` takes all values first
            while block := stream.read(_BLOCK):
                self._digest.update(block)
        if small["level"].any():
            self._digest.update(small["level"])
        np.savez(self._folder / _SEGMENTS, **small)
        if origin.table.statics is not None:
            origin.table.statics.to_parquet(self._folder / _STATICS)
        about = {
            "fingerprint": self._digest.hexdigest(),
            "item_ids": self.item_ids,
            "roles": asdict(self._first.roles),
            "frequency": self._first.frequency,
            "origin": origin.to_dict(),
        }
        (self._folder / _ABOUT).write_text(json.dumps(about), encoding="utf-8")
        seal(self._folder)


def open_panel(folder: Path) -> tuple[Panel, Origin]:
    """Map a stored panel: its large arrays are read-only and take memory only while the system has some to spare.

    Every file is read once and compared with its checksum.

    Raises:
        DamagedPanel: a file is missing or not what was written.
    """
    broken = broken_seal(folder)
    if broken is not None:
        raise DamagedPanel(broken)
    about = read_object(folder / _ABOUT)
    # np.asarray: the same memory without the cost of np.memmap at every slice
    large = {name: np.asarray(np.memmap(folder / f"{name}.bin", dtype, "r")) for name, dtype in _LARGE.items()}
    num_rows = len(large["timestamps"])
    large |= {name: large[name].reshape(num_rows, -1) for name in ("values", "status")}
    small = dict(np.load(folder / _SEGMENTS))
    small["level"] = small["level"] if small["level"].any() else None
    statics = pd.read_parquet(folder / _STATICS) if (folder / _STATICS).is_file() else None
    panel = Panel(
        **large,
        **small,
        item_ids=tuple(about["item_ids"]),
        roles=Roles.from_dict(about["roles"]),
        frequency=about["frequency"],
        known_fingerprint=about["fingerprint"],
    )
    return panel, Origin.from_dict(about["origin"], statics)


_NOT_OF_THE_PANEL = {
    *("cache", "scaling", "split", "min_context", "mirror_train_windows", "train_fraction", "train_fraction_from"),
    *("train_stride", "validation_stride", "test_stride", "targets_only"),
}
"""Settings of what is made of a panel afterwards; any other changes the hash."""

_READS_NO_FILE = ("cgm_sample", "simulated_t1d")
_SETTLED = 2.0
"""Seconds; a file changed more recently could change again without another time of change."""
_UNITS_DIFFER = "unit_contradicts_values"


def read_panel(config: DataSection, rules: CleaningRules, table: SourceTable | None = None) -> tuple[Panel, Origin]:
    """The panel of a source or a table, from the cache if there is one.

    Args:
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
    with path.open("ab") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            logger.info("data.cache: another process prepares %s; waiting for it", path.stem)
            fcntl.flock(stream, fcntl.LOCK_EX)
        yield


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
    """SHA-256 of a file's content, noted in the folder `memory` where that can be written."""
    with damage(path, DataError):
        found = path.stat()
    # the time of change cannot be set back by copying or by touch
    now = [found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns]
    note = memory / hashlib.sha256(os.fsencode(path.resolve())).hexdigest()
    try:
        remembered = read_object(note, keys=("file", "sha256"))
        if remembered["file"] == now:
            return remembered["sha256"]
    except CheckpointError:
        remembered = None  # not there, or damaged
    with damage(path, DataError):
        digest = sha256_of(path)
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
    frequency = config.frequency or frequency_of(pieces())
    merged = _Merged()
    with PanelWriter(folder) as writer:
        for table in pieces():
            table = _prepared(table, config, rules, log=False)
            if merged.add(table):
                writer.append(_build(table, config, frequency))
        merged.finish()
        about = replace(merged.about, files=stream.files, notes=merged.notes | dict(stream.notes))
        about = about if stream.licence is None else replace(about, licence=stream.licence)
        shutil.rmtree(scratch)
        writer.finish(Origin(about, merged.num_readings, sorted(merged.names - set(writer.item_ids)), files))


def frequency_of(tables: Iterable[SourceTable]) -> str:
    """The grid step that the tables of whole series name, else the most common one."""
    steps = StepCounts()
    for table in tables:
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

    def finish(self) -> None:
        """Put together what was merged."""
        if not self._any_readings:
            names = "" if self.about is None else f" of target column(s) {', '.join(self.about.roles.target)}"
            raise DataError(f"no observed value{names} in any series")
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
