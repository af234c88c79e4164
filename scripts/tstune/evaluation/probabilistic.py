"""Scores of quantile forecasts: pinball loss, weighted quantile loss and CRPS; and quantiles that cross, put in order.

Quantile forecasts are [windows, steps, quantiles], or [windows, steps, targets, quantiles]: the levels lie on the last
axis, ascending and between 0 and 1. Truth and mask have the same shape without that axis. Only observed readings count.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tstune.errors import DataError
from tstune.evaluation.scored_windows import Axis, masked_mean, observed_like

Levels = Sequence[float] | np.ndarray


def checked_quantiles(
    truth: np.ndarray, quantiles: np.ndarray, levels: Levels, observed: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Truth as float64, 0 where it was not observed; quantiles; levels; the mask in the shape of the truth.

    Raises:
        DataError: shapes that do not belong together, or levels that are not ascending between 0 and 1.
    """
    levels = checked_levels(levels, quantiles)
    truth, quantiles = np.asarray(truth, dtype=np.float64), np.asarray(quantiles)
    if quantiles.shape[:-1] != truth.shape:
        raise DataError(
            f"the quantile forecasts have shape {quantiles.shape}, the truth {truth.shape}: "
            "quantiles belong on one more axis, the last"
        )
    observed = observed_like(observed, truth)
    return np.where(observed, truth, 0.0), quantiles, levels, observed


def checked_levels(levels: Levels, quantiles: np.ndarray) -> np.ndarray:
    """[quantiles] levels as float64.

    Raises:
        DataError: not ascending between 0 and 1, or not one per quantile.
    """
    levels = np.asarray(levels, dtype=np.float64)
    ascending = levels.ndim == 1 and len(levels) and (np.diff(levels, prepend=0.0, append=1.0) > 0).all()
    if not ascending:
        raise DataError(f"quantile levels {levels.tolist()} must ascend between 0 and 1, for example 0.1, 0.5, 0.9")
    if np.shape(quantiles)[-1] != len(levels):
        raise DataError(f"{np.shape(quantiles)[-1]} quantile forecasts for {len(levels)} levels: give one per level")
    return levels


def pinball(truth: np.ndarray, quantile: np.ndarray, level: float) -> np.ndarray:
    """Pinball loss of each reading at one level, unmasked.

    It is level * (y - q) for a reading above the quantile and (1 - level) * (q - y) for one below.
    Koenker & Bassett 1978, doi:10.2307/1913643.
    """
    error = truth - quantile
    return np.maximum(level * error, (level - 1) * error)


def pinball_loss(
    truth: np.ndarray, quantiles: np.ndarray, levels: Levels, observed: np.ndarray, axis: Axis = None
) -> np.ndarray:
    """Mean pinball loss per level, in the unit of the truth.

    Args:
        axis: axes of the truth to average over; None is all of them and gives [quantiles], 0 gives [steps, quantiles].
    """
    truth, quantiles, levels, observed = checked_quantiles(truth, quantiles, levels, observed)
    by_level = zip(np.moveaxis(quantiles, -1, 0), levels, strict=True)  # one at a time: all at once is a lot of memory
    return np.stack([masked_mean(pinball(truth, *one), observed, axis) for one in by_level], axis=-1)


def weighted_quantile_loss(
    truth: np.ndarray, quantiles: np.ndarray, levels: Levels, observed: np.ndarray
) -> np.ndarray:
    """[quantiles] WQL of each level in the GluonTS definition: 2 * sum of pinball / sum of |truth|.

    `gluonts.ev.metrics.WeightedSumQuantileLoss`; Salinas et al. 2020, doi:10.1016/j.ijforecast.2019.07.001. Its mean
    over levels is `mean_weighted_quantile_loss`. It has no unit; NaN where all observed readings are 0.
    """
    truth, quantiles, levels, observed = checked_quantiles(truth, quantiles, levels, observed)
    total = np.abs(truth).sum()
    by_level = zip(np.moveaxis(quantiles, -1, 0), levels, strict=True)
    loss = [np.where(observed, pinball(truth, *one), 0.0).sum() for one in by_level]
    return 2 * np.array(loss) / (total if total else np.nan)


def mean_weighted_quantile_loss(
    truth: np.ndarray, quantiles: np.ndarray, levels: Levels, observed: np.ndarray
) -> float:
    """WQL: the mean over levels, `gluonts.ev.metrics.MeanWeightedSumQuantileLoss`."""
    return float(weighted_quantile_loss(truth, quantiles, levels, observed).mean())


def crps_from_quantiles(
    truth: np.ndarray, quantiles: np.ndarray, levels: Levels, observed: np.ndarray, axis: Axis = None
) -> np.ndarray | float:
    """CRPS as twice the mean pinball loss over levels, in the unit of the truth.

    Berrisch & Ziel 2023, doi:10.1016/j.jeconom.2021.11.008 (as `scoringrules.crps_quantile`). Every level weighs the
    same, so it is close to the CRPS only for evenly spread levels, and comparable only between models with the same.
    """
    return 2 * pinball_loss(truth, quantiles, levels, observed, axis).mean(axis=-1)


def crossing(quantiles: np.ndarray) -> np.ndarray:
    """[...] bool: where a higher level has a lower forecast; quantiles [..., quantiles] with ascending levels."""
    return (np.diff(quantiles, axis=-1) < 0).any(axis=-1)


def sort_quantiles(quantiles: np.ndarray) -> np.ndarray:
    """Quantiles [..., quantiles] rearranged in ascending order; the pinball loss never gets worse.

    Chernozhukov, Fernández-Val & Galichon 2010, doi:10.3982/ECTA7880.
    """
    return np.sort(quantiles, axis=-1)
