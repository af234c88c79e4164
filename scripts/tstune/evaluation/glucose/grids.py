"""Error grids of a run: shares of zones at horizons, and what a plot needs."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from tstune.evaluation.error_grids import ZONES, ErrorGrid, zone_table
from tstune.evaluation.glucose_units import GlucoseUnit
from tstune.evaluation.masking import paired
from tstune.evaluation.scored_windows import ScoredWindows

MOST_POINTS = 1500
"""Pairs drawn per horizon: more only cover each other."""

_SIDES: dict[GlucoseUnit, tuple[float, float]] = {"mg/dL": (400.0, 600.0), "mmol/L": (22.2, 33.3)}
"""Plots reach to where the sensors end, or to where any reading does."""


def error_grid_section(
    grid: ErrorGrid,
    test: Mapping[str, ScoredWindows],
    horizons: Mapping[str, int],
    unit: GlucoseUnit,
    judged: str,
) -> dict:
    """Shares in percent of each zone AT each horizon, outline and points of one grid, in the unit of the data.

    The shares of a model that forecast something that is not a number are NaN.

    Args:
        grid: one of `ERROR_GRIDS`.
        test: model -> windows of one target.
        horizons: label -> step.
        unit: of the windows.
        judged: model whose pairs are drawn, at most `MOST_POINTS` of each horizon, evenly chosen.
    """
    shares: dict[str, dict] = {label: {} for label in horizons}
    for name, windows in test.items():
        usable = np.isfinite(windows.forecast[windows.observed.astype(bool)]).all()
        arrays = (windows.truth, windows.forecast, windows.observed)
        table = zone_table(grid, *arrays, unit, horizons) if usable else {}
        for label in horizons:
            shares[label][name] = table.get(label, dict.fromkeys(ZONES, float("nan")))
    points = {label: _pairs(test[judged], at, unit) for label, at in horizons.items()}
    side = _side(points, unit)
    outline = [[zone, polygon.round(4).tolist()] for zone, polygon in grid.polygons(unit, side)]
    return {"horizons": shares, "outline": outline, "points": points}


def _pairs(windows: ScoredWindows, at: int, unit: GlucoseUnit) -> list[list[float]]:
    """[[truth, forecast], …] at one step; a forecast below 0 is drawn at 0, as it is scored."""
    here = slice(at - 1, at)
    truth, forecast, observed = paired(windows.truth[:, here], windows.forecast[:, here], windows.observed[:, here])
    known = observed & np.isfinite(forecast)
    pairs = np.stack([truth[known], np.maximum(forecast[known], 0.0)], axis=1)
    chosen = np.unique(np.linspace(0, len(pairs) - 1, min(len(pairs), MOST_POINTS)).round().astype(int))
    return pairs[chosen].round(1 if unit == "mg/dL" else 2).tolist()


def _side(points: Mapping[str, list[list[float]]], unit: GlucoseUnit) -> float:
    highest = max((max(pair) for pairs in points.values() for pair in pairs), default=0.0)
    small, large = _SIDES[unit]
    return small if highest <= small else large
