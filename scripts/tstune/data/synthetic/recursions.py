"""Recursive filters of many series at once, without a loop over time.

A first-order recursion is a product of log2(length) sparse filters,
1 / (1 - p L) = (1 + p L)(1 + p² L²)(1 + p⁴ L⁴)…, with L the lag. Each factor is one vectorised pass.
"""

from __future__ import annotations

import numpy as np

from tstune.data.synthetic.draws import Generator, normal


def first_order(innovations: np.ndarray, coefficient: np.ndarray) -> np.ndarray:
    """x[t] = coefficient · x[t-1] + innovations[t] for each row.

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
