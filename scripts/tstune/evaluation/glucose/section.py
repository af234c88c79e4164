"""Everything about forecasts of glucose that a run writes down, from its test windows."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from numbers import Integral, Real

import numpy as np

from tstune.errors import DataError
from tstune.evaluation.error_grids import ERROR_GRIDS
from tstune.evaluation.glucose.grids import error_grid_section
from tstune.evaluation.glucose.hypo import hypo_section
from tstune.evaluation.glucose.points import (
    errors_by_range,
    gains_in_time,
    glucose_horizons,
    point_errors,
    rmse_by_stratum,
    rmse_by_task,
)
from tstune.evaluation.glucose_units import UNITS, glucose_unit
from tstune.evaluation.glycaemic_ranges import glycaemic_profile
from tstune.evaluation.scored_windows import ScoredWindows


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
        item_ids: names of the items.
        seen: names of the items with training data; None if that is not known.
        step: of the grid.
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
    _check_unit(first, validation)
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
        "hypo": {name: hypo_section(test, validation, name, at, unit, step) for name in ("low", "very_low")},
        "profile": {
            "truth": glycaemic_profile(first.truth, first.observed, unit),
            **{name: _profile(windows, unit) for name, windows in test.items()},
        },
        "temporal_gain": {name: gains_in_time(windows, at, step) for name, windows in test.items()},
        "tasks": rmse_by_task(test, step),
        "strata": rmse_by_stratum(test, at, unit, step, item_ids, seen),
    }
    return _for_json(section)


def _same_windows(by_model: Mapping[str, ScoredWindows]) -> dict[str, ScoredWindows]:
    """One target each, and the same windows for all.

    Raises:
        DataError: they are not.
    """
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


def _check_unit(test: ScoredWindows, validation: Mapping[str, ScoredWindows]) -> None:
    """A threshold in one unit would be nonsense in the other.

    Raises:
        DataError: the validation windows have another unit.
    """
    for name, windows in validation.items():
        if windows.unit != test.unit:
            raise DataError(f"glucose: validation windows of {name} in {windows.unit}, test windows in {test.unit}")


def _profile(windows: ScoredWindows, unit: str) -> dict[str, float]:
    """Profile of a forecast; NaN if it is not a number somewhere, which would count as outside every range."""
    profile = glycaemic_profile(windows.forecast, windows.observed, unit)
    known = np.isfinite(windows.forecast[windows.observed.astype(bool)]).all()
    return profile if known else dict.fromkeys(profile, float("nan"))


def _for_json(value: object) -> object:
    if isinstance(value, Mapping):
        return {str(key): _for_json(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_for_json(part) for part in value]
    if isinstance(value, Real) and not isinstance(value, Integral):
        return float(value) if math.isfinite(value) else None
    return int(value) if isinstance(value, Integral) else value
