"""The glucose section of a run: by hand, against the metrics it is made of, its keys."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from glucose.glucose_windows import FIVE, MODELS, glucose_windows, item_names

from tstune.errors import ConfigError, DataError
from tstune.evaluation.metrics import temporal_gain
from tstune.evaluation.scored_windows import ScoredWindows
from tstune.glucose.error_grids import ERROR_GRIDS, MOST_POINTS, ZONES, zone_table
from tstune.glucose.hypoglycaemia import (
    FALSE_ALARMS_PER_DAY,
    Origins,
    judged_windows,
    low_windows,
    probability_score,
    window_scores,
)
from tstune.glucose.scores import glucose_horizons, glucose_section, glycaemic_profile, headline_horizon

MIDNIGHT = np.datetime64("2024-03-01T00:00", "ns")
IDS = item_names(4)
HORIZONS = {"30min": 6, "45min": 9, "2h": 24}


@pytest.fixture(scope="module")
def test_windows() -> dict[str, ScoredWindows]:
    return glucose_windows(seed=1)


@pytest.fixture(scope="module")
def validation() -> dict[str, ScoredWindows]:
    return glucose_windows(seed=2)


@pytest.fixture(scope="module")
def section(test_windows, validation) -> dict:
    return glucose_section(test_windows, validation, HORIZONS, IDS, {"P01", "P02"}, FIVE, "fine_tuned")


def one(truth, forecast, step=FIVE, origin=None, item=None, last=None, unit="mg/dL", observed=None) -> ScoredWindows:
    truth, forecast = np.atleast_2d(np.asarray(truth, float)), np.atleast_2d(np.asarray(forecast, float))
    windows = len(truth)
    origin = MIDNIGHT + np.arange(windows) * step if origin is None else np.asarray(origin, "datetime64[ns]")
    return ScoredWindows(
        truth[..., None],
        forecast[..., None],
        np.isfinite(truth)[..., None] if observed is None else observed,
        np.zeros(windows, int) if item is None else np.asarray(item),
        origin[:, None] + np.arange(1, truth.shape[1] + 1) * step,
        np.full(windows, 100.0) if last is None else np.asarray(last, float),
        unit=unit,
    )


# Points, tasks and strata by hand


def by_hand() -> dict[str, ScoredWindows]:
    """Three windows of two hours on a grid of 30 minutes; the second of P01 begins at midnight."""
    half = np.timedelta64(30, "m")
    truth = [[100, 100, 100, np.nan], [60, 100, 100, 100], [200, 200, 200, 200]]
    error = [[6, -8, 0, 999], [0, 10, 0, 0], [0, 30, 0, 40]]
    origin = ["2024-03-01T12:00", "2024-03-01T23:30", "2024-03-01T13:00"]
    forecast = np.nan_to_num(truth) + error
    mine = one(truth, forecast, half, origin, [0, 0, 2])
    return {"a": mine, "flat": replace(mine, forecast=np.full_like(mine.forecast, 100.0))}


def hand_section(**more) -> dict:
    given = {"horizons": {"2h": 4}, "seen": {"P01"}, "judged": "a"} | more
    return glucose_section(by_hand(), {}, item_ids=("P01", "P02", "P03"), step=np.timedelta64(30, "m"), **given)


def test_points_by_hand():
    found = hand_section()
    assert found["horizons"] == {"30min": 1, "60min": 2, "90min": 3, "120min": 4}
    points = found["points"]["a"]
    assert points["mg/dL"]["rmse@30min"] == pytest.approx((36 / 3) ** 0.5)
    assert points["mg/dL"]["mae@60min"] == pytest.approx(48 / 3)
    assert points["mg/dL"]["bias@60min"] == pytest.approx(32 / 3)
    assert points["mg/dL"]["rmse@120min"] == pytest.approx((1600 / 2) ** 0.5)
    assert points["mg/dL"]["mard@60min"] == points["mmol/L"]["mard@60min"] == pytest.approx((8 + 10 + 15) / 3)
    path = (36 + 64 + 100 + 900 + 1600) / 11
    assert points["mg/dL"]["rmse"] == pytest.approx(path**0.5)
    for column in ("rmse", "mae", "bias", "rmse@90min", "mae@30min", "bias@120min"):
        assert points["mmol/L"][column] == pytest.approx(points["mg/dL"][column] / 18.016)


def test_ranges_by_hand():
    found = hand_section()["by_range"]["a"]
    assert {name: part["num_readings"] for name, part in found.items()} == {"low": 1, "in_range": 6, "high": 4}
    assert found["low"]["rmse"] == 0
    assert found["in_range"]["mae"] == pytest.approx((6 + 8 + 10) / 6)
    assert found["high"]["bias"] == pytest.approx(70 / 4)


def test_tasks_and_strata_by_hand():
    found = hand_section()
    assert found["tasks"]["all_day"]["a"]["num_windows"] == 3
    assert found["tasks"]["night"]["a"] == {"rmse": pytest.approx(5.0), "num_windows": 1}
    strata = found["strata"]
    assert list(strata) == ["all", "seen", "unseen", "sensor 30 min", "participant P01", "participant P03"]
    assert (strata["all"]["num_windows"], strata["all"]["num_items"]) == (3, 2)
    assert (strata["seen"]["num_windows"], strata["unseen"]["num_items"]) == (2, 1)
    assert strata["unseen"]["rmse"]["mg/dL"]["a"] == pytest.approx((2500 / 4) ** 0.5)
    assert strata["unseen"]["rmse@60min"]["mg/dL"]["a"] == pytest.approx(30)
    assert strata["participant P01"]["rmse@60min"]["mmol/L"]["a"] == pytest.approx((164 / 2) ** 0.5 / 18.016)
    assert strata["all"]["rmse"]["mg/dL"]["a"] == pytest.approx(found["points"]["a"]["mg/dL"]["rmse"])
    assert "seen" not in hand_section(seen=None)["strata"]


def test_a_short_forecast_has_its_longest_horizon_in_the_strata():
    windows = {"a": one([[100.0] * 8], [[110.0] * 8])}
    found = glucose_section(windows, {}, {"40min": 8}, ("P01",), None, FIVE, "a")
    assert list(found["horizons"]) == ["30min", "40min"]
    assert found["strata"]["all"]["rmse@40min"]["mg/dL"]["a"] == pytest.approx(10)


def test_horizons_on_other_grids():
    seven = np.timedelta64(7, "m")
    assert glucose_horizons({"21min": 3, "8steps": 8}, seven, 20) == {"21min": 3, "8steps": 8}
    assert glucose_horizons({"1h": 12, "8h": 96}, FIVE, 96) == {
        "30min": 6, "60min": 12, "90min": 18, "120min": 24, "8h": 96,
    }  # fmt: skip
    assert headline_horizon({"2h": 1, "4h": 2}, np.timedelta64(2, "h")) == "2h"
    assert headline_horizon({}, FIVE) is None


def test_limits_hold_in_float32():
    """3.9 and 10 mmol/L are in range, whatever float32 makes of them."""
    truth = np.array([[3.9, 10.0, 3.8, 10.1]], np.float32)
    windows = one(truth, truth, unit="mmol/L", last=[6.0])
    windows = replace(windows, truth=truth[..., None], forecast=truth[..., None])
    found = glucose_section({"a": windows}, {}, {}, ("P01",), None, FIVE, "a")
    assert [part["num_readings"] for part in found["by_range"]["a"].values()] == [1, 2, 1]
    assert found["profile"]["truth"]["tir"] == 50
    assert found["hypo"]["low"]["limit"] == 3.9


# Alarms by hand


def day(dip: float, lows: tuple[int, ...], hours: int = 24) -> ScoredWindows:
    """A window every 5 minutes of a person at 100 mg/dL, for 20 minutes at 60 mg/dL from each step in `lows`.

    The forecast is `dip` for windows with an event within the next 30 minutes, else 100.
    """
    series = np.full(12 * hours + 12, 100.0)
    for low in lows:
        series[low : low + 4] = 60.0
    origins = np.arange(len(series) - 12)
    truth = series[origins[:, None] + np.arange(1, 13)]
    soon = np.array([any(0 < low - origin <= 6 for low in lows) for origin in origins])
    forecast = np.where(soon[:, None], dip, 100.0) * np.ones((1, 12))
    return one(truth, forecast, last=series[origins])


def alarms(test: dict, validation: dict, **more) -> dict | None:
    return glucose_section(test, validation, {"60min": 12}, ("P01",), None, FIVE, next(iter(test)), **more)["hypo"][
        "low"
    ]


def test_the_threshold_comes_from_validation():
    """In validation the model says 75 before an event: an alarm at 75 announces them all, also on test."""
    test = {"a": day(75, (60, 150)), "b": day(100, (60, 150))}
    found = alarms(test, {"a": day(75, (100, 200)), "b": day(100, (100, 200))})
    assert found["events_horizon_minutes"] == 60
    assert found["events"]["a"] == {
        "threshold_from": "validation",
        "threshold": -5.0,
        "false_alarms_per_day": FALSE_ALARMS_PER_DAY,
        "num_events": 2,
        "detected": 2,
        "sensitivity": 1.0,
        "precision": 1.0,
        "median_lead_minutes": 30.0,
        "false_alarms_per_day_found": 0.0,
    }
    silent = found["events"]["b"]  # the same score everywhere: any alarm would ring every hour
    assert (silent["threshold"], silent["detected"], silent["precision"]) == (None, 0, None)
    assert silent["false_alarms_per_day_found"] == 0
    weaker = alarms({"a": day(80, (60, 150))}, {"a": day(75, (100, 200))})["events"]["a"]
    assert (weaker["threshold"], weaker["detected"]) == (-5.0, 0), "80 on test is no alarm at a threshold of 75"


def test_windows_that_begin_low_are_left_out():
    found = alarms({"a": day(75, (60, 150))}, {})
    assert found["windows"]["a"]["num_windows"] == 288 - 2 * 4
    # an event within the next 12 steps, or beginning at the next step
    assert found["windows"]["a"]["num_low"] == 2 * 12
    assert found["windows_up_to"]["30min"]["a"]["num_low"] == 2 * 6
    assert found["windows_up_to"]["30min"]["a"]["auroc"] == 1.0
    assert found["windows"]["a"]["base_rate"] == pytest.approx(24 / 280)


def test_no_alarm_without_validation_windows_or_events_there():
    test = {"a": day(75, (60,)), "b": day(75, (60,))}
    assert alarms(test, {})["events"] is None
    assert alarms(test, {"a": day(75, ())})["events"] is None
    found = alarms(test, {"a": day(75, (60,)), "other": day(75, (60,))})["events"]
    assert found["a"]["detected"] == 1
    assert found["b"] is None
    no_clock = {
        name: replace(windows, timestamps=np.zeros(windows.truth.shape[:2], int)) for name, windows in test.items()
    }
    found = glucose_section(no_clock, no_clock, {}, ("P01",), None, FIVE, "a")
    assert found["hypo"]["low"]["events"] is None
    assert found["tasks"]["night"]["a"] == {"rmse": None, "num_windows": 0}


def test_origins_are_thinned_to_the_sparser_set():
    clock = np.sort(np.random.default_rng(0).integers(0, 900, (3, 300)), axis=1).ravel()
    time, hour = MIDNIGHT + clock * FIVE, np.timedelta64(60, "m")
    origins = Origins(np.repeat(np.arange(3), 300), time, np.ones(900, bool), {}, hour, 12)
    thin = origins.thinned(hour)
    for item in range(3):
        kept = np.unique(origins.time[thin.judged & (origins.item == item)])
        assert (np.diff(kept) >= hour).all()
        assert (np.diff(kept) < 4 * hour).all()
    dense, sparse = day(75, (60, 150)), day(75, (60, 150))
    sparse = sparse.select(np.arange(len(sparse.truth)) % 4 == 0)
    found = alarms({"a": dense}, {"a": sparse})["events"]["a"]
    again = alarms({"a": sparse}, {"a": sparse})["events"]["a"]
    assert found == again, "origins every 20 minutes on both sides"
    assert found["median_lead_minutes"] == 25, "20 minutes before the event at step 60, 30 before that at step 150"


# A whole section


def test_the_section_has_the_keys_of_the_contract(section):
    json.dumps(section, allow_nan=False)
    labels = ["30min", "45min", "60min", "90min", "120min"]
    assert list(section["horizons"]) == labels, "2 h is 120 min"
    assert section["units"] == ["mg/dL", "mmol/L"]
    assert section["native"] == "mg/dL"
    columns = {f"{metric}{at}" for metric in ("rmse", "mae", "bias", "mard") for at in ["", *(f"@{x}" for x in labels)]}
    for model in MODELS:
        assert {unit: set(found) for unit, found in section["points"][model].items()} == dict.fromkeys(
            ("mg/dL", "mmol/L"), columns
        )
        for part in section["by_range"][model].values():
            assert set(part) == {"num_readings", "rmse", "mae", "bias"}
        assert list(section["temporal_gain"][model]) == labels
    assert list(section["error_grids"]) == ["clarke", "parkes", "dts"]
    for grid in section["error_grids"].values():
        assert list(grid["horizons"]) == list(grid["points"]) == labels
        assert all(
            sum(grid["horizons"][label][model].values()) == pytest.approx(100) for label in labels for model in MODELS
        )
        assert {zone for zone, _ in grid["outline"]} == set(ZONES)
        assert all(len(polygon) >= 3 for _, polygon in grid["outline"])
        assert all(0 < len(pairs) <= MOST_POINTS and len(pairs[0]) == 2 for pairs in grid["points"].values())
    for name, limit in (("low", 70), ("very_low", 54)):
        hypo = section["hypo"][name]
        assert hypo["limit"] == limit
        windows = {"num_windows", "num_low", "base_rate", "auroc", "auprc", "brier"}
        assert all(windows <= set(hypo["windows"][model]) for model in MODELS)
    events = section["hypo"]["low"]["events"]
    assert list(events) == list(MODELS)
    assert all(found["num_events"] > 5 and found["detected"] > 0 for found in events.values())
    assert list(section["profile"]) == ["truth", *MODELS]
    assert list(section["tasks"]) == ["all_day", "night"]
    assert section["tasks"]["night"]["ridge"]["num_windows"] > 0
    assert {"all", "seen", "unseen", "sensor 5 min", "sensor 15 min", "participant P04"} <= set(section["strata"])
    for found in section["strata"].values():
        assert set(found) == {"num_windows", "num_items", "rmse", "rmse@60min"}
        assert set(found["rmse"]["mmol/L"]) == set(MODELS)


def test_the_section_is_made_of_the_tested_metrics(section, test_windows):
    for model in ("fine_tuned", "persistence"):
        windows = test_windows[model].one_target()
        arrays = windows.truth, windows.forecast, windows.observed
        for name, grid in ERROR_GRIDS.items():
            expected = zone_table(grid, *arrays, "mg/dL", {"60min": 12})["60min"]
            assert section["error_grids"][name]["horizons"]["60min"][model] == expected
        assert section["profile"][model] == glycaemic_profile(windows.forecast, windows.observed, "mg/dL")
        gains = []
        for item in range(4):
            mine = windows.select(windows.item == item)
            gains.append(temporal_gain(mine.truth, mine.forecast, mine.observed, mine.last_reading, 12, 5.0))
        assert section["temporal_gain"][model]["60min"] == pytest.approx(np.nanmean(gains))
    assert section["temporal_gain"]["persistence"]["60min"] < section["temporal_gain"]["ridge"]["60min"]
    windows = test_windows["fine_tuned"].one_target()
    windows = windows.select(judged_windows(windows.observed, 70, windows.last_reading))
    probability = probability_score(windows.quantiles, windows.levels, 70)
    expected = window_scores(low_windows(windows.truth, windows.observed, 70), probability, probability)
    assert section["hypo"]["low"]["windows"]["fine_tuned"] == expected


def test_the_same_readings_in_mmol(section):
    windows = glucose_windows(seed=1, unit="mmol/L")
    found = glucose_section(windows, {}, HORIZONS, IDS, None, FIVE, "fine_tuned")
    assert found["native"] == "mmol/L"
    assert found["hypo"]["very_low"]["limit"] == 3.0
    for unit in ("mg/dL", "mmol/L"):
        ours, theirs = found["points"]["ridge"][unit], section["points"]["ridge"][unit]
        assert ours == pytest.approx(theirs, rel=1e-4)
    highest = max(max(point) for _, polygon in found["error_grids"]["dts"]["outline"] for point in polygon)
    assert highest in (22.2, 33.3)


def test_points_on_the_grids_are_few_and_of_the_judged_model():
    windows = glucose_windows(num_windows=2400, steps=6, models=("a", "b"), quantiles=False)
    found = glucose_section(windows, {}, {}, IDS, None, FIVE, "b")["error_grids"]["parkes"]["points"]["30min"]
    assert len(found) == MOST_POINTS
    mine = windows["b"].one_target()
    pairs = {tuple(np.round(pair, 1)) for pair in np.stack([mine.truth, mine.forecast], -1)[:, 5].astype(float)}
    assert all(tuple(pair) in pairs for pair in found)


def test_a_model_that_diverged_has_no_numbers(test_windows, validation):
    lost = test_windows["ridge"].forecast.copy()
    lost[::7] = np.nan
    test = test_windows | {"ridge": replace(test_windows["ridge"], forecast=lost)}
    found = glucose_section(test, validation, HORIZONS, IDS, None, FIVE, "fine_tuned")
    json.dumps(found, allow_nan=False)
    assert found["points"]["ridge"]["mg/dL"]["rmse"] is None
    assert found["error_grids"]["clarke"]["horizons"]["60min"]["ridge"] == dict.fromkeys(ZONES)
    assert found["hypo"]["low"]["events"]["ridge"] is None
    assert found["hypo"]["low"]["windows"]["ridge"]["auroc"] is None
    assert found["hypo"]["low"]["windows"]["ridge"]["brier"] is None
    assert set(found["profile"]["ridge"].values()) == {None}
    assert found["hypo"]["low"]["events"]["zero_shot"]["num_events"] > 5


# Bad input


def test_bad_input(test_windows):
    def run(windows: dict, judged: str = "fine_tuned", validation: dict | None = None) -> None:
        glucose_section(windows, validation or {}, HORIZONS, IDS, None, FIVE, judged)

    with pytest.raises(DataError, match="no test windows of 'tuned'; there are fine_tuned, zero_shot"):
        run(test_windows, "tuned")
    other = test_windows | {"ridge": test_windows["ridge"].select(np.arange(50))}
    with pytest.raises(DataError, match="ridge and fine_tuned have different windows"):
        run(other)
    moved = replace(test_windows["ridge"], truth=test_windows["ridge"].truth + 1)
    with pytest.raises(DataError, match="ridge and fine_tuned have different windows"):
        run(test_windows | {"ridge": moved})
    nothing = {"fine_tuned": test_windows["fine_tuned"].select(np.arange(0))}
    with pytest.raises(DataError, match="the windows of fine_tuned are empty"):
        run(nothing)
    degrees = {"fine_tuned": replace(test_windows["fine_tuned"], unit="°C")}
    with pytest.raises(ConfigError, match="'°C' is no unit of glucose"):
        run(degrees)
    twice = test_windows["zero_shot"]
    twice = ScoredWindows(*(np.repeat(part, 2, axis=2) for part in (twice.truth, twice.forecast, twice.observed)))
    with pytest.raises(DataError, match="these windows have 2"):
        run({"fine_tuned": twice})
    mmol = glucose_windows(seed=2, unit="mmol/L")
    with pytest.raises(DataError, match="validation windows of fine_tuned in mmol/L, test windows in mg/dL"):
        run(test_windows, validation=mmol)
