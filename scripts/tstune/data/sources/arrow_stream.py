"""Long tables in Arrow batches (Parquet files, data sets of the datasets library), read series by series."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from tstune.config.schema import DataSection
from tstune.data.item_sorter import ItemSorter
from tstune.data.sources.csv import recognise_layout, roles_of, table_from_frame
from tstune.data.table import SourceTable
from tstune.data.table_stream import PIECE_ROWS, Pieces, TableStream
from tstune.errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa

BATCH_ROWS = 1 << 16


def stream_of_batches(
    schema: pa.Schema,
    batches: Callable[[list[str]], Iterable[pa.RecordBatch | pa.Table]],
    config: DataSection,
    name: str,
    files: tuple[str, ...],
) -> TableStream | None:
    """Stream a long table whose columns are typed.

    Args:
        schema: of the table.
        batches: names of columns -> the table in batches of these columns.
        config: names of the columns.
        name: what to call the table in errors.
        files: what is read.

    Returns:
        None for a table that has to be seen as a whole: without a column of series, with times or numbers as text, or
        with static columns.
    """
    probe = schema.empty_table().to_pandas()
    config, notes = recognise_layout(probe, config)
    if config.item_id_column not in probe or config.timestamp_column not in probe:
        return None
    if config.static_categorical_columns or config.static_real_columns:
        return None
    columns = roles_of(probe, config, name).columns
    if not _is_typed(schema, config.item_id_column, config.timestamp_column, columns):
        return None
    table = _LongTable(config, list(columns), batches, name, notes)
    return TableStream(files, table.sorted_in)


def _is_typed(schema: pa.Schema, item: str, time: str, numbers: Iterable[str]) -> bool:
    import pyarrow.types as kinds

    item_type = schema.field(item).type
    named = item_type.value_type if kinds.is_dictionary(item_type) else item_type
    return (
        (kinds.is_string(named) or kinds.is_large_string(named) or kinds.is_integer(named))
        and kinds.is_timestamp(schema.field(time).type)
        and all(_is_number(schema.field(column).type) for column in numbers)
    )


def _is_number(kind: pa.DataType) -> bool:
    import pyarrow.types as kinds

    return kinds.is_integer(kind) or kinds.is_floating(kind)


@dataclass
class _LongTable:
    """A table in batches that becomes pieces of whole series, by sorting it on disk."""

    config: DataSection
    columns: list[str]
    batches: Callable[[list[str]], Iterable[pa.RecordBatch | pa.Table]]
    name: str
    notes: dict[str, object]
    zone: str | None = field(default=None, init=False)

    def sorted_in(self, scratch: Path) -> Pieces:
        sorter = ItemSorter(scratch, len(self.columns))
        try:
            rows = 0
            for batch in self.batches([self.config.item_id_column, self.config.timestamp_column, *self.columns]):
                sorter.add(*self._read(batch, rows))
                rows += batch.num_rows
        finally:
            sorter.close()
        if not rows:
            raise DataError(f"{self.name}: the table has no rows")
        return Pieces(Again(lambda: self._tables(sorter)), sorter.in_order)

    def _read(
        self, batch: pa.RecordBatch | pa.Table, before: int
    ) -> tuple[list[str], np.ndarray, np.ndarray, np.ndarray]:
        """Names of the items, their codes, times and numbers of a batch that has so many rows before it."""
        import pyarrow as pa
        import pyarrow.compute as pc

        item, time = (
            _one_array(batch.column(name)) for name in (self.config.item_id_column, self.config.timestamp_column)
        )
        if item.null_count:
            row = before + int(pc.index(pc.is_null(item), True).as_py())
            raise DataError(f"{self.name}: row {row + 2}: no value in column {self.config.item_id_column!r}")
        if time.null_count:
            row = before + int(pc.index(pc.is_null(time), True).as_py())
            raise DataError(f"{self.name}: row {row + 2}: no time in column {self.config.timestamp_column!r}")
        if not pa.types.is_dictionary(item.type):
            item = item.dictionary_encode()
        self.zone = time.type.tz
        try:
            stamps = time.cast(pa.timestamp("ns", self.zone)).cast(pa.int64()).to_numpy(zero_copy_only=False)
        except pa.ArrowInvalid as error:
            raise DataError(f"{self.name}: column {self.config.timestamp_column!r}: {error}") from None
        names = [str(value) for value in item.dictionary.to_pylist()]
        codes = item.indices.to_numpy(zero_copy_only=False).astype(np.int64)
        numbers = [
            _one_array(batch.column(name)).cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
            for name in self.columns
        ]
        return names, codes, stamps.view("datetime64[ns]"), np.stack(numbers, axis=1)

    def _tables(self, sorter: ItemSorter) -> Iterator[SourceTable]:
        has_value = np.zeros(len(self.columns), bool)
        for items, stamps, readings in sorter.items(PIECE_ROWS):
            raw = pd.DataFrame(readings, columns=self.columns)
            times = pd.DatetimeIndex(stamps)
            raw[self.config.timestamp_column] = times if self.zone is None else times.tz_localize("UTC")
            raw[self.config.item_id_column] = items
            table = table_from_frame(raw, self.config, self.name, is_piece=True)
            has_value |= table.frame[self.columns].notna().to_numpy().any(axis=0)
            yield replace(table, notes=self.notes | table.notes)
        roles = table.roles  # there is a row, so there was a piece
        empty = [name for name in roles.target if not has_value[self.columns.index(name)]]
        if empty:
            raise DataError(
                f"{self.name}: target column {empty[0]!r} holds no value, only missing ones; fill it or leave it out"
            )


class Again:
    """An iterable that begins anew every time."""

    def __init__(self, begin: Callable[[], Iterator[SourceTable]]) -> None:
        self._begin = begin

    def __iter__(self) -> Iterator[SourceTable]:
        return self._begin()


def _one_array(column: pa.Array | pa.ChunkedArray) -> pa.Array:
    import pyarrow as pa

    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
