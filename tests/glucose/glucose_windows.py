"""Simulated windows of glucose with everything that a run knows about them, seeded."""

from __future__ import annotations

import numpy as np
from scipy.signal import lfilter

from tstune.evaluation.scored_windows import ScoredWindows

FIVE = np.timedelta64(5, "m")
MODELS = ("fine_tuned", "zero_shot", "ridge", "persistence")
LEVELS = np.array([0.1, 0.25, 0.5, 0.75, 0.9])


def item_names(items: int) -> list[str]:
    """P01, P02, …"""
    return [f"P{number:02d}" for number in range(1, items + 1)]


def glucose_windows(
    num_windows: int = 400,
    steps: int = 24,
    items: int = 4,
    models: tuple[str, ...] = MODELS,
    every: int = 6,
    seed: int = 0,
    unit: str = "mg/dL",
    quantiles: bool = True,
) -> dict[str, ScoredWindows]:
    """Model -> [windows, steps, 1]; fine_tuned has quantiles, the last item a 15-minute sensor on the 5-minute grid.

    Args:
        every: steps from one window to the next.
    """
    random = np.random.default_rng(seed)
    scale = {"mg/dL": 1.0, "mmol/L": 1 / 18.016}[unit]
    per_item = num_windows // items
    parts = []
    for item in range(items):
        length = per_item * every + steps + 2
        wave = lfilter([1], [1, -1.97, 0.9725], random.normal(0, 1, length + 500))[500:]
        values = scale * np.exp(np.log(125) + 0.45 * (wave / wave.std()))
        times = np.datetime64("2024-03-01T00:00", "ns") + (np.arange(length) - 1) * FIVE
        known = np.arange(length) % 3 == 0 if item == items - 1 else random.random(length) < 0.9
        origin = 1 + every * np.arange(per_item)
        at = origin[:, None] + np.arange(steps)
        parts.append((values[at], known[at], times[at], values[origin - 1], np.full(per_item, item)))
    truth, observed, times, last, item = (np.concatenate(part) for part in zip(*parts, strict=True))
    truth, last = truth.astype(np.float32), last.astype(np.float32)
    found = {}
    for number, name in enumerate(models):
        weight = 0.0 if name == "persistence" else np.exp(-np.arange(1, steps + 1) / (10 + 5 * number))
        forecast = last[:, None] + weight * (truth - last[:, None]) + random.normal(0, 4 * scale, truth.shape)
        cone = None
        if quantiles and name == "fine_tuned":
            spread = scale * 4 * np.sqrt(np.arange(1, steps + 1))
            cone = forecast[..., None, None] + spread[:, None, None] * np.array([-1.3, -0.7, 0, 0.7, 1.3])
        found[name] = ScoredWindows(
            np.where(observed, truth, np.nan)[..., None],
            forecast.astype(np.float32)[..., None],
            observed[..., None],
            item,
            times,
            last,
            cone,
            None if cone is None else LEVELS,
            unit=unit,
        )
    return found
