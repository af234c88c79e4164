"""Series without a pattern: noise, ARMA, mean-reverting and integrated walks, wandering levels."""

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
    student_t,
    uniform,
)
from tstune.data.synthetic.recursions import damped_cycle, first_order, first_order_stationary, ornstein_uhlenbeck


def innovations(random: Generator, n: int, length: int) -> np.ndarray:
    """[n, length] white noise of unit variance, Student-t in a quarter of the series."""
    white = normal(random, n, length)
    rows = happens(random, n, 0.25)
    if rows.size:
        white[rows] = student_t(random, log_uniform(random, 2.3, 10, rows.size), length)
    return white


def observation_noise(random: Generator, n: int, length: int, phase: np.ndarray | None = None) -> np.ndarray:
    """[n, length] AR(1) noise of unit variance, in part heteroscedastic.

    Args:
        random: source of numbers.
        n: series.
        length: steps.
        phase: [n, length] position in a period; the noise of some series is then louder in part of it.
    """
    coefficient = np.where(random.random(n) < 0.3, 0, uniform(random, -0.2, 0.97, n)).astype(np.float32)
    noise = first_order_stationary(innovations(random, n, length), coefficient)
    if phase is not None:
        rows = happens(random, n, 0.4)
        shift = uniform(random, 0, 2 * np.pi, rows.size, 1)
        noise[rows] *= np.exp(uniform(random, 0.2, 1.5, rows.size, 1) * np.cos(2 * np.pi * phase[rows] + shift))
    rows = happens(random, n, 0.15)
    noise[rows] *= volatility(random, rows.size, length)
    return standardised(noise)


def volatility(random: Generator, n: int, length: int) -> np.ndarray:
    """[n, length] positive factors that come in clusters: the exponential of a mean-reverting walk."""
    walk = ornstein_uhlenbeck(random, log_uniform(random, 10, 500, n), length)
    return np.exp(uniform(random, 0.3, 1.2, n, 1) * walk)


def wandering_level(random: Generator, n: int, length: int) -> np.ndarray:
    """[n, length] level as of weather or demand: a fast and a slow mean-reverting walk, or a random walk."""
    fast = ornstein_uhlenbeck(random, log_uniform(random, 3, 100, n), length)
    slow = ornstein_uhlenbeck(random, log_uniform(random, 60, 6000, n), length)
    rows = happens(random, n, 0.15)
    slow[rows] = standardised(np.cumsum(normal(random, rows.size, length), axis=1))
    rows = happens(random, n, 0.3)  # a smooth level: the walk has a momentum
    fast[rows] = first_order(fast[rows], np.exp(-1 / log_uniform(random, 2, 30, rows.size)))
    share = logistic_normal(random, 0, 1.8, n, 1)
    return np.sqrt(share) * standardised(slow) + np.sqrt(1 - share) * standardised(fast)


def autoregressive(random: Generator, n: int, length: int) -> np.ndarray:
    """[n, length] ARMA with two real roots and a moving average of order 1."""
    white = innovations(random, n, length)
    white[:, 1:] += uniform(random, -0.6, 0.9, n, 1) * white[:, :-1]
    slow = first_order(white, np.exp(-1 / log_uniform(random, 1, 1000, n)))
    return first_order(slow, uniform(random, -0.4, 0.9, n))


def mean_reverting(random: Generator, n: int, length: int) -> np.ndarray:
    """[n, length] Ornstein-Uhlenbeck walk under white noise."""
    walk = ornstein_uhlenbeck(random, log_uniform(random, 2, 4000, n), length)
    share = logistic_normal(random, -2, 1.5, n, 1)
    return np.sqrt(1 - share) * standardised(walk) + np.sqrt(share) * innovations(random, n, length)


def random_walk(random: Generator, n: int, length: int) -> np.ndarray:
    """[n, length] random walk, with drift in some series and changing step size in others."""
    step = innovations(random, n, length)
    rows = happens(random, n, 0.3)
    step[rows] *= volatility(random, rows.size, length)
    rows = happens(random, n, 0.3)
    step[rows] += 0.05 * normal(random, rows.size, 1)
    return np.cumsum(step, axis=1)


def integrated(random: Generator, n: int, length: int) -> np.ndarray:
    """[n, length] smooth walk: the sum of a mean-reverting one, itself pulled back to its mean."""
    speed = ornstein_uhlenbeck(random, log_uniform(random, 2, 60, n), length)
    return first_order(speed, np.exp(-1 / log_uniform(random, 20, 4000, n)))


def stochastic_cycle(random: Generator, n: int, length: int) -> np.ndarray:
    """[n, length] cycles of no fixed period: AR(2) with complex roots."""
    period = log_uniform(random, 4, 600, n)
    damping = np.exp(-1 / (period * log_uniform(random, 0.3, 6, n)))
    return damped_cycle(innovations(random, n, length), period, damping)


def coloured(random: Generator, n: int, length: int) -> np.ndarray:
    """[n, length] noise whose power falls like a power 0.3 to 2.6 of the frequency."""
    frequency = np.fft.rfftfreq(2 * length).astype(np.float32)
    frequency[0] = frequency[1]
    spectrum = np.fft.rfft(normal(random, n, 2 * length)) * frequency ** (-uniform(random, 0.3, 2.6, n, 1) / 2)
    return np.fft.irfft(spectrum, 2 * length)[:, :length].astype(np.float32)


_KINDS = (
    (0.22, autoregressive),
    (0.3, mean_reverting),
    (0.15, random_walk),
    (0.1, integrated),
    (0.12, stochastic_cycle),
    (0.11, coloured),
)


def stochastic_series(random: Generator, n: int, length: int) -> np.ndarray:
    """[n, length] one of the kinds above each."""
    kind = chosen_kind(random, n, [share for share, _ in _KINDS])
    series = np.empty((n, length), np.float32)
    for number, (_, make) in enumerate(_KINDS):
        rows = np.flatnonzero(kind == number)
        if rows.size:
            series[rows] = make(random, rows.size, length)
    return series
