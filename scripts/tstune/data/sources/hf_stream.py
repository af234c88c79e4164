"""A data set of the datasets library that lies on this machine, read series by series."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

import pandas as pd

from tstune.config.schema import DataSection
from tstune.data.sources.arrow_stream import BATCH_ROWS, Again, stream_of_batches
from tstune.data.sources.hf_dataset import table_from_series
from tstune.data.table import SourceTable
from tstune.data.table_stream import PIECE_ROWS, Pieces, TableStream

if TYPE_CHECKING:
    import pyarrow as pa
    from datasets import Dataset


def stream_of_dataset(data: Dataset, config: DataSection, files: tuple[str, ...]) -> TableStream | None:
    """Stream a data set of one series per row, or of one time of one series per row; None if that cannot be."""
    if {"start", "target"} <= set(data.column_names):
        names = [str(value) for value in (data["item_id"] if "item_id" in data.column_names else range(len(data)))]
        order = sorted(range(len(names)), key=names.__getitem__)
        tables = Again(lambda: _groups(data, names, order, config))
        return TableStream(files, lambda _: Pieces(tables, order == sorted(order)))
    batches = partial(_batches, data)
    return stream_of_batches(data.features.arrow_schema, batches, config, config.path, files)


def _batches(data: Dataset, columns: list[str]) -> Iterator[pa.Table]:
    return data.select_columns(columns).with_format("arrow").iter(BATCH_ROWS)


def _groups(data: Dataset, names: list[str], order: list[int], config: DataSection) -> Iterator[SourceTable]:
    """Tables of some series each; rows of one name stay together."""
    rows: list[dict[str, Any]] = []
    steps = 0
    for place, number in enumerate(order):
        row = data[number] | {"item_id": names[number]}
        rows.append(row)
        steps += _steps(row["target"])
        goes_on = place + 1 < len(order) and names[order[place + 1]] == names[number]
        if (steps >= PIECE_ROWS and not goes_on) or place + 1 == len(order):
            yield table_from_series(pd.DataFrame(rows), config, config.path)
            rows, steps = [], 0


def _steps(target: list | None) -> int:
    if not target:
        return 0
    return len(target[0]) if isinstance(target[0], list) else len(target)
