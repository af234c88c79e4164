"""Every method on planted errors: coverage, order of the quantiles, what they use and what they must not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from planted_errors import HOUR, LEVELS, covered, planted, with_native

from tstune.config.schema import ForecastSection
from tstune.errors import DataError
from tstune.evaluation.intervals import (
    METHODS,
    AdaptiveConformal,
    Residual,
    SplitConformal,
    UncertaintyMethod,
    WeightedConformal,
    configured_name,
    make_method,
    relative_age,
)

SECTION = ForecastSection(quantiles=list(LEVELS))
FITTED = [name for name in METHODS if name != "quantile_head"]


def fitted(name, windows) -> UncertaintyMethod:
    return make_method(name, SECTION).fit(windows)


@pytest.mark.parametrize("name", METHODS)
def test_coverage_on_exchangeable_errors(name):
    calibration, test = with_native(planted(2000, seed=1)), with_native(planted(2000, seed=2, begin=2000))
    found = fitted(name, calibration).backtest(test)
    assert found.shape == (2000, 3, 1, 7)
    assert found.dtype == np.float32
    for nominal, low, high in ((0.95, 0, -1), (0.8, 1, -2), (0.5, 2, -3)):
        share = np.nanmean(covered(test, found, low, high), axis=(0, 2))
        assert share == pytest.approx(nominal, abs=0.04), "at every step"
    below = np.nanmean(np.where(test.observed, test.truth <= found[..., 3], np.nan))
    assert below == pytest.approx(0.5, abs=0.03), "the errors are skewed: the median is not the point forecast"
    assert (np.diff(found, axis=-1) >= 0).all()


@pytest.mark.parametrize("name", METHODS)
def test_quantiles_never_cross(name):
    calibration = with_native(planted(60, seed=3))
    mixed = np.random.default_rng(4).permuted(calibration.quantiles, axis=-1)
    calibration = replace(calibration, quantiles=mixed)
    found = fitted(name, calibration).backtest(calibration)
    assert (np.diff(mixed, axis=-1) < 0).any()
    assert (np.diff(found, axis=-1) >= 0).all()
    assert np.isfinite(found).all()


def test_scaled_errors_give_each_item_its_width():
    scale = np.array([0.2, 1.0, 5.0])
    calibration, test = (planted(800, seed=s, items=3, scale=scale, spread=3 * scale) for s in (1, 2))
    shares = {}
    for method in (Residual, SplitConformal):
        inside = covered(test, method(LEVELS).fit(calibration).backtest(test))
        shares[method] = [np.nanmean(inside[test.item == item]) for item in range(3)]
    assert shares[SplitConformal] == pytest.approx([0.8] * 3, abs=0.03)
    assert shares[Residual][0] > 0.99
    assert shares[Residual][2] < 0.6


def test_a_context_without_movement_still_has_an_interval():
    calibration = planted(200, seed=1)
    method = SplitConformal(LEVELS).fit(calibration)
    flat = method.quantiles(calibration.forecast[:1], np.zeros((1, 1)))
    usual = method.quantiles(calibration.forecast[:1], np.ones((1, 1)))
    width = (flat[..., -1] - flat[..., 0]) / (usual[..., -1] - usual[..., 0])
    assert width == pytest.approx(0.1, rel=1e-3)
    assert (SplitConformal(LEVELS).fit(replace(calibration, spread=np.zeros((200, 1)))).floor == 1).all()


def test_recent_errors_weigh_more():
    old, recent = planted(300, seed=1), planted(300, seed=2, scale=3.0, begin=300)
    both = planted(600, seed=1)
    joined = replace(
        both,
        **{n: np.concatenate([getattr(old, n), getattr(recent, n)]) for n in ("truth", "forecast", "observed")},
    )
    test = planted(500, seed=5, scale=3.0, begin=600)
    share = {
        method.name: np.nanmean(covered(test, method.fit(joined).backtest(test)))
        for method in (SplitConformal(LEVELS), WeightedConformal(LEVELS, half_life=0.1))
    }
    assert share["split_conformal"] < 0.72
    assert share["weighted_conformal"] == pytest.approx(0.8, abs=0.04)
    equal = WeightedConformal(LEVELS, half_life=1e9).fit(joined)
    assert np.array_equal(equal.offsets, SplitConformal(LEVELS).fit(joined).offsets), "no decay is split conformal"


def test_age_is_counted_in_each_item():
    origin = np.array(["2024-01-01", "2024-01-03", "2024-01-02", "2023-05-01"], "datetime64[s]")
    assert relative_age(np.array([4, 4, 4, 7]), origin).tolist() == [1, 0, 0.5, 0]


def test_adaptive_levels_come_back_after_a_shift():
    calibration, test = planted(1000, seed=1), planted(3000, seed=2, scale=2.5, begin=1000)
    adaptive = AdaptiveConformal(LEVELS, rate=0.02).fit(calibration)
    split = SplitConformal(LEVELS).fit(calibration)
    late = slice(1000, None)
    assert np.nanmean(covered(test, split.backtest(test))[late]) < 0.6
    assert np.nanmean(covered(test, adaptive.backtest(test))[late]) == pytest.approx(0.8, abs=0.03)
    one = adaptive.quantiles(test.forecast[:5], test.spread[:5])
    assert one == pytest.approx(split.quantiles(test.forecast[:5], test.spread[:5]), abs=1e-4), "nothing to learn from"


def test_adaptive_uses_no_reading_from_after_the_origin():
    calibration, test = planted(200, seed=1), planted(40, steps=6, seed=2, items=2, begin=200, missing=0.0)
    calibration = planted(200, steps=6, seed=1)
    method = AdaptiveConformal(LEVELS, rate=0.05).fit(calibration)
    before = method.backtest(test)
    random = np.random.default_rng(3)
    for changed in random.integers(80, size=12):
        step = int(random.integers(6))
        when, item = test.timestamps[changed, step], test.item[changed]
        truth = test.truth.copy()
        truth[changed, step] = 1e6 if truth[changed, step] < before[changed, step, 0, -1] else -1e6
        after = method.backtest(replace(test, truth=truth))
        differs = (after != before).any(axis=(1, 2, 3))
        may = (test.item == item) & (test.timestamps[:, 0] > when)
        assert not differs[~may].any(), "windows that begin before or with the reading, and other items"
        assert differs[may].any() == may.any(), "the next window that begins after it has learnt from it"


def test_adaptive_takes_windows_in_order_of_time():
    calibration, test = planted(200, seed=1), planted(60, seed=2, begin=200)
    method = AdaptiveConformal(LEVELS, rate=0.05).fit(calibration)
    shuffled = np.random.default_rng(0).permutation(60)
    assert np.array_equal(method.backtest(test.select(shuffled)), method.backtest(test)[shuffled])
    with pytest.raises(DataError, match="time of every window"):
        method.backtest(replace(test, timestamps=None))


def test_readings_that_are_not_observed_move_nothing():
    calibration, test = planted(200, seed=1), planted(60, seed=2, begin=200, missing=0.5)
    method = AdaptiveConformal(LEVELS, rate=0.05).fit(calibration)
    other = np.where(test.observed, test.truth, 1e9)
    assert np.array_equal(method.backtest(test), method.backtest(replace(test, truth=other)))
    nothing = replace(test, observed=np.zeros_like(test.observed))
    assert method.backtest(nothing) == pytest.approx(method.quantiles(test.forecast, test.spread), abs=1e-3)


def test_steps_that_were_never_observed_lie_between_their_neighbours():
    calibration = planted(300, steps=3, seed=1)
    observed = calibration.observed.copy()
    observed[:, 1] = False
    offsets = SplitConformal(LEVELS).fit(replace(calibration, observed=observed)).offsets
    assert offsets[1] == pytest.approx((offsets[0] + offsets[2]) / 2, rel=1e-5)
    with pytest.raises(DataError, match="not observed once"):
        SplitConformal(LEVELS).fit(replace(calibration, observed=np.zeros_like(observed)))


def test_the_head_is_corrected_where_it_is_wrong():
    calibration = with_native(planted(1500, seed=1), wrong_by=1.5)
    test = with_native(planted(1500, seed=2, begin=1500), wrong_by=1.5)
    raw, corrected = (fitted(name, calibration).backtest(test) for name in ("quantile_head", "quantile_head_conformal"))
    assert np.array_equal(raw, np.sort(test.quantiles, axis=-1))
    assert np.nanmean(covered(test, raw)) < 0.72
    assert np.nanmean(covered(test, corrected)) == pytest.approx(0.8, abs=0.03)


def test_what_is_missing_is_named():
    windows = planted(20)
    with pytest.raises(DataError, match="the network gave none"):
        fitted("quantile_head_conformal", windows)
    with pytest.raises(DataError, match="no spread"):
        fitted("split_conformal", replace(windows, spread=None))


def test_names_of_the_configuration():
    assert set(METHODS) == {*ForecastSection.model_fields["method"].annotation.__args__, "quantile_head_conformal"}
    head = ForecastSection(method="quantile_head")
    assert configured_name(head) == "quantile_head_conformal"
    assert configured_name(head.model_copy(update={"conformalize_head": False})) == "quantile_head"
    section = ForecastSection(quantiles=[0.1, 0.9], half_life=0.3, adaptation_rate=0.2)
    assert make_method("weighted_conformal", section).half_life == 0.3
    assert make_method("adaptive_conformal", section).rate == 0.2


def test_planted_windows_are_an_hour_apart():
    assert (np.diff(planted(5).timestamps[:, 0]) == HOUR).all()
