"""The error grid of the Diabetes Technology Society, 2024.

Klonoff et al. 2024, doi:10.1177/19322968241275701. Its supplement states the grid twice. As a risk,

    x = ln(forecast / reference), risk = 2.75 x above the diagonal and 2.25 |x| below,
    zone A up to 0.5, B up to 1.5, C up to 2.5, D up to 3.5, E beyond,

where values up to 50 mg/dL count as 50 ("the clinicians did not differentiate between values <= 50 mg/dL"; the printed
formula has this for both values at once, the printed borders for each), and as Table A1, rounded vertices for drawing.
`DTS` uses the risk, as do its drawn borders. `DTS_TABLE` uses Table A1: its A|B borders are at a ratio of exactly 1.2
and 0.8 where the risk has 1.1994 and 0.8007, so a forecast 20 % off is in zone A there, in zone B here. The two differ
by up to 1.2 mg/dL. The paper reports the share of zone A and advises against adding B to it. Neither statement
could be compared with the society's own web tool, whose source is not public.
"""

from __future__ import annotations

import numpy as np

from tstune.evaluation.error_grids.borders import Border, polygons_between, zones_between
from tstune.evaluation.error_grids.zones import ErrorGrid, Polygon

LOWEST = 50.0
"""mg/dL; lower values count as this."""

OVER, UNDER = 2.75, 2.25
"""Risk per ln(forecast / reference) above and below the diagonal."""

EDGES = (0.5, 1.5, 2.5, 3.5)
"""Highest risk of zones A to D."""

TABLE_UPPER: tuple[Border, ...] = (
    ((0, 60), (50, 60), (500, 600)),
    ((0, 86.5), (50, 86.5), (347, 600)),
    ((0, 124), (50, 124), (241, 600)),
    ((0, 179), (50, 179), (167, 600)),
)
"""Table A1, A|B to D|E above the diagonal: (reference, forecast) in mg/dL."""

TABLE_LOWER: tuple[Border, ...] = (
    ((62.5, 0), (62.5, 50), (600, 480)),
    ((97.5, 0), (97.5, 50), (600, 307)),
    ((153, 0), (153, 50), (600, 197)),
    ((238, 0), (238, 50), (600, 126)),
)
"""Table A1, A|B to D|E below the diagonal."""


def dts_risk(reference: np.ndarray, forecast: np.ndarray) -> np.ndarray:
    """Risk of each pair in mg/dL, above 0 for a forecast that is too high, below 0 for one that is too low."""
    ratio = np.log(np.maximum(forecast, LOWEST) / np.maximum(reference, LOWEST))
    return np.where(ratio > 0, OVER, UNDER) * ratio


def _assign(reference: np.ndarray, forecast: np.ndarray) -> np.ndarray:
    return np.searchsorted(EDGES, np.abs(dts_risk(reference, forecast)), side="left")


def _assign_by_table(reference: np.ndarray, forecast: np.ndarray) -> np.ndarray:
    return zones_between(TABLE_UPPER, TABLE_LOWER, reference, forecast)


def _outline(side: float) -> list[tuple[str, Polygon]]:
    upper, lower = [], []
    for edge in EDGES:
        over, under = np.exp(edge / OVER), np.exp(edge / UNDER)
        upper.append(((0.0, LOWEST * over), (LOWEST, LOWEST * over), (2 * LOWEST, 2 * LOWEST * over)))
        lower.append(((LOWEST * under, 0.0), (LOWEST * under, LOWEST), (2 * LOWEST * under, 2 * LOWEST)))
    return polygons_between(upper, lower, side)


def _outline_by_table(side: float) -> list[tuple[str, Polygon]]:
    return polygons_between(TABLE_UPPER, TABLE_LOWER, side)


_SOURCE = "doi:10.1177/19322968241275701"
DTS = ErrorGrid("dts", "DTS error grid", _SOURCE, _assign, _outline)
DTS_TABLE = ErrorGrid("dts_table", "DTS error grid, borders of Table A1", _SOURCE, _assign_by_table, _outline_by_table)
