"""Gaussian processes with kernels composed at random.

A stationary kernel on a regular grid is a Toeplitz matrix; embedded in a circulant one it is diagonal under the
Fourier transform. So a draw costs two transforms, for any sum or product of stationary kernels, different for each
series: no matrix, no Cholesky factor. Negative eigenvalues of the embedding (a periodic kernel that does not fit the
circle) are cut off and the variance restored. The linear kernel is not stationary, but its sum with another kernel is
the other draw plus a random line, and its product is the other draw times a line, both exact.
"""

from __future__ import annotations

import numpy as np
from scipy import fft

from tstune.data.synthetic.draws import Generator, chosen_kind, happens, log_uniform, logistic_normal, normal, uniform
from tstune.data.synthetic.noise import innovations
from tstune.data.synthetic.seasonal import draw_cycle


def gaussian_process_series(random: Generator, n: int, length: int) -> np.ndarray:
    """[n, length] draws of composed kernels, under a little white noise."""
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
