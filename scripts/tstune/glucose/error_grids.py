"""Error grids: what a wrong glucose value would have led to, in five zones A (none) to E (dangerous).

They were made for meters, where reference and reading are of the same moment. A forecast against the reading at its
target time borrows them as a summary weighted by risk; that is no statement about the accuracy of a device.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tstune.errors import DataError
from tstune.evaluation.scored_windows import ScoredWindows, paired
from tstune.glucose.units import MG_DL, MMOL_L, GlucoseUnit, from_mgdl, to_mgdl

ZONES = "ABCDE"
"""Zone number -> letter; a higher number is a higher risk."""

NOT_SCORED = -1

MOST_POINTS = 1500
"""Pairs drawn per horizon: more only cover each other."""

Polygon = np.ndarray
"""[vertices, 2] reference and forecast; the last vertex joins the first."""

Border = Sequence[tuple[float, float]]
"""Polyline of (reference, forecast) in mg/dL."""

_HIGHEST = 1500.0  # mg/dL; no meter reads this high: the data are in mg/dL and were taken for mmol/L
_LOWEST_MAXIMUM = 36.0  # mg/dL; nobody stays below 2 mmol/L: the data are in mmol/L and would all be in zone A
_ENOUGH_PAIRS = 50

_SIDES: dict[GlucoseUnit, tuple[float, float]] = {MG_DL: (400.0, 600.0), MMOL_L: (22.2, 33.3)}
"""Plots reach to where the sensors end, or to where any reading does."""


@dataclass(frozen=True)
class ErrorGrid:
    """One error grid."""

    name: str  # key in `ERROR_GRIDS`
    title: str
    source: str
    assign: Callable[[np.ndarray, np.ndarray], np.ndarray]  # (reference, forecast) in mg/dL, finite -> zone numbers
    # side of the plot in mg/dL -> (zone letter, polygon in mg/dL), which together fill the square
    outline: Callable[[float], list[tuple[str, Polygon]]]

    def zones(self, reference: np.ndarray, forecast: np.ndarray, unit: str | None) -> np.ndarray:
        """int8 zone numbers (0 is A) of the shape of `reference`, -1 where either is not a number.

        Args:
            reference, forecast: same shape, in `unit`; a forecast below 0 counts as 0.

        Raises:
            DataError: different shapes, or values that cannot be glucose in this unit.
        """
        given, reference, forecast = np.asarray(reference), to_mgdl(reference, unit), to_mgdl(forecast, unit)
        if reference.shape != forecast.shape:
            raise DataError(f"the forecast has shape {forecast.shape}, the reference {reference.shape}")
        known = np.isfinite(reference) & np.isfinite(forecast)
        pairs = np.stack([reference[known], np.maximum(forecast[known], 0.0)])
        check_glucose(given[known], unit)
        zones = np.full(reference.shape, NOT_SCORED, dtype=np.int8)
        zones[known] = self.assign(pairs[0], pairs[1])
        return zones

    def polygons(self, unit: str | None, highest: float) -> list[tuple[str, Polygon]]:
        """Zone letter and polygon of each area of a square, of at least 400 mg/dL (22.2 mmol/L), for a plot."""
        side = float(to_mgdl(highest, unit))
        if side < 399:
            raise DataError(
                f"an error grid up to {highest:g} {unit} cuts zones off; use at least 400 mg/dL, 22.2 mmol/L"
            )
        return [(zone, from_mgdl(polygon, unit)) for zone, polygon in self.outline(side)]


def check_glucose(readings: np.ndarray, unit: str | None) -> None:
    """Refuse readings that cannot be glucose in their unit."""
    if not len(readings):
        return
    low, high = float(readings.min()), float(readings.max())
    lowest, highest = to_mgdl(low, unit), to_mgdl(high, unit)
    if lowest < 0 or highest > _HIGHEST or (highest < _LOWEST_MAXIMUM and len(readings) >= _ENOUGH_PAIRS):
        raise DataError(f"readings from {low:g} to {high:g} {unit} cannot be glucose: is data.unit right?")


def zone_shares(zones: np.ndarray, observed: np.ndarray | None = None) -> dict[str, float]:
    """Percent of scored pairs, observed ones if a mask is given, in each zone, A to E; NaN where there are none."""
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
    """Horizon label -> zone shares AT that step, 1 the first, in percent of the observed of [windows, steps]."""
    steps = np.array(list(horizons.values()), dtype=int) - 1
    if len(steps) and (steps.min() < 0 or steps.max() >= truth.shape[1]):
        raise DataError(f"horizons {dict(horizons)} reach beyond the {truth.shape[1]} steps of the forecast")
    truth, forecast, observed = paired(truth[:, steps], forecast[:, steps], observed[:, steps])
    if not np.isfinite(forecast[observed]).all():
        raise DataError("a forecast that is not a number has no zone: the model diverged")
    zones = grid.zones(truth, forecast, unit)
    return {name: zone_shares(zones[:, i], observed[:, i]) for i, name in enumerate(horizons)}


def error_grid_section(
    grid: ErrorGrid, test: Mapping[str, ScoredWindows], horizons: Mapping[str, int], unit: GlucoseUnit, judged: str
) -> dict:
    """Shares in percent of each zone AT each horizon, outline and points of one grid, in the unit of the data.

    The shares of a model that forecast something that is not a number are NaN. Of the `judged` one at most
    `MOST_POINTS` pairs of each horizon are drawn, evenly chosen.
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


