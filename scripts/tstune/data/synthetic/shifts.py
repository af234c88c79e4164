"""What happens to a series: level shifts, spikes, changes of regime."""

from __future__ import annotations

import numpy as np

from tstune.data.synthetic.draws import Generator, log_uniform, normal, uniform


def shift_level(random: Generator, series: np.ndarray) -> np.ndarray:
    """One or two jumps or ramps to another level; `series` [n, length] of unit variance."""
    n, length = series.shape
    time = np.arange(length, dtype=np.float32)[None]
    for chance in (1.0, 0.4):
        size = np.where(random.random((n, 1)) < chance, uniform(random, 0.4, 3, n, 1) * _sign(random, n), 0)
        ramp = np.where(random.random((n, 1)) < 0.7, np.float32(1), log_uniform(random, 2, 100, n, 1))
        series = series + size * np.clip((time - random.integers(0, length, (n, 1))) / ramp, 0, 1)
    return series


def add_spikes(random: Generator, series: np.ndarray) -> np.ndarray:
    """Short outliers, at random times or every so often; `series` [n, length] of unit variance."""
    n, length = series.shape
    rate = log_uniform(random, 1 / length, 0.02, n, 1)
    at_random = random.random((n, length), dtype=np.float32) < rate
    every = random.integers(10, 200, (n, 1))
    regular = (np.arange(length) + random.integers(0, 200, (n, 1))) % every == 0
    spiked = np.where(random.random((n, 1)) < 0.75, at_random, regular)
    height = uniform(random, 1, 7, n, 1) * np.exp(0.4 * normal(random, n, length)) * _sign(random, n)
    height = np.where(random.random((n, 1)) < 0.3, height * np.sign(normal(random, n, length)), height)
    lasting = uniform(random, 0, 0.7, n, 1)
    spikes = np.where(spiked, height, 0).astype(np.float32)
    tail = spikes.copy()
    for _ in range(3):
        tail[:, 1:] = tail[:, :-1] * lasting
        tail[:, 0] = 0
        spikes += tail
    return series + spikes


def change_regime(random: Generator, series: np.ndarray, others: np.ndarray) -> np.ndarray:
    """From a random step between 1/8 and 5/8 of the length on, another series goes on at the level reached."""
    n, length = series.shape
    at = random.integers(length // 8, length * 5 // 8, (n, 1))
    jump = np.take_along_axis(series - others, at, axis=1)
    return np.where(np.arange(length) < at, series, others + jump * uniform(random, 0, 1, n, 1))


def _sign(random: Generator, n: int) -> np.ndarray:
    return np.where(random.random((n, 1)) < 0.5, np.float32(-1), np.float32(1))
