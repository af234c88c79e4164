"""Your own table: text, Parquet, Excel or JSON, long or wide, column roles by name.

Long: one row per series and time (``data.item_id_column``). Wide: one row per time; each value column
is a channel of one series, or with ``data.columns_as=items`` a series of its own. The long tables of Nixtla
(``unique_id, ds, y``) and of GluonTS and AutoGluon (``item_id, timestamp, target``) are known by their columns.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from tstune.config.schema import DataSection
from tstune.data.cleaning.rules import CleaningReport
from tstune.data.files import find_files, read_columns, read_table
from tstune.data.frame import DUPLICATES_AVERAGED, recognise_layout, require_columns, series_name, table_from_frame
from tstune.data.series_rows import holds_series
from tstune.data.sources import SourceInfo
from tstune.data.sources.arrow import BATCH_ROWS, stream_of_batches
from tstune.data.table import PIECE_ROWS, SourceTable, TableStream
from tstune.errors import ConfigError, DataError
from tstune.foreign_files import damage

if TYPE_CHECKING:
    import pyarrow as pa


INFO = SourceInfo(
    name="csv",
    summary="your own table, long or wide: text, Parquet, Excel, JSON lines (source parquet is the same); Nixtla, "
    "GluonTS, AutoGluon, Monash and M4 files are known by their layout",
    licence="yours",
    where="set data.path to a .csv, .tsv, .txt, .parquet, .xlsx, .jsonl or .tsf file (text also gzipped), a folder of "
    "them or a pattern such as data/P*.csv.gz",
    keys={
        "path": "file, folder or pattern; one file of several is one series, with item_id_column a part of one table",
        "timestamp_column": "column with the times, or several with their parts: [date, time]",
        "timestamp_format": "strptime format where it is not found, e.g. '%d/%m/%Y %H:%M'",
        "missing_values": "words or numbers that stand for no reading, e.g. [-999, bad]",
        "skip_rows": "lines at the top that are not looked at",
        "keep_rows": "only these rows, e.g. type == cgm",
        "timezone": "zone of local clock times, e.g. Europe/London",
        "item_id_column": "column that tells the series of a long table apart",
        "columns_as": "wide table: channels of one series, or items, a series each",
        "target_columns": "columns to forecast",
        "conditional_columns": "columns known in the past only",
        "control_columns": "columns known in the future too",
        "static_categorical_columns": "columns with one name per series",
        "static_real_columns": "columns with one number per series",
        "on_duplicate": "rows with one timestamp: error or mean",
    },
)


def load(config: DataSection) -> SourceTable:
    """Read ``data.path`` and give its columns the roles named in the configuration."""
    INFO.read_options(config)
    check(config)
    files, report = find_files(config.path), CleaningReport()
    if len(files) == 1 and files[0] == Path(config.path):
        return table_from_frame(read_table(files[0], report, config.skip_rows), config, files[0], report)
    if config.columns_as == "items":
        raise ConfigError(
            f"data.path={config.path} names several files, one series each; data.columns_as=items is for a single file"
        )
    if config.item_id_column is not None:
        return _join_parts(files, config, report)
    tables = [table_from_frame(read_table(file, report, config.skip_rows), config, file, report) for file in files]
    names = [series_name(file) for file in files]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise DataError(f"data.path={config.path} holds {twice!r} twice, in different formats; keep one")
    return replace(_join_series(tables), files=tuple(map(str, files)), cleaning=report.to_dict())


def check(config: DataSection) -> None:
    """Stop at a path or a column that is not there, by the first lines of the first file."""
    if config.path is None:
        raise ConfigError("source csv needs data.path=<file.csv, file.csv.gz, file.parquet, folder or pattern>")
    file = find_files(config.path)[0]
    require_columns(pd.DataFrame(columns=read_columns(file, config.skip_rows)), config, file)


def _join_series(tables: Sequence[SourceTable]) -> SourceTable:
    """One table of files that hold a series each."""
    different = next((t for t in tables if t.roles != tables[0].roles), None)
    if different is not None:
        raise DataError(
            f"{different.files[0]} has columns {', '.join(different.roles.columns)}, {tables[0].files[0]} has "
            f"{', '.join(tables[0].roles.columns)}; name the common ones in data.target_columns"
        )
    frame = pd.concat([table.frame for table in tables], ignore_index=True)
    statics = pd.concat([table.statics for table in tables]) if tables[0].roles.statics else None
    duplicates = sum(table.notes.get(DUPLICATES_AVERAGED, 0) for table in tables)
    notes = {DUPLICATES_AVERAGED: duplicates} if duplicates else {}
    return replace(tables[0], frame=frame, notes=notes, statics=statics)


def _join_parts(files: Sequence[Path], config: DataSection, report: CleaningReport) -> SourceTable:
    """One long table in several files."""
    parts = [read_table(file, report, config.skip_rows) for file in files]
    different = next((place for place, part in enumerate(parts) if set(part) != set(parts[0])), None)
    if different is not None:
        raise DataError(
            f"{files[different]} has columns {', '.join(map(str, parts[different]))}, {files[0]} has "
            f"{', '.join(map(str, parts[0]))}; the parts of one table need the same ones"
        )
    table = table_from_frame(pd.concat(parts, ignore_index=True), config, config.path, report)
    return replace(table, files=tuple(map(str, files)))


def stream(config: DataSection) -> TableStream | None:
    """The same series by series; None if it has to be read at once, or is wrong, which reading it at once will say."""
    if config.path is None or config.columns_as == "items":
        return None
    files = find_files(config.path)
    if not all(file.is_file() for file in files):
        return None
    one_table = config.item_id_column is not None or (len(files) == 1 and files[0] == Path(config.path))
    if not one_table:
        return _series_per_file(files, config)
    schemas = _schemas(files)
    types = [dict(zip(schema.names, schema.types, strict=True)) for schema in schemas]
    if not schemas or any(other != types[0] for other in types):
        return None
    return stream_of_batches(schemas[0], partial(_batches, files), config, config.path, tuple(map(str, files)))


def _schemas(files: list[Path]) -> list[pa.Schema]:
    """Of Parquet files; none if there is another file among them."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not all(file.suffix == ".parquet" for file in files):
        return []
    try:
        return [pq.read_schema(file) for file in files]
    except (OSError, pa.ArrowException):
        return []


