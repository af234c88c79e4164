"""Quantile forecasts that cross: how many do, and two ways to put them in order."""

from __future__ import annotations

import numpy as np

_ROWS_AT_ONCE = 5_000  # keeps the [rows, quantiles, quantiles] means of the isotonic fit below 20 MB


def crossing(quantiles: np.ndarray) -> np.ndarray:
    """[...] bool: where a higher level has a lower forecast; quantiles [..., quantiles] with ascending levels."""
    return (np.diff(quantiles, axis=-1) < 0).any(axis=-1)


def sort_quantiles(quantiles: np.ndarray) -> np.ndarray:
    """Quantiles [..., quantiles] rearranged in ascending order; the pinball loss never gets worse.

    Chernozhukov, Fernández-Val & Galichon 2010, doi:10.3982/ECTA7880.
    """
    return np.sort(quantiles, axis=-1)


def isotonic_quantiles(quantiles: np.ndarray) -> np.ndarray:
    """The nearest ascending quantiles [..., quantiles] in least squares: crossing neighbours share their mean.

    Isotonic regression by its min-max formula, g_k = max over i <= k of min over j >= k of mean(x_i … x_j)
    (Barlow et al. 1972); forecasts that do not cross stay as they are, bit by bit.
    """
    fixed = np.array(quantiles, copy=True)
    rows = fixed.reshape(-1, fixed.shape[-1])
    crossed = np.flatnonzero(crossing(rows))
    for begin in range(0, len(crossed), _ROWS_AT_ONCE):
        chosen = crossed[begin : begin + _ROWS_AT_ONCE]
        rows[chosen] = _isotonic_rows(rows[chosen].astype(np.float64))
    return rows.reshape(fixed.shape)


def _isotonic_rows(rows: np.ndarray) -> np.ndarray:
    levels = rows.shape[1]
    sums = np.concatenate([np.zeros((len(rows), 1)), rows.cumsum(axis=1)], axis=1)
    first, last = np.arange(levels)[:, None], np.arange(levels)[None, :]
    length = np.maximum(last - first + 1, 1)
    means = np.where(last >= first, (sums[:, 1:][:, None, :] - sums[:, :-1][:, :, None]) / length, np.inf)
    smallest = np.minimum.accumulate(means[:, :, ::-1], axis=2)[:, :, ::-1]  # [rows, i, k]: min over j >= k
    smallest = np.where(last >= first, smallest, -np.inf)
    fitted = smallest.max(axis=1)
    return np.maximum.accumulate(fitted, axis=1)  # rounding must not leave a crossing of 1e-16
