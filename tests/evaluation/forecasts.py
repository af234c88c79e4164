"""Random windows of glucose, seeded."""

from __future__ import annotations

import numpy as np
from scipy.stats import norm

WINDOWS, STEPS = 60, 12
LEVELS = np.array([0.025, 0.1, 0.25, 0.5, 0.75, 0.9, 0.975])


def point_windows(seed: int = 0, targets: int | None = None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Truth, forecast and mask; where nothing was observed the truth is far off."""
    random = np.random.default_rng(seed)
    shape = (WINDOWS, STEPS) if targets is None else (WINDOWS, STEPS, targets)
    truth = random.lognormal(np.log(140), 0.4, shape)
    forecast = truth * random.lognormal(0, 0.2, shape) + random.normal(0, 3, shape)
    observed = random.random(shape) < 0.8
    return np.where(observed, truth, 1e7), forecast, observed


def quantile_windows(seed: int = 0, spread: float = 30.0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Truth from a normal distribution, quantiles of a normal with `spread` (calibrated at 30), and a mask."""
    random = np.random.default_rng(seed)
    centre = random.lognormal(np.log(140), 0.4, (WINDOWS, STEPS))
    truth = centre + random.normal(0, 30, (WINDOWS, STEPS))
    observed = random.random((WINDOWS, STEPS)) < 0.8
    return np.where(observed, truth, -1e7), centre[..., None] + spread * norm.ppf(LEVELS), observed
