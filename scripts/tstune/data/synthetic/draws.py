"""Random numbers for a whole batch of series in single precision, and recursive filters without a loop over time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

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


def standardised(series: np.ndarray, floor: float = 1e-6) -> np.ndarray:
    """[n, length] each row with mean 0 and standard deviation 1; a constant row becomes 0."""
    centred = series - series.mean(axis=1, keepdims=True)
    std = np.sqrt(np.mean(np.square(centred), axis=1, keepdims=True))
    return centred / np.where(std > floor, std, 1)


def first_order(innovations: np.ndarray, coefficient: np.ndarray) -> np.ndarray:
    """x[t] = coefficient · x[t-1] + innovations[t] for each row.

    A product of log2(length) sparse filters, 1 / (1 - p L) = (1 + p L)(1 + p² L²)(1 + p⁴ L⁴)…, with L the lag.

    Args:
        innovations: [n, length], real or complex.
        coefficient: [n], at most 1 in magnitude.
    """
    state = innovations.astype(np.result_type(innovations, coefficient), copy=True)
    power, lag = coefficient[:, None], 1
    while lag < state.shape[1] and np.abs(power).max(initial=0) > 1e-7:
        state[:, lag:] += power * state[:, :-lag]
        power, lag = power * power, 2 * lag
    return state


def ornstein_uhlenbeck(random: Generator, time_constant: np.ndarray, length: int) -> np.ndarray:
    """[n, length] mean-reverting walks of unit variance, from their stationary distribution on.

    Args:
        random: source of numbers.
        time_constant: [n] steps after which a deviation has shrunk to 1/e.
        length: steps.
    """
    coefficient = np.exp(-1 / time_constant).astype(np.float32)
    return first_order_stationary(normal(random, len(coefficient), length), coefficient)


def first_order_stationary(white: np.ndarray, coefficient: np.ndarray) -> np.ndarray:
    """[n, length] AR(1) of unit variance from white noise of unit variance; changes `white`."""
    white[:, 1:] *= np.sqrt(1 - np.square(coefficient))[:, None]
    return first_order(white, coefficient)


def damped_cycle(innovations: np.ndarray, period: np.ndarray, damping: np.ndarray) -> np.ndarray:
    """[n, length] AR(2) with complex roots: a cycle that wanders in phase and amplitude.

    Args:
        innovations: [n, length].
        period: [n] steps of one turn.
        damping: [n] magnitude of the roots, below 1.
    """
    root = (damping * np.exp(2j * np.pi / period)).astype(np.complex64)
    return first_order(innovations, root).real
