"""Generated series: reproducible, scaled, masked, and what each part claims to be."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from tstune.data.synthetic import (
    FAMILIES,
    FixedSyntheticWindows,
    SeriesRecipe,
    SyntheticWindows,
    components,
    families,
    mixture,
)
from tstune.data.synthetic.components import chosen_kind, log_uniform, standardised, student_t
from tstune.data.synthetic.families import sample_stationary
from tstune.data.synthetic.mixture import MAKERS, draw_series
from tstune.data.windows import RankWindows, training_loader, window_loader
from tstune.errors import ConfigError

CONTEXT, PREDICTION = 512, 96
LENGTH = CONTEXT + PREDICTION
MANY = 20_480
CHANCES = ("mix", "shift", "regime", "spikes", "squash", "censor", "quantise", "resample", "reverse", "flip")
PLAIN = dict.fromkeys((*CHANCES, "missing", "interpolated"), 0.0)
"""A recipe in which nothing happens to a series."""


def only(family: str, **changes: float) -> SeriesRecipe:
    return SeriesRecipe(**dict.fromkeys(FAMILIES, 0.0) | PLAIN | {family: 1.0} | changes)


def windows(recipe: SeriesRecipe | None = None, seed: int = 0, num_windows: int = 10**6) -> SyntheticWindows:
    return SyntheticWindows(CONTEXT, PREDICTION, num_windows, seed, recipe)


def same(first: dict, second: dict) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.fixture(scope="module")
def many() -> dict[str, torch.Tensor]:
    """The default recipe, 20,480 windows."""
    drawn = [windows(seed=11).__getitems__(range(first, first + 512)) for first in range(0, MANY, 512)]
    return {name: torch.cat([batch[name] for batch in drawn]) for name in drawn[0]}


@pytest.fixture
def random() -> np.random.Generator:
    return np.random.default_rng(3)


def autocorrelation(series: np.ndarray, lag: int) -> np.ndarray:
    """[n] of rows of unit variance."""
    centred = standardised(series)
    return (centred[:, lag:] * centred[:, :-lag]).mean(axis=1)


# The data set


def test_content_follows_from_seed_and_indices():
    batch = windows().__getitems__([5, 9, 2])
    used = windows()
    used.__getitems__([1, 2])  # what was asked for before does not matter, nor how indices are written
    assert same(batch, used.__getitems__(np.array([5, 9, 2])))
    for other in (windows(seed=1).__getitems__([5, 9, 2]), windows().__getitems__([5, 9, 3])):
        assert not torch.isclose(batch["past_values"], other["past_values"]).all(dim=1).any()


def test_single_window_and_its_bounds():
    small = windows(num_windows=3)
    assert len(small) == 3
    assert small[2]["past_values"].shape == (CONTEXT, 1)
    assert len([window for window in small]) == 3  # noqa: C416 - iteration itself is under test: it must end
    with pytest.raises(IndexError):
        small[3]


@pytest.mark.parametrize(("context", "prediction"), [(512, 96), (96, 24), (64, 1), (4, 3)])
def test_shapes_and_types(context, prediction):
    batch = SyntheticWindows(context, prediction, 100, seed=0).__getitems__(range(64))
    assert {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in batch.items()} == {
        "past_values": ((64, context, 1), torch.float32),
        "past_observed_mask": ((64, context, 1), torch.bool),
        "past_read_mask": ((64, context, 1), torch.bool),
        "future_values": ((64, prediction, 1), torch.float32),
        "future_observed_mask": ((64, prediction, 1), torch.bool),
        "item": ((64,), torch.int64),
        "start": ((64,), torch.int64),
    }
    assert batch["start"].tolist() == list(range(64))
    assert all(torch.isfinite(tensor).all() for tensor in batch.values())
    assert all(tensor.is_contiguous() for tensor in batch.values())


def test_every_value_is_finite_and_the_future_is_clipped(many):
    assert torch.isfinite(many["past_values"]).all()
    assert torch.isfinite(many["future_values"]).all()
    assert many["future_values"].abs().max() == SeriesRecipe().clip
    assert (many["future_values"].abs() == SeriesRecipe().clip).float().mean() < 0.005


def test_contexts_have_mean_0_and_deviation_1_where_observed(many):
    past, seen = many["past_values"].double(), many["past_observed_mask"]
    count = seen.sum(dim=1)
    assert count.min() > 0
    mean = (past * seen).sum(dim=1) / count
    std = (((past - mean[:, None]) * seen).square().sum(dim=1) / count).sqrt()
    assert mean.abs().max() < 1e-4
    varies = std[:, 0] > 0.01
    assert varies.float().mean() > 0.998  # the others are constant contexts, which keep their scale
    assert (std[varies] - 1).abs().max() < 1e-4


def test_constant_contexts_stay_finite():
    drawn = windows(only("intermittent", missing=0.5, censor=1.0), seed=2)
    batches = [drawn.__getitems__(range(first, first + 512)) for first in range(0, 4096, 512)]
    past = torch.cat([batch["past_values"] for batch in batches])
    flat = past.std(dim=1) < 0.01
    assert flat.any(), "no constant context was drawn: the test proves nothing"
    assert torch.isfinite(torch.cat([batch["future_values"] for batch in batches])).all()


def test_families_appear_with_their_shares(many):
    counts = torch.bincount(many["item"], minlength=len(FAMILIES)).tolist()
    for name, count in zip(FAMILIES, counts, strict=True):
        share = getattr(SeriesRecipe(), name)
        assert abs(count - MANY * share) < 4.5 * math.sqrt(MANY * share * (1 - share)), name


@pytest.mark.parametrize("family", FAMILIES)
def test_a_recipe_of_one_family_is_that_family(family, random):
    batch = windows(only(family)).__getitems__(range(32))
    assert (batch["item"] == FAMILIES.index(family)).all()
    series = MAKERS[family](random, 16, LENGTH)
    assert series.shape == (16, LENGTH)
    assert series.dtype == np.float32
    assert np.isfinite(series).all()
    assert len(np.unique(series[:, -1])) > 1 or family == "intermittent"


def test_missing_stretches_are_masked_and_zero():
    batch = windows(SeriesRecipe(**PLAIN | {"missing": 1.0})).__getitems__(range(256))
    for part in ("past", "future"):
        seen = batch[f"{part}_observed_mask"]
        assert 0.02 < (~seen).float().mean() < 0.4
        assert (batch[f"{part}_values"][~seen] == 0).all()
        assert (batch[f"{part}_values"][seen] != 0).float().mean() > 0.9
    assert batch["past_observed_mask"].any(dim=1).all()


def test_interpolated_gaps_are_lines_in_the_context_and_masked_in_the_future():
    recipe = SeriesRecipe(**PLAIN | {"interpolated": 1.0})
    batch, whole = windows(recipe).__getitems__(range(256)), windows(recipe).__getitems__(range(256))
    assert same(batch, whole)
    assert batch["past_observed_mask"].all()
    hidden = ~batch["future_observed_mask"]
    assert 0.02 < hidden.float().mean() < 0.4
    assert (batch["future_values"][hidden] == 0).all()
    bend = batch["past_values"].diff(n=2, dim=1).abs()
    assert (bend < 1e-5).float().mean() > 0.05
    plain = windows(SeriesRecipe(**PLAIN)).__getitems__(range(256))["past_values"].diff(n=2, dim=1).abs()
    assert (bend < 1e-5).float().mean() > (plain < 1e-5).float().mean() + 0.05


def test_interpolation_of_the_context_knows_nothing_of_the_future(monkeypatch):
    """Where a gap reaches the end of the context, the last reading is held."""
    gaps = np.zeros((64, LENGTH), bool)
    gaps[:, CONTEXT - 20 : CONTEXT + 10] = True
    monkeypatch.setattr("tstune.data.synthetic.windows.missing_steps", lambda random, n, length: gaps[:n].copy())
    batch = windows(only("stochastic", interpolated=1.0)).__getitems__(range(64))
    past = batch["past_values"][..., 0]
    assert (past[:, CONTEXT - 20 :] == past[:, CONTEXT - 21, None]).all()
    assert not batch["future_observed_mask"][:, :10].any()
    assert batch["future_observed_mask"][:, 10:].all()


def test_flip_turns_every_series_upside_down():
    upright = windows(SeriesRecipe(**PLAIN | {"flip": 0.0})).__getitems__(range(64))
    flipped = windows(SeriesRecipe(**PLAIN | {"flip": 1.0})).__getitems__(range(64))
    for name in ("past_values", "future_values"):
        torch.testing.assert_close(flipped[name], -upright[name])


def test_reverse_runs_every_series_backwards():
    forward, _ = draw_series(np.random.default_rng(0), 64, LENGTH, SeriesRecipe(**PLAIN))
    backward, _ = draw_series(np.random.default_rng(0), 64, LENGTH, SeriesRecipe(**PLAIN | {"reverse": 1.0}))
    np.testing.assert_allclose(backward, forward[:, ::-1], atol=1e-4)


@pytest.mark.parametrize("chance", [name for name in CHANCES if name not in ("flip", "reverse")])
def test_each_chance_changes_series(chance):
    """Compared with the same draws without it; what is drawn before it is the same."""
    plain, _ = draw_series(np.random.default_rng(0), 128, LENGTH, SeriesRecipe(**PLAIN))
    changed, _ = draw_series(np.random.default_rng(0), 128, LENGTH, SeriesRecipe(**PLAIN | {chance: 1.0}))
    assert np.isfinite(changed).all()
    assert (np.abs(changed - plain).max(axis=1) > 1e-3).mean() > 0.85  # a spike may fall on no step


# In the training loop


def test_a_resumed_epoch_goes_on_with_the_same_batches():
    def batches(first: int) -> list[dict]:
        loader = training_loader(windows(num_windows=320), batch_size=32, seed=4)
        loader.batch_sampler.set_epoch(3, first_batch=first)
        return list(loader)

    whole, rest = batches(0), batches(6)
    assert len(whole) == 10
    assert all(same(mine, theirs) for mine, theirs in zip(whole[6:], rest, strict=True))


def test_workers_of_the_loader_make_the_same_batches():
    alone = list(training_loader(windows(num_windows=96), batch_size=32, seed=4))
    helped = list(training_loader(windows(num_windows=96), batch_size=32, seed=4, num_workers=2))
    assert all(same(mine, theirs) for mine, theirs in zip(alone, helped, strict=True))


def test_ranks_epochs_and_batches_see_different_series():
    seen = []
    for rank in range(2):
        loader = training_loader(windows(num_windows=128), batch_size=16, seed=0, rank=rank, num_ranks=2)
        for epoch in range(2):
            loader.batch_sampler.set_epoch(epoch)
            seen += [batch["past_values"][..., 0] for batch in loader]
    last = torch.cat(seen)[:, -5:]
    assert len(last) == 2 * 128
    assert len(torch.unique(last, dim=0)) > 0.97 * len(last)  # flat ends of bounded series may agree
    assert not RankWindows(windows()).__getitems__([~7])["future_observed_mask"].any(), "a filler weighs nothing"


def test_fixed_windows_do_not_depend_on_the_batch():
    fixed = FixedSyntheticWindows(CONTEXT, PREDICTION, num_windows=300, seed=5)
    assert len(fixed) == 300
    pair = {name: torch.stack([fixed[299][name], fixed[4][name]]) for name in fixed[4]}
    assert same(fixed.__getitems__([299, 4]), pair)
    again = FixedSyntheticWindows(CONTEXT, PREDICTION, num_windows=300, seed=5)
    assert same(fixed.__getitems__(range(300)), again.__getitems__(range(300)))
    assert [len(batch["start"]) for batch in window_loader(fixed, 128)] == [128, 128, 44]
    assert fixed.__getitems__([299])["start"].tolist() == [299]
    with pytest.raises(IndexError):
        fixed[300]


def test_the_future_can_be_forecast_in_part():
    """A linear map from context to future, fitted on one seed, beats mean and last value on another; not by far."""
    past, future = [], []
    for seed in (1, 2):
        batch = windows(SeriesRecipe(missing=0, interpolated=0), seed=seed).__getitems__(range(6000))
        past.append(batch["past_values"][..., 0].double())
        future.append(batch["future_values"][..., 0].double())
    gram = past[0].T @ past[0] + 300 * torch.eye(CONTEXT, dtype=torch.float64)
    forecast = past[1] @ torch.linalg.solve(gram, past[0].T @ future[0])
    error = (forecast - future[1]).square().mean()
    assert error < 0.85 * future[1].square().mean()
    assert error < 0.85 * (past[1][:, -1:] - future[1]).square().mean()
    assert error > 0.2, "real series are not that easy"


# The recipe


def test_recipe_goes_to_a_file_and_back():
    recipe = SeriesRecipe(glucose=0.5, flip=0)
    assert SeriesRecipe.from_dict(recipe.to_dict()) == recipe
    assert SeriesRecipe.from_dict({"glucose": 0.5}).seasonal == SeriesRecipe().seasonal


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"glucos": 1}, "unknown key 'glucos'"),
        ({"glucose": -1}, "glucose=-1"),
        ({"flip": 1.5}, "flip=1.5"),
        ({"mix": float("nan")}, "mix=nan"),
        ({"mix": "often"}, "mix='often'"),
        ({"mix": True}, "mix=True"),
        ({"clip": 0.5}, "clip=0.5"),
        (dict.fromkeys(FAMILIES, 0), "weight above 0"),
        ({"trend": float("inf")}, "finite weight"),
    ],
)
def test_a_bad_recipe_is_refused(values, message):
    with pytest.raises(ConfigError, match=message):
        SeriesRecipe.from_dict(values)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ((3, 1, 1, 0), "context_length=3"),
        ((8, 0, 1, 0), "prediction_length=0"),
        ((8, 1, 0, 0), "num_windows=0"),
        ((8, 1, 1, -1), "seed=-1"),
    ],
)
def test_bad_sizes_are_refused(sizes, message):
    with pytest.raises(ConfigError, match=message):
        SyntheticWindows(*sizes)


# Recursions and noise


@pytest.mark.parametrize("length", [1, 2, 7, 200])
def test_first_order_recursion_equals_the_loop(random, length):
    coefficient = np.array([0, 0.5, -0.9, 0.999, 1.0])
    white = random.normal(size=(5, length))
    expected = white.copy()
    for step in range(1, length):
        expected[:, step] += coefficient * expected[:, step - 1]
    np.testing.assert_allclose(components.first_order(white, coefficient), expected, rtol=1e-9, atol=1e-9)


def test_stationary_ar1_has_its_coefficient_and_unit_variance(random):
    coefficient = np.float32([0, 0.3, 0.8, 0.97, -0.5])
    white = random.standard_normal((5, 60_000), dtype=np.float32)
    series = components.first_order_stationary(white, coefficient)
    estimate = (series[:, 1:] * series[:, :-1]).mean(axis=1) / np.square(series).mean(axis=1)
    np.testing.assert_allclose(estimate, coefficient, atol=0.02)
    np.testing.assert_allclose(series.var(axis=1), 1, atol=0.15)


def test_ornstein_uhlenbeck_forgets_with_its_time_constant_from_the_first_step_on(random):
    walks = components.ornstein_uhlenbeck(random, np.full(20_000, 30, np.float32), 61)
    np.testing.assert_allclose(walks.var(axis=0), 1, atol=0.06)  # stationary: no warm-up is needed
    for lag in (15, 30, 60):
        assert (walks[:, 0] * walks[:, lag]).mean() == pytest.approx(np.exp(-lag / 30), abs=0.04)


def test_damped_cycle_turns_with_its_period(random):
    period = np.float32([12, 40, 100])
    series = components.damped_cycle(
        random.standard_normal((3, 40_000), dtype=np.float32), period, np.float32([0.99] * 3)
    )
    power = np.abs(np.fft.rfft(series)) ** 2
    smooth = np.stack([np.convolve(row, np.ones(41) / 41, "same") for row in power])
    np.testing.assert_allclose(40_000 / smooth[:, 10:].argmax(axis=1).clip(1), period, rtol=0.15)


def test_student_t_has_unit_variance_and_heavy_tails(random):
    draws = student_t(random, np.float32([4, 30]), 400_000)
    assert draws.dtype == np.float32
    np.testing.assert_allclose(draws.var(axis=1), 1, atol=0.1)
    beyond = (np.abs(draws) > 4).mean(axis=1)
    assert beyond[0] > 10 * beyond[1] > 0


def test_noise_is_louder_in_one_part_of_the_period_for_some_series(random):
    phase = np.tile((np.arange(2400) % 24 / 24).astype(np.float32), (400, 1))
    uneven = components.observation_noise(random, 400, 2400, phase).reshape(400, 100, 24).std(axis=1)
    ratio = uneven.max(axis=1) / uneven.min(axis=1)
    assert 0.3 < (ratio > 1.9).mean() < 0.6  # 40 % are asked for, heavy tails add some


def test_noise_autocorrelation_is_broad(random):
    first = autocorrelation(components.observation_noise(random, 500, LENGTH), 1)
    assert np.quantile(first, 0.2) < 0.1
    assert np.quantile(first, 0.9) > 0.65


def test_coloured_noise_has_most_power_at_low_frequencies(random):
    power = np.abs(np.fft.rfft(standardised(components.coloured(random, 200, 512)))) ** 2
    assert (power[:, 1:65].sum(axis=1) > power[:, 192:257].sum(axis=1)).mean() > 0.95


def test_chosen_kind_keeps_the_shares(random):
    kind = chosen_kind(random, 50_000, [2, 0, 1, 1])
    np.testing.assert_allclose(np.bincount(kind, minlength=4) / 50_000, [0.5, 0, 0.25, 0.25], atol=0.01)
    drawn = log_uniform(random, 1, 1000, 30_000)  # evenly over decades
    np.testing.assert_allclose(np.histogram(drawn, [1, 10, 100, 1001])[0] / 30_000, 1 / 3, atol=0.02)


# Seasons, trends, kernels


def test_season_repeats_with_its_period(random):
    n = 300
    period = np.full(n, 24, np.float32)
    cycle = components.cycle_of(random, period, 7 * period, np.zeros(n, bool), 24 * 21)
    season = components.draw_season(random, cycle)
    at_period, between = autocorrelation(season, 24), autocorrelation(season, 9)
    assert np.median(at_period) > 0.85
    assert (at_period > between).mean() > 0.95


def test_the_seasonal_family_shows_its_calendar():
    """The autocorrelation over all series has its peaks at a day of hours, half hours and quarter hours."""
    series = standardised(components.seasonal_series(np.random.default_rng(0), 3000, LENGTH))
    mean = {lag: autocorrelation(series, lag).mean() for lag in (16, 20, 24, 28, 32, 40, 48, 56, 84, 96, 108)}
    assert mean[24] > max(mean[20], mean[28]) + 0.04
    assert mean[48] > max(mean[40], mean[56]) + 0.04
    assert mean[96] > max(mean[84], mean[108]) + 0.03


def test_the_seasonal_family_goes_from_clean_to_almost_noise():
    random = np.random.default_rng(1)
    series = components.seasonal_series(random, 2000, LENGTH)
    best = np.max([autocorrelation(series, lag) for lag in (7, 12, 24, 48, 96, 144, 288)], axis=0)
    assert np.quantile(best, 0.08) < 0.25
    assert np.quantile(best, 0.92) > 0.7


def test_weekdays_differ_in_some_weekly_series(random):
    n = 400
    period = np.full(n, 24, np.float32)
    cycle = components.cycle_of(random, period, 7 * period, np.ones(n, bool), 24 * 70)
    season = components.draw_season(random, cycle)
    week, other = autocorrelation(season, 168), autocorrelation(season, 120)
    assert 0.25 < (week > other + 0.1).mean() < 0.75


def test_periods_are_those_of_the_real_world(random):
    cycle = components.draw_cycle(random, 20_000, 1)
    for share, period, _ in components.CALENDAR:
        if period:
            assert np.isclose(cycle.period, period).mean() == pytest.approx(share, abs=0.015)
    assert cycle.weekly.mean() == pytest.approx(sum(s for s, _, ratio in components.CALENDAR if ratio == 7), abs=0.02)
    assert cycle.period.min() >= 4
    assert cycle.period.max() <= 1024


def test_profiles_are_of_all_kinds(random):
    tables = components.draw_profiles(random, 600)
    np.testing.assert_allclose(tables.mean(axis=1), 0, atol=1e-4)
    np.testing.assert_allclose(tables.std(axis=1), 1, atol=1e-3)
    held = (np.diff(tables, axis=1) == 0).mean(axis=1)
    assert 0.05 < (held > 0.85).mean() < 0.25  # steps
    roughness = np.abs(np.diff(tables, axis=1)).mean(axis=1)
    assert roughness.max() > 5 * roughness.min()


def test_lookup_is_cyclic_and_linear():
    table = np.float32([[0, 1, 2, 3]])
    phase = np.float32([[0, 0.25, 0.375, 0.75, 0.875]])
    np.testing.assert_allclose(components.lookup(table, phase), [[0, 1, 1.5, 3, 1.5]])


def test_one_number_per_turn_held_or_sliding():
    position = np.float32([[0, 0.5, 1.0, 1.5]])
    cycle = components.Cycle(
        np.ones(1), np.ones(1), np.zeros(1, bool), np.floor(position).astype(np.int64), position % 1
    )
    table = np.float32([[10, 20, 40]])
    assert components.per_turn(table, cycle).tolist() == [[10, 10, 20, 20]]
    assert components.per_turn(table, cycle, smooth=True).tolist() == [[10, 15, 20, 30]]


def test_trends_go_both_ways_and_are_smooth(random):
    trend = families.draw_trend(random, 400, LENGTH)
    np.testing.assert_allclose(trend.std(axis=1), 1, atol=1e-3)
    assert 0.35 < (trend[:, -1] > trend[:, 0]).mean() < 0.65
    assert np.quantile(np.abs(np.diff(trend, axis=1)).max(axis=1), 0.9) < 0.2
    straight = np.abs(np.diff(trend, n=2, axis=1)).max(axis=1) < 1e-4
    assert 0.1 < straight.mean() < 0.5


@pytest.mark.parametrize(
    "kernel",
    [
        lambda lag: np.exp(-0.5 * (lag / 15) ** 2),
        lambda lag: np.exp(-lag / 20),
        lambda lag: 0.5 * np.exp(-lag / 5) + 0.5 * np.exp(-2 * np.sin(np.pi * lag / 24) ** 2 - 0.5 * (lag / 60) ** 2),
        lambda lag: np.exp(-0.5 * (lag / 40) ** 2) * np.exp(-2 * np.sin(np.pi * lag / 12) ** 2),
    ],
    ids=["rbf", "matern", "sum", "product"],
)
def test_draws_of_a_gaussian_process_have_its_covariance(random, kernel):
    lag = np.arange(201, dtype=np.float32)
    expected = kernel(lag).astype(np.float32)
    draws = sample_stationary(random, np.tile(expected, (8000, 1)), 120)
    for at in (0, 50):
        covariance = (draws[:, at, None] * draws[:, at:]).mean(axis=0)
        np.testing.assert_allclose(covariance, expected[: 120 - at], atol=0.06)


# Glucose, counts, accidents


def test_glucose_is_in_its_range_smooth_and_mean_reverting(random):
    series = families.glucose_series(random, 500, LENGTH)
    assert series.min() >= 40
    assert series.max() <= 400
    assert 90 < np.median(series) < 200
    assert np.median(autocorrelation(series, 1)) > 0.9
    assert np.median(autocorrelation(series, 200)) < 0.5


def test_a_meal_rises_faster_than_it_decays(random, monkeypatch):
    """Impulse response of the family: everything but the meals switched off."""
    n, length = 200, 600

    def one_meal(random: np.random.Generator, day: np.ndarray, total: int) -> np.ndarray:
        events = np.zeros((len(day), total), np.float32)
        events[:, total - length + 100] = 1
        return events

    nothing = lambda random, constant, length: np.zeros((len(constant), length), np.float32)  # noqa: E731
    monkeypatch.setattr(families, "_habitual_meals", one_meal)
    monkeypatch.setattr(families, "_at_any_time", lambda random, day, total: np.zeros((len(day), total), np.float32))
    monkeypatch.setattr(families, "ornstein_uhlenbeck", nothing)
    monkeypatch.setattr(families, "_smooth_walk", nothing)
    monkeypatch.setattr(families, "draw_profiles", lambda random, n: np.zeros((n, 288), np.float32))
    monkeypatch.setattr(families, "innovations", lambda random, n, length: np.zeros((n, length), np.float32))
    series = families.glucose_series(random, n, length)
    above = series - series[:, :1]
    peak = above.argmax(axis=1)
    half = above.max(axis=1, keepdims=True) / 2
    rows = above.max(axis=1) > 15
    rise = peak - (above >= half).argmax(axis=1)
    later = np.arange(length) > peak[:, None]
    decay = (later & (above >= half)).sum(axis=1)
    assert rows.sum() > 50
    assert (peak[rows] >= 100).all()
    assert np.median(decay[rows] / np.maximum(rise[rows], 1)) > 1.3


def test_counts_are_whole_and_demand_is_often_zero(random):
    counts = families._counts(random, 100, LENGTH)
    assert (counts == np.round(counts)).all()
    assert counts.min() == 0
    zero = (families._demand(random, 200, LENGTH) == 0).mean(axis=1)
    assert np.median(zero) > 0.5
    assert (zero < 1).mean() > 0.95


def test_level_shift_moves_the_end_against_the_start(random):
    shifted = mixture.shift_level(random, np.zeros((400, LENGTH), np.float32))
    size = np.abs(shifted[:, -1] - shifted[:, 0])
    assert np.quantile(size, 0.1) > 0.3
    assert size.max() < 6.1
    changes = (np.diff(shifted, axis=1) != 0).sum(axis=1)
    assert 0.4 < (changes <= 2).mean() < 0.9  # jumps; the others are ramps


def test_spikes_are_rare_and_high(random):
    spikes = mixture.add_spikes(random, np.zeros((400, LENGTH), np.float32))
    high = np.abs(spikes) > 0.9
    assert 0.002 < high.mean() < 0.05
    assert np.abs(spikes).max() > 4


def test_a_change_of_regime_goes_on_with_the_other_series(random):
    first, second = random.normal(size=(2, 50, LENGTH))
    spliced = mixture.change_regime(random, first, second)
    at = (spliced != first).argmax(axis=1)
    assert LENGTH // 8 <= at.min() <= at.max() < LENGTH * 5 // 8
    offset = spliced - second
    assert all(np.ptp(row[start:]) < 1e-9 for row, start in zip(offset, at, strict=True))


def test_censoring_keeps_a_floor_or_a_ceiling(random):
    series = random.standard_normal((300, LENGTH), dtype=np.float32)
    cut = mixture.censor(random, series)
    at_floor = (cut == cut.min(axis=1, keepdims=True)).mean(axis=1) > 0.015
    at_ceiling = (cut == cut.max(axis=1, keepdims=True)).mean(axis=1) > 0.015
    assert (at_floor | at_ceiling).all()
    assert 0.1 < (at_floor & at_ceiling).mean() < 0.3
    kept = (cut != cut.min(axis=1, keepdims=True)) & (cut != cut.max(axis=1, keepdims=True))
    assert (cut[kept] == series[kept]).all()


def test_mixing_squashing_and_rounding(random):
    ones, zeros = np.ones((500, 3), np.float32), np.zeros((500, 3), np.float32)
    share = mixture.mix(random, ones, zeros)  # a convex combination
    assert 0.5 <= share.min() < 0.55
    assert 0.9 < share.max() <= 0.95
    series = random.standard_normal((100, LENGTH), dtype=np.float32)
    squashed = mixture.squash(random, np.sort(series, axis=1))
    assert (np.diff(squashed, axis=1) >= 0).all(), "the order is kept"
    assert squashed.min() >= 0
    assert max(len(np.unique(row)) for row in mixture.quantise(random, series)) < 300


def test_a_lower_sampling_rate_makes_series_smoother(random):
    series = random.standard_normal((400, LENGTH), dtype=np.float32)
    slower = mixture.resample(random, series)
    assert slower.dtype == np.float32
    assert np.isfinite(slower).all()
    changed = autocorrelation(slower, 1)
    assert np.quantile(changed, 0.25) > 0.1
    assert np.median(changed) > 0.4


def test_a_lower_sampling_rate_interpolates_or_holds(random):
    """A straight line stays one, or becomes a staircase."""
    line = np.tile(np.arange(LENGTH, dtype=np.float32), (2000, 1))
    slope = np.diff(mixture.resample(random, line), axis=1)[:, 20:-1]  # a mean over steps needs some to begin with
    straight = np.ptp(slope, axis=1) < 1e-3
    assert (straight & (slope.mean(axis=1) < 0.7)).mean() == pytest.approx(0.45 * 0.7, abs=0.05)
    assert ((slope == 0).mean(axis=1) > 0.25).mean() == pytest.approx(0.2, abs=0.06)


def test_a_gap_is_filled_with_a_line_and_the_ends_are_held():
    series = np.float32([[9, 1, 7, 7, 4, 9]])
    missing = np.array([[True, False, True, True, False, True]])
    assert mixture.interpolate(series, missing).tolist() == [[1, 1, 2, 3, 4, 4]]
    nothing = np.ones_like(missing)
    assert np.isfinite(mixture.interpolate(series, nothing)).all()
