"""Series like blood glucose: meals with a fast rise and a slow decay over a mean-reverting smooth baseline."""

from __future__ import annotations

import numpy as np

from tstune.data.synthetic.components import cycle_of, draw_profiles, innovations, lookup
from tstune.data.synthetic.draws import (
    Generator,
    chosen_kind,
    first_order,
    happens,
    log_uniform,
    normal,
    ornstein_uhlenbeck,
    uniform,
)

LOWEST, HIGHEST = 40.0, 400.0
"""Range of a glucose sensor, mg/dL."""

_MEALS = 5


def glucose_series(random: Generator, n: int, length: int) -> np.ndarray:
    """[n, length] mg/dL at steps of 5 minutes (70 %), 15 (20 %) or others."""
    kind = chosen_kind(random, n, [0.7, 0.2, 0.1])
    day = np.select([kind == 0, kind == 1], [288.0, 96.0], log_uniform(random, 24, 288, n)).astype(np.float32)
    minutes = 1440 / day
    run_up = length // 3
    total = length + run_up

    events = _habitual_meals(random, day, total) + _at_any_time(random, day, total)
    rise = np.exp(-minutes / log_uniform(random, 12, 50, n))
    decay = np.exp(-minutes / log_uniform(random, 40, 180, n))
    response = first_order(first_order(events, rise), decay) * (1 - rise)[:, None]
    counter = np.where(random.random((n, 1)) < 0.5, uniform(random, 0, 0.6, n, 1), 0)  # insulin outlasts the meal
    fall = np.exp(-minutes / log_uniform(random, 120, 360, n))
    response -= counter * first_order(response, fall) * (1 - fall)[:, None]
    response *= log_uniform(random, 20, 150, n, 1)
    response = response[:, run_up:]

    slow = ornstein_uhlenbeck(random, log_uniform(random, 60, 3000, n) / minutes, length)
    smooth = _smooth_walk(random, minutes, length)
    cycle = cycle_of(random, day, day * 7, np.ones(n, bool), length)
    profile = lookup(draw_profiles(random, n), cycle.phase)
    level = uniform(random, 90, 190, n, 1)
    level = level + log_uniform(random, 3, 45, n, 1) * slow + log_uniform(random, 5, 50, n, 1) * smooth
    level += np.where(random.random((n, 1)) < 0.6, log_uniform(random, 2, 30, n, 1), 0) * profile
    series = level + response - response.mean(axis=1, keepdims=True) * uniform(random, 0, 1, n, 1)
    rows = happens(random, n, 0.5)  # a sensor's own noise
    sensor = first_order(innovations(random, rows.size, length), uniform(random, 0, 0.9, rows.size))
    series[rows] += log_uniform(random, 0.5, 5, rows.size, 1) * sensor
    series = _repelled_from_below(series)
    series = np.clip(series, LOWEST, HIGHEST)
    rows = happens(random, n, 0.5)
    series[rows] = np.round(series[rows])
    return series


def _repelled_from_below(series: np.ndarray) -> np.ndarray:
    """The body defends itself against low glucose: below 80 a fall is damped."""
    return np.where(series < 80, 40 + 40 * np.exp((np.minimum(series, 80) - 80) / 40), series)


def _smooth_walk(random: Generator, minutes: np.ndarray, length: int) -> np.ndarray:
    """[n, length] mean-reverting with momentum: hours back to the mean, tens of minutes of momentum."""
    walk = ornstein_uhlenbeck(random, log_uniform(random, 40, 600, len(minutes)) / minutes, length)
    momentum = np.exp(-minutes / log_uniform(random, 5, 60, len(minutes)))
    return first_order(walk, momentum) * (1 - momentum)[:, None]


def _habitual_meals(random: Generator, day: np.ndarray, total: int) -> np.ndarray:
    """[n, total] impulses at about the same hours of each day; their sizes vary, and some are left out."""
    n, days = len(day), int(total / day.min(initial=24)) + 2
    habit = uniform(random, 0, 1, n, 1, _MEALS)
    size = np.exp(0.5 * normal(random, n, 1, _MEALS)) * (random.random((n, 1, _MEALS)) < 0.7)
    jitter = log_uniform(random, 0.003, 0.06, n, 1, 1) * normal(random, n, days, _MEALS)
    when = (np.arange(days)[:, None] + habit + jitter - uniform(random, 0, 1, n, 1, 1)) * day[:, None, None]
    vary = np.exp(log_uniform(random, 0.05, 0.8, n, 1, 1) * normal(random, n, days, _MEALS))
    kept = random.random((n, days, _MEALS)) < uniform(random, 0.6, 1, n, 1, 1)
    return _impulses(when.reshape(n, -1), (size * vary * kept).reshape(n, -1), total)


def _at_any_time(random: Generator, day: np.ndarray, total: int) -> np.ndarray:
    """[n, total] impulses at random times, a quarter of them downwards (insulin, exercise)."""
    n = len(day)
    most = 24
    count = random.poisson(uniform(random, 0, 3, n) * total / day)
    when = uniform(random, 0, total, n, most)
    sign = np.where(random.random((n, most)) < 0.25, -0.6, 1)
    size = np.exp(0.6 * normal(random, n, most)) * sign * (np.arange(most) < count[:, None])
    return _impulses(when, size, total)


def _impulses(when: np.ndarray, size: np.ndarray, total: int) -> np.ndarray:
    """[n, total] sizes [n, events] at steps [n, events]; what lies outside is left out."""
    n = len(when)
    step = np.floor(when).astype(np.int64)
    inside = (step >= 0) & (step < total)
    flat = (step + np.arange(n)[:, None] * total)[inside]
    return np.bincount(flat, size[inside], n * total).reshape(n, total).astype(np.float32)
