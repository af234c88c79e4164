"""Hypoglycaemia by window: does a forecast warn that a reading below the limit comes within the horizon.

Truth, forecast and mask are [windows, steps]; quantiles [windows, steps, quantiles]; the limit is in their unit
(3.9 and 3.0 mmol/L, 70 and 54 mg/dL: `units.limit`). Events and alarms over time are in `alarms`.
"""

from __future__ import annotations

import numpy as np

from tstune.errors import DataError
from tstune.evaluation.metrics import Levels, checked_levels
from tstune.evaluation.scored_windows import ScoredWindows, observed_like
from tstune.glucose.units import limit


def low_windows(truth: np.ndarray, observed: np.ndarray, limit: float) -> np.ndarray:
    """[windows] bool: an observed reading lies below the limit.

    Raises:
        DataError: more than one target.
    """
    if np.ndim(truth) != 2:
        raise DataError(f"hypoglycaemia is scored on one target, [windows, steps], not on shape {np.shape(truth)}")
    return (observed_like(observed, truth) & (np.asarray(truth) < limit)).any(axis=1)


def judged_windows(observed: np.ndarray, limit: float, last_reading: np.ndarray | None = None) -> np.ndarray:
    """[windows] bool: there is a reading to judge by, and the window does not begin below the limit.

    Args:
        observed: [windows, steps].
        limit: in the unit of the readings.
        last_reading: [windows] last reading known at the forecast origin: who is below the limit already needs no
            warning. NaN, where none is known, does not count as below; a 15-minute sensor on a 5-minute grid has to
            bring the reading it holds, or two windows of three are never left out.
    """
    judged = np.asarray(observed, dtype=bool).any(axis=1)
    return judged if last_reading is None else judged & ~(np.asarray(last_reading) < limit)


def distance_score(forecast: np.ndarray, limit: float) -> np.ndarray:
    """[windows] how far the lowest forecast lies below the limit, in its unit; above 0 is a warning."""
    return limit - np.asarray(forecast, dtype=np.float64).min(axis=1)


def probability_below(quantiles: np.ndarray, levels: Levels, limit: float) -> np.ndarray:
    """[...] probability that a reading lies below the limit; quantiles [..., quantiles], ascending.

    Linear between the quantiles. Beyond the outermost ones an exponential tail goes on with the same slope, so that
    windows far above the limit still differ: with levels from 0.1 most would otherwise have the same probability.
    """
    levels = checked_levels(levels, quantiles)
    quantiles = np.asarray(quantiles, dtype=np.float64)
    number = (quantiles <= limit).sum(axis=-1)  # quantiles at or below the limit
    right = np.clip(number, 1, len(levels) - 1)
    if len(levels) == 1:
        return np.where(number > 0, levels[0], 0.0)
    at_left = np.take_along_axis(quantiles, right[..., None] - 1, axis=-1)[..., 0]
    at_right = np.take_along_axis(quantiles, right[..., None], axis=-1)[..., 0]
    low, high = levels[right - 1], levels[right]
    width = np.maximum(at_right - at_left, 1e-12)  # equal quantiles are a step
    slope = (high - low) / width
    with np.errstate(over="ignore", invalid="ignore"):
        inside = low + slope * (limit - at_left)
        lower_tail = levels[0] * np.exp(np.minimum(slope / levels[0] * (limit - at_left), 0.0))
        rest = 1 - levels[-1]
        upper_tail = 1 - rest * np.exp(np.minimum(slope / rest * (at_right - limit), 0.0))
    found = np.where(number == 0, lower_tail, np.where(number == len(levels), upper_tail, inside))
    return np.where(np.isfinite(quantiles).all(axis=-1), found, np.nan)


def probability_score(quantiles: np.ndarray, levels: Levels, limit: float) -> np.ndarray:
    """[windows] the highest probability, over the steps, that a reading lies below the limit.

    It is a lower bound of the probability that any reading does: steps are not independent, and quantiles per step do
    not say how much they hang together.
    """
    return probability_below(quantiles, levels, limit).max(axis=1)


def window_scores(low: np.ndarray, score: np.ndarray, probability: np.ndarray | None = None) -> dict[str, float]:
    """How well a score tells windows with a low reading from those without.

    Args:
        low: [windows] bool, from `low_windows`, judged windows only.
        score: [windows] higher is a stronger warning; `distance_score` or `probability_score`.
        probability: [windows] for the Brier score; None takes 1 for a score above 0, else 0, which is what a point
            forecast says.

    Returns:
        num_windows, num_low, base_rate; auroc; auprc as average precision (a score without skill has the base rate);
        brier, and brier_of_base_rate for comparison (Brier 1950). AUROC and AUPRC are NaN without both kinds.
    """
    from sklearn.metrics import average_precision_score, roc_auc_score

    low, score = np.asarray(low, dtype=bool), np.asarray(score, dtype=np.float64)
    probability = (score > 0).astype(np.float64) if probability is None else np.asarray(probability, dtype=np.float64)
    rate = float(low.mean()) if len(low) else float("nan")
    usable = 0 < low.sum() < len(low) and bool(np.isfinite(score).all())
    return {
        "num_windows": len(low),
        "num_low": int(low.sum()),
        "base_rate": rate,
        "auroc": float(roc_auc_score(low, score)) if usable else float("nan"),
        "auprc": float(average_precision_score(low, score)) if usable else float("nan"),
        "brier": float(np.mean((probability - low) ** 2)) if len(low) else float("nan"),
        "brier_of_base_rate": rate * (1 - rate),
    }


def score_of(windows: ScoredWindows, below: float, by_probability: bool) -> np.ndarray:
    """[windows] `probability_score` or `distance_score`."""
    if by_probability:
        return probability_score(windows.quantiles, windows.levels, below)
    return distance_score(windows.forecast, below)


def scores_below(windows: ScoredWindows, below: float) -> dict[str, float]:
    """`window_scores` of the windows that do not begin below the limit.

    The score of a window is the probability of a low reading where there are quantiles, else how far the lowest
    forecast lies below the limit.
    """
    chosen = windows.select(judged_windows(windows.observed, below, windows.last_reading))
    by_probability = chosen.quantiles is not None
    score = score_of(chosen, below, by_probability)
    found = window_scores(low_windows(chosen.truth, chosen.observed, below), score, score if by_probability else None)
    if not np.isfinite(score).all():
        found["brier"] = float("nan")  # a forecast that is not a number is no forecast without a warning
    return found


def low_example(windows: ScoredWindows) -> tuple[str, np.ndarray]:
    """Kind of an example that the report shows, and [windows] bool of those it is chosen from."""
    return "hypo", low_windows(windows.truth, windows.observed, limit("low", windows.unit))
