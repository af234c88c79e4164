"""The verdict is right where the truth is planted, careful where windows depend on each other, and never NaN."""

from __future__ import annotations

import json
import math
import re
import time
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from evaluation.planted import TEST_DAYS, hourly_windows, planted_errors, planted_scores
from scipy.stats import t as student

from tstune.data.windows import WindowDataset
from tstune.errors import DataError
from tstune.evaluation.backtest import Scores
from tstune.evaluation.bootstrap import DRAWS, Blocks, Interval, relative_rmse
from tstune.evaluation.verdict import Verdict, format_comparisons, verdict

SEEDS = range(40)
DAY = np.timedelta64(1, "D")
HOUR = np.timedelta64(1, "h")

cached_windows = cache(hourly_windows)


def judge(windows: WindowDataset, seed: int = 0, kept: str = "fine_tuned", **errors: np.ndarray) -> Verdict:
    return verdict({name: planted_scores(windows, error) for name, error in errors.items()}, windows, kept, seed)


def errors_on(windows: WindowDataset, seed: int = 0, gain: float = 1.0, **options: float) -> tuple:
    """Errors of the tuned model and of the one before, on the items of these windows."""
    steps = int(windows.panel.item_length.max())
    return planted_errors(len(windows.panel.item_ids), steps, seed, gain, **options)


def planted(num_items: int, seed: int, gain: float, **options: float) -> Verdict:
    windows = cached_windows(num_items)
    tuned, before = errors_on(windows, seed, gain, **options)
    return judge(windows, seed, fine_tuned=tuned, zero_shot=before)


def one_interval(judged: list | np.ndarray, reference: list | np.ndarray, blocks: Blocks, **options: int) -> Interval:
    (interval,) = relative_rmse(np.asarray(judged, float), np.asarray(reference, float)[:, None], blocks, **options)
    return interval


# Planted cases


@pytest.mark.parametrize("num_items", [1, 8])
@pytest.mark.parametrize(("gain", "effect"), [(0.7, "helped"), (1 / 0.7, "hurt")])
def test_a_clear_difference_is_called_by_its_name(num_items: int, gain: float, effect: str):
    found = [planted(num_items, seed, gain).effect for seed in SEEDS]
    assert found.count(effect) >= 0.95 * len(SEEDS)
    assert set(found) <= {effect, "no clear difference"}


@pytest.mark.parametrize("options", [{}, {"item_effect": 0.05}, {"common": 0.7}], ids=["alike", "items", "weather"])
def test_equal_models_are_not_said_to_have_helped(options: dict):
    found = [planted(8, seed, 1.0, **options).effect for seed in SEEDS]
    assert found.count("helped") <= 0.05 * len(SEEDS)
    assert found.count("hurt") <= 0.05 * len(SEEDS)


@pytest.mark.parametrize(
    ("num_items", "options"),
    [(1, {}), (3, {}), (3, {"item_effect": 0.05}), (8, {}), (8, {"item_effect": 0.1}), (12, {"common": 0.7})],
    ids=str,
)
def test_false_alarms_over_many_draws(num_items: int, options: dict):
    """The same with 160 seeds, from the sums of squares alone."""
    starts = np.arange(0, 24 * TEST_DAYS - 12, 6)
    item = np.repeat(np.arange(num_items), len(starts))
    origin = np.tile(np.datetime64("2024-01-01") + starts * HOUR, num_items)
    blocks = Blocks.by_day(item, origin, 12 * HOUR)
    found = []
    for seed in range(160):
        errors = planted_errors(num_items, 24 * TEST_DAYS, seed, 1.0, **options)
        squares = [
            np.lib.stride_tricks.sliding_window_view(error**2, 12, axis=1)[:, starts].sum(axis=-1).ravel()
            for error in errors
        ]
        found.append(one_interval(*squares, blocks, draws=200, seed=seed))
    # the two models are exchangeable, so helped and hurt are as likely, and both together are twice the evidence
    assert sum(interval.high < 0 or interval.low > 0 for interval in found) / 2 <= 0.05 * len(found)
    covered = sum(interval.low <= 0 <= interval.high for interval in found)
    assert covered < len(found), "an interval that always holds 0 says nothing"


