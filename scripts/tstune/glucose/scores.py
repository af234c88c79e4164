"""What forecasts of glucose are scored by: the part `glucose` of a run's evaluation, ranges, and metrics by name.

Ranges of Battelino et al. 2019, doi:10.2337/dci19-0028, with the limits of each unit (`units.LIMITS`).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np

from tstune.errors import DataError
from tstune.evaluation import metrics as general
from tstune.evaluation.metrics import BuiltinMetric, Metric, temporal_gain
from tstune.evaluation.scored_windows import ScoredWindows, observed_like, paired
from tstune.glucose.error_grids import ERROR_GRIDS, error_grid_section, zone_shares
from tstune.glucose.hypoglycaemia import alarm_steps, alarms_of_models, has_times, scores_below
from tstune.glucose.published import midnight_windows, sensor_steps, strata
from tstune.glucose.units import MG_DL, UNITS, GlucoseUnit, from_mgdl, glucose_unit, limit, to_mgdl
from tstune.runs.folder import finite

RANGES = ("low", "in_range", "high")
"""Below 3.9, 3.9 to 10.0 and above 10.0 mmol/L; below 70, 70 to 180 and above 180 mg/dL."""

STANDARD_MINUTES = (30, 60, 90, 120)
"""Horizons that papers on glucose report, in minutes."""

_HEADLINE = np.timedelta64(60, "m")
_GAIN_UP_TO = np.timedelta64(120, "m")
_MOST_ITEMS = 50
_METRICS = {"rmse": general.rmse, "mae": general.mae, "mard": general.mard, "bias": general.bias}


def glucose_section(
    test: Mapping[str, ScoredWindows],
    validation: Mapping[str, ScoredWindows],
    horizons: Mapping[str, int],
    item_ids: Sequence[str],
    seen: Collection[str] | None,
    step: np.timedelta64,
    judged: str,
) -> dict:
    """The part `glucose` of a run's evaluation, ready for JSON: numbers that are not defined are None.

    Only observed readings count. Errors are in both units, everything else in the unit of the data.

    Args:
        test: model -> its test windows, one target in mg/dL or mmol/L, the same windows for every model.
        validation: model -> its validation windows, which choose the threshold of its alarm and nothing else. A model
            that is missing here has no alarm.
        horizons: label -> step of the run; 30, 60, 90 and 120 min are added where the grid and the forecast have them.
        seen: names of the items with training data; None if that is not known.
        judged: model whose pairs are drawn on the error grids.

    Raises:
        DataError: no windows, windows that differ between models, several targets, or readings that cannot be glucose.
        ConfigError: the unit is none of glucose.
    """
    if judged not in test:
        raise DataError(f"glucose: no test windows of {judged!r}; there are {', '.join(test) or 'none'}")
    test = _same_windows(test)
    tuning = {name: windows for name, windows in validation.items() if name in test and len(windows.truth)}
    validation = _same_windows(tuning)
    first = test[judged]
    for name, windows in validation.items():  # a threshold in one unit would be nonsense in the other
        if windows.unit != first.unit:
            raise DataError(f"glucose: validation windows of {name} in {windows.unit}, test windows in {first.unit}")
    unit, num_steps = glucose_unit(first.unit), first.truth.shape[1]
    at = glucose_horizons(horizons, step, num_steps)
    section = {
        "units": list(UNITS),
        "native": unit,
        "path_minutes": num_steps * (step / np.timedelta64(1, "m")),
        "horizons": at,
        "points": {name: point_errors(windows, at, unit) for name, windows in test.items()},
        "by_range": {name: errors_by_range(windows, unit) for name, windows in test.items()},
        "error_grids": {name: error_grid_section(grid, test, at, unit, judged) for name, grid in ERROR_GRIDS.items()},
        "hypo": {name: _hypo(test, validation, name, at, unit, step) for name in ("low", "very_low")},
        "profile": {
            "truth": glycaemic_profile(first.truth, first.observed, unit),
            **{name: _profile(windows, unit) for name, windows in test.items()},
        },
        "temporal_gain": {name: gains_in_time(windows, at, step) for name, windows in test.items()},
        "tasks": rmse_by_task(test, step),
        "strata": rmse_by_stratum(test, at, unit, step, item_ids, seen),
    }
    return finite(section)


def _same_windows(by_model: Mapping[str, ScoredWindows]) -> dict[str, ScoredWindows]:
    """One target each, and the same windows for all."""
    found = {name: windows.one_target() for name, windows in by_model.items()}
    first = next(iter(found.values()), None)
    for name, windows in found.items():
        if not len(windows.truth) or windows.item is None:
            raise DataError(f"glucose: the windows of {name} are empty or have no items")
        pairs = ((getattr(windows, part), getattr(first, part)) for part in ("truth", "observed", "item"))
        if windows.unit != first.unit or not all(np.array_equal(*pair, equal_nan=True) for pair in pairs):
            raise DataError(
                f"glucose: {name} and {next(iter(found))} have different windows; score them with one Backtest"
            )
    return found


def _profile(windows: ScoredWindows, unit: str) -> dict[str, float]:
    """Profile of a forecast; NaN if it is not a number somewhere, which would count as outside every range."""
    profile = glycaemic_profile(windows.forecast, windows.observed, unit)
    known = np.isfinite(windows.forecast[windows.observed.astype(bool)]).all()
    return profile if known else dict.fromkeys(profile, float("nan"))


def _hypo(
    test: Mapping[str, ScoredWindows],
    validation: Mapping[str, ScoredWindows],
    name: str,
    horizons: Mapping[str, int],
    unit: GlucoseUnit,
    step: np.timedelta64,
) -> dict:
    """Scores by window over the path and up to each horizon, and events with an alarm set on validation windows."""
    below, minutes = limit(name, unit), step / np.timedelta64(1, "m")
    return {
        "limit": below,
        "windows": {model: scores_below(windows, below) for model, windows in test.items()},
        "windows_up_to": {
            label: {model: scores_below(windows.steps(slice(at)), below) for model, windows in test.items()}
            for label, at in horizons.items()
        },
        "events": alarms_of_models(test, validation, below, step),
        "events_horizon_minutes": alarm_steps(next(iter(test.values())), step) * minutes,
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
    return {unit: value if unit == native else from_mgdl(to_mgdl(value, native), unit).item() for unit in UNITS}


def point_errors(windows: ScoredWindows, horizons: Mapping[str, int], native: GlucoseUnit) -> dict[str, dict]:
    """Unit -> column -> RMSE, MAE, MARD and bias AT each horizon and over the whole path; MARD is in percent."""
    arrays = paired(windows.truth, windows.forecast, windows.observed)
    found: dict[str, dict] = {unit: {} for unit in UNITS}
    for name, metric in _METRICS.items():
        values = {f"{name}@{label}": value for label, value in general.at_horizons(metric, *arrays, horizons).items()}
        for column, value in (values | {name: metric(*arrays)}).items():
            both = dict.fromkeys(UNITS, value) if name == "mard" else in_both_units(value, native)
            for unit in UNITS:
                found[unit][column] = both[unit]
    return found


def range_number(values: np.ndarray, unit: str | None) -> np.ndarray:
    """Index into `RANGES` of each reading, both limits belonging to the middle."""
    values = np.asarray(values)
    return (values >= limit("low", unit)).astype(np.int8) + (values > limit("high", unit))


def by_range(
    metric: general.PointMetric, truth: np.ndarray, forecast: np.ndarray, observed: np.ndarray, unit: str | None
) -> dict[str, float]:
    """A metric over the [windows, steps] of each range; the *truth* says the range. NaN where a range is empty."""
    truth, forecast, observed = paired(truth, forecast, observed)
    number = range_number(truth, unit)
    return {name: metric(truth, forecast, observed & (number == i)) for i, name in enumerate(RANGES)}


def readings_by_range(truth: np.ndarray, observed: np.ndarray, unit: str | None) -> dict[str, int]:
    """Observed readings in each range."""
    count = np.bincount(range_number(truth, unit)[observed_like(observed, truth)], minlength=len(RANGES))
    return dict(zip(RANGES, count.tolist(), strict=True))


def glycaemic_profile(values: np.ndarray, observed: np.ndarray, unit: str | None) -> dict[str, float]:
    """Time in ranges and variability of observed readings, or of a forecast at the same places.

    Args:
        values: any shape, in `unit`.
        observed: bool, which count.

    Returns:
        tbr2, tbr1, tir, tar1, tar2: percent below 3.0, 3.0 to 3.9, 3.9 to 10.0, 10.0 to 13.9 and above 13.9 mmol/L
        (54, 70, 180, 250 mg/dL), a limit itself belonging to the side of the middle; mean and sd (n - 1) in `unit`;
        cv in percent; gmi in percent, 3.31 + 0.02392 * mean in mg/dL (Bergenstal et al. 2018, doi:10.2337/dc18-1581).
        NaN where nothing was observed.
    """
    chosen = np.asarray(values, dtype=np.float64)[observed_like(observed, values)]
    count = len(chosen)

    def percent(inside: np.ndarray) -> float:
        return 100 * int(inside.sum()) / count if count else float("nan")

    very_low, low, high, very_high = (limit(name, unit) for name in ("very_low", "low", "high", "very_high"))
    mean = float(chosen.mean()) if count else float("nan")
    deviation = float(chosen.std(ddof=1)) if count > 1 else float("nan")
    return {
        "tbr2": percent(chosen < very_low),
        "tbr1": percent((chosen >= very_low) & (chosen < low)),
        "tir": percent((chosen >= low) & (chosen <= high)),
        "tar1": percent((chosen > high) & (chosen <= very_high)),
        "tar2": percent(chosen > very_high),
        "mean": mean,
        "sd": deviation,
        "cv": 100 * deviation / mean,
        "gmi": 3.31 + 0.02392 * float(to_mgdl(mean, unit)),
    }


def profile_of_forecast(
    truth: np.ndarray, forecast: np.ndarray, observed: np.ndarray, unit: str | None
) -> dict[str, dict[str, float]]:
    """`glycaemic_profile` of the truth, of the forecast at the same readings, and the difference, forecast - truth.

    A forecast that mean-reverts shows as a lower cv and less time outside the range.
    """
    truth, forecast, observed = paired(truth, forecast, observed)
    real, made = glycaemic_profile(truth, observed, unit), glycaemic_profile(forecast, observed, unit)
    return {"truth": real, "forecast": made, "difference": {name: made[name] - real[name] for name in real}}


def cohort_columns(values: np.ndarray, unit: str) -> dict[str, float]:
    """Percent of an item's readings in, below and above the range, of `cohort.csv`."""
    shown = np.round(values, 1 if glucose_unit(unit) == MG_DL else 2)  # 3.9 is in range, whatever float32 makes of it
    number = range_number(shown, unit)
    columns = {"time_in_range_%": "in_range", "time_below_%": "low", "time_above_%": "high"}
    return {column: round(100 * float(np.mean(number == RANGES.index(name))), 1) for column, name in columns.items()}


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
    origin = np.full(len(windows.item), np.nan) if windows.last_reading is None else windows.last_reading
    found = {}
    for label, at in horizons.items():
        if at * step > _GAIN_UP_TO:
            continue
        gains = []
        for mine in (windows.item == item for item in items):
            arrays = (part[mine, :at] for part in (windows.truth, windows.forecast, windows.observed))
            gains.append(temporal_gain(*arrays, origin[mine], at, step / np.timedelta64(1, "m")))
        known = [gain for gain in gains if np.isfinite(gain)]
        found[label] = float(np.mean(known)) if known else float("nan")
    return found


