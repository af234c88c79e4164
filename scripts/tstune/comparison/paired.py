"""Runs against each other on the windows that all of them forecast."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from tstune.comparison.runs import ComparedRun
from tstune.data.frequency import parse_frequency
from tstune.evaluation.bootstrap import Blocks, relative_rmse
from tstune.evaluation.verdict import Comparison, compared

_EFFECTS = {-1: "better", 0: "no clear difference", 1: "worse"}
_WINDOW = ["item_id", "origin"]
_MUST_AGREE = {
    "prediction_length": "forecast lengths",
    "frequency": "steps",
    "targets": "targets",
    "unit": "units",
}


@dataclass(frozen=True)
class Paired:
    """Runs on the windows that all of them have.

    Attributes:
        num_windows: windows of each run with an observed value.
        num_shared: those that all runs have, with as many observed values.
        num_unlike: windows of all runs whose number of observed values differs, which are left out.
        rmse, mae: of each run on the shared windows.
        tests: every run but the first against the first.
        item_ids, rmse_by_item: items, and [items, runs] RMSE on the shared windows.
        blocks: what was drawn.
    """

    num_windows: tuple[int, ...]
    num_shared: int
    num_unlike: int
    rmse: tuple[float, ...]
    mae: tuple[float, ...]
    tests: tuple[Comparison, ...]
    item_ids: tuple[str, ...]
    rmse_by_item: np.ndarray
    blocks: Blocks


def why_unpaired(runs: Sequence[ComparedRun]) -> str | None:
    """Why the windows of these runs are not the same task; None if they are."""
    old = [run.name for run in runs if run.windows is None or not run.evaluation]
    if old:
        return f"{old[0]} holds no windows.parquet and evaluation.json (made by an earlier version)"
    for key, what in _MUST_AGREE.items():
        values = [run.evaluation.get(key) for run in runs]
        if any(value != values[0] for value in values[1:]):
            return f"{what} differ: " + ", ".join(
                f"{run.name} {_shown(v)}" for run, v in zip(runs, values, strict=True)
            )
    return None


def pair(runs: Sequence[ComparedRun]) -> Paired | None:
    """Compare runs window by window; None if they share none.

    The test is that of a run's verdict: a paired bootstrap over blocks of days and over items, see `relative_rmse`.

    Args:
        runs: of one task, see `why_unpaired`; the first is the reference.
    """
    tables = [run.windows.set_index(_WINDOW) for run in runs]
    shared = tables[0].index
    for table in tables[1:]:
        shared = shared.intersection(table.index)
    shared = shared.sort_values()
    tables = [table.loc[shared] for table in tables]
    counts = np.column_stack([table["count"] for table in tables])
    alike = (counts == counts[:, :1]).all(axis=1)
    kept = alike & (counts[:, 0] > 0)
    if not kept.any():
        return None
    count = counts[kept, 0].astype(np.float64)
    square, absolute = (np.column_stack([table[name] for table in tables])[kept] for name in ("square", "absolute"))
    item, item_ids = pd.factorize(shared.get_level_values("item_id")[kept])
    origin = shared.get_level_values("origin")[kept].to_numpy("datetime64[ns]")
    blocks = Blocks.by_day(item, origin, _path(runs[0]))
    items = len(item_ids)
    by_item = np.stack([np.bincount(item, weights=one, minlength=items) for one in square.T], axis=1)
    rmse_by_item = np.sqrt(by_item / np.bincount(item, weights=count, minlength=items)[:, None])
    return Paired(
        num_windows=tuple(int((run.windows["count"] > 0).sum()) for run in runs),
        num_shared=int(kept.sum()),
        num_unlike=int((~alike).sum()),
        rmse=tuple(np.sqrt(square.sum(axis=0) / count.sum()).tolist()),
        mae=tuple((absolute.sum(axis=0) / count.sum()).tolist()),
        tests=tuple(_test(runs, number, square, rmse_by_item, blocks) for number in range(1, len(runs))),
        item_ids=tuple(map(str, item_ids)),
        rmse_by_item=rmse_by_item,
        blocks=blocks,
    )


def _test(
    runs: Sequence[ComparedRun], number: int, square: np.ndarray, rmse_by_item: np.ndarray, blocks: Blocks
) -> Comparison:
    (interval,) = relative_rmse(square[:, number], square[:, :1], blocks)
    names = runs[number].name, runs[0].name
    return compared(*names, interval, rmse_by_item[:, number], rmse_by_item[:, 0], _EFFECTS)


def _path(run: ComparedRun) -> np.timedelta64:
    """Time that a forecast covers."""
    begin = pd.Timestamp("2000-01-01")
    end = begin + run.evaluation["prediction_length"] * parse_frequency(run.evaluation["frequency"])
    return (end - begin).to_timedelta64()


def _shown(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
