"""Changes that make a new series out of one or two: squash, censor, round, flip, reverse, mix."""

from __future__ import annotations

import numpy as np

from tstune.data.synthetic.draws import Generator, chosen_kind, log_uniform, uniform


def squash(random: Generator, series: np.ndarray) -> np.ndarray:
    """A bounded or skewed scale: logistic, exponential, soft floor; `series` [n, length] of unit variance."""
    n = len(series)
    kind = chosen_kind(random, n, [0.3, 0.5, 0.2])[:, None]
    steep = uniform(random, 0.5, 2.5, n, 1)
    moved = np.clip(steep * (series - uniform(random, -1, 1, n, 1)), -30, 30)
    exponential = np.exp(np.clip(uniform(random, 0.2, 0.9, n, 1) * series, -8, 5))
    return np.select([kind == 0, kind == 1], [1 / (1 + np.exp(-moved)), exponential], np.log1p(np.exp(moved)))


def censor(random: Generator, series: np.ndarray) -> np.ndarray:
    """Cut off below a random quantile, above one, or both."""
    n, length = series.shape
    kind = chosen_kind(random, n, [0.45, 0.35, 0.2])[:, None]
    ordered = np.sort(series, axis=1)
    low = np.take_along_axis(ordered, (uniform(random, 0.02, 0.5, n, 1) * length).astype(np.int64), axis=1)
    high = np.take_along_axis(ordered, (uniform(random, 0.6, 0.98, n, 1) * length).astype(np.int64), axis=1)
    low, high = np.where(kind == 1, -np.inf, low), np.where(kind == 0, np.inf, high)
    return np.clip(series, low.astype(np.float32), high.astype(np.float32))


def quantise(random: Generator, series: np.ndarray) -> np.ndarray:
    """Rounded to a resolution of 0.03 to 0.5 standard deviations."""
    resolution = log_uniform(random, 0.03, 0.5, len(series), 1)
    return np.round(series / resolution) * resolution


def mix(random: Generator, series: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Convex combination with another series; both of unit variance."""
    share = uniform(random, 0.05, 0.5, len(series), 1)
    return (1 - share) * series + share * others