def rmse_by_task(test: Mapping[str, ScoredWindows], step: np.timedelta64) -> dict[str, dict]:
    """RMSE over the path of all windows, and of those whose forecast begins at local midnight, per model."""
    first = next(iter(test.values()))
    night = midnight_windows(first.timestamps, step) if has_times(first) else np.zeros(len(first.truth), dtype=bool)
    chosen = {"all_day": np.ones_like(night), "night": night}
    by_model = {name: _rmse_of_groups(windows, chosen) for name, windows in test.items()}
    return {
        task: {name: {"rmse": rmse[task], "num_windows": int(mine.sum())} for name, rmse in by_model.items()}
        for task, mine in chosen.items()
    }


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
    columns, label = {"rmse": slice(None)}, headline_horizon(horizons, step)
    if label is not None:
        columns[f"rmse@{label}"] = slice(horizons[label] - 1, horizons[label])
    found = {
        group: {"num_windows": int(mine.sum()), "num_items": len(np.unique(first.item[mine]))}
        for group, mine in groups.items()
    }
    for column, steps in columns.items():
        by_model = {name: _rmse_of_groups(windows.steps(steps), groups) for name, windows in test.items()}
        for group in groups:
            both = {name: in_both_units(rmse[group], native) for name, rmse in by_model.items()}
            found[group][column] = {unit: {name: values[unit] for name, values in both.items()} for unit in UNITS}
    return found