def _batches(files: list[Path], columns: list[str]) -> Iterator[pa.RecordBatch]:
    import pyarrow.parquet as pq

    for file in files:
        with damage(file, DataError, "cannot be read"), pq.ParquetFile(file, read_dictionary=columns[:1]) as opened:
            yield from opened.iter_batches(BATCH_ROWS, columns=columns, use_threads=False)


def _series_per_file(files: list[Path], config: DataSection) -> TableStream | None:
    names = [series_name(file) for file in files]
    columns = pd.DataFrame(columns=read_columns(files[0], config.skip_rows))
    if holds_series(columns):
        return None
    if len(set(names)) < len(names) or recognise_layout(columns, config)[0].item_id_column is not None:
        return None
    in_order = sorted(files, key=series_name)
    return TableStream(tuple(map(str, files)), lambda _: partial(_groups, in_order, config))


def _groups(files: list[Path], config: DataSection) -> Iterator[SourceTable]:
    """Tables of some files each."""
    report, tables, rows = CleaningReport(), [], 0
    for place, file in enumerate(files, start=1):
        tables.append(table_from_frame(read_table(file, report, config.skip_rows), config, file, report))
        rows += len(tables[-1].frame)
        if rows >= PIECE_ROWS or place == len(files):
            yield replace(_join_series(tables), cleaning=report.to_dict())
            report, tables, rows = CleaningReport(), [], 0
