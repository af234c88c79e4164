"""Will tuning pay? What all of the training windows, or twice as many, would bring, from trainings on a few of them.

The error of tuned weights falls as a power of the data they have seen, where what pre-training has given counts as
further data (Hernandez, Kaplan, Henighan & McCandlish 2021, "Scaling laws for transfer"; that errors fall
as a power of the data at all: Cortes et al. 1994, Hestness et al. 2017): with a share s of the training windows

    error(s) = error(0) · (1 + s / t) ** -c

error(0) is that of the untuned weights, t is what pre-training is worth in shares of these data, c ≥ 0 since weights
that got worse are not kept. t and c are fitted to the logarithms of the errors by least squares. The interval is that
of a bootstrap, Student's t as in `relative_rmse`: blocks of validation windows are drawn, the same for all models, and
each training, the one that is foretold too, gets the noise of a training; the law is fitted anew to each draw. Beyond
the largest share that was tried the law itself is doubted, the more the further.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from tstune.data.windows import WindowDataset
from tstune.evaluation.backtest import Scores
from tstune.evaluation.bootstrap import MIN_ITEMS, Blocks, Interval, effective_number, relative_rmse, student_interval
from tstune.evaluation.verdict import window_blocks

DRAWS = 1000
TRAINING_NOISE = 0.005
"""Standard deviation of the logarithm of the RMSE between trainings that differ by their seed."""
NOTHING = 0.005
"""A smaller change is none."""
BEYOND = 0.02
"""The same of what the law says, for each factor e beyond the largest share that was tried."""
_PRETRAINING = np.geomspace(0.002, 0.5, 40)
"""Values of t that are tried."""
_STEEPEST = 1.0
"""The largest c: an error that halves with twice the data."""
DRAWN_SHARES = (0.0, 0.02, 0.05, 0.1, 0.2, 0.35, 0.5, 0.75, 1.0, 1.5, 2.0)


@dataclass(frozen=True)
class Foretold:
    """What tuning is expected to bring, as changes of RMSE on validation windows against the best without tuning."""

    reference: str  # the best of what needs no tuning
    untuned: str
    # series, steps of history, training windows, change of the untuned weights against ridge
    facts: dict[str, float | None]
    measured: dict[float, float]  # share of the training windows -> change; 0 are the untuned weights
    curve: dict[float, Interval]  # share -> the same by the law
    # pretraining, exponent: t and c of the law
    pretraining: float
    exponent: float

    @property
    def answer(self) -> str:
        """Will it pay?"""
        full = self.curve[1.0]
        if full.low is None:
            return "too few blocks of days to say how sure that is"
        return {-1: "yes", 1: "no"}.get(full.clear_sign, "it may" if full.change < 0 else "hardly")

    @property
    def sentence(self) -> str:
        """In words."""
        ridge = self.facts["untuned_against_ridge"]
        beside = "" if ridge is None else f"; untuned weights have {ridge:+.1%} RMSE against ridge"
        return (
            f"Will tuning pay? {self.facts['series']:,} series, {self.facts['steps']:,} steps to learn from{beside}. "
            f"Expected of tuning on all of them: {said(self.curve[1.0])} RMSE against {self.reference}, the best "
            f"without tuning; on twice as many: {said(self.curve[2.0])}: {self.answer}."
        )

    def has_sign_of(self, found: Interval) -> bool:
        """True if the change that was found is, as expected, clearly lower, clearly higher, or neither.

        Where one of the two has no interval, a change of less than `NOTHING` is neither.
        """
        both = self.curve[1.0], found
        if any(one.low is None for one in both):
            both = [Interval(one.change, one.change - NOTHING, one.change + NOTHING) for one in both]
        return both[0].clear_sign == both[1].clear_sign

    def beside(self, found: Mapping[str, Interval | None]) -> dict:
        """Values for a file, with what came true: part -> change, and whether its sign did."""
        known = {part: one and asdict(one) | {"same_sign": self.has_sign_of(one)} for part, one in found.items()}
        return asdict(self) | {"answer": self.answer, "sentence": self.sentence, "found": known}


def block_squares(scores: Scores, windows: WindowDataset) -> list[float]:
    """[groups] squared errors of the windows that are drawn together, the same groups for every model.

    Items from five on, else blocks of days, or, where those are too few, stretches as long as a forecast.
    """
    seen = scores.window_count > 0
    blocks = window_blocks(scores, windows, seen)
    group = blocks.item if blocks.speaks_of_other_items else blocks.block
    if len(np.unique(group)) < MIN_ITEMS:
        group = scores.window_start[seen] // windows.prediction_length
    _, group = np.unique(group, return_inverse=True)
    return np.bincount(group, weights=scores.window_square[seen]).tolist()


def foretell(
    untuned: tuple[str, Sequence[float]],
    trained: Mapping[float, Sequence[float]],
    reference: tuple[str, Sequence[float]],
    facts: Mapping[str, float | None],
    seed: int = 0,
) -> Foretold:
    """Fit the law to [groups] squared errors, of `block_squares`, of untuned weights and of two trainings at least.

    `trained` are those of weights tuned on a share of the training windows, `reference` is the best without tuning.
    """
    random, shares = np.random.default_rng(seed), np.array(sorted(trained))
    squares = np.array([untuned[1], reference[1], *(trained[share] for share in shares)])  # [models, groups]
    groups = squares.shape[1]
    counts = np.vstack([np.ones(groups), random.multinomial(groups, np.full(groups, 1 / groups), size=DRAWS)])
    errors = np.sqrt(np.maximum(counts @ squares.T, np.finfo(float).tiny))  # the first row is all of them, once
    told = np.array(DRAWN_SHARES)
    doubt = np.hypot(TRAINING_NOISE * (told > 0), BEYOND * np.log(np.maximum(told / shares[-1], 1)))
    noise = np.append(np.full(len(shares), TRAINING_NOISE), doubt) * random.standard_normal(
        (DRAWS + 1, len(shares) + len(told))
    )
    noise[0] = 0
    errors[:, 2:] *= np.exp(noise[:, : len(shares)])
    worth, exponent = fit_law(shares, errors[:, 2:] / errors[:, :1])
    expected = errors[:, :1] * (1 + told / worth[:, None]) ** -exponent[:, None] * np.exp(noise[:, len(shares) :])
    logs = np.log(expected / errors[:, 1:2])
    spread = logs[1:].std(axis=0) * (groups / max(1, groups - 1)) ** 0.5
    freedom = effective_number(squares[:2].sum(axis=0)[:, None])[0] - 1 if groups >= MIN_ITEMS else 0.0
    curve = {share: student_interval(*one, freedom) for share, *one in zip(DRAWN_SHARES, logs[0], spread, strict=True)}
    measured = {0.0: errors[0, 0] / errors[0, 1] - 1}
    measured |= {float(share): error / errors[0, 1] - 1 for share, error in zip(shares, errors[0, 2:], strict=True)}
    measured = {share: float(change) for share, change in measured.items()}
    law = float(worth[0]), float(exponent[0])
    return Foretold(reference[0], untuned[0], dict(facts), measured, curve, *law)


def fit_law(shares: np.ndarray, ratios: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """T [draws] and c [draws] of the law for [draws, shares] errors over those of the untuned weights."""
    x, y = np.log1p(shares / _PRETRAINING[:, None]), np.log(ratios)  # [t, shares], [draws, shares]
    exponent = np.clip(-(y @ x.T) / (x**2).sum(axis=1), 0, _STEEPEST)
    misfit = ((y[:, None] + exponent[..., None] * x) ** 2).sum(axis=2)
    best = misfit.argmin(axis=1)
    return _PRETRAINING[best], exponent[np.arange(len(y)), best]


def change_of_rmse(squares: Sequence[float], reference: Sequence[float]) -> Interval:
    """From [groups] squared errors, as of `block_squares`, of two models on the same windows."""
    groups = np.arange(len(squares))
    blocks = Blocks(np.zeros_like(groups), groups, 1)
    return relative_rmse(np.array(squares), np.array(reference)[:, None], blocks)[0]


def said(interval: Interval) -> str:
    """In words."""
    if interval.low is None:
        return f"{interval.change:+.1%} (no interval)"
    high = f"{interval.high:+.1%}" if interval.high < 10 else "over +1000%"
    return f"{interval.change:+.1%} (95 % interval {interval.low:+.1%} to {high})"
