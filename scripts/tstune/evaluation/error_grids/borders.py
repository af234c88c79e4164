"""Grids whose zones are nested between polylines, as Parkes and DTS.

An upper border starts on the left edge of the plot and gives a forecast for each reference. A lower border starts on
the bottom edge, often straight upwards, and gives a reference for each forecast. Both run on beyond their last vertex.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tstune.evaluation.error_grids.zones import ZONES, Polygon

Border = Sequence[tuple[float, float]]
"""(reference, forecast) in mg/dL."""


def zones_between(
    upper: Sequence[Border], lower: Sequence[Border], reference: np.ndarray, forecast: np.ndarray
) -> np.ndarray:
    """Zone numbers: how many borders lie between the point and the diagonal; on a border it is the safer zone.

    Args:
        upper, lower: A|B first.
        reference, forecast: [pairs] in mg/dL.
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