# Clarke et al. 1987, doi:10.2337/diacare.10.5.622, in the form that is used since. The paper draws it up to 400 mg/dL;
# the upper zone C ends where it meets that edge, at a reference of 290, and higher forecasts there are B. With r the
# reference and p the forecast in mg/dL, the first that holds:
#
#     A  |p - r| <= 0.2 r, or both below 70
#     E  r <= 70 and p >= 180, or r >= 180 and p <= 70
#     D  r >= 240 and 70 <= p <= 180, or r <= 70 <= p <= 180
#     C  70 <= r <= 290 and p >= r + 110, or 130 <= r <= 180 and p <= 1.4 r - 182
#     B  else
#
# Packages agree on this up to 400 mg/dL but for points on a border (error-grids takes A without its border, methcomp
# D without its upper one), and methcomp prolongs the upper zone C beyond the paper's grid.


def _clarke_zones(r: np.ndarray, p: np.ndarray) -> np.ndarray:
    # 5 |p - r| <= r instead of |p - r| <= 0.2 r: exact for whole numbers, where 0.2 is not
    zone_a = (5 * np.abs(p - r) <= r) | ((r < 70) & (p < 70))
    zone_e = ((r <= 70) & (p >= 180)) | ((r >= 180) & (p <= 70))
    zone_d = (p >= 70) & (p <= 180) & ((r >= 240) | (r <= 70))
    too_high = (r >= 70) & (r <= 290) & (p >= r + 110)
    too_low = (r >= 130) & (r <= 180) & (5 * p <= 7 * r - 910)
    return np.select([zone_a, zone_e, zone_d, too_high | too_low], [0, 4, 3, 2], default=1)


def _clarke_areas(side: float) -> list[tuple[str, Polygon]]:
    top, third = side / 1.2, 175 / 3
    zone_a = [(0, 0), (0, 70), (third, 70), (top, side), (side, side), (side, 0.8 * side), (70, 56), (70, 0)]
    left_d = [(0, 70), (0, 180), (70, 180), (70, 84), (third, 70)]
    right_d = [(240, 70), (240, 180), (side, 180), (side, 70)]
    corner = (290, min(400.0, side))
    upper_c = [(70, 180), (70, side), (290, side), corner]
    lower_c = [(130, 0), (180, 70), (180, 0)]
    upper_b = [(70, 84), (70, 180), corner, (290, side), (top, side)]
    lower_b = [(70, 0), (70, 56), (side, 0.8 * side), (side, 180), (240, 180), (240, 70), (180, 70), (130, 0)]
    upper_e = [(0, 180), (0, side), (70, side), (70, 180)]
    lower_e = [(180, 0), (180, 70), (side, 70), (side, 0)]
    areas = zip(
        "ABBCCDDEE", (zone_a, upper_b, lower_b, upper_c, lower_c, left_d, right_d, upper_e, lower_e), strict=True
    )
    return [(zone, np.array(vertices, dtype=np.float64)) for zone, vertices in areas]


