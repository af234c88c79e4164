"""Another sampling rate, and missing stretches."""

from __future__ import annotations

import numpy as np

from tstune.data.synthetic.draws import Generator, chosen_kind, log_uniform, uniform


def resample(random: Generator, series: np.ndarray) -> np.ndarray:
    """Each series, or a stretch of it, at a lower rate: interpolated, held, or averaged over several steps."""
    n, length = series.shape
    kind = chosen_kind(random, n, [0.45, 0.2, 0.35])[:, None]
    factor = log_uniform(random, 1.5, 12, n, 1)
    slower = np.ones((n, length), bool)
    partly = random.random(n) < 0.3
    start, stop = np.sort(random.integers(0, length, (2, n, 1)), axis=0)
    steps = np.arange(length)[None]
    slower[partly] = ((steps >= start) & (steps < stop))[partly]

    position = np.cumsum(np.where(slower, 1 / factor, 1), axis=1, dtype=np.float64) - 1
    position = np.clip(position, 0, length - 1)
    index = position.astype(np.int64)
    left = np.take_along_axis(series, index, axis=1)
    right = np.take_along_axis(series, np.minimum(index + 1, length - 1), axis=1)
    fraction = (position - index).astype(np.float32)
    stretched = left + np.where(kind == 1, 0, fraction) * (right - left)

    width = np.round(factor).astype(np.int64)
    total = np.cumsum(np.pad(series, ((0, 0), (1, 0))), axis=1, dtype=np.float64)
    first = np.maximum(steps + 1 - width, 0)
    mean = (total[:, 1:] - np.take_along_axis(total, first, axis=1)) / (steps + 1 - first)
    return np.where(kind == 2, np.where(slower, mean, series), stretched).astype(np.float32)


def missing_steps(random: Generator, n: int, length: int) -> np.ndarray:
    """[n, length] True where nothing was observed: one to four stretches, or single steps at random."""
    steps = np.arange(length)[None]
    missing = np.zeros((n, length), bool)
    for chance in (1.0, 0.5, 0.35, 0.2):
        start = uniform(random, -0.1, 1, n, 1) * length
        gap = np.where(random.random((n, 1)) < chance, log_uniform(random, 1, length / 4, n, 1), 0)
        missing |= (steps >= start) & (steps < start + gap)
    scattered = random.random((n, length), dtype=np.float32) < log_uniform(random, 0.005, 0.2, n, 1)
    return np.where(random.random((n, 1)) < 0.3, scattered, missing)


def interpolate(series: np.ndarray, missing: np.ndarray) -> np.ndarray:
    """A straight line over each gap; the nearest reading is held at the ends. A row without readings stays."""
    length = series.shape[1]
    steps = np.arange(length)
    before = np.maximum.accumulate(np.where(missing, -1, steps), axis=1)
    after = np.minimum.accumulate(np.where(missing, length, steps)[:, ::-1], axis=1)[:, ::-1]
    empty = missing.all(axis=1)
    left = np.where(before < 0, after, before)
    right = np.where(after >= length, before, after)
    left[empty] = right[empty] = steps
    low, high = np.take_along_axis(series, left, axis=1), np.take_along_axis(series, right, axis=1)
    share = (steps - left) / np.maximum(right - left, 1)
    return np.where(missing, low + share.astype(np.float32) * (high - low), series)
