"""Windows whose errors are known by construction."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from tstune.evaluation.scored_windows import ScoredWindows

LEVELS = (0.025, 0.1, 0.25, 0.5, 0.75, 0.9, 0.975)
HOUR = np.timedelta64(3600, "s")


def planted(
    windows: int,
    steps: int = 3,
    seed: int = 0,
    items: int = 1,
    scale: np.ndarray | float = 1.0,
    spread: np.ndarray | float = 1.0,
    missing: float = 0.1,
    begin: int = 0,
) -> ScoredWindows:
    """Errors are skewed, exchangeable, and independent from window to window.

    Args:
        windows: per item, one every hour from hour `begin` on.
        steps: of an hour each.
        seed: of the draw.
        items: number of items.
        scale: [items] size of an item's errors.
        spread: [items] spread of an item's contexts.
        missing: share of readings that were not observed; they hold NaN, so nothing may use them.
        begin: hour of the first window.
    """
    random = np.random.default_rng(seed)
    item = np.repeat(np.arange(items), windows)
    scale, spread = (np.broadcast_to(values, items)[item] for values in (scale, spread))
    shape = (len(item), steps, 1)
    error = (random.gamma(2.0, 1.0, shape) - 1.0) * np.arange(1, steps + 1)[:, None] * scale[:, None, None]
    forecast = random.normal(100, 10, shape)
    observed = random.random(shape) >= missing
    origin = np.datetime64("2024-01-01T00:00:00") + (begin + np.tile(np.arange(windows), items)) * HOUR
    return ScoredWindows(
        truth=np.where(observed, forecast + error, np.nan).astype(np.float32),
        forecast=forecast.astype(np.float32),
        observed=observed,
        item=item,
        timestamps=origin[:, None] + np.arange(steps) * HOUR,
        spread=spread[:, None].astype(np.float32),
    )


def with_native(windows: ScoredWindows, wrong_by: float = 0.0) -> ScoredWindows:
    """The windows with quantiles of a network that knows how wide the errors are, up to a shift."""
    share = np.quantile(np.random.default_rng(9).gamma(2.0, 1.0, 100_000) - 1.0, LEVELS)
    steps = np.arange(1, windows.forecast.shape[1] + 1)[:, None, None]
    quantiles = windows.forecast[..., None] + steps * share + wrong_by
    return replace(windows, quantiles=quantiles.astype(np.float32), levels=np.array(LEVELS))


def covered(windows: ScoredWindows, quantiles: np.ndarray, low: int = 1, high: int = -2) -> np.ndarray:
    """[windows, steps, targets] 1 inside, 0 outside, NaN where nothing was observed; by default the 80 % interval."""
    inside = (quantiles[..., low] <= windows.truth) & (windows.truth <= quantiles[..., high])
    return np.where(windows.observed, inside, np.nan)
