"""What series are made of, a whole batch at a time.

Random numbers in single precision, recursive filters of them without a loop over time, noise and walks without a
pattern, calendars and the profiles of one period.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields
from functools import partial

import numpy as np

Generator = np.random.Generator


def normal(random: Generator, *shape: int) -> np.ndarray:
    """Standard normal numbers, float32."""
    return random.standard_normal(shape, dtype=np.float32)


def uniform(random: Generator, low: float, high: float, *shape: int) -> np.ndarray:
    """Uniform numbers between two bounds, float32."""
    return random.random(shape, dtype=np.float32) * np.float32(high - low) + np.float32(low)


def log_uniform(random: Generator, low: float, high: float, *shape: int) -> np.ndarray:
    """Numbers whose logarithm is uniform, float32."""
    return np.exp(uniform(random, np.log(low), np.log(high), *shape))


def logistic_normal(random: Generator, centre: float, spread: float, *shape: int) -> np.ndarray:
    """Shares between 0 and 1: a normal number through the logistic function, float32."""
    return 1 / (1 + np.exp(-(np.float32(centre) + np.float32(spread) * normal(random, *shape))))


def student_t(random: Generator, degrees: np.ndarray, length: int) -> np.ndarray:
    """[n, length] Student-t numbers of unit variance; degrees [n], each greater than 2."""
    n = len(degrees)
    half = (degrees / 2).astype(np.float64)[:, None]
    chi = random.standard_gamma(np.broadcast_to(half, (n, length)))
    return normal(random, n, length) * np.sqrt((half - 1) / np.maximum(chi, 1e-6)).astype(np.float32)


def chosen_kind(random: Generator, n: int, shares: Sequence[float]) -> np.ndarray:
    """[n] index of the kind of each series; `shares` need not sum to 1."""
    edges = np.cumsum(shares)
    return np.searchsorted(edges / edges[-1], random.random(n), side="right")


def drawn_by_kind(
    random: Generator, kind: np.ndarray, makers: Iterable[Callable[..., np.ndarray]], length: int, *arguments: int
) -> np.ndarray:
    """[n, length] rows of kind [n], each made by the maker of that number."""
    rows_made = np.empty((len(kind), length), np.float32)
    for number, make in enumerate(makers):
        rows = np.flatnonzero(kind == number)
        if rows.size:
            rows_made[rows] = make(random, rows.size, *arguments)
    return rows_made


def happens(random: Generator, n: int, probability: float) -> np.ndarray:
    """Rows, of n, that something happens to."""
    return np.flatnonzero(random.random(n) < probability)


def standardised(series: np.ndarray) -> np.ndarray:
    """[n, length] each row with mean 0 and standard deviation 1; a constant row becomes 0."""
    centred = series - series.mean(axis=1, keepdims=True)
    std = np.sqrt(np.mean(np.square(centred), axis=1, keepdims=True))
    return centred / np.where(std > 1e-6, std, 1)


def first_order(innovations: np.ndarray, coefficient: np.ndarray) -> np.ndarray:
    """x[t] = coefficient · x[t-1] + innovations[t] for each row; [n, length], real or complex, by [n], at most 1 in
    magnitude.

    A product of log2(length) sparse filters, 1 / (1 - p L) = (1 + p L)(1 + p² L²)(1 + p⁴ L⁴)…, with L the lag.
    """
    state = innovations.astype(np.result_type(innovations, coefficient), copy=True)
    power, lag = coefficient[:, None], 1
    while lag < state.shape[1] and np.abs(power).max(initial=0) > 1e-7:
        state[:, lag:] += power * state[:, :-lag]
        power, lag = power * power, 2 * lag
    return state


def ornstein_uhlenbeck(random: Generator, time_constant: np.ndarray, length: int) -> np.ndarray:
    """[n, length] mean-reverting walks of unit variance, stationary; deviations shrink to 1/e in [n] steps."""
    coefficient = np.exp(-1 / time_constant).astype(np.float32)
    return first_order_stationary(normal(random, len(coefficient), length), coefficient)


def first_order_stationary(white: np.ndarray, coefficient: np.ndarray) -> np.ndarray:
    """[n, length] AR(1) of unit variance from white noise of unit variance; changes `white`."""
    white[:, 1:] *= np.sqrt(1 - np.square(coefficient))[:, None]
    return first_order(white, coefficient)


def damped_cycle(innovations: np.ndarray, period: np.ndarray, damping: np.ndarray) -> np.ndarray:
    """[n, length] AR(2) with complex roots, `damping` their magnitude, below 1: phase and amplitude wander."""
    root = (damping * np.exp(2j * np.pi / period)).astype(np.complex64)
    return first_order(innovations, root).real


def innovations(random: Generator, n: int, length: int) -> np.ndarray:
    """[n, length] white noise of unit variance, Student-t in a quarter of the series."""
    white = normal(random, n, length)
    rows = happens(random, n, 0.25)
    if rows.size:
        white[rows] = student_t(random, log_uniform(random, 2.3, 10, rows.size), length)
    return white


def observation_noise(random: Generator, n: int, length: int, phase: np.ndarray | None = None) -> np.ndarray:
    """[n, length] AR(1) noise of unit variance, in part heteroscedastic: louder in part of a period."""
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
    shares, makers = zip(*_KINDS, strict=True)
    return drawn_by_kind(random, chosen_kind(random, n, shares), makers, length, length)


CELLS = 288
"""Resolution of a profile: 5 minutes of a day."""

CALENDAR = (
    # share, main period in steps, next longer period in main periods (0: drawn at random)
    (0.30, 24, 7),  # hourly: day, week
    (0.09, 48, 7),  # 30 minutes
    (0.14, 96, 7),  # 15 minutes
    (0.06, 144, 7),  # 10 minutes
    (0.09, 288, 7),  # 5 minutes
    (0.02, 60, 24),  # minutes: hour, day
    (0.08, 7, 52.18),  # daily: week, year
    (0.02, 30.44, 12),  # daily: month, year
    (0.04, 12, 10),  # monthly: year
    (0.02, 52.18, 4),  # weekly: year
    (0.01, 4, 5),  # quarterly: year
    (0.13, 0, 0),  # any period
)
SHORTEST, LONGEST = 4.0, 1024.0


@dataclass(frozen=True)
class Cycle:
    """Where every step of every series lies in its main period."""

    period: np.ndarray  # [n] steps
    longer: np.ndarray  # [n] steps of the next longer period
    weekly: np.ndarray  # [n] True where seven main periods make a week
    turn: np.ndarray  # [n, length] number of the period, from 0 on
    phase: np.ndarray  # [n, length] position in the period, 0 to 1


def draw_cycle(random: Generator, n: int, length: int) -> Cycle:
    """Periods of the real world, each series at a random point of its period."""
    share, main, ratio = (np.array(column, np.float32) for column in zip(*CALENDAR, strict=True))
    kind = chosen_kind(random, n, share.tolist())
    anything = main[kind] == 0
    period = np.where(anything, log_uniform(random, SHORTEST, LONGEST, n), main[kind])
    longer = period * np.where(anything, log_uniform(random, 2, 30, n), ratio[kind])
    return cycle_of(random, period, longer, ratio[kind] == 7, length)


def cycle_of(random: Generator, period: np.ndarray, longer: np.ndarray, weekly: np.ndarray, length: int) -> Cycle:
    """A cycle of given periods that begins anywhere in them."""
    position = np.arange(length, dtype=np.float32) / period[:, None] + uniform(random, 0, 1, len(period), 1)
    turn = np.floor(position)
    return Cycle(period, longer, weekly, turn.astype(np.int64), position - turn)


def lookup(tables: np.ndarray, phase: np.ndarray) -> np.ndarray:
    """[n, length] values of cyclic tables [n, cells] at phases 0 to 1, linear between cells."""
    n, cells = tables.shape
    position = phase * cells
    cell = np.minimum(position.astype(np.int32), cells - 1)
    flat = np.concatenate([tables, tables[:, :1]], axis=1).ravel()
    index = cell + (np.arange(n, dtype=np.int32) * (cells + 1))[:, None]
    left = flat.take(index)
    return left + (position - cell.astype(np.float32)) * (flat.take(index + 1) - left)


def per_turn(tables: np.ndarray, cycle: Cycle, smooth: bool = False) -> np.ndarray:
    """[n, length] one number of the tables [n, turns] for each period, optionally sliding over to the next."""
    last = tables.shape[1] - 1
    index = np.minimum(cycle.turn, last)
    now = np.take_along_axis(tables, index, axis=1)
    if not smooth:
        return now
    following = np.take_along_axis(tables, np.minimum(index + 1, last), axis=1)
    return now + cycle.phase * (following - now)


def turns_in(length: int, shortest: float = SHORTEST) -> int:
    """Periods that a window can touch."""
    return int(length / shortest) + 2


def draw_profiles(random: Generator, n: int) -> np.ndarray:
    """[n, CELLS] random shapes of one period, mean 0 and standard deviation 1."""
    kind = chosen_kind(random, n, [0.5, 0.12, 0.14, 0.12, 0.12])
    return standardised(drawn_by_kind(random, kind, (_fourier, _steps, _polyline, _bumps, _rectified), CELLS))


_HARMONICS = 16
_ANGLES = 2 * np.pi * np.arange(CELLS, dtype=np.float32) / CELLS
_BASIS = np.concatenate([wave(np.outer(np.arange(1, _HARMONICS + 1), _ANGLES)) for wave in (np.sin, np.cos)])
_BASIS = _BASIS.astype(np.float32)


def _fourier(random: Generator, n: int) -> np.ndarray:
    """Harmonics with amplitudes that decay like a random power of their number, some of them left out."""
    number = np.arange(1, _HARMONICS + 1, dtype=np.float32)
    decay = uniform(random, 0.3, 2.5, n, 1)
    amplitude = number**-decay * (random.random((n, _HARMONICS)) < uniform(random, 0.4, 1.0, n, 1))
    amplitude[:, 0] += 1e-3
    amplitude = np.concatenate([amplitude, amplitude], axis=1).astype(np.float32)
    return (amplitude * normal(random, n, 2 * _HARMONICS)) @ _BASIS


def _steps(random: Generator, n: int, hold: bool = True) -> np.ndarray:
    """A few levels: held, or joined by straight lines."""
    most = 24
    count = random.integers(3, most + 1, n)
    levels = normal(random, n, most)
    position = np.arange(CELLS, dtype=np.float32) / CELLS * count[:, None]
    knot = position.astype(np.int64)
    left = np.take_along_axis(levels, knot, axis=1)
    if hold:
        return left
    right = np.take_along_axis(levels, (knot + 1) % count[:, None], axis=1)
    return left + (position - knot).astype(np.float32) * (right - left)


_polyline = partial(_steps, hold=False)


def _bumps(random: Generator, n: int) -> np.ndarray:
    """One to three peaks, as of rush hours."""
    table = np.zeros((n, CELLS), np.float32)
    for peak in range(3):
        centre = uniform(random, 0, 2 * np.pi, n, 1)
        height = np.where(random.random((n, 1)) < (1, 0.6, 0.4)[peak], normal(random, n, 1), 0)
        width = log_uniform(random, 1, 60, n, 1)
        table += height * np.exp(width * (np.cos(_ANGLES - centre) - 1))
    return table


def _rectified(random: Generator, n: int) -> np.ndarray:
    """A hump over part of the period and nothing over the rest, as of sunshine."""
    centre = uniform(random, 0, 2 * np.pi, n, 1)
    return np.maximum(np.cos(_ANGLES - centre) + uniform(random, -0.7, 0.6, n, 1), 0) ** uniform(random, 0.6, 2, n, 1)


def draw_season(random: Generator, cycle: Cycle) -> np.ndarray:
    """[n, length] a repeated profile of unit variance: its amplitude varies from turn to turn, its shape drifts."""
    n, length = cycle.phase.shape
    profile, turns = draw_profiles(random, n), turns_in(length, cycle.period.min(initial=LONGEST))
    season = lookup(profile, cycle.phase)

    # the shape slides over to a second one, with a time constant of a few turns to many
    rows = happens(random, n, 0.6)
    if rows.size:
        share = logistic_normal(random, -2.0, 1.0, rows.size, 1)
        other = lookup(draw_profiles(random, rows.size), cycle.phase[rows])
        drift = _turn_walk(random, rows.size, turns, log_uniform(random, 2, 30, rows.size))
        drift = per_turn(drift, _some(cycle, rows), smooth=True)
        season[rows] = np.sqrt(1 - share) * season[rows] + np.sqrt(share) * drift * other

    rows = happens(random, n, 0.5)
    if rows.size:
        walk = _turn_walk(random, rows.size, turns, log_uniform(random, 0.3, 10, rows.size))
        factor = np.exp(walk * log_uniform(random, 0.03, 0.6, rows.size, 1))
        season[rows] *= per_turn(factor, _some(cycle, rows), smooth=bool(random.random() < 0.5))

    season[cycle.weekly] = _weekdays(random, season[cycle.weekly], _some(cycle, cycle.weekly))
    return season


def _turn_walk(random: Generator, n: int, turns: int, time_constant: np.ndarray) -> np.ndarray:
    """[n, turns] mean-reverting numbers of unit variance, one for each turn."""
    return first_order_stationary(normal(random, n, turns), np.exp(-1 / time_constant))


def _weekdays(random: Generator, season: np.ndarray, cycle: Cycle) -> np.ndarray:
    """Two days of seven with another amplitude and level, or seven different days; some series have neither."""
    n = len(season)
    kind = chosen_kind(random, n, [0.45, 0.4, 0.15])[:, None]
    weekend = np.arange(7) >= 5
    amplitude = np.where(weekend, uniform(random, 0, 1.2, n, 1), 1)
    level = np.where(weekend, normal(random, n, 1) * 0.6, 0)
    every = 0.4 * normal(random, n, 7)
    amplitude = np.select([kind == 0, kind == 1], [np.float32(1), amplitude], 1 + every)
    level = np.select([kind == 0, kind == 1], [np.float32(0), level], 0.6 * normal(random, n, 7))
    day = (cycle.turn + random.integers(0, 7, (n, 1))) % 7
    return season * np.take_along_axis(amplitude, day, axis=1) + np.take_along_axis(level, day, axis=1)


def _some(cycle: Cycle, rows: np.ndarray) -> Cycle:
    return Cycle(*(getattr(cycle, part.name)[rows] for part in fields(cycle)))


def seasonal_series(random: Generator, n: int, length: int) -> np.ndarray:
    """[n, length] profile of one or two nested periods, slowly wandering level, autocorrelated noise.

    The share of the noise in the variance is broad (1 % to 95 %): a model has to learn how much to trust a pattern.
    """
    cycle = draw_cycle(random, n, length)
    season = standardised(draw_season(random, cycle))
    rows = happens(random, n, 0.3)
    if rows.size:
        steps = np.arange(length, dtype=np.float32) / cycle.longer[rows, None] + uniform(random, 0, 1, rows.size, 1)
        slower = standardised(lookup(draw_profiles(random, rows.size), steps % 1))
        share = logistic_normal(random, -0.8, 1.0, rows.size, 1)
        season[rows] = np.sqrt(1 - share) * season[rows] + np.sqrt(share) * slower
    level = standardised(wandering_level(random, n, length))
    noise = observation_noise(random, n, length, cycle.phase)

    noisy = logistic_normal(random, -1.7, 1.8, n, 1)
    wandering = logistic_normal(random, -0.5, 1.5, n, 1)
    wandering[happens(random, n, 0.06)] = 0
    multiplied = np.zeros((n, 1), np.float32)
    rows = happens(random, n, 0.25)
    multiplied[rows] = uniform(random, 0.1, 0.8, rows.size, 1)
    season = season * (1 + np.clip(multiplied * level, -0.9, 3))
    pattern = np.sqrt(1 - wandering) * season + np.sqrt(wandering) * level
    return np.sqrt(1 - noisy) * pattern + np.sqrt(noisy) * noise
