"""The corrected quantile against hand-worked cases and granite-tsfm's."""

from __future__ import annotations

import numpy as np
import pytest
from tsfm_public.toolkit.conformal import weighted_conformal_quantile

from tstune.evaluation.intervals import conformal_quantiles, scores_needed


def test_hand_worked():
    scores = np.arange(1.0, 10.0)[:, None]  # 1 ... 9: ranks of (9 + 1) x level
    found = conformal_quantiles(scores, [0.1, 0.25, 0.5, 0.75, 0.9])[0]
    assert found.tolist() == [1, 2, 5, 8, 9]  # 0.9 x 10 = the ninth, 0.75 x 10 = 7.5: the eighth; mirrored below


def test_too_few_scores_give_the_outermost():
    scores = np.array([[3.0], [1.0]])
    assert conformal_quantiles(scores, [0.1, 0.9])[0].tolist() == [1, 3]
    assert [scores_needed(level) for level in (0.1, 0.9, 0.5, 0.025, 0.975)] == [9, 9, 1, 39, 39]


def test_what_was_not_observed_does_not_count():
    scores = np.arange(1.0, 20.0)[:, None].repeat(2, axis=1)
    scores[9:, 1] = np.nan
    found = conformal_quantiles(scores, [0.1, 0.9])
    assert found[0].tolist() == [2, 18]
    assert found[1].tolist() == [1, 9]
    assert np.isnan(conformal_quantiles(np.full((4, 1), np.nan), [0.5])).all()


@pytest.mark.parametrize("weighted", [False, True])
def test_upper_levels_equal_granite_tsfm(weighted):
    random = np.random.default_rng(1)
    scores = random.normal(size=(200, 4))
    weights = 0.99 ** np.arange(200)[::-1] if weighted else None
    levels = [0.6, 0.8, 0.9, 0.95]
    found = conformal_quantiles(scores, levels, weights)
    mirrored = conformal_quantiles(-scores, [1 - level for level in levels[::-1]], weights)
    for column in range(4):
        theirs = [
            weighted_conformal_quantile(scores[:, column], weights, 1 - level, conformal_correction=True)
            for level in levels
        ]
        assert found[column] == pytest.approx(theirs, abs=0)
        assert (-mirrored[column, ::-1]).tolist() == found[column].tolist(), "below the median is the mirror image"


def test_coverage_of_the_next_score_is_what_theory_says():
    """With 19 scores the 0.9 quantile is the 18th: an exchangeable next score lies below it in 18 of 20 cases."""
    scores = np.random.default_rng(2).normal(size=(20, 40_000))
    upper = conformal_quantiles(scores[:19], [0.9])[:, 0]
    plain = np.quantile(scores[:19], 0.9, axis=0)
    assert (scores[19] <= upper).mean() == pytest.approx(0.9, abs=4 * (0.09 / 40_000) ** 0.5)
    assert (scores[19] <= plain).mean() < 0.885, "the uncorrected quantile covers too little"
