"""Splits in time: dates, the published BrisT1D split, and the time left out between two parts."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from data.series import CONTEXT, PREDICTION, people, person, prepare, table, with_gaps

from tstune.config.managers import SimpleConfigManager
from tstune.config.schema import SplitSection
from tstune.data.prepared import PreparedData
from tstune.data.preprocess import build_panel
from tstune.data.splits import PARTS, split_panel
from tstune.data.table import ITEM, TIMESTAMP, Roles, SourceTable
from tstune.errors import ConfigError, DataError

DAYS = 8 * 288  # eight days of five-minute readings from 1 June 2023 on
DATES = ["2023-06-05", "2023-06-06", None]


def target_times(data: PreparedData, part: str, item: int | None = None) -> tuple[str, str]:
    """First and last time of a target in a part."""
    windows = data.windows[part]
    batch = windows.__getitems__(range(len(windows)))
    starts = batch["start"].numpy()
    if item is not None:
        starts = starts[batch["item"].numpy() == item]
    stamps = data.panel.timestamps[[starts.min() + CONTEXT, starts.max() + CONTEXT + PREDICTION - 1]]
    return tuple(str(stamp)[:16] for stamp in stamps)


# Dates


@pytest.mark.parametrize("mode", ["strict", "deployment"])
def test_a_date_is_the_last_day_of_its_part(mode: str):
    data = prepare(people(2, DAYS), {"borders_at": DATES, "mode": mode})
    context = "02:00" if mode == "strict" else "00:00"
    assert target_times(data, "train") == ("2023-06-01T02:00", "2023-06-05T23:55")
    assert target_times(data, "validation") == (f"2023-06-06T{context}", "2023-06-06T23:55")
    assert target_times(data, "test") == (f"2023-06-07T{context}", "2023-06-08T23:55")
    assert data.split.borders.tolist() == [[5 * 288, 6 * 288, 8 * 288]] * 2


def test_a_time_is_the_last_moment_of_its_part():
    split = {"borders_at": ["2023-06-05T12:00", "2023-06-06 23:00", "2023-06-08"]}
    data = prepare(people(1, DAYS + 100), split)
    assert target_times(data, "train")[1] == "2023-06-05T12:00"
    assert target_times(data, "validation")[1] == "2023-06-06T23:00"
    assert target_times(data, "test")[1] == "2023-06-08T23:55"


@pytest.mark.parametrize("written", [DATES, [date(2023, 6, 5), pd.Timestamp("2023-06-06T23:59:59"), None]])
def test_dates_may_be_objects(written: list):
    section = SplitSection(borders_at=written)
    assert [type(moment) for moment in section.borders_at] == [str, str, type(None)]
    data = prepare(people(1, DAYS), section.model_dump())
    assert data.split.borders.tolist() == [[5 * 288, 6 * 288, 8 * 288]]


def test_dates_survive_a_recipe(tmp_path: Path):
    (tmp_path / "a.yaml").write_text("data: {split: {borders_at: [2023-08-17, 2023-08-31, null], purge: 24h}}")
    manager = SimpleConfigManager()
    config = manager.load_config(tmp_path / "a.yaml")
    assert config.data.split.borders_at == ("2023-08-17", "2023-08-31", None)
    manager.save_config(config, tmp_path / "b.yaml")
    assert manager.load_config(tmp_path / "b.yaml") == config
    override = manager.load_config(tmp_path / "a.yaml", ["data.split.borders_at=[2023-08-18,2023-08-31T12:00,null]"])
    assert override.data.split.borders_at == ("2023-08-18", "2023-08-31T12:00", None)


def test_series_that_begin_late_or_end_early():
    series = {name: person(seed, DAYS) for seed, name in enumerate(("whole", "late", "early"))}
    starts = {"late": "2023-06-06", "early": "2023-05-28"}
    data = prepare(table(series, starts), {"borders_at": DATES})
    assert data.panel.item_ids == ("early", "late", "whole")
    assert data.split.borders.tolist() == [[8 * 288] * 3, [0, 288, 8 * 288], [5 * 288, 6 * 288, 8 * 288]]
    assert data.unseen_items == ("late",), "no step of it lies before the first border"
    assert [item["windows"]["test"] > 0 for item in data.manifest["items"]] == [False, True, True]


def test_a_border_inside_a_long_gap():
    values = person(0, DAYS)
    values[5 * 288 - 50 : 6 * 288 + 40] = np.nan  # no reading around either border
    data = prepare(table({"a": values, "b": person(1, DAYS)}), {"borders_at": DATES})
    assert data.split.borders.tolist() == [[5 * 288, 6 * 288, 8 * 288]] * 2
    assert target_times(data, "test", item=0)[0] == "2023-06-07T05:20"


def test_dates_on_a_calendar_grid():
    stamps = pd.date_range("2000-01-31", periods=120, freq="ME")
    frame = pd.DataFrame({ITEM: "a", TIMESTAMP: stamps, "y": np.random.default_rng(0).normal(size=120)})
    panel = build_panel(SourceTable(frame, Roles(("y",))), "ME", 0)
    split = split_panel(panel, SplitSection(borders_at=("2005-12-31", "2007-01-30", None)), None)
    assert split.borders.tolist() == [[72, 84, 120]]


@pytest.mark.parametrize(("day", "where"), [("2023-05-30", "before"), ("2023-06-09", "after")])
def test_dates_beside_the_data(day: str, where: str):
    with pytest.raises(DataError) as caught:
        prepare(people(1, DAYS), {"borders_at": [day, "2024-01-01", None]})
    assert str(caught.value) == (
        f"data.split.borders_at: train ends on {day}, {where} every reading (2023-06-01 00:00 to 2023-06-08 23:55)"
    )


# The published BrisT1D split


@pytest.fixture(scope="module")
def brist1d() -> SourceTable:
    names = ("P01", "p03", "P04", "P07", "P15", "P24", "someone")
    starts = dict.fromkeys(names, "2023-08-13")
    return table({name: person(seed, 26 * 288) for seed, name in enumerate(names)}, starts)


def test_the_published_split(brist1d: SourceTable):
    data = prepare(brist1d, {"preset": "brist1d"})
    assert target_times(data, "train") == ("2023-08-13T02:00", "2023-08-17T23:55")
    assert target_times(data, "validation") == ("2023-08-18T02:00", "2023-08-31T23:55")
    assert target_times(data, "test") == ("2023-09-01T02:00", "2023-09-07T23:55")
    windows = {item["item_id"]: [count > 0 for count in item["windows"].values()] for item in data.manifest["items"]}
    assert windows == {
        "P01": [True, True, True],
        "P04": [True, True, True],
        "P07": [False, False, False],  # of the open data, but not of the competition
        "P15": [False, False, True],
        "P24": [False, False, True],
        "p03": [True, True, False],  # has no test rows in the competition
        "someone": [False, False, False],
    }
    assert data.unseen_items == ("P15", "P24")
    assert data.manifest["items_without_windows"] == ["P07", "someone"]
    assert data.manifest["split"]["preset"] == "brist1d"


def test_the_published_split_is_the_one_of_its_dates(brist1d: SourceTable):
    names = {"P15", "P24"}
    frame = brist1d.frame[brist1d.frame[ITEM].isin({"P01", "P04"} | names)]
    by_hand = {"by": "both", "borders_at": ["2023-08-17", "2023-08-31", None], "test_items": sorted(names)}
    hand = prepare(SourceTable(frame, brist1d.roles, "5min", "45min", "mg/dL"), by_hand)
    preset = prepare(SourceTable(frame, brist1d.roles, "5min", "45min", "mg/dL"), {"preset": "brist1d"})
    np.testing.assert_array_equal(preset.split.borders, hand.split.borders)
    np.testing.assert_array_equal(preset.split.begins, hand.split.begins)


def test_the_published_split_of_other_data():
    with pytest.raises(DataError, match=r"data\.split\.preset=brist1d: no series is one of its participants"):
        prepare({"a": person(0, 300)}, {"preset": "brist1d"})


# Purge


@pytest.mark.parametrize("purge", ["2h", 24, "24"])
@pytest.mark.parametrize("mode", ["strict", "deployment"])
def test_a_purge_keeps_targets_apart_and_leaves_the_later_part_alone(purge: str | int, mode: str):
    plain = prepare(people(2), {"mode": mode})
    data = prepare(people(2), {"mode": mode, "purge": purge})
    assert data.split.purge == data.manifest["split"]["purge_steps"] == 24
    assert data.split.borders.tolist() == [[1050 - 24, 1200 - 24, 1500]] * 2
    assert target_times(data, "test") == target_times(plain, "test")
    for earlier, later in (("train", "validation"), ("validation", "test")):
        end, begin = np.datetime64(target_times(data, earlier)[1]), np.datetime64(target_times(data, later)[0])
        context = np.timedelta64(5 * (CONTEXT if mode == "strict" else 0), "m")
        assert begin - end == np.timedelta64(5, "m") * 25 + context
    assert data.manifest["num_steps_in_no_part"] == 2 * 2 * 24


def test_the_scaler_leaves_out_what_is_purged():
    series = people(1)
    before = prepare(series, {"purge": 24}).preprocessor.scaler.to_dict()
    series["P01"][1026:1050] += 500
    assert prepare(series, {"purge": 24}).preprocessor.scaler.to_dict() == before
    assert prepare(series).preprocessor.scaler.to_dict() != before


def test_a_purge_between_dates_and_with_held_out_items():
    split = {"by": "both", "borders_at": DATES, "test_items": ["P02"], "purge": "1h"}
    data = prepare(people(3, DAYS), split)
    assert target_times(data, "train")[1] == "2023-06-05T22:55"
    assert target_times(data, "validation")[1] == "2023-06-06T22:55"
    assert target_times(data, "test", item=1) == target_times(data, "test", item=0)


def test_a_purge_that_swallows_a_part_or_lies_off_the_grid():
    with pytest.raises(DataError) as caught:
        prepare(people(1), {"purge": 150})
    assert "the validation part has no window" in str(caught.value)
    assert "or lower data.split.purge (here 150 steps)" in str(caught.value)
    with pytest.raises(ConfigError, match=r"data\.split\.purge='7min' is no multiple of the sampling step 5min"):
        prepare(people(1), {"purge": "7min"})


# Everything at once


@pytest.mark.parametrize("mode", ["strict", "deployment"])
@pytest.mark.parametrize("purge", [0, 30])
@pytest.mark.parametrize(
    "how", [{}, {"by": "item"}, {"by": "both"}, {"borders_at": ["2023-06-03", "2023-06-04", None]}]
)
def test_parts_are_disjoint_and_complete(how: dict, purge: int, mode: str):
    """Worked out row by row: which rows are a target of which part."""
    series = {name: with_gaps(values, seed) for seed, (name, values) in enumerate(people(4, 6 * 288).items())}
    if how.get("by") == "item":
        purge = 0
    data = prepare(series, {**how, "mode": mode, "purge": purge})
    length, position, item = CONTEXT + PREDICTION, data.panel.row_position(), data.panel.row_item()
    owner = np.full(data.panel.num_rows, -1)
    for number, part in enumerate(PARTS):
        starts = data.windows[part].starts(np.arange(len(data.windows[part])))
        rows = starts[:, None] + np.arange(length)
        assert (item[rows] == item[rows[:, :1]]).all()
        assert (np.diff(position[rows], axis=1) == 1).all()
        targets = np.unique(rows[:, CONTEXT:])
        assert (owner[targets] == -1).all()
        owner[targets] = number
    assert (np.bincount(owner + 1) > 100).all()
    for name in range(4):
        mine = owner[item == name]
        assert (np.diff(mine[mine >= 0]) >= 0).all(), "train, then validation, then test"
        held_out = bool(data.split.held_out[name])
        assert (mine == 0).any() != held_out
