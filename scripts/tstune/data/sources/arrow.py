"""Long tables in Arrow batches (Parquet files, data sets of the datasets library), read series by series."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from tstune.config.schema import DataSection
from tstune.data.frame import ROW_NUMBERS, recognise_layout, roles_of, table_from_frame
from tstune.data.table import PIECE_ROWS, SourceTable, TableStream
from tstune.errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa

BATCH_ROWS = 1 << 16


class _ItemSorter:
    """Rows of many items, written in batches and read as whole items in the order of their names.

    Each batch is sorted by item before it is written, so an item is a number of stretches of the files, few where the
    table was sorted or grouped; rows of an item keep their order. Memory grows with the stretches, not with the rows.

    Args:
        folder: for a file of 8 bytes per row and number.
    """

    def __init__(self, folder: Path, num_columns: int) -> None:
        self._path = folder / "rows"
        self._file = self._path.open("wb")
        self._row = np.dtype([("stamp", "<M8[ns]"), ("readings", "<f8", (num_columns,))])
        self._codes: dict[str, int] = {}
        self._stretches: list[np.ndarray] = []  # [3, stretches] item, first row, rows
        self._rows = 0

    def add(self, names: list[str], codes: np.ndarray, stamps: np.ndarray, readings: np.ndarray) -> None:
        """Write a batch: [rows] index into `names`, [rows] datetime64[ns], [rows, columns] float64."""
        if not len(codes):
            return
        known = np.array([self._codes.setdefault(name, len(self._codes)) for name in names])
        order = np.argsort(codes, kind="stable")
        own = codes[order]
        first = np.flatnonzero(np.diff(own, prepend=-1))
        length = np.diff(np.append(first, len(own)))
        self._stretches.append(np.stack([known[own[first]], first + self._rows, length]))
        rows = np.empty(len(own), self._row)
        rows["stamp"], rows["readings"] = stamps[order], readings[order]
        self._file.write(rows)
        self._rows += len(own)

    def close(self) -> None:
        """Finish writing."""
        self._file.close()

    def items(self, num_rows: int) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Items ([rows] names), stamps and readings of whole items, at least `num_rows` rows each but the last."""
        if not self._rows:
            return
        names = np.array(list(self._codes), dtype=object)
        rank = np.empty(len(names), np.int64)
        rank[np.argsort(names, kind="stable")] = np.arange(len(names))
        stretches = np.concatenate(self._stretches, axis=1)
        stretches = stretches[:, np.lexsort((stretches[1], rank[stretches[0]]))]
        last_of_item = np.append(np.diff(stretches[0]) != 0, True)
        rows = np.cumsum(stretches[2])
        begin, done = 0, 0
        for end in np.flatnonzero(last_of_item) + 1:
            if rows[end - 1] - done >= num_rows or end == len(rows):
                yield self._read(names, stretches[:, begin:end])
                begin, done = end, rows[end - 1]

    def _read(self, names: np.ndarray, stretches: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        stored = np.memmap(self._path, self._row, "r")
        rows = np.concatenate([stored[first : first + length] for first, length in stretches[1:].T])
        return np.repeat(names[stretches[0]], stretches[2]), rows["stamp"], rows["readings"]


def stream_of_batches(
    schema: pa.Schema,
    batches: Callable[[list[str]], Iterable[pa.RecordBatch | pa.Table]],
    config: DataSection,
    name: str,
    files: tuple[str, ...],
) -> TableStream | None:
    """Stream a long table whose columns are typed.

    Args:
        batches: names of columns -> the table in batches of these columns.

    Returns:
        None for a table that has to be seen as a whole: without a column of series, with times or numbers as text, with
        static columns, or of some of its rows.
    """
    if not isinstance(config.timestamp_column, str):
        return None
    probe = schema.empty_table().to_pandas()
    config, notes = recognise_layout(probe, config)
    if config.item_id_column not in probe or config.timestamp_column not in probe:
        return None
    if config.static_categorical_columns or config.static_real_columns or config.keep_rows is not None or config.rename:
        return None
    if config.target_columns is None and any(str(name).lower() in ROW_NUMBERS for name in probe):
        return None
    columns = roles_of(probe, config, name).columns
    if not _is_typed(schema, config.item_id_column, config.timestamp_column, columns):
        return None
    table = _LongTable(config, list(columns), batches, name, notes)
    return TableStream(files, table.sorted_in)


def _is_typed(schema: pa.Schema, item: str, time: str, numbers: Iterable[str]) -> bool:
    import pyarrow.types as kinds

    types = dict(zip(schema.names, schema.types, strict=True))
    named = types[item].value_type if kinds.is_dictionary(types[item]) else types[item]
    return (
        (kinds.is_string(named) or kinds.is_large_string(named) or kinds.is_integer(named))
        and kinds.is_timestamp(types[time])
        and all(kinds.is_integer(types[name]) or kinds.is_floating(types[name]) for name in numbers)
    )


@dataclass
class _LongTable:
    """A table in batches that becomes pieces of whole series, by sorting it on disk."""

    config: DataSection
    columns: list[str]
    batches: Callable[[list[str]], Iterable[pa.RecordBatch | pa.Table]]
    name: str
    notes: dict[str, object]
    zone: str | None = field(default=None, init=False)

    def sorted_in(self, scratch: Path) -> Callable[[], Iterator[SourceTable]]:
        sorter = _ItemSorter(scratch, len(self.columns))
        try:
            rows = 0
            for batch in self.batches([self.config.item_id_column, self.config.timestamp_column, *self.columns]):
                sorter.add(*self._read(batch, rows))
                rows += batch.num_rows
        finally:
            sorter.close()
        if not rows:
            raise DataError(f"{self.name}: the table has no rows")
        return partial(self._tables, sorter)

    def _read(
        self, batch: pa.RecordBatch | pa.Table, before: int
    ) -> tuple[list[str], np.ndarray, np.ndarray, np.ndarray]:
        """Names of the items, their codes, times and numbers of a batch that has so many rows before it."""
        import pyarrow as pa
        import pyarrow.compute as pc

        item, time = (
            _one_array(batch.column(name)) for name in (self.config.item_id_column, self.config.timestamp_column)
        )
        for column, what, name in (
            (item, "value", self.config.item_id_column),
            (time, "time", self.config.timestamp_column),
        ):
            if column.null_count:
                row = before + int(pc.index(pc.is_null(column), True).as_py())
                raise DataError(f"{self.name}: row {row + 2}: no {what} in column {name!r}")
        if not pa.types.is_dictionary(item.type):
            item = item.dictionary_encode()
        self.zone = time.type.tz
        try:
            stamps = time.cast(pa.timestamp("ns", self.zone)).cast(pa.int64()).to_numpy(zero_copy_only=False)
        except pa.ArrowInvalid as error:
            raise DataError(f"{self.name}: column {self.config.timestamp_column!r}: {error}") from None
        names = [str(value) for value in item.dictionary.to_pylist()]  # as `id_texts` writes text and whole numbers
        codes = item.indices.to_numpy(zero_copy_only=False).astype(np.int64)
        numbers = [
            _one_array(batch.column(name)).cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
            for name in self.columns
        ]
        return names, codes, stamps.view("datetime64[ns]"), np.stack(numbers, axis=1)

    def _tables(self, sorter: _ItemSorter) -> Iterator[SourceTable]:
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
        if empty := [name for name in roles.target if not has_value[self.columns.index(name)]]:
            raise DataError(
                f"{self.name}: target column {empty[0]!r} holds no value, only missing ones; fill it or leave it out"
            )


def _one_array(column: pa.Array | pa.ChunkedArray) -> pa.Array:
    import pyarrow as pa

    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
