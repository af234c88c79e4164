"""Prepared panels in a folder, by the content they were made of: one process prepares, all map the same files.

    <data.cache>/<hash>/       a panel, see `tstune.data.panel_store`
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
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tstune.config.schema import DataSection
from tstune.data.cleaning import CleaningRules, clean_table
from tstune.data.file_hashes import remembered_sha256
from tstune.data.origin import Origin
from tstune.data.panel import Panel
from tstune.data.panel_store import DamagedPanel, PanelWriter, open_panel
from tstune.data.preprocess import build_panel
from tstune.data.sources import load_source, stream_source
from tstune.data.table import SourceTable
from tstune.data.table_stream import write_streamed
from tstune.errors import ConfigError, OutputError
from tstune.runtime.logs import logger

_NOT_OF_THE_PANEL = {
    *("cache", "scaling", "split", "min_context", "mirror_train_windows", "train_fraction", "train_fraction_from"),
    *("train_stride", "validation_stride", "test_stride"),
}
"""Settings of what is made of a panel afterwards; any other changes the hash."""

_READS_NO_FILE = ("cgm_sample", "simulated_t1d")


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


def _prepared(table: SourceTable, config: DataSection, rules: CleaningRules) -> SourceTable:
    return clean_table(table, rules).with_settings(config.fill, tuple(config.time_features))


def _build(table: SourceTable, config: DataSection) -> Panel:
    return build_panel(table, config.frequency, table.max_gap if config.max_gap is None else config.max_gap)


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
                _write_whole(config, rules, aside)
            else:
                write_streamed(stream, files, config, rules, aside)
            _put(aside, folder)
        panel, origin = open_panel(folder)
        seconds = time.perf_counter() - begin
        logger.info("data.cache: %s rows prepared in %.1f s, in %s", f"{panel.num_rows:,}", seconds, folder)
        return panel, origin


def _put(aside: Path, folder: Path) -> None:
    try:
        aside.rename(folder)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        logger.info("data.cache: another machine was faster to write %s", folder)


def _write_whole(config: DataSection, rules: CleaningRules, folder: Path) -> None:
    table = _prepared(load_source(config), config, rules)
    with PanelWriter(folder) as writer:
        writer.append(_build(table, config))
        writer.finish(Origin.of(table, writer.item_ids))


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
    from tstune.data.sources.csv import find_files

    path = Path(config.path)
    files = path.rglob("*") if path.is_dir() else find_files(config.path)
    return sorted(str(file) for file in files if file.is_file())


def _key(config: DataSection, files: list[dict[str, str]]) -> str:
    settings = config.model_dump(mode="json", exclude=_NOT_OF_THE_PANEL)
    content = json.dumps({"settings": settings, "files": files, "code": _code_sha256()}, sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:32]


def _code_sha256() -> str:
    """Of the modules that make panels, so that nobody has to remember to raise a version number."""
    here = Path(__file__).parent
    digest = hashlib.sha256()
    for folder in (here, here / "sources", here / "cleaning"):
        for path in sorted(folder.glob("*.py")):
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
