"""Small tables and panels whose every value is known, and the plainest possible reference for windows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from tstune.config.schema import DataSection, SplitSection
from tstune.data.prepared import PreparedData, prepare_data
from tstune.data.splits import PARTS
from tstune.data.table import ITEM, TIMESTAMP, Roles, SourceTable

START = "2024-01-01"


def grid_table(grids: dict[str, np.ndarray], roles: Roles, frequency: str = "h", max_gap: str | int = 0) -> SourceTable:
    """Table of series that already lie on a grid; NaN is a reading that was never made.

    Args:
        grids: item -> [steps, channels].
        roles: what the channels are.
        frequency, max_gap: as in `SourceTable`.
    """
    frames = []
    for item, grid in grids.items():
        frame = pd.DataFrame(grid, columns=list(roles.channels))
        frame.insert(0, TIMESTAMP, pd.date_range(START, periods=len(grid), freq=frequency))
        frame.insert(0, ITEM, item)
        frames.append(frame)
    return SourceTable(frame=pd.concat(frames), roles=roles, frequency=frequency, max_gap=max_gap)


def single_table(values: list[float] | np.ndarray, **options: object) -> SourceTable:
    """One item `a` with one target `y`."""
    return grid_table({"a": np.asarray(values, float)[:, None]}, Roles(("y",)), **options)


def irregular_table(stamps: list[str] | pd.DatetimeIndex, values: list[float], **options: object) -> SourceTable:
    """One item `a` with one target `y` at the given times."""
    frame = pd.DataFrame({ITEM: "a", TIMESTAMP: pd.DatetimeIndex(stamps), "y": np.asarray(values, float)})
    return SourceTable(frame=frame, roles=Roles(("y",)), **options)


def random_grids(
    roles: Roles, lengths: tuple[int, ...], seed: int = 0, longest_gap: int = 7, gap_share: float = 0.05
) -> dict[str, np.ndarray]:
    """Series with gaps of 1 to `longest_gap` steps in every channel; first and last rows are complete."""
    random = np.random.default_rng(seed)
    grids = {}
    for number, length in enumerate(lengths):
        grid = random.normal(100, 20, (length, len(roles.channels)))
        for channel in range(grid.shape[1]):
            for begin in np.flatnonzero(random.random(length) < gap_share):
                grid[max(begin, 1) : min(begin + random.integers(1, longest_gap + 1), length - 1), channel] = np.nan
        grids[f"item{number}"] = grid
    return grids


def prepared(table: SourceTable, context: int, prediction: int, **section: object) -> PreparedData:
    """Run the whole data path on a table."""
    return prepare_data(DataSection(**section), context, prediction, table)


@dataclass
class ReferenceWindow:
    """One window worked out step by step from raw readings."""

    item: int
    position: int
    past: np.ndarray
    past_usable: np.ndarray
    future_readings: np.ndarray  # NaN where there was none


def reference_windows(
    grids: dict[str, np.ndarray],
    num_targets: int,
    split: SplitSection,
    part: str,
    context: int,
    prediction: int,
    stride: int,
    max_gap: int,
) -> list[ReferenceWindow]:
    """Every window of a part, by the rules as a person would apply them, one step at a time."""
    windows = []
    for item, grid in enumerate(grids.values()):
        length = len(grid)
        shares = [0.0, split.train, split.train + split.validation, split.train + split.validation + split.test]
        borders = [int(round(share * length, 6)) for share in shares]
        begin, end = borders[PARTS.index(part)], borders[PARTS.index(part) + 1]
        in_gap = [
            any(_in_long_gap(grid, row, target, max_gap) for target in range(num_targets)) for row in range(length)
        ]
        since_last = None  # steps since the last window of this segment began
        for start in range(length):
            if in_gap[start]:
                since_last = None
                continue
            rows = range(start, start + context + prediction)
            if rows[-1] >= length or any(in_gap[row] for row in rows):
                continue
            target_rows = rows[context:]
            must_lie_inside = rows if split.mode == "strict" else target_rows
            if not all(begin <= row < end for row in must_lie_inside):
                continue
            if since_last is None or start - since_last == stride:
                since_last = start
                windows.append(_reference_window(grid, item, start, context, prediction, max_gap))
    return windows


def _in_long_gap(grid: np.ndarray, row: int, channel: int, max_gap: int) -> bool:
    if not np.isnan(grid[row, channel]):
        return False
    before, after = _neighbours(grid, row, channel)
    return before is None or after is None or after - before - 1 > max_gap


def _neighbours(grid: np.ndarray, row: int, channel: int) -> tuple[int | None, int | None]:
    before = next((r for r in range(row, -1, -1) if not np.isnan(grid[r, channel])), None)
    after = next((r for r in range(row, len(grid)) if not np.isnan(grid[r, channel])), None)
    return before, after


def _reference_window(
    grid: np.ndarray, item: int, start: int, context: int, prediction: int, max_gap: int
) -> ReferenceWindow:
    origin = start + context  # the first step that is not known yet
    past = np.zeros((context, grid.shape[1]))
    usable = np.zeros((context, grid.shape[1]), bool)
    for step in range(context):
        for channel in range(grid.shape[1]):
            row = start + step
            if _in_long_gap(grid, row, channel, max_gap):
                continue
            usable[step, channel] = True
            before, after = _neighbours(grid, row, channel)
            if after >= origin:  # the next reading is not known yet: hold the last one
                past[step, channel] = grid[before, channel]
            elif after == before:
                past[step, channel] = grid[row, channel]
            else:
                share = (row - before) / (after - before)
                past[step, channel] = (1 - share) * grid[before, channel] + share * grid[after, channel]
    return ReferenceWindow(item, start, past, usable, grid[origin : origin + prediction])
