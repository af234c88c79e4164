"""Errors of forecasts of glucose: at horizons, by range, by task and by stratum."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np

from tstune.evaluation import point_metrics
from tstune.evaluation.glucose_units import MGDL_PER_MMOL, UNITS, GlucoseUnit
from tstune.evaluation.glycaemic_ranges import RANGES, by_range, readings_by_range
from tstune.evaluation.masking import paired
from tstune.evaluation.scored_windows import ScoredWindows
from tstune.evaluation.strata import midnight_windows, sensor_steps, strata
from tstune.evaluation.temporal_gain import temporal_gain

STANDARD_MINUTES = (30, 60, 90, 120)
"""Horizons that papers on glucose report, in minutes."""

_HEADLINE = np.timedelta64(60, "m")
_GAIN_UP_TO = np.timedelta64(120, "m")
_MOST_ITEMS = 50
_METRICS = {
    "rmse": point_metrics.rmse,
    "mae": point_metrics.mae,
    "mard": point_metrics.mard,
    "bias": point_metrics.bias,
}


def glucose_horizons(horizons: Mapping[str, int], step: np.timedelta64, num_steps: int) -> dict[str, int]:
    """Label -> step, ascending: the standard horizons that the grid and the forecast have, then those of the run.

    Of several labels of one step the standard one stays, then the first.
    """
    named = {f"{minutes}min": np.timedelta64(minutes, "m") / step for minutes in STANDARD_MINUTES}
    wanted = {label: int(at) for label, at in named.items() if at == int(at) and 1 <= at <= num_steps} | dict(horizons)
    by_step: dict[int, str] = {}
    for label, at in wanted.items():
        by_step.setdefault(at, label)
    return {by_step[at]: at for at in sorted(by_step)}


def headline_horizon(horizons: Mapping[str, int], step: np.timedelta64) -> str | None:
    """The longest horizon up to 60 minutes; the shortest if all are longer, None without any."""
    short = [label for label, at in horizons.items() if at * step <= _HEADLINE]
    return short[-1] if short else next(iter(horizons), None)


def in_both_units(value: float, native: GlucoseUnit) -> dict[GlucoseUnit, float]:
    """An error in mg/dL and mmol/L."""
    other = value * MGDL_PER_MMOL if native == "mmol/L" else value / MGDL_PER_MMOL
    return {unit: value if unit == native else other for unit in UNITS}


def point_errors(windows: ScoredWindows, horizons: Mapping[str, int], native: GlucoseUnit) -> dict[str, dict]:
    """Unit -> column -> RMSE, MAE, MARD and bias AT each horizon and over the whole path; MARD is in percent."""
    arrays = paired(windows.truth, windows.forecast, windows.observed)
    found: dict[str, dict] = {unit: {} for unit in UNITS}
    for name, metric in _METRICS.items():
        values = {
            f"{name}@{label}": value for label, value in point_metrics.at_horizons(metric, *arrays, horizons).items()
        }
        for column, value in (values | {name: metric(*arrays)}).items():
            both = dict.fromkeys(UNITS, value) if name == "mard" else in_both_units(value, native)
            for unit in UNITS:
                found[unit][column] = both[unit]
    return found


def errors_by_range(windows: ScoredWindows, native: GlucoseUnit) -> dict[str, dict]:
    """Range of the truth -> number of readings, RMSE, MAE and bias over the whole path, in the unit of the data."""
    arrays = paired(windows.truth, windows.forecast, windows.observed)
    count = readings_by_range(arrays[0], arrays[2], native)
    columns = {name: by_range(_METRICS[name], *arrays, native) for name in ("rmse", "mae", "bias")}
    return {
        name: {"num_readings": count[name], **{column: values[name] for column, values in columns.items()}}
        for name in RANGES
    }


def gains_in_time(windows: ScoredWindows, horizons: Mapping[str, int], step: np.timedelta64) -> dict[str, float]:
    """Horizon up to 120 minutes -> temporal gain in minutes, the mean over items.

    Further ahead no delay of a forecast stands out any more. Of more than 50 items 50 are taken, evenly spread.
    """
    items = np.unique(windows.item)
    items = items[np.unique(np.linspace(0, len(items) - 1, min(len(items), _MOST_ITEMS)).round().astype(int))]
    origin = windows.last_reading
    if origin is None:
        origin = np.full(len(windows.item), np.nan)
    minutes = step / np.timedelta64(1, "m")
    found = {}
    for label, at in horizons.items():
        if at * step > _GAIN_UP_TO:
            continue
        gains = []
        for item in items:
            mine = windows.item == item
            arrays = (part[mine, :at] for part in (windows.truth, windows.forecast, windows.observed))
            gains.append(temporal_gain(*arrays, origin[mine], at, minutes))
        known = [gain for gain in gains if np.isfinite(gain)]
        found[label] = float(np.mean(known)) if known else float("nan")
    return found


def rmse_by_task(test: Mapping[str, ScoredWindows], step: np.timedelta64) -> dict[str, dict]:
    """RMSE over the path of all windows, and of those whose forecast begins at local midnight, per model."""
    first = next(iter(test.values()))
    night = np.zeros(len(first.truth), dtype=bool)
    if has_times(first):
        night = midnight_windows(first.timestamps, step)
    chosen = {"all_day": np.ones_like(night), "night": night}
    tasks: dict[str, dict] = {task: {} for task in chosen}
    for name, windows in test.items():
        sums = _sums(windows)
        for task, mine in chosen.items():
            tasks[task][name] = {"rmse": _rmse(*sums, mine), "num_windows": int(mine.sum())}
    return tasks


def rmse_by_stratum(
    test: Mapping[str, ScoredWindows],
    horizons: Mapping[str, int],
    native: GlucoseUnit,
    step: np.timedelta64,
    item_ids: Sequence[str],
    seen: Collection[str] | None,
) -> dict[str, dict]:
    """Stratum -> number of windows and items, and RMSE of each model in both units, of the path and at 60 min."""
    first = next(iter(test.values()))
    groups = strata(first.item, item_ids, seen, sensor_steps(first.observed, first.item, step))
    label = headline_horizon(horizons, step)
    columns = {"rmse": slice(None)} | (
        {} if label is None else {f"rmse@{label}": slice(horizons[label] - 1, horizons[label])}
    )
    found = {
        group: {"num_windows": int(mine.sum()), "num_items": len(np.unique(first.item[mine]))}
        | {column: {unit: {} for unit in UNITS} for column in columns}
        for group, mine in groups.items()
    }
    for name, windows in test.items():
        for column, steps in columns.items():
            sums = _sums(windows.steps(steps))
            for group, mine in groups.items():
                for unit, value in in_both_units(_rmse(*sums, mine), native).items():
                    found[group][column][unit][name] = value
    return found


def has_times(windows: ScoredWindows) -> bool:
    """True if the grid is one of time, not of mere numbers."""
    return windows.timestamps is not None and np.issubdtype(np.asarray(windows.timestamps).dtype, np.datetime64)


def _sums(windows: ScoredWindows) -> tuple[np.ndarray, np.ndarray]:
    """[windows] sums of squared errors and numbers of observed readings."""
    truth, forecast, observed = paired(windows.truth, windows.forecast, windows.observed)
    return ((forecast - truth) ** 2).sum(axis=1), observed.sum(axis=1)


def _rmse(square: np.ndarray, count: np.ndarray, chosen: np.ndarray) -> float:
    total = int(count[chosen].sum())
    return float(np.sqrt(square[chosen].sum() / total)) if total else float("nan")
