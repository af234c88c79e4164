"""Files of source csv, read series by series: a file per series, or one table in one or several Parquet files."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from tstune.config.schema import DataSection
from tstune.data.cleaning.report import CleaningReport
from tstune.data.sources.arrow_stream import BATCH_ROWS, Again, stream_of_batches
from tstune.data.sources.csv import find_files, join_series, read_table, recognise_layout, series_name, table_from_frame
from tstune.data.sources.files import read_header
from tstune.data.table import SourceTable
from tstune.data.table_stream import PIECE_ROWS, Pieces, TableStream
from tstune.errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa


def stream_of_files(config: DataSection) -> TableStream | None:
    """Stream ``data.path``; None if it has to be read at once, or is wrong, which reading it at once will say."""
    if config.path is None or config.columns_as == "items":
        return None
    files = find_files(config.path)
    if not all(file.is_file() for file in files):
        return None
    one_table = config.item_id_column is not None or (len(files) == 1 and files[0] == Path(config.path))
    if not one_table:
        return _series_per_file(files, config)
    schemas = _schemas(files)
    if not schemas or any(not _alike(schema, schemas[0]) for schema in schemas[1:]):
        return None
    names = tuple(map(str, files))
    return stream_of_batches(schemas[0], partial(_batches, files), config, config.path, names)


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


def _alike(one: pa.Schema, other: pa.Schema) -> bool:
    return {field.name: field.type for field in one} == {field.name: field.type for field in other}


def _batches(files: list[Path], columns: list[str]) -> Iterator[pa.RecordBatch]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    for file in files:
        try:
            with pq.ParquetFile(file, read_dictionary=columns[:1]) as opened:
                yield from opened.iter_batches(BATCH_ROWS, columns=columns, use_threads=False)
        except (OSError, pa.ArrowException) as error:
            raise DataError(f"{file} cannot be read: {' '.join(str(error).split())}") from None


def _series_per_file(files: list[Path], config: DataSection) -> TableStream | None:
    names = [series_name(file) for file in files]
    if len(set(names)) < len(names) or recognise_layout(_columns(files[0]), config)[0].item_id_column is not None:
        return None
    order = sorted(range(len(files)), key=names.__getitem__)
    tables = Again(lambda: _groups([files[place] for place in order], config))
    return TableStream(tuple(map(str, files)), lambda _: Pieces(tables, order == sorted(order)))


def _columns(file: Path) -> pd.DataFrame:
    """A table with the columns of a file and no row."""
    if file.suffix == ".parquet":
        schemas = _schemas([file])
        return schemas[0].empty_table().to_pandas() if schemas else pd.DataFrame()
    return pd.DataFrame(columns=read_header(file)[0])


def _groups(files: list[Path], config: DataSection) -> Iterator[SourceTable]:
    """Tables of some files each."""
    report, tables, rows = CleaningReport(), [], 0
    for place, file in enumerate(files, start=1):
        tables.append(table_from_frame(read_table(file, report), config, file, report))
        rows += len(tables[-1].frame)
        if rows >= PIECE_ROWS or place == len(files):
            yield replace(join_series(tables), cleaning=report.to_dict())
            report, tables, rows = CleaningReport(), [], 0