CLARKE = ErrorGrid("clarke", "Clarke error grid", "doi:10.2337/diacare.10.5.622", _clarke_zones, _clarke_areas)


# Grids whose zones are nested between polylines, as Parkes and DTS. An upper border starts on the left edge of the plot
# and gives a forecast for each reference. A lower border starts on the bottom edge, often straight upwards, and gives a
# reference for each forecast. Both run on beyond their last vertex.


def nested_grid(name: str, title: str, source: str, upper: Sequence[Border], lower: Sequence[Border]) -> ErrorGrid:
    """The grid between polylines, those of A|B first."""
    return ErrorGrid(
        name,
        title,
        source,
        lambda reference, forecast: zones_between(upper, lower, reference, forecast),
        lambda side: polygons_between(upper, lower, side),
    )


def zones_between(
    upper: Sequence[Border], lower: Sequence[Border], reference: np.ndarray, forecast: np.ndarray
) -> np.ndarray:
    """Zone numbers [pairs]: borders, A|B first, between the point in mg/dL and the diagonal; on a border it is the
    safer zone.
    """
    zones = np.zeros(len(reference), dtype=np.int8)
    for border in upper:
        zones += forecast > _along(np.array(border), reference)
    for border in lower:
        zones += reference > _along(np.array(border)[:, ::-1], forecast)
    return zones


def polygons_between(upper: Sequence[Border], lower: Sequence[Border], side: float) -> list[tuple[str, Polygon]]:
    """Zone letter and polygon of each area of a square: A, then outwards above, then outwards below."""
    above = [_cut(np.array(border), side) for border in upper]
    below = [_cut(np.array(border)[:, ::-1], side)[:, ::-1] for border in lower]
    zone_a = np.concatenate([[(0.0, 0.0)], above[0], [(side, side)], below[0][::-1]])
    found = [(ZONES[0], zone_a)]
    for borders, corner in ((above, (0.0, side)), (below, (side, 0.0))):
        for number, border in enumerate(borders, start=1):
            beyond = borders[number][::-1] if number < len(borders) else np.array([corner])
            found.append((ZONES[number], np.concatenate([border, beyond])))
    return found


