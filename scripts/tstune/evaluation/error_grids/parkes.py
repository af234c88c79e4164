"""The Parkes, or consensus, error grid for type 1 diabetes.

Parkes et al. 2000, doi:10.2337/diacare.23.8.1143; vertices from Pfützner et al. 2013, doi:10.1177/193229681300700517.
Beyond its last vertex a border goes on straight. There is no lower zone E.

Packages differ where the vertices do not: methcomp 1.0.0 (and the R package ega it follows) runs the lower C|D border
from (250, 40) to a point computed from (410, 110), a vertex of type 2, 11 mg/dL above (550, 150) at its end;
error-grids 0.1.0 wants a point beyond the third vertex of an A|B border to lie beyond its prolonged middle piece too,
which makes zone A too wide there. Away from these strips both give our zones, pair by pair.
"""

from __future__ import annotations

import numpy as np

from tstune.evaluation.error_grids.borders import Border, polygons_between, zones_between
from tstune.evaluation.error_grids.zones import ErrorGrid, Polygon

UPPER: tuple[Border, ...] = (
    ((0, 50), (30, 50), (140, 170), (280, 380), (430, 550)),
    ((0, 60), (30, 60), (50, 80), (70, 110), (260, 550)),
    ((0, 100), (25, 100), (50, 125), (80, 215), (125, 550)),
    ((0, 150), (35, 155), (50, 550)),
)
"""A|B, B|C, C|D and D|E above the diagonal: (reference, forecast) in mg/dL."""

LOWER: tuple[Border, ...] = (
    ((50, 0), (50, 30), (170, 145), (385, 300), (550, 450)),
    ((120, 0), (120, 30), (260, 130), (550, 250)),
    ((250, 0), (250, 40), (550, 150)),
)
"""A|B, B|C and C|D below the diagonal."""


def _assign(reference: np.ndarray, forecast: np.ndarray) -> np.ndarray:
    return zones_between(UPPER, LOWER, reference, forecast)


def _outline(side: float) -> list[tuple[str, Polygon]]:
    return polygons_between(UPPER, LOWER, side)


PARKES = ErrorGrid(
    "parkes", "Parkes (consensus) error grid, type 1", "doi:10.1177/193229681300700517", _assign, _outline
)
