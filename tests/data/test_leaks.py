"""The leak checker: every planted leak is caught by name, and no clean split is called leaky."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from data.series import CONTEXT, PREDICTION, people, person, prepare, table, with_gaps
from unit.builders import grid_table, random_grids

from tstune.config.schema import DataSection, SplitSection
from tstune.data.fingerprints import bin_levels, hash_readings
from tstune.data.leaks import CHECKS, check_leaks
from tstune.data.panel import INTERPOLATED, OBSERVED
from tstune.data.prepared import PreparedData, prepare_data
from tstune.data.scaler import Scaler, fit_scaler
from tstune.data.splits import PARTS, WindowRanges, window_ranges
from tstune.data.table import ITEM, TIMESTAMP, Roles, SourceTable
from tstune.data.windows import WindowDataset
from tstune.errors import DataError, LeakError

LENGTH = CONTEXT + PREDICTION


def check(data: PreparedData, **changes: object) -> list[str]:
    """Run the checker on prepared data in which some pieces were exchanged."""
    panel = changes.get("panel", data.panel)
    windows = changes.get("windows", data.windows)
    if "panel" in changes and "windows" not in changes:
        windows = {part: WindowDataset(panel, data.windows[part].ranges, CONTEXT, PREDICTION) for part in PARTS}
    stretches = hash_readings(panel, "mg/dL", bin_levels(panel, "mg/dL"), 1).identifying()
    split = changes.get("split", data.split)
    scaler = changes.get("scaler", data.preprocessor.scaler)
    return check_leaks(panel, split, windows, scaler, changes.get("scaling", "standard"), stretches)


def leak(data: PreparedData, **changes: object) -> LeakError:
    assert check(data) == [], "without the change it is clean"
    with pytest.raises(LeakError) as caught:
        check(data, **changes)
    assert isinstance(caught.value, DataError)
    assert str(caught.value).startswith(f"leak {caught.value.check}: ")
    assert caught.value.check in CHECKS
    return caught.value


def with_ranges(data: PreparedData, part: str, first: list[int], count: list[int]) -> dict[str, WindowDataset]:
    """The windows of one part exchanged for others."""
    ranges = WindowRanges(np.array(first), np.array(count), 1)
    return data.windows | {part: WindowDataset(data.panel, ranges, CONTEXT, PREDICTION)}


def rebuilt(data: PreparedData, **split: object) -> dict[str, object]:
    """Another split and the windows and the scaler that follow from it."""
    changed = replace(data.split, **split)
    ranges = {part: window_ranges(data.panel, changed, part, CONTEXT, PREDICTION, 1) for part in PARTS}
    windows = {part: WindowDataset(data.panel, ranges[part], CONTEXT, PREDICTION) for part in PARTS}
    return {"split": changed, "windows": windows, "scaler": fit_scaler(data.panel, changed, "standard")}


@pytest.fixture(scope="module")
def data() -> PreparedData:
    """Two people of 1,500 steps with gaps, split strictly at 1,050 and 1,200."""
    series = {name: with_gaps(values, seed) for seed, (name, values) in enumerate(people(2).items())}
    return prepare(series)


@pytest.fixture(scope="module")
def whole() -> PreparedData:
    """Two people without gaps: row = 1,500 * person + step."""
    return prepare(people(2))


# Planted leaks


def test_leaks_1_and_2_windows_and_steps_of_a_held_out_item():
    by_item = prepare(people(3), {"by": "item", "test_items": ["P03"], "validation_items": ["P02"]})
    error = leak(by_item, windows=with_ranges(by_item, "train", [0, 3000], [1471, 100]))
    assert error.check == "held_out_item"
    assert "'P03' is held out, but has windows in train" in str(error)
    borders = by_item.split.borders.copy()
    borders[2, 0] = 900
    assert leak(by_item, split=replace(by_item.split, borders=borders)).check == "held_out_item"


@pytest.mark.parametrize(
    ("part", "first", "count", "check", "words"),
    [
        ("test", [1200, 2700], [302 - LENGTH, 10], "gap", "begin at 2023-06-05 04:00 in series 'P01'"),
        ("test", [2999 - LENGTH], [5], "gap", "in series 'P02' run over the end of its segment"),
        ("train", [0], [1052 - LENGTH], "border", "in series 'P01', 2023-06-01 00:00 to 2023-06-04 15:30"),
    ],
    ids=["3 from one series into the next", "5 beyond the last row", "6 targets beyond the border"],
)
def test_leaks_3_5_and_6_windows_that_go_on_too_long(
    whole: PreparedData, part: str, first: list[int], count: list[int], check: str, words: str
):
    error = leak(whole, windows=with_ranges(whole, part, first, count))
    assert error.check == f"window_over_{check}"
    assert f"windows of {part} " in str(error)
    assert words in str(error)


def test_leak_4_a_window_over_a_long_gap(data: PreparedData):
    end = int(data.panel.segment_start[1])
    assert data.panel.segment_item[1] == 0, "a gap inside P01"
    error = leak(data, windows=with_ranges(data, "train", [end - LENGTH + 1], [1]))
    assert error.check == "window_over_gap"


def test_leak_7_a_context_over_the_border_in_strict_mode(whole: PreparedData):
    looks_back = with_ranges(whole, "test", [1200 - CONTEXT], [10])
    assert leak(whole, windows=looks_back).check == "window_over_border"
    deployment = prepare(people(2), {"mode": "deployment"})
    assert check(deployment, windows=looks_back) == [], "deployment mode allows just that"


def test_leak_8_the_same_time_twice(whole: PreparedData):
    stamps = whole.panel.timestamps.copy()
    stamps[1100:1500] -= np.timedelta64(60, "m")  # an hour repeated when clocks go back
    error = leak(whole, panel=replace(whole.panel, timestamps=stamps))
    assert error.check == "repeated_time"
    assert "series 'P01' holds 2023-06-04 18:40 after 2023-06-04 19:35" in str(error)


@pytest.mark.parametrize("mode", ["strict", "deployment"])
@pytest.mark.parametrize(("part", "earlier"), [(1, "train"), (2, "validation")])
def test_leak_9_targets_in_the_windows_of_an_earlier_part(mode: str, part: int, earlier: str):
    clean = prepare(people(2), {"mode": mode})
    begins = clean.split.begins.copy()
    begins[:, part] -= CONTEXT + 3
    error = leak(clean, **rebuilt(clean, begins=begins))
    assert error.check == "target_in_earlier_part"
    assert f"in series 'P01', 2023-06-0{4 if part == 1 else 5}" in str(error)
    assert f"lie in windows of {earlier}" in str(error)
    steps = 3 if mode == "strict" else CONTEXT + 3
    assert str(error).startswith(f"leak target_in_earlier_part: {steps} target steps of")


def test_leak_10_contexts_in_the_windows_of_an_earlier_part(whole: PreparedData):
    begins = whole.split.begins.copy()
    begins[1, 2] -= CONTEXT
    error = leak(whole, **rebuilt(whole, begins=begins))
    assert error.check == "context_in_earlier_part"
    assert "24 context steps of test in series 'P02'" in str(error)


def test_leak_11_less_than_the_purge_between_two_parts():
    clean = prepare(people(2), {"purge": 12, "mode": "deployment"})
    borders = clean.split.borders.copy()
    borders[1, 0] += 1
    error = leak(clean, **rebuilt(clean, borders=borders))
    assert error.check == "purge"
    assert "validation begins 11 steps after train in series 'P02', but data.split.purge asks for 12" in str(error)


@pytest.mark.parametrize("what", ["all", "test", "filled"])
def test_leak_12_a_scaler_of_other_readings(data: PreparedData, what: str):
    panel, status = data.panel, data.panel.status
    if what == "all":  # readings of every part
        scaler = fit_scaler(panel, replace(data.split, borders=np.full((2, 3), 1500)), "standard")
    elif what == "test":  # one reading of the test in the mean
        mine = data.preprocessor.scaler
        scaler = Scaler(mine.mean + (panel.values[-1, 0] - mine.mean) / 2000, mine.std)
    else:  # interpolated values counted as readings
        filled = replace(panel, status=np.where(status == INTERPOLATED, OBSERVED, status))
        scaler = fit_scaler(filled, data.split, "standard")
    error = leak(data, scaler=scaler)
    assert error.check == "scaler"
    assert "channel 'glucose' is scaled by mean" in str(error)


def test_leak_13_scaling_where_none_was_asked_for(data: PreparedData):
    assert leak(data, scaling="none").check == "scaler"
    unscaled = prepare(people(2), scaling="none")
    assert check(unscaled, scaling="none") == []


@pytest.mark.parametrize("fill", ["mean", "next", "spline"])
def test_leak_14_gaps_filled_with_knowledge_of_other_readings(data: PreparedData, fill: str):
    values, rows = data.panel.values.copy(), np.flatnonzero(data.panel.status[:, 0] == INTERPOLATED)
    if fill == "mean":  # of everything, the test included
        values[rows] = values.mean()
    elif fill == "next":  # the next reading held backwards
        for row in rows[::-1]:
            values[row] = values[row + 1]
    else:
        values[rows[3]] *= 1.01
    error = leak(data, panel=replace(data.panel, values=values))
    assert error.check == "imputation"
    assert "its neighbours give" in str(error)


def test_gaps_that_hold_the_reading_before_them_are_clean(data: PreparedData):
    values, rows = data.panel.values.copy(), np.flatnonzero(data.panel.status[:, 0] == INTERPOLATED)
    for row in rows:
        values[row] = values[row - 1]
    assert check(data, panel=replace(data.panel, values=values)) == []


@pytest.mark.parametrize("block", [5, 64])
def test_the_size_of_a_block_changes_nothing(data: PreparedData, block: int, monkeypatch: pytest.MonkeyPatch):
    """Large panels are read block by block; runs and stretches that lie over a seam are seen whole."""
    levels = bin_levels(data.panel, "mg/dL")
    expected = hash_readings(data.panel, "mg/dL", levels, 2)
    monkeypatch.setattr("tstune.data.leaks.BLOCK_ROWS", block)
    monkeypatch.setattr("tstune.data.panel.BLOCK_ROWS", block)
    monkeypatch.setattr("tstune.data.fingerprints._BLOCK", block)
    found = hash_readings(data.panel, "mg/dL", levels, 2)
    for name in ("hashes", "item", "first_row", "last_row", "channel"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
    assert len(found) > 500
    assert check(data) == []
    rows = np.flatnonzero(data.panel.status[:, 0] == INTERPOLATED)
    for row in rows[:: max(1, len(rows) // 10)]:
        values = data.panel.values.copy()
        values[row] += 1
        with pytest.raises(LeakError, match="leak imputation: "):
            check(data, panel=replace(data.panel, values=values))


class Unheld(WindowDataset):
    """Windows whose contexts keep the line to the first reading after the origin."""

    def _held(self, past: torch.Tensor, starts: np.ndarray) -> torch.Tensor:
        return past


@pytest.mark.parametrize("part", PARTS)
def test_leak_15_a_context_that_ends_in_a_line_to_the_future(data: PreparedData, part: str):
    windows = data.windows | {part: Unheld(data.panel, data.windows[part].ranges, CONTEXT, PREDICTION)}
    error = leak(data, windows=windows)
    assert error.check == "imputation"
    assert f"a context of {part} in series" in str(error)
    assert "filled with a line to a later reading" in str(error)


def test_leak_16_a_gap_across_the_border_carries_a_reading_of_the_next_part():
    """A window whose targets end at the border and whose context ends in a gap that reaches over it."""
    values = person(0)
    values[1050 - PREDICTION - 2 : 1053] = np.nan  # the 11 missing steps are filled: max_gap is 12 here
    clean = prepare({"P01": values}, max_gap=12)
    start = 1050 - LENGTH
    (past,) = clean.train.gather(np.array([start]))["past_values"][:, -2:, 0]
    assert past.tolist() == [np.float32(values[start + CONTEXT - 3])] * 2, "held, not led to the reading after it"
    only_there = WindowRanges(np.array([start]), np.array([1]), 1)
    windows = clean.windows | {"train": Unheld(clean.panel, only_there, CONTEXT, PREDICTION)}
    assert leak(clean, windows=windows).check == "imputation"


# Two names for one series


def copies(kind: str) -> SourceTable:
    """P01 to P04, and a copy of P02 as `X`."""
    series, starts = people(4), {}
    copy = series["P02"]
    if kind == "rounded":
        copy = np.round(copy)
    elif kind == "trimmed":
        copy = copy[200:1300]
    elif kind == "shifted":
        starts["X"] = "2021-02-03 04:05"
    elif kind == "gaps":
        copy = with_gaps(copy, seed=9, share=0.01)
    elif kind == "all":
        copy, starts["X"] = with_gaps(np.round(copy[100:]), seed=9, share=0.005), "2024-02-03 04:07"
    return table(series | {"X": copy}, starts)


@pytest.mark.parametrize("kind", ["same", "rounded", "trimmed", "shifted", "gaps", "all"])
@pytest.mark.parametrize("held_out", ["X", "P02"])
def test_leak_17_one_series_under_two_names(kind: str, held_out: str):
    split = {"by": "item", "test_items": [held_out], "validation_items": ["P04"]}
    with pytest.raises(LeakError) as caught:
        prepare(copies(kind), split)
    assert caught.value.check == "duplicate_series"
    other = "P02" if held_out == "X" else "X"
    assert f"readings of test in series {held_out!r} (" in str(caught.value)
    assert f"are those of train in series {other!r} (" in str(caught.value)
    assert "data.split.allow_overlap=true" in str(caught.value)


def test_leak_18_a_copy_that_begins_later_by_time():
    """Each series is split in time by its own length, so the copy's train part is P01's test part."""
    series = people(2)
    with pytest.raises(LeakError) as caught:
        prepare(series | {"X": series["P01"][900:]})
    assert caught.value.check == "duplicate_series"
    assert "in series 'P01'" in str(caught.value)
    assert "in series 'X'" in str(caught.value)


def test_copies_in_the_same_part_are_no_leak():
    series = people(3)
    assert prepare(series | {"X": series["P02"]}).manifest["leak_check"]["allowed"] == []
    both = {"by": "item", "test_items": ["P02", "X"], "validation_items": ["P03"]}
    assert prepare(series | {"X": series["P02"]}, both).manifest["leak_check"]["allowed"] == []


def test_allowed_copies_are_recorded():
    split = {"by": "item", "test_items": ["X"], "validation_items": ["P04"], "allow_overlap": True}
    manifest = prepare(copies("same"), split).manifest
    (finding,) = manifest["leak_check"]["allowed"]
    assert "readings of test in series 'X' (2023-06-01" in finding
    assert manifest["split"]["allow_overlap"] is True


def test_the_distance_in_time_tells_a_copy_from_a_coincidence():
    """Matching stretches that do not lie at one distance are not called the same series."""
    data = prepare(people(3), {"by": "item", "test_items": ["P03"], "validation_items": ["P02"]})
    stretches = hash_readings(data.panel, "mg/dL", bin_levels(data.panel, "mg/dL"), 1).identifying()
    hashes = stretches.hashes.copy()
    mine, other = (np.flatnonzero(stretches.item == item) for item in (0, 2))
    random = np.random.default_rng(0)
    hashes[random.choice(other, 40, replace=False)] = hashes[random.choice(mine, 40, replace=False)]
    order = np.argsort(hashes, kind="stable")
    args = data.panel, data.split, data.windows, data.preprocessor.scaler, "standard"
    assert check_leaks(*args, replace(stretches, hashes=hashes).select(order)) == []


def test_many_copies_are_found_in_one_pass():
    """The work grows with the rows, not with the pairs of series."""
    values = person(0, 400)
    series = {f"c{number:03d}": values for number in range(300)} | {"P": person(1, 400)}
    with pytest.raises(LeakError, match=r"duplicate_series.*more such findings"):
        prepare(series, {"by": "item"})


# Clean splits


SPLITS = [
    {},
    {"mode": "deployment"},
    {"purge": 30},
    {"purge": "4h", "mode": "deployment"},
    {"by": "item"},
    {"by": "item", "mode": "deployment", "seed": 3},
    {"by": "both"},
    {"by": "both", "mode": "deployment", "purge": 10},
    {"by": "item", "folds": 4, "fold": 2},
    {"borders": [700, 900, 1100]},
    {"borders_at": ["2023-06-03", "2023-06-04", None]},
    {"train": 0.5, "validation": 0.1, "test": 0.1},
]


@pytest.mark.parametrize("split", SPLITS, ids=str)
@pytest.mark.parametrize("stride", [1, 7, 40])
def test_clean_splits_of_people_pass(split: dict, stride: int):
    series = {name: with_gaps(values, seed) for seed, (name, values) in enumerate(people(4).items())}
    strides = {f"{part}_stride": stride for part in PARTS}
    report = prepare(series, split, **strides).manifest["leak_check"]
    assert report == {"checks": list(CHECKS), "allowed": []}


@pytest.mark.parametrize("few", [{"train_fraction_from": how} for how in ("first", "last", "uniform")])
@pytest.mark.parametrize("mode", ["strict", "deployment"])
def test_clean_few_shot_splits_pass(few: dict, mode: str):
    data = prepare(people(3), {"mode": mode}, train_fraction=0.2, **few)
    assert data.manifest["leak_check"]["allowed"] == []


@pytest.mark.parametrize("split", [s for s in SPLITS if {"train", "borders", "borders_at"}.isdisjoint(s)], ids=str)
@pytest.mark.parametrize("seed", range(2))
def test_clean_splits_of_many_channels_pass(split: dict, seed: int):
    """Gaps in every channel, covariates with long gaps, a series whose targets begin at different times."""
    roles = Roles(("x", "y"), ("dose",), ("plan",))
    grids = random_grids(roles, (600, 500, 700, 400), seed=seed)
    grids["item1"][:40, 1] = np.nan
    grids["item2"][100:260, 2] = np.nan
    data = prepare_data(DataSection(split=split), CONTEXT, PREDICTION, grid_table(grids, roles, max_gap=5))
    assert data.manifest["leak_check"]["allowed"] == []


@pytest.mark.parametrize("kind", ["sine", "constant", "ramp", "square"])
def test_signals_that_repeat_themselves_are_not_called_copies(kind: str):
    steps = np.arange(1200.0)
    shape: dict[str, Callable] = {
        "sine": lambda shift: np.sin(2 * np.pi * (steps + shift) / 24),
        "constant": lambda shift: np.full(1200, 5.0),
        "ramp": lambda shift: steps + shift,
        "square": lambda shift: ((steps + shift) // 12) % 2,
    }
    series = {f"s{shift}": shape[kind](shift) for shift in (0, 5, 300)}
    for split in ({}, {"by": "item"}):
        data = prepare(table(series, column="signal", unit=None), split)
        assert data.manifest["leak_check"]["allowed"] == []


def test_a_series_on_a_calendar_grid_passes():
    random = np.random.default_rng(0)
    stamps = pd.date_range("1900-01-31", periods=600, freq="ME")
    frame = pd.DataFrame({ITEM: "a", TIMESTAMP: stamps, "y": random.normal(size=600)}).drop(index=[50, 51, 300])
    data = prepare_data(DataSection(frequency="ME", max_gap=3), 24, 6, SourceTable(frame, Roles(("y",))))
    assert data.manifest["leak_check"]["allowed"] == []


def test_large_values_with_a_small_deviation_pass():
    values = 1e6 + np.tile([0.0, 1.0], 700)
    data = prepare(table({"a": values, "b": np.full(1400, 0.1)}, column="signal", unit=None))
    assert data.manifest["leak_check"]["allowed"] == []


# Real data


@pytest.mark.parametrize("mode", ["strict", "deployment"])
def test_the_glucose_sample_is_clean(mode: str):
    data = prepare_data(DataSection(split=SplitSection(mode=mode)), 512, 96)
    assert data.manifest["leak_check"] == {"checks": list(CHECKS), "allowed": []}


@pytest.mark.parametrize("mode", ["strict", "deployment"])
def test_etth1_is_clean(shared: Path, mode: str):
    section = {"source": "ett", "path": str(shared / "data/ett/ETTh1.csv")}
    standard = DataSection(**section, split={"mode": mode, "borders": "standard"})
    assert prepare_data(standard, 512, 96).manifest["leak_check"]["allowed"] == []
    columns = {"source": "csv", "path": section["path"], "timestamp_column": "date", "columns_as": "items"}
    data = prepare_data(DataSection(**columns, split={"mode": mode, "by": "item"}), 512, 96)
    assert len(data.unseen_items) == 1
    assert data.manifest["leak_check"]["allowed"] == []


@pytest.fixture(scope="module")
def twelve(shared: Path) -> SourceTable:
    """Glucose of the twelve shared participants of BrisT1D-Open."""
    frames = []
    for path in sorted((shared / "data/brist1d_open").glob("P*.csv.gz")):
        raw = pd.read_csv(path)
        stamps = pd.to_datetime(raw["timestamp"]).astype("datetime64[ns]")
        glucose = raw["glucose_value_mg_dl"].astype(float)
        frames.append(pd.DataFrame({ITEM: path.name[:3], TIMESTAMP: stamps, "glucose": glucose}))
    frame = pd.concat(frames, ignore_index=True)
    assert frame[ITEM].nunique() == 12
    return SourceTable(frame, Roles(("glucose",)), frequency="5min", max_gap="45min", unit="mg/dL")


REAL_SPLITS = [
    {},
    {"preset": "brist1d", "mode": "deployment"},
    {"by": "item", "folds": 4, "fold": 1},
    {"by": "both", "purge": "24h"},
]


@pytest.mark.parametrize("split", REAL_SPLITS, ids=str)
def test_twelve_people_are_twelve(twelve: SourceTable, split: dict):
    data = prepare_data(DataSection(split=split), 512, 96, twelve)
    assert data.manifest["leak_check"] == {"checks": list(CHECKS), "allowed": []}
    expected = {"preset": ("P15", "P16", "P18")}.get(next(iter(split), ""))
    assert expected is None or data.unseen_items == expected


def test_two_people_hardly_share_a_stretch(twelve: SourceTable):
    """Every stretch of every person, not a sample: three at one distance do not happen by chance."""
    data = prepare_data(DataSection(), 512, 96, twelve)
    stretches = hash_readings(data.panel, "mg/dL", bin_levels(data.panel, "mg/dL"), 1)
    assert len(stretches) > 350_000
    owners = pd.DataFrame({"hash": stretches.hashes, "item": stretches.item}).drop_duplicates()
    shared = owners[owners["hash"].duplicated(keep=False)].groupby("hash")["item"].agg(tuple)
    assert len(shared) <= 5
    assert shared.value_counts().max() <= 2


def test_the_smooth_curves_of_the_simulator_are_not_copies():
    """After a meal two simulated people may fall alike for three hours: that is no duplicate."""
    section = DataSection(source="simulated_t1d", source_options={"people": 8, "days": 30})
    data = prepare_data(section, 96, 24)
    assert data.manifest["leak_check"] == {"checks": list(CHECKS), "allowed": []}
