"""Questions about the rows of a panel: whose they are, when they were."""

from __future__ import annotations

import numpy as np

from tstune.data.panel import Panel


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
