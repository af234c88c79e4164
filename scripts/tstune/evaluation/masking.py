"""Means over observed readings only: what was never observed cannot reach a metric."""

from __future__ import annotations

import numpy as np

from tstune.errors import DataError

Axis = int | tuple[int, ...] | None


def observed_like(observed: np.ndarray, values: np.ndarray) -> np.ndarray:
    """The mask as bool in the shape of `values`.

    Args:
        observed: [windows, steps] or the shape of `values`.
        values: [windows, steps] or [windows, steps, targets].

    Raises:
        DataError: the two do not belong together.
    """
    observed, shape = np.asarray(observed, dtype=bool), np.shape(values)
    if observed.ndim == 2 and len(shape) == 3 and observed.shape == shape[:2]:
        observed = np.broadcast_to(observed[..., None], shape)
    if observed.shape != shape:
        raise DataError(
            f"the observed mask has shape {observed.shape}, the readings {shape}: give one mask per reading"
        )
    return observed


def paired(truth: np.ndarray, forecast: np.ndarray, observed: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Truth and forecast as float64, 0 where nothing was observed, and the mask in their shape.

    Raises:
        DataError: truth, forecast and mask do not belong together.
    """
    truth, forecast = np.asarray(truth, dtype=np.float64), np.asarray(forecast, dtype=np.float64)
    if truth.shape != forecast.shape:
        raise DataError(f"the forecast has shape {forecast.shape}, the truth {truth.shape}: they must be the same")
    observed = observed_like(observed, truth)
    return np.where(observed, truth, 0.0), np.where(observed, forecast, 0.0), observed


def masked_mean(values: np.ndarray, observed: np.ndarray, axis: Axis = None) -> np.ndarray | float:
    """Mean of `values` where `observed`; NaN where nothing was. A NaN that counts makes the mean NaN.

    Args:
        values: any shape.
        observed: bool, same shape.
        axis: as in NumPy; None is everything and gives a float.
    """
    count = observed.sum(axis=axis)
    total = np.where(observed, values, 0.0).sum(axis=axis)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = total / count
    return float(mean) if np.ndim(mean) == 0 else mean
