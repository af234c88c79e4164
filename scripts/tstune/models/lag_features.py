"""What trees see of a context: lags, differences, window statistics and the hour of day."""

from __future__ import annotations

import numpy as np

LAGS = (*range(13), 15, 18, 24, 30, 36, 48, 60, 72, 96, 144, 192, 287, 432)
"""Steps back from the last step of the context; those that the context does not reach are left out."""
CHANGES = (1, 2, 3, 6, 12, 24)
"""The last step minus the one so many steps back."""
SPANS = (3, 6, 12, 24, 72, 144, 288)
"""Last so many steps whose mean, deviation, lowest and highest value are taken, beside those of the whole context."""
DAY = 86_400


def lag_features(past: np.ndarray, origin: np.ndarray | None) -> np.ndarray:
    """[windows, features] float32, missing values NaN.

    Args:
        past: [windows, context] values of one series, NaN where missing.
        origin: [windows] time of the first forecast step in seconds since 1970; None: not known, the hour is missing.
    """
    length = past.shape[1]
    from_end = past[:, ::-1]
    lags = from_end[:, [lag for lag in LAGS if lag < length]]
    changes = [from_end[:, 0] - from_end[:, back] for back in CHANGES if back < length]
    steps = [from_end[:, back] - from_end[:, back + 1] for back in range(1, min(6, length - 1))]
    statistics = [
        values for span in (*(s for s in SPANS if s < length), length) for values in _statistics(from_end[:, :span])
    ]
    angle = np.full(len(past), np.nan) if origin is None else 2 * np.pi * (origin % DAY) / DAY
    columns = [*lags.T, *changes, *steps, *statistics, np.sin(angle), np.cos(angle)]
    return np.stack(columns, axis=1).astype(np.float32)


def _statistics(values: np.ndarray) -> tuple[np.ndarray, ...]:
    """[windows] mean, deviation, lowest and highest of the values that are there."""
    there = ~np.isnan(values)
    count = there.sum(axis=1).astype(np.float32)
    with np.errstate(invalid="ignore"):  # 0 / 0 is missing, as it should be
        mean = values.sum(axis=1, where=there) / count
        deviation = np.sqrt(np.square(values - mean[:, None]).sum(axis=1, where=there) / count)
    return mean, deviation, np.fmin.reduce(values, axis=1), np.fmax.reduce(values, axis=1)
