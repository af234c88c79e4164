"""The Clarke error grid.

Clarke et al. 1987, doi:10.2337/diacare.10.5.622, in the form that is used since. The paper draws it up to 400 mg/dL;
the upper zone C ends where it meets that edge, at a reference of 290, and higher forecasts there are B. With r the
reference and p the forecast in mg/dL, the first that holds:

    A  |p - r| <= 0.2 r, or both below 70
    E  r <= 70 and p >= 180, or r >= 180 and p <= 70
    D  r >= 240 and 70 <= p <= 180, or r <= 70 <= p <= 180
    C  70 <= r <= 290 and p >= r + 110, or 130 <= r <= 180 and p <= 1.4 r - 182
    B  else

Packages agree on this up to 400 mg/dL but for points on a border (error-grids takes A without its border, methcomp
D without its upper one), and methcomp prolongs the upper zone C beyond the paper's grid.
"""

from __future__ import annotations

import numpy as np

from tstune.evaluation.error_grids.zones import ErrorGrid, Polygon


def _assign(r: np.ndarray, p: np.ndarray) -> np.ndarray:
    # 5 |p - r| <= r instead of |p - r| <= 0.2 r: exact for whole numbers, where 0.2 is not
    zone_a = (5 * np.abs(p - r) <= r) | ((r < 70) & (p < 70))
    zone_e = ((r <= 70) & (p >= 180)) | ((r >= 180) & (p <= 70))
    zone_d = (p >= 70) & (p <= 180) & ((r >= 240) | (r <= 70))
    too_high = (r >= 70) & (r <= 290) & (p >= r + 110)
    too_low = (r >= 130) & (r <= 180) & (5 * p <= 7 * r - 910)
    return np.select([zone_a, zone_e, zone_d, too_high | too_low], [0, 4, 3, 2], default=1)


def _outline(side: float) -> list[tuple[str, Polygon]]:
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
        "ABBCCDDEE",
        (zone_a, upper_b, lower_b, upper_c, lower_c, left_d, right_d, upper_e, lower_e),
        strict=True,
    )
    return [(zone, np.array(vertices, dtype=np.float64)) for zone, vertices in areas]


CLARKE = ErrorGrid("clarke", "Clarke error grid", "doi:10.2337/diacare.10.5.622", _assign, _outline)