def test_the_number_is_that_of_the_scores():
    windows = cached_windows(8)
    tuned, before = errors_on(windows, 3, 0.8)
    scores = {"fine_tuned": planted_scores(windows, tuned), "zero_shot": planted_scores(windows, before)}
    found = verdict(scores, windows, "fine_tuned").against("zero_shot")
    ratio = scores["fine_tuned"].metrics["rmse"] / scores["zero_shot"].metrics["rmse"]
    assert found.change == pytest.approx(ratio - 1, rel=1e-9)
    assert found.low < found.change < found.high < 0
    better = scores["fine_tuned"].rmse_by_item < scores["zero_shot"].rmse_by_item
    assert (found.items_better, found.items_worse) == (better.sum(), (~better).sum())
    assert found.num_items == 8


# What depends on each other must not count twice


def test_what_is_hard_for_both_cancels():
    """Ten percent less on every window, whatever it costs: nothing is uncertain about that."""
    windows = cached_windows(8)
    _, before = errors_on(windows)
    found = judge(windows, fine_tuned=0.9 * before, zero_shot=before).comparisons[0]
    assert (found.low, found.change, found.high) == pytest.approx((-0.1, -0.1, -0.1), rel=1e-9)
    assert found.effect == "helped"


def width(windows: WindowDataset, tuned: np.ndarray, before: np.ndarray) -> float:
    found = judge(windows, fine_tuned=tuned, zero_shot=before).comparisons[0]
    return found.high - found.low


def test_more_windows_of_the_same_readings_are_not_more_evidence():
    dense, sparse = hourly_windows(1, stride=1), hourly_windows(1, stride=12)
    assert len(dense) > 11 * len(sparse)
    errors = errors_on(dense, 5)
    assert width(dense, *errors) == pytest.approx(width(sparse, *errors), rel=0.25)


def test_items_that_err_together_are_one_item():
    """Thirty meters under one sky: days are what varies, and there are no more of them than with one meter."""
    one, thirty = cached_windows(1), cached_windows(30)
    errors = errors_on(one, 5)
    together = [error.repeat(30, axis=0) for error in errors]
    assert width(thirty, *together) == pytest.approx(width(one, *errors), rel=0.1)


def test_items_that_err_apart_are_more_evidence():
    errors = errors_on(cached_windows(30), 5)
    alone = [error[:1] for error in errors]
    assert width(cached_windows(30), *errors) < 0.4 * width(cached_windows(1), *alone)


def test_one_item_that_gains_does_not_speak_for_others():
    """One of eight items is far better, seven are as they were: clear for it, not for items like these."""
    windows = cached_windows(8)
    _, before = errors_on(windows, 1)
    tuned = before.copy()
    tuned[0] *= 0.3
    found = judge(windows, fine_tuned=tuned, zero_shot=before).comparisons[0]
    assert found.change < 0
    assert found.effect == "no clear difference"
    assert (found.items_better, found.items_worse, found.num_items) == (1, 0, 8)


