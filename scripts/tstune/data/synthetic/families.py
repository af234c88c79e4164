"""Families of series: trends, wave forms, Gaussian processes, blood glucose, counts and switches."""

from __future__ import annotations

import numpy as np
from scipy import fft

from tstune.data.synthetic.components import (
    Generator,
    chosen_kind,
    cycle_of,
    draw_cycle,
    draw_profiles,
    draw_season,
    drawn_by_kind,
    first_order,
    happens,
    innovations,
    log_uniform,
    logistic_normal,
    lookup,
    normal,
    observation_noise,
    ornstein_uhlenbeck,
    standardised,
    uniform,
    wandering_level,
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
    # the body defends itself against low glucose: below 80 a fall is damped
    series = np.where(series < 80, 40 + 40 * np.exp((np.minimum(series, 80) - 80) / 40), series)
    series = np.clip(series, LOWEST, HIGHEST)
    rows = happens(random, n, 0.5)
    series[rows] = np.round(series[rows])
    return series


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


def gaussian_process_series(random: Generator, n: int, length: int) -> np.ndarray:
    """[n, length] draws of kernels composed at random, under a little white noise.

    A stationary kernel on a regular grid is a Toeplitz matrix; embedded in a circulant one it is diagonal under the
    Fourier transform. So a draw costs two transforms, for any sum or product of stationary kernels, different for each
    series: no matrix, no Cholesky factor. Negative eigenvalues of the embedding (a periodic kernel that does not fit
    the circle) are cut off and the variance restored. The linear kernel is not stationary, but its sum with another
    kernel is the other draw plus a random line, and its product is the other draw times a line, both exact.
    """
    half = fft.next_fast_len(length + length // 4, real=True)
    lag = np.arange(half + 1, dtype=np.float32)[None]
    kernel = _base_kernel(random, n, lag)
    for _ in range(2):
        rows = happens(random, n, 0.6)
        if rows.size:
            other = _base_kernel(random, rows.size, lag)
            share = uniform(random, 0.1, 0.9, rows.size, 1)
            multiply = random.random((rows.size, 1)) < 0.4
            kernel[rows] = np.where(multiply, kernel[rows] * other, share * kernel[rows] + (1 - share) * other)
    draws = sample_stationary(random, kernel, length)

    time = np.linspace(-1, 1, length, dtype=np.float32)[None]
    rows = happens(random, n, 0.12)
    draws[rows] += normal(random, rows.size, 1) * time
    rows = happens(random, n, 0.12)
    draws[rows] *= time - uniform(random, -2, 2, rows.size, 1)
    noisy = logistic_normal(random, -3, 1.5, n, 1)
    return np.sqrt(1 - noisy) * draws + np.sqrt(noisy) * innovations(random, n, length)


def sample_stationary(random: Generator, kernel: np.ndarray, length: int) -> np.ndarray:
    """[n, length] one draw for each row of kernels [n, lags], which hold the covariance at lags 0, 1, 2, …"""
    circle = np.concatenate([kernel, kernel[:, -2:0:-1]], axis=1)
    size = circle.shape[1]
    power = np.maximum(fft.rfft(circle).real, 0)
    weight = np.full(power.shape[1], 2, np.float32)  # each frequency but the outer two stands for a pair
    weight[0] = weight[-1] = 1
    variance = (power @ weight)[:, None] / size
    power *= kernel[:, :1] / np.maximum(variance, 1e-9)
    return fft.irfft(fft.rfft(normal(random, *circle.shape)) * np.sqrt(power), size)[:, :length]


def _base_kernel(random: Generator, n: int, lag: np.ndarray) -> np.ndarray:
    """[n, lags] RBF, periodic, rational quadratic, Matérn 1/2 and 3/2, of unit variance."""
    kind = chosen_kind(random, n, [0.2, 0.35, 0.2, 0.15, 0.1])
    scale = log_uniform(random, 3, 4 * lag.shape[1], n, 1)
    kernel = np.empty((n, lag.shape[1]), np.float32)
    rows = np.flatnonzero(kind == 0)
    kernel[rows] = np.exp(-0.5 * np.square(lag / scale[rows]))
    rows = np.flatnonzero(kind == 1)
    period = draw_cycle(random, rows.size, 1).period[:, None]
    width = log_uniform(random, 0.3, 2, rows.size, 1)
    fading = np.exp(-0.5 * np.square(lag / (period * log_uniform(random, 2, 100, rows.size, 1))))
    kernel[rows] = np.exp(-2 * np.square(np.sin(np.pi * lag / period) / width)) * fading
    rows = np.flatnonzero(kind == 2)
    mixing = log_uniform(random, 0.1, 5, rows.size, 1)
    kernel[rows] = (1 + np.square(lag / scale[rows]) / (2 * mixing)) ** -mixing
    rows = np.flatnonzero(kind == 3)
    kernel[rows] = np.exp(-lag / scale[rows])
    rows = np.flatnonzero(kind == 4)
    distance = np.sqrt(np.float32(3)) * lag / scale[rows]
    kernel[rows] = (1 + distance) * np.exp(-distance)
    return kernel


def intermittent_series(random: Generator, n: int, length: int) -> np.ndarray:
    """[n, length] counts, sparse demand, held levels or an on/off signal."""
    kind = chosen_kind(random, n, [0.4, 0.2, 0.2, 0.2])
    return drawn_by_kind(random, kind, (_counts, _demand, _held_levels, _switch), length, length)


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
