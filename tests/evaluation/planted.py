"""Forecast errors planted so that the truth about two models is known: better, equal or worse by construction."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from scipy.signal import lfilter
from unit.builders import grid_table, prepared

from tstune.data.table import Roles
from tstune.data.windows import WindowDataset
from tstune.evaluation.backtest import ErrorSums, Scores
from tstune.evaluation.scored_windows import ScoredWindows

CONTEXT, PREDICTION, STRIDE = 24, 12, 3
TEST_DAYS = 60


def hourly_windows(num_items: int, days: int = TEST_DAYS, stride: int = STRIDE) -> WindowDataset:
    """Test windows of hourly series, 12 hours ahead from every third hour: neighbours share most of their targets."""
    total = 24 * days + 200 + CONTEXT
    random = np.random.default_rng(1)
    grids = {f"item{number}": random.normal(size=(total, 1)) for number in range(num_items)}
    split = {"borders": [100, 200, total]}
    return prepared(grid_table(grids, Roles(("y",))), CONTEXT, PREDICTION, split=split, test_stride=stride).test


def autoregressive(random: np.random.Generator, shape: tuple[int, int], memory: float) -> np.ndarray:
    """[items, steps] standard normal values that forget their past by `memory` a step."""
    shocks = random.normal(size=shape) * np.sqrt(1 - memory**2)
    shocks[:, 0] /= np.sqrt(1 - memory**2)
    return lfilter([1.0], [1.0, -memory], shocks, axis=-1)


def planted_errors(
    num_items: int, steps: int, seed: int, gain: float, item_effect: float = 0.0, common: float = 0.0
) -> tuple[np.ndarray, np.ndarray]:
    """([items, steps], [items, steps]) errors of a model and of its reference, as real ones are.

    Both find the same items hard and the same days hard, err in the same direction for hours, and share half of it.

    Args:
        num_items, steps: how much.
        seed: of all draws.
        gain: the model's errors are the reference's in distribution, times this: 1 is equal, 0.8 is 20 % better.
        item_effect: each model has items that suit it, by this share of its error; equal on average.
        common: share of each model's own error that all items have at the same time (weather).
    """
    random = np.random.default_rng(seed)
    hard_item = np.exp(random.normal(0, 0.4, (num_items, 1)))
    hard_day = np.exp(0.3 * autoregressive(random, (num_items, -(-steps // 24)), 0.5).repeat(24, axis=1)[:, :steps])
    shared = autoregressive(random, (num_items, steps), 0.9)
    errors = []
    for factor in (gain, 1.0):
        own = autoregressive(random, (num_items, steps), 0.9)
        weather = autoregressive(random, (1, steps), 0.9)
        suits = np.exp(random.normal(0, item_effect, (num_items, 1)))
        own = np.sqrt(1 - common) * own + np.sqrt(common) * weather
        errors.append(factor * suits * hard_item * hard_day * (shared + 0.5 * own))
    return errors[0], errors[1]


def planted_scores(windows: WindowDataset, error: np.ndarray, by_lead: np.ndarray | None = None) -> Scores:
    """Scores of a forecast that misses every reading by `error`, [items, steps] from the item's first row.

    With `by_lead`, [prediction], times that much at each lead time, and the forecasts are kept.
    """
    batch = windows.__getitems__(np.arange(len(windows)))
    target = batch["future_values"].numpy()
    item, start = batch["item"].numpy(), batch["start"].numpy()
    position = windows.panel.row_position()[start] + windows.context_length
    missed = error[item[:, None], position[:, None] + np.arange(windows.prediction_length)]
    missed = missed * (1 if by_lead is None else by_lead)
    items = len(windows.panel.item_ids)
    sums = ErrorSums(windows.prediction_length, np.ones(1), np.ones((items, 1)))
    observed = batch["future_observed_mask"].numpy()
    forecast = target.astype(np.float64) + missed[..., None]
    sums.add(forecast, target, observed, item, start)
    kept = None if by_lead is None else ScoredWindows(target, forecast, observed, item)
    return replace(sums.scores({}), windows=kept)
