"""Are quantile forecasts as sure as they should be: coverage, width, PIT and reliability."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tstune.errors import DataError
from tstune.evaluation.metrics import Levels, checked_levels, checked_quantiles, pinball_loss
from tstune.evaluation.scored_windows import masked_mean, paired

CENTRAL_INTERVALS = (0.5, 0.8, 0.95)
_SAME_LEVEL = 1e-6  # 0.1 and (1 - 0.8) / 2 are different floats


@dataclass(frozen=True)
class Coverage:
    """How often an interval held the reading, and how sure that is.

    Attributes:
        nominal: what it promises, for example 0.8.
        coverage: share of observed readings inside, borders included.
        low, high: confidence interval of `coverage`; NaN with fewer than two blocks.
        width: mean width, in the unit of the truth.
        num_readings: observed readings.
        num_blocks: blocks with a reading.
    """

    nominal: float
    coverage: float
    low: float
    high: float
    width: float
    num_readings: int
    num_blocks: int


def central_interval(quantiles: np.ndarray, levels: Levels, nominal: float) -> tuple[np.ndarray, np.ndarray]:
    """Lower and upper end of the central interval, each without the axis of quantiles.

    Raises:
        DataError: its two levels were not forecast.
    """
    levels = checked_levels(levels, quantiles)
    wanted = np.array([(1 - nominal) / 2, (1 + nominal) / 2])
    nearest = np.abs(levels[:, None] - wanted).argmin(axis=0)
    if not np.allclose(levels[nearest], wanted, rtol=0, atol=_SAME_LEVEL):
        given = ", ".join(f"{level:g}" for level in levels)
        raise DataError(
            f"the {nominal:.0%} interval needs the quantiles {wanted[0]:g} and {wanted[1]:g}, forecast were {given}"
        )
    return quantiles[..., nearest[0]], quantiles[..., nearest[1]]


def available_intervals(levels: Levels, nominals: Sequence[float] = CENTRAL_INTERVALS) -> tuple[float, ...]:
    """Those of `nominals` whose two levels were forecast."""
    levels = np.asarray(levels, dtype=np.float64)
    return tuple(
        nominal
        for nominal in nominals
        if all(np.abs(levels - (1 + side * nominal) / 2).min() <= _SAME_LEVEL for side in (-1, 1))
    )


def interval_coverage(
    truth: np.ndarray,
    lower: np.ndarray,
    upper: np.ndarray,
    observed: np.ndarray,
    nominal: float,
    blocks: np.ndarray | None = None,
    confidence: float = 0.95,
) -> Coverage:
    """Coverage and mean width of an interval, with a confidence interval that knows readings come in blocks.

    Readings of one person resemble each other, and so do overlapping windows: the blocks, not the readings, are
    counted as independent. The coverage is a ratio of sums over blocks; its variance is that of cluster sampling
    (Cochran 1977, Sampling Techniques, 3rd ed., ch. 9A), with Student's t of blocks - 1 degrees of freedom on the
    logit scale, so that the interval stays within 0 and 1. Where all or none are covered it is Clopper-Pearson's with
    one trial per block.

    Args:
        truth, lower, upper: [windows, steps] or [windows, steps, targets] in original units.
        observed: bool, which readings are real.
        nominal: what the interval promises.
        blocks: [windows] whole numbers, windows of one block are dependent: items, or blocks of days. None takes
            every window for itself, which only fits windows that do not overlap.
        confidence: of the interval of the coverage.
    """
    truth, lower, observed = paired(truth, lower, observed)
    upper = paired(truth, upper, observed)[1]
    inside = observed & (lower <= truth) & (truth <= upper)
    blocks = np.arange(len(truth)) if blocks is None else np.asarray(blocks)
    if blocks.shape != truth.shape[:1]:
        raise DataError(f"blocks have shape {blocks.shape}: give one whole number for each of {len(truth)} windows")
    block = np.unique(blocks, return_inverse=True)[1]
    per_window = tuple(range(1, truth.ndim))
    readings = np.bincount(block, weights=observed.sum(axis=per_window))
    covered = np.bincount(block, weights=inside.sum(axis=per_window))
    covered, readings = covered[readings > 0], readings[readings > 0]
    share = float(covered.sum() / readings.sum()) if len(readings) else float("nan")
    low, high = _ratio_interval(covered, readings, confidence)
    width = masked_mean(upper - lower, observed)
    return Coverage(nominal, share, low, high, width, int(readings.sum()), len(readings))


def _ratio_interval(covered: np.ndarray, readings: np.ndarray, confidence: float) -> tuple[float, float]:
    """Confidence interval of sum(covered) / sum(readings), both [blocks]."""
    from scipy.special import betaincinv, expit, logit, stdtrit

    blocks, tail = len(readings), (1 - confidence) / 2
    if blocks < 2:
        return float("nan"), float("nan")
    share = covered.sum() / readings.sum()
    if share in (0.0, 1.0):
        edge = float(betaincinv(blocks, 1, tail))  # Clopper-Pearson, all of `blocks` trials the same
        return (edge, 1.0) if share else (0.0, 1 - edge)
    residual = covered - share * readings
    variance = blocks / (blocks - 1) * (residual**2).sum() / readings.sum() ** 2
    reach = stdtrit(blocks - 1, 1 - tail) * variance**0.5 / (share * (1 - share))
    return float(expit(logit(share) - reach)), float(expit(logit(share) + reach))


def pit_histogram(
    truth: np.ndarray, quantiles: np.ndarray, levels: Levels, observed: np.ndarray
) -> dict[str, np.ndarray]:
    """Histogram of the probability integral transform, with the levels as edges: nothing is guessed between them.

    Gneiting, Balabdaoui & Raftery 2007, doi:10.1111/j.1467-9868.2007.00587.x. A U shape means intervals that are too
    narrow. A reading on a quantile counts below it. Quantiles must not cross.

    Returns:
        ``edges`` [bins + 1] 0, the levels, 1 · ``share`` [bins] of the observed readings · ``expected`` [bins] share
        that a calibrated forecast has, the distance between the levels.
    """
    truth, quantiles, levels, observed = checked_quantiles(truth, quantiles, levels, observed)
    which = sum((quantiles[..., i] < truth).astype(np.int64) for i in range(len(levels)))
    count = np.bincount(which[observed], minlength=len(levels) + 1)
    edges = np.concatenate([[0.0], levels, [1.0]])
    with np.errstate(invalid="ignore"):
        return {"edges": edges, "share": count / count.sum(), "expected": np.diff(edges)}


def reliability_table(
    truth: np.ndarray, quantiles: np.ndarray, levels: Levels, observed: np.ndarray
) -> dict[str, np.ndarray]:
    """Reliability of every level (quantile calibration; Kuleshov et al. 2018, arXiv:1807.00263).

    Returns:
        [quantiles] each: ``levels`` as promised · ``observed`` share of readings at or below the quantile · ``pinball``
        mean loss, in the unit of the truth.
    """
    loss = pinball_loss(truth, quantiles, levels, observed)
    truth, quantiles, levels, observed = checked_quantiles(truth, quantiles, levels, observed)
    below = [masked_mean(truth <= quantiles[..., i], observed) for i in range(len(levels))]
    return {"levels": levels, "observed": np.array(below), "pinball": loss}


def calibration_error(truth: np.ndarray, quantiles: np.ndarray, levels: Levels, observed: np.ndarray) -> float:
    """Mean |observed - promised| share over the levels, the mean absolute calibration error (MACE)."""
    table = reliability_table(truth, quantiles, levels, observed)
    return float(np.abs(table["observed"] - table["levels"]).mean())
