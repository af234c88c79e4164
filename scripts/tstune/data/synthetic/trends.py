"""Trends, and the family of trend with season: level · trend · season · noise, or their sum."""

from __future__ import annotations

import numpy as np

from tstune.data.synthetic.draws import (
    Generator,
    chosen_kind,
    happens,
    log_uniform,
    logistic_normal,
    normal,
    standardised,
    uniform,
)
from tstune.data.synthetic.noise import observation_noise, wandering_level
from tstune.data.synthetic.seasonal import draw_cycle, draw_season


def draw_trend(random: Generator, n: int, length: int) -> np.ndarray:
    """[n, length] linear, piecewise linear, damped, logistic or exponential; unit variance, up or down."""
    time = np.linspace(0, 1, length, dtype=np.float32)[None]
    kind = chosen_kind(random, n, [0.25, 0.3, 0.15, 0.15, 0.15])[:, None]
    speed = log_uniform(random, 1, 12, n, 1)
    trend = np.select(
        [kind == 0, kind == 1, kind == 2, kind == 3],
        [
            np.broadcast_to(time, (n, length)),
            _piecewise(random, n, time),
            1 - np.exp(-speed * time),
            1 / (1 + np.exp(-2 * speed * (time - uniform(random, -0.2, 1.2, n, 1)))),
        ],
        np.exp(np.minimum(speed, 4) * time),
    )
    return standardised(trend.astype(np.float32)) * np.where(random.random((n, 1)) < 0.5, -1, 1).astype(np.float32)


def _piecewise(random: Generator, n: int, time: np.ndarray) -> np.ndarray:
    """Straight lines whose slope changes at one to four random times."""
    line = normal(random, n, 1) * time
    for knot in range(4):
        bend = np.where(random.random((n, 1)) < 1 - 0.25 * knot, normal(random, n, 1) * 2, 0)
        line = line + bend * np.maximum(time - uniform(random, 0, 1, n, 1), 0)
    return line


def trend_series(random: Generator, n: int, length: int) -> np.ndarray:
    """[n, length] trend with season and noise, multiplied in half of the series and added in the others."""
    cycle = draw_cycle(random, n, length)
    season = standardised(draw_season(random, cycle))
    trend = draw_trend(random, n, length)
    level = standardised(wandering_level(random, n, length))
    wandering = logistic_normal(random, -1.5, 1.5, n, 1)
    trend = np.sqrt(1 - wandering) * trend + np.sqrt(wandering) * level
    noise = observation_noise(random, n, length, cycle.phase)
    seasonal = logistic_normal(random, -0.5, 1.5, n, 1)
    noisy = logistic_normal(random, -2, 1.3, n, 1)
    pattern = np.sqrt(1 - seasonal) * trend + np.sqrt(seasonal) * season
    series = np.sqrt(1 - noisy) * pattern + np.sqrt(noisy) * noise
    rows = happens(random, n, 0.5)
    m = rows.size
    product = np.maximum(1 + uniform(random, 0.1, 0.5, m, 1) * trend[rows], 0.02)
    product *= np.maximum(1 + uniform(random, 0.05, 0.6, m, 1) * season[rows], 0)
    product *= np.maximum(1 + log_uniform(random, 0.01, 0.4, m, 1) * noise[rows], 0)
    series[rows] = product
    return series
