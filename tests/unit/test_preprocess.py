"""From readings to a panel: grid, averages, gaps, segments."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from unit.builders import grid_table, irregular_table, random_grids, single_table

from tstune.data.panel import INTERPOLATED, MISSING, OBSERVED, Panel
from tstune.data.preprocess import build_panel
from tstune.data.splits import WindowRanges
from tstune.data.table import ITEM, TIMESTAMP, Roles, SourceTable
from tstune.data.windows import WindowDataset
from tstune.errors import ConfigError, DataError, TstuneError

NAN = np.nan
ONE = Roles(("y",))


def segments(panel: Panel) -> list[tuple[int, int, list[float]]]:
    """(item, position, first channel) of each segment."""
    bounds = zip(panel.segment_start[:-1], panel.segment_start[1:], strict=True)
    return [
        (int(item), int(position), panel.values[first:last, 0].tolist())
        for item, position, (first, last) in zip(panel.segment_item, panel.segment_position, bounds, strict=True)
    ]


def statuses(panel: Panel, channel: int = 0) -> list[int]:
    return panel.status[:, channel].tolist()


def times(panel: Panel) -> list[pd.Timestamp]:
    return list(pd.DatetimeIndex(panel.timestamps))


# The grid


@pytest.mark.parametrize(
    ("stamps", "values", "expected"),
    [
        (["00:01", "00:04:40", "00:12:29", "00:12:31"], [1, 2, 3, 4], [1, 2, 3, 4]),  # to the nearest step
        (["00:00", "00:07:30"], [1, 3], [1, 2, 3]),  # half a step goes up
        (["00:00", "00:04", "00:05", "00:06", "00:10"], [1, 2, 4, 9, 7], [1, 5, 7]),  # those of one step are averaged
        (["00:00", "00:05", "00:06", "00:10"], [1, 4, NAN, 7], [1, 4, 7]),  # what is missing takes no part in it
    ],
)
def test_irregular_readings_on_the_grid(stamps: list[str], values: list[float], expected: list[float]):
    panel = build_panel(irregular_table([f"2024-01-01 {time}" for time in stamps], values), "5min", 1)
    assert segments(panel) == [(0, 0, expected)]
    assert times(panel) == list(pd.date_range("2024-01-01 00:00", periods=len(expected), freq="5min"))
    assert (INTERPOLATED in statuses(panel)) == (len(stamps) < len(expected))
    assert panel.frequency == "5min"


def test_channels_are_averaged_each_on_its_own():
    frame = pd.DataFrame(
        {
            ITEM: "a",
            TIMESTAMP: pd.DatetimeIndex(["2024-01-01 00:00", "2024-01-01 00:01", "2024-01-01 00:05"]),
            "x": [1.0, 3.0, 5.0],
            "y": [NAN, 8.0, 9.0],
        }
    )
    panel = build_panel(SourceTable(frame, Roles(("x", "y"))), "5min", 0)
    assert panel.values.tolist() == [[2, 8], [5, 9]]
    assert panel.values.dtype == np.float32
    assert panel.status.dtype == np.uint8


@pytest.mark.parametrize("start", ["2024-01-01 00:30", "2024-01-01 00:59:59", "2024-01-01 00:00:01"])
def test_a_regular_series_off_the_full_hour_keeps_its_phase(start: str):
    stamps = pd.date_range(start, periods=5, freq="h").delete(2)
    panel = build_panel(irregular_table(stamps, [0, 1, 3, 4]), None, 1)
    assert times(panel) == list(pd.date_range(start, periods=5, freq="h"))
    assert panel.values[:, 0].tolist() == [0, 1, 2, 3, 4]
    assert statuses(panel) == [OBSERVED, OBSERVED, INTERPOLATED, OBSERVED, OBSERVED]


def test_every_series_keeps_its_own_phase():
    frames = [
        irregular_table(pd.date_range(start, periods=3, freq="h"), [1, 2, 3]).frame.assign(item_id=item)
        for item, start in (("a", "2024-01-01 00:30"), ("b", "2024-01-01 00:10"))
    ]
    panel = build_panel(SourceTable(pd.concat(frames), ONE), "h", 0)
    assert [stamp.minute for stamp in times(panel)] == [30, 30, 30, 10, 10, 10]


def test_readings_may_come_in_any_order():
    table = grid_table(random_grids(Roles(("y", "z")), (60, 40)), Roles(("y", "z")))
    shuffled = SourceTable(table.frame.sample(frac=1, random_state=0), table.roles, frequency="h")
    straight, mixed = build_panel(table, None, 3), build_panel(shuffled, None, 3)
    for name in ("values", "status", "timestamps", "segment_start", "segment_item", "segment_position"):
        np.testing.assert_array_equal(getattr(mixed, name), getattr(straight, name), err_msg=name)
    assert mixed.item_ids == straight.item_ids == ("item0", "item1")


@pytest.mark.parametrize(
    ("frequency", "expected"),
    [("MS", ["2024-01-01", "2024-02-01", "2024-03-01"]), ("ME", ["2024-01-31", "2024-02-29", "2024-03-31"])],
)
def test_a_monthly_grid(frequency: str, expected: list[str]):
    table = irregular_table(["2024-01-17", "2024-02-03", "2024-02-05", "2024-03-29"], [1, 2, 4, 5])
    panel = build_panel(table, frequency, 0)
    assert times(panel) == [pd.Timestamp(text) for text in expected]
    assert panel.values[:, 0].tolist() == [1, 3, 5]


def test_a_monthly_grid_is_inferred_and_its_gaps_are_filled():
    stamps = pd.date_range("2023-10-01", periods=8, freq="MS").delete(4)
    table = irregular_table(stamps, [0, 1, 2, 3, 5, 6, 7])
    panel = build_panel(table, "MS", 1)
    assert times(panel) == list(pd.date_range("2023-10-01", periods=8, freq="MS"))
    assert panel.values[:, 0].tolist() == [0, 1, 2, 3, 4, 5, 6, 7]
    assert statuses(panel)[4] == INTERPOLATED
    whole = irregular_table(pd.date_range("2023-10-01", periods=8, freq="MS"), range(8))
    assert build_panel(whole, None, 0).frequency == "MS"


@pytest.mark.parametrize("frequency", ["QS", "QE", "YS", "YE"])
def test_quarters_and_years(frequency: str):
    stamps = pd.date_range("2010-01-01", periods=6, freq=frequency)
    for given in (frequency, None):  # named, or found out (pandas calls quarters from January QS-OCT)
        panel = build_panel(irregular_table(stamps, range(6)), given, 0)
        assert times(panel) == list(stamps)
        assert segments(panel) == [(0, 0, [0, 1, 2, 3, 4, 5])]


@pytest.mark.parametrize("frequency", ["2MS", "QS-FEB", "YS-APR", "SME", "BMS"])
def test_other_calendar_steps_make_their_grid_or_are_refused(frequency: str):
    stamps = pd.date_range("2010-01-01", periods=6, freq=frequency)
    try:
        panel = build_panel(irregular_table(stamps, range(6)), frequency, 0)
    except TstuneError as error:
        assert frequency in str(error)  # noqa: PT017  (either outcome is right)
        return
    assert times(panel) == list(stamps)
    assert segments(panel) == [(0, 0, [0, 1, 2, 3, 4, 5])]


def test_the_tables_own_frequency_and_gap_are_the_default():
    table = single_table([1, NAN, NAN, 4, 5], frequency="h", max_gap="2h")
    assert build_panel(table, None, None).values[:, 0].tolist() == [1, 2, 3, 4, 5]
    assert segments(build_panel(table, None, 1)) == [(0, 0, [1]), (0, 3, [4, 5])]
    assert build_panel(table, "30min", 5).num_rows == 9


def test_tables_that_make_no_panel():
    table = irregular_table(["1970-01-01", "2024-01-01 00:00", "2024-01-01 00:01"], [1, 2, 3])
    with pytest.raises(DataError, match=r"series 'a': 3 rows spread over .* steps of 1min"):
        build_panel(table, "1min", 0)
    with pytest.raises(ConfigError, match=r"data\.frequency='often' is not a frequency"):
        build_panel(single_table([1, 2]), "often", 0)
    with pytest.raises(DataError, match=r"no observed value in target column\(s\) y of any series"):
        build_panel(single_table([NAN, NAN]), None, 0)


# Gaps


@pytest.mark.parametrize("limit", [3, "3h"])
def test_a_gap_at_the_limit_is_filled_and_marked_a_longer_one_cuts(limit: int | str):
    panel = build_panel(single_table([1, NAN, NAN, NAN, 9, 10]), None, limit)
    assert segments(panel) == [(0, 0, [1, 3, 5, 7, 9, 10])]
    assert statuses(panel) == [OBSERVED, INTERPOLATED, INTERPOLATED, INTERPOLATED, OBSERVED, OBSERVED]
    panel = build_panel(single_table([1, 2, NAN, NAN, NAN, NAN, 9, NAN, 11]), None, limit)
    assert segments(panel) == [(0, 0, [1, 2]), (0, 6, [9, 10, 11])]
    assert statuses(panel) == [OBSERVED, OBSERVED, OBSERVED, INTERPOLATED, OBSERVED]
    assert panel.item_length.tolist() == [9]
    assert panel.segment_start.tolist() == [0, 2, 5]
    assert panel.segment_length.tolist() == [2, 3]
    assert panel.row_position().tolist() == [0, 1, 6, 7, 8]
    assert panel.row_item().tolist() == [0] * 5
    assert [stamp.hour for stamp in times(panel)] == [0, 1, 6, 7, 8]
    assert segments(build_panel(single_table([1, NAN, 3, 4]), None, None)) == [(0, 0, [1]), (0, 2, [3, 4])], "default 0"


def test_rows_that_are_absent_are_a_gap_like_any_other():
    stamps = pd.date_range("2024-01-01", periods=9, freq="h")
    values = np.array([1, 2, NAN, NAN, NAN, NAN, 9, NAN, 11])
    kept = ~np.isnan(values)
    absent = build_panel(irregular_table(stamps[kept], values[kept]), "h", 3)
    present = build_panel(irregular_table(stamps, values), "h", 3)
    np.testing.assert_array_equal(absent.values, present.values)
    np.testing.assert_array_equal(absent.segment_position, present.segment_position)


def test_a_gap_in_any_target_cuts_all_channels():
    roles = Roles(("x", "y"))
    grid = np.array([[1, 1], [2, NAN], [3, NAN], [4, 4], [5, 5]], float)
    panel = build_panel(grid_table({"a": grid}, roles), None, 1)
    assert segments(panel) == [(0, 0, [1]), (0, 3, [4, 5])]


def test_covariates_never_cut():
    roles = Roles(("y",), ("dose",), ("plan",))
    grid = np.array(
        [[1, NAN, 5], [2, 7, NAN], [3, NAN, 5], [4, NAN, NAN], [5, NAN, NAN], [6, 3, NAN], [7, NAN, NAN]], float
    )
    panel = build_panel(grid_table({"a": grid}, roles), None, 1)
    assert segments(panel) == [(0, 0, [1, 2, 3, 4, 5, 6, 7])]
    assert statuses(panel, 1) == [MISSING, OBSERVED, MISSING, MISSING, MISSING, OBSERVED, MISSING]
    assert panel.values[:, 1].tolist() == [0, 7, 0, 0, 0, 3, 0]
    assert statuses(panel, 2) == [OBSERVED, INTERPOLATED, OBSERVED, MISSING, MISSING, MISSING, MISSING]
    assert panel.values[:, 2].tolist() == [5, 5, 5, 0, 0, 0, 0]
    never = build_panel(grid_table({"a": np.array([[1, NAN], [2, NAN]])}, Roles(("y",), ("dose",))), None, 5)
    assert statuses(never, 1) == [MISSING, MISSING]
    assert never.values[:, 1].tolist() == [0, 0]


def test_leading_and_trailing_rows_without_a_target_are_trimmed():
    roles = Roles(("y",), ("dose",))
    grid = np.array([[NAN, 1], [NAN, 2], [3, 3], [4, 4], [NAN, 5]], float)
    panel = build_panel(grid_table({"a": grid}, roles), None, 3)
    assert panel.values.tolist() == [[3, 3], [4, 4]]
    assert panel.item_length.tolist() == [2]
    assert panel.segment_position.tolist() == [0]
    assert [stamp.hour for stamp in times(panel)] == [2, 3]


def test_one_late_target_shortens_the_segment_but_not_the_item():
    roles = Roles(("x", "y"))
    grid = np.array([[1, NAN], [2, NAN], [3, 3], [4, 4], [NAN, 5]], float)
    panel = build_panel(grid_table({"a": grid}, roles), None, 3)
    assert panel.values.tolist() == [[3, 3], [4, 4]]
    assert panel.item_length.tolist() == [5]
    assert panel.segment_position.tolist() == [2]


def test_an_item_without_a_value_is_dropped():
    grids = {name: np.full((4, 1), value) for name, value in (("a", 1.0), ("b", NAN), ("c", 3.0))}
    panel = build_panel(grid_table(grids, ONE), None, 0)
    assert [panel.item_ids[item] for item in panel.segment_item] == ["a", "c"]
    assert panel.num_rows == 8
    assert [panel.item_ids[item] for item in panel.row_item()] == ["a"] * 4 + ["c"] * 4


def test_uncut_items_stay_in_one_piece_with_long_gaps_missing():
    table = single_table([NAN, 1, NAN, 3, NAN, NAN, NAN, 7, NAN])
    panel = build_panel(table, None, 1, cut=False)
    assert segments(panel) == [(0, 0, [1, 2, 3, 0, 0, 0, 7])]
    assert statuses(panel) == [OBSERVED, INTERPOLATED, OBSERVED, MISSING, MISSING, MISSING, OBSERVED]


def test_cutting_only_removes_rows():
    roles = Roles(("x", "y"), ("dose",))
    table = grid_table(random_grids(roles, (200, 150, 90), longest_gap=9), roles)
    cut, whole = build_panel(table, None, 4), build_panel(table, None, 4, cut=False)
    assert len(whole.segment_item) == 3
    assert len(cut.segment_item) > 10
    rows = whole.segment_start[cut.row_item()] + cut.row_position()
    for name in ("values", "status", "timestamps"):
        np.testing.assert_array_equal(getattr(cut, name), getattr(whole, name)[rows], err_msg=name)
    removed = np.setdiff1d(np.arange(whole.num_rows), rows)
    assert removed.size > 0
    assert (whole.status[removed, :2] == MISSING).any(axis=1).all()
    assert (cut.status[:, :2] != MISSING).all()


def test_interpolation_agrees_with_pandas():
    roles = Roles(("y",), ("dose",))
    grids = random_grids(roles, (400,), longest_gap=6)
    panel = build_panel(grid_table(grids, roles), None, 6, cut=False)
    expected = pd.DataFrame(grids["item0"]).interpolate(limit_area="inside")
    assert panel.num_rows == 400
    filled = panel.status == INTERPOLATED
    assert filled.sum() > 50
    np.testing.assert_allclose(panel.values[filled], expected.to_numpy()[filled], rtol=1e-6)
    np.testing.assert_array_equal(panel.status == OBSERVED, ~np.isnan(grids["item0"]))


def test_items_follow_each_other_in_one_flat_array():
    grids = {"b": np.arange(3.0)[:, None], "a": np.arange(10.0, 12.0)[:, None]}
    panel = build_panel(grid_table(grids, ONE), None, 0)
    assert panel.item_ids == ("a", "b")
    assert panel.values[:, 0].tolist() == [10, 11, 0, 1, 2]
    assert panel.segment_start.tolist() == [0, 2, 5]
    assert panel.segment_item.tolist() == [0, 1]
    assert panel.item_length.tolist() == [2, 3]


def test_a_forecast_context_holds_the_last_reading_as_training_windows_do():
    """A covariate that is missing at the origin: the same values in training and in forecasting."""
    values = np.arange(60.0).repeat(2).reshape(60, 2)
    values[18:21, 1] = NAN
    roles = Roles(("y",), ("dose",))
    whole = build_panel(grid_table({"a": values}, roles), None, 5)
    cut_off = build_panel(grid_table({"a": values[:21]}, roles), None, 5, cut=False)
    ranges = WindowRanges(np.array([11]), np.array([1]), 1)
    trained = WindowDataset(whole, ranges, 10, 2).gather(np.array([11]))
    assert trained["past_values"][0, :, 1].tolist() == cut_off.values[11:21, 1].tolist()
    assert trained["past_observed_mask"][0, :, 1].tolist() == (cut_off.status[11:21, 1] > 0).tolist()
    assert cut_off.values[18:21, 1].tolist() == [17.0, 17.0, 17.0]


# Levels


@pytest.mark.parametrize("level", [1e2, 1e5, 1e9, 1e12])
def test_a_series_keeps_its_changes_whatever_its_level(level: float):
    rising = np.arange(50.0) * 10 + np.tile([0, 3], 25)
    table = grid_table({"high": (rising + level)[:, None], "low": rising[:, None]}, ONE)
    panel = build_panel(table, "h", 0)
    first = slice(*panel.segment_start[:2])
    np.testing.assert_array_equal(panel.values[first, 0] + panel.level_of(0, 0), rising + level)
    np.testing.assert_array_equal(panel.values[panel.segment_start[1] :, 0], rising)
    assert (panel.level is None) == (level < 1e7)
    if panel.level is not None:
        assert panel.level.tolist() == [[level], [0.0]]
        again = build_panel(table, "h", 0, levels={"high": [level - 70]})
        assert again.level.tolist() == [[level - 70], [0.0]]


def test_the_rounding_of_a_sum_is_no_change():
    rate = np.diff(np.concatenate([[0.0], np.cumsum(np.full(200, 0.1))]))  # differs in the last digits only
    assert len(np.unique(rate)) > 1
    assert build_panel(single_table(rate), "h", 0).level is None
    assert build_panel(single_table(rate * 1e5), "h", 0).level is None