def _rmse_of_groups(windows: ScoredWindows, groups: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Group -> RMSE of its windows; NaN where nothing was observed."""
    truth, forecast, observed = paired(windows.truth, windows.forecast, windows.observed)
    square, count = ((forecast - truth) ** 2).sum(axis=1), observed.sum(axis=1)
    totals = {group: (square[mine].sum(), int(count[mine].sum())) for group, mine in groups.items()}
    return {
        group: float(np.sqrt(total / number)) if number else float("nan") for group, (total, number) in totals.items()
    }


# Metrics by name


def _by_range(metric: general.PointMetric) -> BuiltinMetric:
    def values(windows: ScoredWindows) -> dict[str, float]:
        found = by_range(metric, windows.truth, windows.forecast, windows.observed, windows.unit)
        return {f"{metric.__name__}_{name}": value for name, value in found.items()}

    return _metric(values)


def _profile_difference(windows: ScoredWindows) -> dict[str, float]:
    profile = profile_of_forecast(windows.truth, windows.forecast, windows.observed, windows.unit)
    return {f"{name}_difference": profile["difference"][name] for name in ("tir", "tbr1", "tbr2", "cv")}


def _error_grid(name: str) -> BuiltinMetric:
    def shares(windows: ScoredWindows) -> dict[str, float]:
        truth, forecast, observed = paired(windows.truth, windows.forecast, windows.observed)
        zones = ERROR_GRIDS[name].zones(truth[observed], forecast[observed], windows.unit)
        return {f"{name}_{zone.lower()}": share for zone, share in zone_shares(zones).items()}

    return _metric(shares)


def _hypo_metric(name: str) -> BuiltinMetric:
    def scores(windows: ScoredWindows) -> dict[str, float]:
        found = scores_below(windows, limit(name, windows.unit))
        return {f"{name}_{key}": found[key] for key in ("base_rate", "auroc", "auprc", "brier")}

    return _metric(scores)


def _metric(compute: Metric) -> BuiltinMetric:
    return BuiltinMetric(compute, ("unit",), domain="glucose")


def metrics() -> dict[str, BuiltinMetric]:
    """Name in `evaluation.metrics` -> metric."""
    return {
        "rmse_by_range": _by_range(general.rmse),
        "bias_by_range": _by_range(general.bias),
        "profile": _metric(_profile_difference),
        **{name: _error_grid(name) for name in ERROR_GRIDS},
        "hypo_low": _hypo_metric("low"),
        "hypo_very_low": _hypo_metric("very_low"),
    }
