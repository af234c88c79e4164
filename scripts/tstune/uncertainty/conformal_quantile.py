"""The quantile of calibration scores that holds for the next one too, with equal or unequal weights."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

_ROUNDING = 1e-9  # sums of weights that should be equal differ in the last digits


def conformal_quantiles(scores: np.ndarray, levels: Sequence[float], weights: np.ndarray | None = None) -> np.ndarray:
    """Quantiles of signed scores, moved outwards so far that an exchangeable next score is covered.

    Above the median it is the smallest score with at least `level` of the weight at or below it, where the score to
    come weighs 1 and may be infinite (Lei et al. 2018, doi:10.1080/01621459.2017.1307116; with weights Barber et al.
    2023, doi:10.1214/23-AOS2276). Below the median it is the mirror image, at the median
    the mean of both. Where there are too few scores for a level the outermost is taken.

    Args:
        scores: [windows, ...], NaN where nothing was observed.
        levels: between 0 and 1.
        weights: [windows] between 0 and 1; None weighs all by 1.

    Returns:
        [..., levels]; NaN where there is no score at all.
    """
    order = np.argsort(scores, axis=0)  # NaN come last
    ranked = np.take_along_axis(scores, order, axis=0)
    known = ~np.isnan(ranked)
    weights = np.ones(len(scores)) if weights is None else np.asarray(weights, dtype=np.float64)
    weight = np.where(known, weights[order], 0.0)
    below, above = weight.cumsum(axis=0), weight[::-1].cumsum(axis=0)[::-1]
    total, last = weight.sum(axis=0) + 1.0, known.sum(axis=0) - 1
    quantiles = []
    for level in levels:
        rank = (below < level * total - _ROUNDING).sum(axis=0)
        mirrored = (above >= (1 - level) * total - _ROUNDING).sum(axis=0) - 1
        upper, lower = (_ranked(ranked, np.clip(index, 0, last)) for index in (rank, mirrored))
        quantiles.append(upper if level > 0.5 else lower if level < 0.5 else (upper + lower) / 2)
    return np.stack(quantiles, axis=-1)


def scores_needed(level: float) -> int:
    """Fewest scores whose outermost is not beyond a level: 9 for 0.1 and 0.9, 39 for 0.025."""
    return int(np.ceil(1 / min(level, 1 - level) - _ROUNDING)) - 1


def _ranked(ranked: np.ndarray, index: np.ndarray) -> np.ndarray:
    return np.take_along_axis(ranked, np.maximum(index, 0)[None], axis=0)[0]
