"""Every method on planted errors: coverage, order of the quantiles, what they use and what they must not."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from planted_errors import HOUR, LEVELS, covered, planted, with_native
from tsfm_public.toolkit.conformal import weighted_conformal_quantile

from tstune.config.schema import ForecastSection
from tstune.errors import CheckpointError, DataError
from tstune.evaluation.intervals import (
    METHODS,
    SETTINGS,
    TENSORS,
    AdaptiveConformal,
    Residual,
    SplitConformal,
    UncertaintyMethod,
    WeightedConformal,
    configured_name,
    conformal_quantiles,
    load_method,
    make_method,
    relative_age,
    save_method,
    scores_needed,
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
        both, **{n: np.concatenate([getattr(old, n), getattr(recent, n)]) for n in ("truth", "forecast", "observed")}
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


# The corrected quantile, against hand-worked cases and granite-tsfm's


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


# Files: a method that was saved and loaded is the same, and damaged ones are named

SAVED = ForecastSection(quantiles=list(LEVELS), half_life=0.7, adaptation_rate=0.03)


@pytest.mark.parametrize("name", METHODS)
def test_saved_and_loaded_is_the_same(name, tmp_path):
    calibration, test = with_native(planted(300, seed=1)), with_native(planted(50, seed=2, begin=300))
    method = make_method(name, SAVED).fit(calibration)
    save_method(method, tmp_path)
    loaded = load_method(tmp_path)
    assert type(loaded) is type(method)
    assert loaded.settings() == method.settings()
    assert loaded.levels == LEVELS
    assert np.array_equal(loaded.backtest(test), method.backtest(test))
    assert {path.name for path in tmp_path.iterdir()} == {SETTINGS, TENSORS}
    assert json.loads((tmp_path / SETTINGS).read_text())["method"] == name


def test_a_folder_without_is_no_error(tmp_path):
    assert load_method(tmp_path) is None


def test_damage_is_one_line(tmp_path):
    save_method(make_method("split_conformal", SAVED).fit(planted(50)), tmp_path)
    whole = {name: (tmp_path / name).read_bytes() for name in (SETTINGS, TENSORS)}
    for name, content in (
        (SETTINGS, b"{"),
        (SETTINGS, b'{"method": "crystal_ball", "levels": [0.5]}'),
        (SETTINGS, b'{"method": "split_conformal", "levels": [0.5], "rate": 1}'),
        (TENSORS, whole[TENSORS][:20]),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(CheckpointError, match="damaged"):
            load_method(tmp_path)
        (tmp_path / name).write_bytes(whole[name])
    (tmp_path / TENSORS).unlink()
    with pytest.raises(CheckpointError, match=f"{TENSORS} is missing"):
        load_method(tmp_path)
