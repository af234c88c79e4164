"""Counts, demand with many zeros, steps, and switches."""

from __future__ import annotations

import numpy as np

from tstune.data.synthetic.draws import (
    Generator,
    chosen_kind,
    log_uniform,
    logistic_normal,
    normal,
    standardised,
    uniform,
)
from tstune.data.synthetic.noise import wandering_level
from tstune.data.synthetic.seasonal import draw_cycle, draw_season


def intermittent_series(random: Generator, n: int, length: int) -> np.ndarray:
    """[n, length] counts, sparse demand, held levels or an on/off signal."""
    kind = chosen_kind(random, n, [0.4, 0.2, 0.2, 0.2])
    makers = (_counts, _demand, _held_levels, _switch)
    series = np.empty((n, length), np.float32)
    for number, make in enumerate(makers):
        rows = np.flatnonzero(kind == number)
        if rows.size:
            series[rows] = make(random, rows.size, length)
    return series


def _rate(random: Generator, n: int, length: int) -> np.ndarray:
    """[n, length] seasonal, wandering logarithm of a rate, standard deviation 1."""
    season = standardised(draw_season(random, draw_cycle(random, n, length)))
    share = logistic_normal(random, 0, 1.5, n, 1)
    return np.sqrt(share) * season + np.sqrt(1 - share) * standardised(wandering_level(random, n, length))


def _counts(random: Generator, n: int, length: int) -> np.ndarray:
    """Poisson counts, overdispersed in part."""
    log_rate = np.log(log_uniform(random, 0.2, 30, n, 1)) + uniform(random, 0.2, 1.2, n, 1) * _rate(random, n, length)
    log_rate += np.where(random.random((n, 1)) < 0.4, uniform(random, 0, 0.8, n, 1), 0) * normal(random, n, length)
    return random.poisson(np.exp(np.minimum(log_rate, 8))).astype(np.float32)


def _demand(random: Generator, n: int, length: int) -> np.ndarray:
    """Zero most of the time, a random size otherwise."""
    chance = logistic_normal(random, -1.5, 1, n, 1) * np.exp(0.7 * _rate(random, n, length))
    size = np.exp(uniform(random, 0.1, 1, n, 1) * normal(random, n, length))
    return np.where(random.random((n, length), dtype=np.float32) < chance, size, 0)


def segments(random: Generator, n: int, length: int, mean_length: np.ndarray) -> np.ndarray:
    """[n, length] number of the segment each step lies in; mean lengths [n] in steps."""
    return np.cumsum(random.random((n, length), dtype=np.float32) < 1 / mean_length[:, None], axis=1)


def _held_levels(random: Generator, n: int, length: int) -> np.ndarray:
    """Levels that hold for a while, some with a walk from one to the next, some under noise."""
    segment = segments(random, n, length, log_uniform(random, 8, 200, n))
    levels = normal(random, n, length)
    walk = np.where(random.random((n, 1)) < 0.5, np.cumsum(levels, axis=1), levels)
    noise = np.where(random.random((n, 1)) < 0.5, log_uniform(random, 0.02, 0.5, n, 1), 0)
    return np.take_along_axis(walk, np.minimum(segment, length - 1), axis=1) + noise * normal(random, n, length)


def _switch(random: Generator, n: int, length: int) -> np.ndarray:
    """On and off: by the clock, or at random times."""
    threshold = uniform(random, -1.2, 1.2, n, 1)
    clock = np.where(_rate(random, n, length) > threshold, np.float32(1), np.float32(0))
    chance = (segments(random, n, length, log_uniform(random, 4, 100, n)) % 2).astype(np.float32)
    state = np.where(random.random((n, 1)) < 0.6, clock, chance)
    noise = np.where(random.random((n, 1)) < 0.5, log_uniform(random, 0.01, 0.3, n, 1), 0)
    return state + noise * normal(random, n, length)
