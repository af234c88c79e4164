"""Clean wave forms: exact repetition, several unrelated periods, chirps, damped and growing oscillations."""

from __future__ import annotations

import numpy as np

from tstune.data.synthetic.draws import Generator, chosen_kind, happens, log_uniform, normal, standardised, uniform
from tstune.data.synthetic.noise import innovations
from tstune.data.synthetic.seasonal import draw_cycle, draw_profiles, lookup


def waveform_series(random: Generator, n: int, length: int) -> np.ndarray:
    """[n, length] nearly free of noise: a model should go on with them exactly."""
    cycle = draw_cycle(random, n, length)
    series = lookup(draw_profiles(random, n), cycle.phase)
    kind = chosen_kind(random, n, [0.35, 0.35, 0.15, 0.15])
    time = np.arange(length, dtype=np.float32)[None]
    rows = np.flatnonzero(kind == 1)
    for _ in range(2):
        other = draw_cycle(random, rows.size, length)
        series[rows] += uniform(random, 0, 1.5, rows.size, 1) * lookup(draw_profiles(random, rows.size), other.phase)
    rows = np.flatnonzero(kind == 2)
    stretch = uniform(random, -0.5, 1.0, rows.size, 1) * np.square(time / length) * length
    series[rows] = lookup(draw_profiles(random, rows.size), (time + stretch) / cycle.period[rows, None] % 1)
    rows = np.flatnonzero(kind == 3)
    growth = uniform(random, -3, 2, rows.size, 1)
    series[rows] *= np.exp(growth * time / length)
    rows = happens(random, n, 0.6)
    noise = log_uniform(random, 0.01, 0.3, rows.size, 1) * innovations(random, rows.size, length)
    series[rows] = standardised(series[rows]) + noise
    rows = happens(random, n, 0.2)
    series[rows] = standardised(series[rows]) + normal(random, rows.size, 1) * time / length
    return series