def _along(border: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Second coordinate of a polyline [(x, y)] at x, its last piece running on."""
    (x0, y0), (x1, y1) = border[-2:]
    return np.where(x > x1, y1 + (x - x1) * (y1 - y0) / (x1 - x0), np.interp(x, *border.T))


def _cut(border: np.ndarray, side: float) -> np.ndarray:
    """A polyline [(x, y)] from its start to where it leaves the square through y = side."""
    (x0, y0), (x1, y1) = border[-2:]
    end = x1 + (side - y1) * (x1 - x0) / (y1 - y0)
    kept = border[border[:, 1] < side]
    if len(kept) < len(border) - 1:  # it leaves before its last piece
        end = np.interp(side, border[:, 1], border[:, 0])
    return np.concatenate([kept, [(end, side)]])


# The Parkes, or consensus, error grid for type 1 diabetes: Parkes et al. 2000, doi:10.2337/diacare.23.8.1143; vertices
# from Pfützner et al. 2013, doi:10.1177/193229681300700517. There is no lower zone E.
#
# Packages differ where the vertices do not: methcomp 1.0.0 (and the R package ega it follows) runs the lower C|D border
# from (250, 40) to a point computed from (410, 110), a vertex of type 2, 11 mg/dL above (550, 150) at its end;
# error-grids 0.1.0 wants a point beyond the third vertex of an A|B border to lie beyond its prolonged middle piece too,
# which makes zone A too wide there. Away from these strips both give our zones, pair by pair.

PARKES_UPPER: tuple[Border, ...] = (
    ((0, 50), (30, 50), (140, 170), (280, 380), (430, 550)),
    ((0, 60), (30, 60), (50, 80), (70, 110), (260, 550)),
    ((0, 100), (25, 100), (50, 125), (80, 215), (125, 550)),
    ((0, 150), (35, 155), (50, 550)),
)
"""A|B, B|C, C|D and D|E above the diagonal: (reference, forecast) in mg/dL."""

PARKES_LOWER: tuple[Border, ...] = (
    ((50, 0), (50, 30), (170, 145), (385, 300), (550, 450)),
    ((120, 0), (120, 30), (260, 130), (550, 250)),
    ((250, 0), (250, 40), (550, 150)),
)
"""A|B, B|C and C|D below the diagonal."""

PARKES = nested_grid(
    "parkes", "Parkes (consensus) error grid, type 1", "doi:10.1177/193229681300700517", PARKES_UPPER, PARKES_LOWER
)


# The error grid of the Diabetes Technology Society: Klonoff et al. 2024, doi:10.1177/19322968241275701. Its supplement
# states the grid twice. As a risk,
#
#     x = ln(forecast / reference), risk = 2.75 x above the diagonal and 2.25 |x| below,
#     zone A up to 0.5, B up to 1.5, C up to 2.5, D up to 3.5, E beyond,
#
# where values up to 50 mg/dL count as 50 ("the clinicians did not differentiate between values <= 50 mg/dL"; the
# printed formula has this for both values at once, the printed borders for each), and as Table A1, rounded vertices
# for drawing. `DTS` uses the risk, as do its drawn borders. The table's A|B borders are at a ratio of exactly 1.2 and
# 0.8 where the risk has 1.1994 and 0.8007, so a forecast 20 % off is in zone A there, in zone B here. The two differ
# by up to 1.2 mg/dL. The paper reports the share of zone A and advises against adding B to it. Neither statement could
# be compared with the society's own web tool, whose source is not public.

DTS_LOWEST = 50.0
"""mg/dL; lower values count as this."""

DTS_OVER, DTS_UNDER = 2.75, 2.25
"""Risk per ln(forecast / reference) above and below the diagonal."""

DTS_EDGES = (0.5, 1.5, 2.5, 3.5)
"""Highest risk of zones A to D."""


def dts_risk(reference: np.ndarray, forecast: np.ndarray) -> np.ndarray:
    """Risk of each pair in mg/dL, above 0 for a forecast that is too high, below 0 for one that is too low."""
    ratio = np.log(np.maximum(forecast, DTS_LOWEST) / np.maximum(reference, DTS_LOWEST))
    return np.where(ratio > 0, DTS_OVER, DTS_UNDER) * ratio


def _dts_zones(reference: np.ndarray, forecast: np.ndarray) -> np.ndarray:
    return np.searchsorted(DTS_EDGES, np.abs(dts_risk(reference, forecast)), side="left")


def _dts_areas(side: float) -> list[tuple[str, Polygon]]:
    upper, lower = [], []
    for edge in DTS_EDGES:
        over, under = np.exp(edge / DTS_OVER), np.exp(edge / DTS_UNDER)
        upper.append(
            ((0.0, DTS_LOWEST * over), (DTS_LOWEST, DTS_LOWEST * over), (2 * DTS_LOWEST, 2 * DTS_LOWEST * over))
        )
        lower.append(
            ((DTS_LOWEST * under, 0.0), (DTS_LOWEST * under, DTS_LOWEST), (2 * DTS_LOWEST * under, 2 * DTS_LOWEST))
        )
    return polygons_between(upper, lower, side)


DTS = ErrorGrid("dts", "DTS error grid", "doi:10.1177/19322968241275701", _dts_zones, _dts_areas)

ERROR_GRIDS: dict[str, ErrorGrid] = {grid.name: grid for grid in (CLARKE, PARKES, DTS)}
"""Name -> grid."""
