"""Where a time lies in the day, the week or the year, as points on a circle: 23:55 is next to 00:00."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

_DAY = 86_400.0


def encode_times(stamps: np.ndarray, features: Sequence[str]) -> np.ndarray:
    """Sine and cosine of each feature, in the order of `Roles.channels`.

    Args:
        stamps: [rows] datetime64.
        features: any of ``hour_of_day``, ``day_of_week``, ``day_of_year``.

    Returns:
        [rows, 2 * features] float32.
    """
    times = pd.DatetimeIndex(stamps)
    waves = [wave for name in features for wave in _waves(2 * np.pi * _TURN[name](times))]
    return np.stack(waves, axis=1).astype(np.float32) if waves else np.zeros((len(times), 0), np.float32)


def _waves(angle: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return np.sin(angle), np.cos(angle)


def _hour_of_day(times: pd.DatetimeIndex) -> np.ndarray:
    """[rows] share of the day that is over."""
    return ((times - times.normalize()).total_seconds() / _DAY).to_numpy()


def _day_of_week(times: pd.DatetimeIndex) -> np.ndarray:
    """[rows] whole days since Monday, as a share of the week."""
    return times.dayofweek.to_numpy() / 7


def _day_of_year(times: pd.DatetimeIndex) -> np.ndarray:
    """[rows] whole days since New Year, as a share of the year."""
    return (times.dayofyear.to_numpy() - 1) / 365.25


_TURN = {"hour_of_day": _hour_of_day, "day_of_week": _day_of_week, "day_of_year": _day_of_year}
