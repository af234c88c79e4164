"""What all error grids share: zone numbers, shares of zones, and the parts a plot is drawn from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from tstune.errors import DataError
from tstune.evaluation.glucose_units import from_mgdl, to_mgdl
from tstune.evaluation.masking import paired

ZONES = "ABCDE"
"""Zone number -> letter; a higher number is a higher risk."""

NOT_SCORED = -1

Polygon = np.ndarray
"""[vertices, 2] reference and forecast; the last vertex joins the first."""

_HIGHEST = 1500.0  # mg/dL; no meter reads this high: the data are in mg/dL and were taken for mmol/L
_LOWEST_MAXIMUM = 36.0  # mg/dL; nobody stays below 2 mmol/L: the data are in mmol/L and would all be in zone A
_ENOUGH_PAIRS = 50


@dataclass(frozen=True)
class ErrorGrid:
    """One error grid.

    Attributes:
        name: key in `ERROR_GRIDS`.
        title: for a plot.
        source: paper.
        assign: (reference, forecast) in mg/dL, finite -> zone numbers.
        outline: side of the plot in mg/dL -> (zone letter, polygon in mg/dL), which together fill the square.
    """

    name: str
    title: str
    source: str
    assign: Callable[[np.ndarray, np.ndarray], np.ndarray]
    outline: Callable[[float], list[tuple[str, Polygon]]]

    def zones(self, reference: np.ndarray, forecast: np.ndarray, unit: str | None) -> np.ndarray:
        """int8 zone numbers (0 is A) of the shape of `reference`, -1 where either is not a number.

        Args:
            reference, forecast: same shape, in `unit`; a forecast below 0 counts as 0.
            unit: mg/dL or mmol/L.

        Raises:
            DataError: different shapes, or values that cannot be glucose in this unit.
        """
        reference, forecast = to_mgdl(reference, unit), to_mgdl(forecast, unit)
        if reference.shape != forecast.shape:
            raise DataError(f"the forecast has shape {forecast.shape}, the reference {reference.shape}")
        known = np.isfinite(reference) & np.isfinite(forecast)
        pairs = np.stack([reference[known], np.maximum(forecast[known], 0.0)])
        check_glucose(pairs[0], unit)
        zones = np.full(reference.shape, NOT_SCORED, dtype=np.int8)
        zones[known] = self.assign(pairs[0], pairs[1])
        return zones

    def polygons(self, unit: str | None, highest: float) -> list[tuple[str, Polygon]]:
        """Zone letter and polygon of each area, for a plot.

        Args:
            unit: mg/dL or mmol/L.
            highest: side of the square, in `unit`, at least 400 mg/dL (22.2 mmol/L).

        Raises:
            DataError: a square too small to show all zones.
        """
        side = float(to_mgdl(highest, unit))
        if side < 399:
            raise DataError(
                f"an error grid up to {highest:g} {unit} cuts zones off; use at least 400 mg/dL, 22.2 mmol/L"
            )
        return [(zone, from_mgdl(polygon, unit)) for zone, polygon in self.outline(side)]


def check_glucose(reference: np.ndarray, unit: str | None) -> None:
    """Refuse readings that cannot be glucose in their unit.

    Args:
        reference: [readings] in mg/dL.
        unit: they were given in, for the message.

    Raises:
        DataError: below 0, above any meter, or all so low that nobody would live.
    """
    if not len(reference):
        return
    lowest, highest = reference.min(), reference.max()
    if lowest < 0 or highest > _HIGHEST or (highest < _LOWEST_MAXIMUM and len(reference) >= _ENOUGH_PAIRS):
        low, high = from_mgdl(lowest, unit), from_mgdl(highest, unit)
        raise DataError(f"readings from {low:g} to {high:g} {unit} cannot be glucose: is data.unit right?")


def zone_shares(zones: np.ndarray, observed: np.ndarray | None = None) -> dict[str, float]:
    """Percent of scored pairs in each zone, A to E; NaN where there are none.

    Args:
        zones: numbers from `ErrorGrid.zones`.
        observed: bool, same shape; None is everything with a zone.
    """
    zones = np.asarray(zones)
    chosen = zones[(zones != NOT_SCORED) & (True if observed is None else np.asarray(observed, dtype=bool))]
    with np.errstate(invalid="ignore"):
        shares = 100 * np.bincount(chosen, minlength=len(ZONES)) / np.float64(len(chosen))
    return dict(zip(ZONES, shares.tolist(), strict=True))


def zone_table(
    grid: ErrorGrid,
    truth: np.ndarray,
    forecast: np.ndarray,
    observed: np.ndarray,
    unit: str | None,
    horizons: Mapping[str, int],
) -> dict[str, dict[str, float]]:
    """Horizon label -> zone shares AT that step, in percent of its observed readings.

    Args:
        truth, forecast, observed: [windows, steps].
        horizons: label -> step; 1 is the first forecast step.
    """
    steps = np.array(list(horizons.values()), dtype=int) - 1
    if len(steps) and (steps.min() < 0 or steps.max() >= truth.shape[1]):
        raise DataError(f"horizons {dict(horizons)} reach beyond the {truth.shape[1]} steps of the forecast")
    truth, forecast, observed = paired(truth[:, steps], forecast[:, steps], observed[:, steps])
    if not np.isfinite(forecast[observed]).all():
        raise DataError("a forecast that is not a number has no zone: the model diverged")
    zones = grid.zones(truth, forecast, unit)
    return {name: zone_shares(zones[:, i], observed[:, i]) for i, name in enumerate(horizons)}