@pytest.mark.parametrize(
    ("num_days", "path", "days"),
    [
        (5, 8 * HOUR, 1),
        (23, 8 * HOUR, 2),  # the cube root of 23 is 3, but ten blocks shall be left
        (60, 8 * HOUR, 4),
        (1000, 8 * HOUR, 10),
        (10, 24 * HOUR, 2),
        (9, 24 * HOUR, 1),  # twice the path would leave four blocks
        (116, 96 * HOUR, 8),
        (90, 720 * HOUR, 30),
        (3, 720 * HOUR, 30),
        (1, 8 * HOUR, 1),
    ],
)
def test_blocks_last_at_least_as_long_as_the_forecast(num_days: int, path: np.timedelta64, days: int):
    origin = np.datetime64("2024-03-01T13:00") + np.arange(4 * num_days) * DAY // 4
    origin = origin[origin < np.datetime64("2024-03-01") + num_days * DAY]
    blocks = Blocks.by_day(np.zeros(len(origin), int), origin, path)
    assert blocks.days == days >= math.ceil(path / DAY)
    assert blocks.num_blocks == math.ceil(num_days / days)
    first = origin.astype("datetime64[D]").min()
    assert (blocks.block == (origin.astype("datetime64[D]") - first).astype(int) // days).all()


# By hand


def test_two_windows_by_hand():
    """Draws of two blocks: the first twice (1/4), both (1/2), the second twice (1/4)."""
    blocks = Blocks(np.zeros(2, int), np.arange(2), 1)
    found = one_interval([1, 4], [4, 4], blocks, draws=200_000, min_blocks=2)
    assert one_interval([1, 4], [4, 4], blocks).low is None, "two blocks are too few for a verdict"
    assert found.change == pytest.approx(math.sqrt(5 / 8) - 1, rel=1e-12)
    logs, weights = np.log([1 / 2, math.sqrt(5 / 8), 1.0]), np.array([1, 2, 1]) / 4
    variance = (weights * logs**2).sum() - (weights * logs).sum() ** 2
    effective = (5 + 8) ** 2 / (5**2 + 8**2)
    half = student.ppf(0.975, effective - 1) * math.sqrt(2 * variance)
    assert math.log1p(found.low) == pytest.approx(math.log(math.sqrt(5 / 8)) - half, rel=0.01)
    assert math.log1p(found.high) == pytest.approx(math.log(math.sqrt(5 / 8)) + half, rel=0.01)


def test_many_equal_blocks_give_the_interval_of_the_delta_method():
    """Independent blocks of equal weight: the textbook standard error of a ratio, and Student's t."""
    random = np.random.default_rng(0)
    judged, reference = 10 + random.normal(size=200), 10 + random.normal(size=200)
    found = one_interval(judged, reference, Blocks(np.zeros(200, int), np.arange(200), 1), draws=20_000)
    influence = judged / judged.sum() - reference / reference.sum()
    error = 0.5 * math.sqrt((influence**2).sum() * 200 / 199)
    half = student.ppf(0.975, 199) * error
    assert (math.log1p(found.high) - math.log1p(found.low)) / 2 == pytest.approx(half, rel=0.02)


def test_with_few_items_the_spread_between_them_counts_too():
    """Two items, twenty days without any noise: one is 40 % better, one is not."""
    item, block = np.repeat([0, 1], 20), np.tile(np.arange(20), 2)
    blocks = Blocks(item, block, 1)
    assert not blocks.speaks_of_other_items
    found = one_interval(np.where(item == 0, 0.36, 1.0), np.ones(40), blocks)
    assert found.low < math.sqrt(0.68) - 1 < 0 < found.high
    both = one_interval(np.where(item == 0, 0.36, 0.49), np.ones(40), blocks)
    assert both.high < 0


# At the edge


def finite(found: Verdict) -> dict:
    """Values of `verdict.json`, which must be JSON, so without NaN and infinity."""
    text = json.dumps(found.to_dict(), allow_nan=False)
    assert "nan" not in found.sentence
    assert "nan" not in format_comparisons(found)
    return json.loads(text)


def test_one_day_has_no_interval():
    windows = hourly_windows(1, days=1)
    _, before = errors_on(windows)
    found = judge(windows, fine_tuned=0.5 * before, zero_shot=before)
    (comparison,) = finite(found)["comparisons"]
    assert found.num_blocks == 1
    assert comparison["change"] == pytest.approx(-0.5)
    assert (comparison["low"], comparison["high"]) == (None, None)
    assert (comparison["effect"], found.effect) == ("no clear difference", None)
    assert found.sentence == (
        "No verdict: the test windows are 1 block of days of this item, and it takes 5. "
        "fine_tuned: RMSE 50.0 % lower than zero_shot."
    )
    assert "none: too few days" in format_comparisons(found)


def test_many_items_on_one_day_have_an_interval():
    windows = hourly_windows(8, days=1)
    _, before = errors_on(windows)
    found = judge(windows, fine_tuned=0.5 * before, zero_shot=before)
    assert (found.num_blocks, found.effect) == (1, "helped")


@pytest.mark.parametrize("num_items", [1, 2, 8])
@pytest.mark.parametrize(
    ("tuned", "before", "effect", "change"),
    [(0.0, 0.0, "no clear difference", 0.0), (0.0, 1.0, "helped", -1.0), (1.0, 0.0, "hurt", 1e6)],
    ids=["both perfect", "perfect now", "perfect before"],
)
def test_forecasts_without_error(num_items: int, tuned: float, before: float, effect: str, change: float):
    windows = cached_windows(num_items)
    error = np.ones((num_items, int(windows.panel.item_length.max())))
    found = judge(windows, fine_tuned=tuned * error, zero_shot=before * error)
    (comparison,) = finite(found)["comparisons"]
    assert found.effect == effect
    assert comparison["change"] == pytest.approx(change, rel=1e-4, abs=1e-9)
    assert comparison["low"] <= comparison["change"] <= comparison["high"]


def test_rounding_is_no_difference():
    """The weights training started from were kept: another kernel gives the same forecast to seven digits."""
    windows = cached_windows(8)
    _, before = errors_on(windows)
    found = judge(windows, kept="zero_shot", fine_tuned=before * (1 - 1e-6), zero_shot=before)
    assert found.comparisons[0].high < 0
    assert found.effect == "no clear difference"
    assert found.comparisons[0].items_better == found.comparisons[0].items_worse == 0
    assert "the saved model is the zero-shot model" in found.sentence


def without_readings(scores: Scores, empty: np.ndarray) -> Scores:
    zero = {name: np.where(empty, 0, getattr(scores, name)) for name in ("window_square", "window_count")}
    return replace(scores, **zero)


def test_windows_without_a_reading_are_left_out():
    windows = cached_windows(8)
    errors = errors_on(windows, 0, 0.9)
    scores = dict(zip(("fine_tuned", "zero_shot"), (planted_scores(windows, e) for e in errors), strict=True))
    empty = scores["fine_tuned"].window_item == 0
    found = verdict({name: without_readings(value, empty) for name, value in scores.items()}, windows, "fine_tuned")
    assert (found.num_items, found.num_windows) == (7, (~empty).sum())
    assert finite(found)["comparisons"][0]["num_items"] == 7
    nothing = {name: without_readings(value, empty | True) for name, value in scores.items()}
    found = verdict(nothing, windows, "fine_tuned")
    assert finite(found)["comparisons"] == []
    assert (found.effect, found.num_windows) == (None, 0)
    assert found.sentence == "Nothing to compare fine_tuned with."


def test_other_windows_are_refused():
    one, other = hourly_windows(1), hourly_windows(1, stride=5)
    error = np.ones((1, int(one.panel.item_length.max())))
    scores = {"fine_tuned": planted_scores(one, error), "zero_shot": planted_scores(other, error)}
    with pytest.raises(DataError, match="fine_tuned and zero_shot were not scored on the same windows"):
        verdict(scores, one, "fine_tuned")


# What is said


def test_who_is_judged_against_whom():
    windows = cached_windows(8)
    tuned, before = errors_on(windows, 0, 0.7)
    errors = {"zero_shot": before, "fine_tuned": tuned, "average": (before + tuned) / 2}
    found = judge(windows, **errors, persistence=3 * before, ridge=2 * before)
    assert found.model == "fine_tuned"
    assert [row.reference for row in found.comparisons] == ["zero_shot", "average", "persistence", "ridge"]
    assert found.effect == found.against("zero_shot").effect == "helped"
    assert found.sentence.startswith("Fine-tuning helped: RMSE ")
    assert "fine_tuned beats the best baseline, ridge: RMSE " in found.sentence
    assert found.sentence.endswith(
        f"Intervals are for other items like these 8: items and blocks of {found.block_days} days drawn anew."
    )
    assert found.against("nobody") is None


def test_without_zero_shot_the_best_baseline_is_the_measure():
    windows = cached_windows(1)
    _, before = errors_on(windows)
    found = judge(windows, fine_tuned=before, ridge=0.5 * before, persistence=2 * before)
    assert found.effect == "hurt"
    assert found.sentence.startswith("fine_tuned loses to the best baseline, ridge: RMSE 100.0 % higher than ridge")
    assert "Intervals are for other days of this item: " in found.sentence
    alone = judge(windows, zero_shot=before, kept="zero_shot")
    assert (alone.effect, alone.sentence) == (None, "Nothing to compare zero_shot with.")
    assert format_comparisons(alone) == ""


def test_hurt_on_test_is_said_with_what_was_saved():
    windows = cached_windows(8)
    _, before = errors_on(windows)
    found = judge(windows, fine_tuned=1.2 * before, zero_shot=before, average=1.1 * before)
    assert found.sentence.startswith(
        "Fine-tuning hurt: RMSE 20.0 % higher than zero_shot (95 % interval 20.0 to 20.0 % higher), "
        "better for 0 of 8 items. The validation windows had said otherwise, so the tuned weights were saved; "
        "tuning.mode=zero_shot saves the others."
    )
    assert "still" not in found.sentence


def test_a_better_average_is_said():
    windows = cached_windows(8)
    _, before = errors_on(windows)
    found = judge(windows, fine_tuned=0.9 * before, zero_shot=before, average=0.8 * before)
    assert "The mean of both forecasts is better still: against it fine_tuned has RMSE 12.5 % higher" in found.sentence


def by_lead(windows: WindowDataset, gain: float, **factors: np.ndarray) -> Verdict:
    """Tuned and untuned errors times a factor at each of the twelve hours."""
    errors = dict(zip(("fine_tuned", "zero_shot"), errors_on(windows, 0, gain), strict=True))
    ones = np.ones(windows.prediction_length)
    scores = {name: planted_scores(windows, error, factors.get(name, ones)) for name, error in errors.items()}
    return verdict(scores, windows, "fine_tuned", horizons={"3h": 3, "720min": 12})


def test_a_verdict_says_at_which_lead_times_the_opposite_holds():
    windows = cached_windows(8)
    late = np.array([2.0, 1.5, *[1.0] * 10])
    found = by_lead(windows, 0.7, fine_tuned=late)
    (comparison,) = found.comparisons
    assert found.effect == "helped"
    assert [(one.label, one.step, one.effect) for one in comparison.lead_times] == [
        ("1h", 1, "worse"),
        ("3h", 3, "better"),
        ("12h", 12, "better"),
    ]
    first = comparison.lead_times[0]
    assert 0 < first.low < first.change < first.high
    assert "At single lead times it is worse at 1h (RMSE 39." in found.sentence
    assert "better at" not in found.sentence, "as on the whole path"
    assert Verdict.from_dict(finite(found)) == found

    opposite = by_lead(windows, 1.4, fine_tuned=1 / late)
    assert opposite.effect == "hurt"
    assert "At single lead times it is better at 1h (RMSE 3" in opposite.sentence

    alike = by_lead(windows, 1.0, fine_tuned=np.array([1.5, *[0.97] * 10, 0.6]))
    assert alike.effect == "no clear difference"
    assert re.search(r"it is worse at 1h \(RMSE [^()]*\) and better at .*12h \(RMSE [^()]*\)\.", alike.sentence)
    assert "At single lead times" not in by_lead(windows, 0.7).sentence


def test_raw_and_scaled_errors_that_disagree_are_said():
    """Of two targets the large one got better and the small one worse."""
    windows = cached_windows(8)
    tuned, before = errors_on(windows, 0, 0.7)
    scores = {"fine_tuned": planted_scores(windows, tuned), "zero_shot": planted_scores(windows, before)}
    assert "Scaled errors" not in verdict(scores, windows, "fine_tuned").sentence
    scores["fine_tuned"].metrics["mse_scaled"] = 1.2 * scores["zero_shot"].metrics["mse_scaled"]
    found = verdict(scores, windows, "fine_tuned")
    assert "Scaled errors say otherwise: mse_scaled 20.0 % higher than zero_shot." in found.sentence
    scores["zero_shot"].metrics["mse_scaled"] = 0.0
    assert "Scaled errors" not in verdict(scores, windows, "fine_tuned").sentence


def test_the_same_seed_gives_the_same_verdict():
    first, again, other = (planted(8, 0, 0.95) for _ in range(2)), planted(8, 0, 0.95), planted(8, 1, 0.95)
    assert all(one == again for one in first)
    assert again != other


def test_ten_thousand_windows_take_less_than_a_second():
    random = np.random.default_rng(0)
    blocks = Blocks(np.arange(10_000) % 100, np.arange(10_000) // 100, 1)  # each window an item and day of its own
    squares = random.random((10_000, 7))
    begin = time.process_time()
    found = relative_rmse(squares[:, 0], squares[:, 1:], blocks)
    assert time.process_time() - begin < 1.0
    assert len(found) == 6
    assert DRAWS >= 2000
