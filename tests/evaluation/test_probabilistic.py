"""Quantile scores against GluonTS, scoringrules, scikit-learn and utilsforecast; the order of quantiles."""

from __future__ import annotations

import numpy as np
import pytest
import scoringrules
from evaluation.forecasts import LEVELS, STEPS, quantile_windows
from gluonts.ev.metrics import MeanWeightedSumQuantileLoss, WeightedSumQuantileLoss
from scipy.stats import norm
from sklearn.metrics import mean_pinball_loss

from tstune.errors import DataError
from tstune.evaluation import metrics as ours
from tstune.evaluation.metrics import crossing, sort_quantiles


def test_pinball_against_scikit_learn():
    truth, quantiles, observed = quantile_windows()
    found = ours.pinball_loss(truth, quantiles, LEVELS, observed)
    by_step = ours.pinball_loss(truth, quantiles, LEVELS, observed, axis=0)
    assert by_step.shape == (STEPS, len(LEVELS))
    for i, level in enumerate(LEVELS):
        expected = mean_pinball_loss(truth[observed], quantiles[..., i][observed], alpha=level)
        assert found[i] == pytest.approx(expected, rel=1e-12)
        mask = observed[:, 3]
        expected = mean_pinball_loss(truth[:, 3][mask], quantiles[:, 3, i][mask], alpha=level)
        assert by_step[3, i] == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("all_observed", [True, False])
def test_wql_equals_gluonts(all_observed):
    truth, quantiles, observed = quantile_windows()
    truth = np.where(observed, truth, 100.0)
    observed = observed | all_observed
    data = {"label": np.ma.masked_array(truth, ~observed)}
    data |= {str(level): np.ma.masked_array(quantiles[..., i], ~observed) for i, level in enumerate(LEVELS)}
    mean = MeanWeightedSumQuantileLoss(LEVELS)()
    mean.update(data)
    assert ours.mean_weighted_quantile_loss(truth, quantiles, LEVELS, observed) == pytest.approx(mean.get(), rel=1e-12)
    by_level = ours.weighted_quantile_loss(truth, quantiles, LEVELS, observed)
    for i, level in enumerate(LEVELS):
        one = WeightedSumQuantileLoss(level)()
        one.update(data)
        assert by_level[i] == pytest.approx(one.get(), rel=1e-12)


def test_wql_by_hand():
    truth, quantiles = np.array([[10.0, 30.0]]), np.array([[[8.0, 14.0], [30.0, 35.0]]])
    found = ours.weighted_quantile_loss(truth, quantiles, [0.5, 0.9], np.ones((1, 2), bool))
    # 0.5: 0.5 * 2 + 0; 0.9: 0.1 * 4 + 0.1 * 5
    np.testing.assert_allclose(found, [2 * 1 / 40, 2 * 0.9 / 40])
    zero = ours.weighted_quantile_loss(np.zeros((1, 2)), quantiles, [0.5, 0.9], np.ones((1, 2), bool))
    assert np.isnan(zero).all()


def test_crps_against_scoringrules():
    truth, quantiles, observed = quantile_windows()
    expected = scoringrules.crps_quantile(truth, quantiles, LEVELS)
    found = ours.crps_from_quantiles(truth, quantiles, LEVELS, observed)
    assert found == pytest.approx(expected[observed].mean(), rel=1e-12)
    by_step = ours.crps_from_quantiles(truth, quantiles, LEVELS, observed, axis=0)
    assert by_step[5] == pytest.approx(expected[:, 5][observed[:, 5]].mean(), rel=1e-12)


def test_crps_of_many_even_levels_is_that_of_the_distribution():
    levels = (np.arange(199) + 1) / 200
    quantiles = np.broadcast_to(norm.ppf(levels), (3, 1, 199))
    truth = np.array([[-1.0], [0.0], [2.0]])
    found = ours.crps_from_quantiles(truth, quantiles, levels, np.ones((3, 1), bool), axis=1)
    np.testing.assert_allclose(found, scoringrules.crps_normal(truth[:, 0], 0.0, 1.0), rtol=0.02)


def test_what_was_not_observed_never_counts():
    truth, quantiles, observed = quantile_windows()
    before = ours.pinball_loss(truth, quantiles, LEVELS, observed)
    truth = np.where(observed, truth, np.nan)
    quantiles = np.where(observed[..., None], quantiles, np.nan)
    np.testing.assert_array_equal(ours.pinball_loss(truth, quantiles, LEVELS, observed), before)
    for score in (ours.mean_weighted_quantile_loss, ours.crps_from_quantiles):
        assert np.isfinite(score(truth, quantiles, LEVELS, observed))


def test_quantiles_of_several_targets():
    truth, quantiles, observed = quantile_windows()
    two = [np.stack([part, part[::-1]], axis=2) for part in (truth, observed, quantiles)]
    found = ours.pinball_loss(two[0], two[2], LEVELS, two[1])
    np.testing.assert_allclose(found, ours.pinball_loss(truth, quantiles, LEVELS, observed), rtol=1e-12)


@pytest.mark.parametrize("levels", [[0.5, 0.1], [0.0, 0.5], [0.5, 1.0], [0.5, 0.5], []])
def test_levels_that_are_none(levels):
    with pytest.raises(DataError, match="must ascend between 0 and 1"):
        ours.pinball_loss(np.zeros((1, 1)), np.zeros((1, 1, len(levels))), levels, np.ones((1, 1), bool))


def test_quantiles_of_the_wrong_shape():
    with pytest.raises(DataError, match="3 quantile forecasts for 2 levels"):
        ours.pinball_loss(np.zeros((1, 1)), np.zeros((1, 1, 3)), [0.1, 0.9], np.ones((1, 1), bool))
    with pytest.raises(DataError, match="on one more axis, the last"):
        ours.pinball_loss(np.zeros((1, 1)), np.zeros((1, 2)), [0.1, 0.9], np.ones((1, 1), bool))


# Quantiles that cross


def crossed(rows: int = 400, dtype: type = np.float64) -> np.ndarray:
    random = np.random.default_rng(5)
    return np.sort(random.normal(size=(rows, 7)), axis=1).astype(dtype) + random.normal(0, 0.4, (rows, 7)).astype(dtype)


def test_crossing_by_hand():
    assert crossing(np.array([[1.0, 2, 3], [1, 3, 2], [2, 2, 2]])).tolist() == [False, True, False]


def test_sorting_never_makes_the_pinball_loss_worse():
    quantiles, truth = crossed()[None], np.random.default_rng(6).normal(size=(1, 400))
    assert crossing(quantiles).mean() > 0.3
    ordered = sort_quantiles(quantiles)
    assert not crossing(ordered).any()
    before, after = (
        sum(ours.pinball(truth, q[..., i], level) for i, level in enumerate(LEVELS)) for q in (quantiles, ordered)
    )
    assert (after <= before + 1e-12).all()
    assert (after < before - 1e-6).any()
