"""Questions about the rows of a panel: whose they are, when they were."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from tstune.data.panel import Panel

BLOCK_ROWS = 1 << 18
"""Rows looked at at once, where memory must not grow with the panel."""


def row_blocks(panel: Panel) -> Iterator[slice]:
    """All rows, in stretches of at most `BLOCK_ROWS`."""
    for begin in range(0, panel.num_rows, BLOCK_ROWS):
        yield slice(begin, min(begin + BLOCK_ROWS, panel.num_rows))


def rows_between(panel: Panel, begin: np.ndarray, end: np.ndarray, block: slice) -> np.ndarray:
    """[rows of the block] True from `begin` to before `end`, [items] steps from each item's first row."""
    first, last = segment_of(panel, np.array([block.start, block.stop - 1]))
    segments = slice(first, last + 1)
    item, start = panel.segment_item[segments], panel.segment_start[segments]
    row_of_step = start - panel.segment_position[segments]
    stop = np.minimum(panel.segment_start[first + 1 : last + 2], block.stop)
    start = np.maximum(start, block.start)
    left, right = (np.clip(row_of_step + bound[item], start, stop) - block.start for bound in (begin, end))
    some = right > left
    steps = np.zeros(block.stop - block.start + 1, np.int8)
    np.add.at(steps, left[some], 1)
    np.add.at(steps, right[some], -1)
    return np.cumsum(steps[:-1], dtype=np.int8).view(bool)


def item_rows(panel: Panel) -> np.ndarray:
    """[items + 1] panel row at which each item begins, and the number of rows."""
    first_segment = np.searchsorted(panel.segment_item, np.arange(len(panel.item_ids) + 1))
    return panel.segment_start[first_segment]


def segment_of(panel: Panel, rows: np.ndarray) -> np.ndarray:
    """[rows] segment of each row."""
    return np.searchsorted(panel.segment_start, rows, side="right") - 1


def position_of(panel: Panel, rows: np.ndarray) -> np.ndarray:
    """[rows] steps from the item's first row."""
    segment = segment_of(panel, rows)
    return panel.segment_position[segment] + rows - panel.segment_start[segment]


def item_id_of(panel: Panel, row: int) -> str:
    """Name of the item a row belongs to."""
    return panel.item_ids[int(panel.segment_item[segment_of(panel, np.array([row]))[0]])]


def time_of(panel: Panel, row: int) -> str:
    """Time of a row as people write it, to the minute where that is enough."""
    return str(panel.timestamps[row].astype("datetime64[s]")).replace("T", " ").removesuffix(":00")
