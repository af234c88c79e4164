"""Where the parts of a split begin and end, and which windows lie in them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from unit.builders import grid_table, prepared, random_grids, single_table

from tstune.config.schema import SplitSection
from tstune.data.panel import Panel
from tstune.data.preprocess import build_panel
from tstune.data.splits import PARTS, require_windows, split_panel, window_ranges
from tstune.data.table import Roles
from tstune.errors import ConfigError, DataError

ROLES = Roles(("x", "y"), ("dose",))
CONTEXT, PREDICTION = 6, 4


def plain_panel(*lengths: int) -> Panel:
    return build_panel(random_panel_table(lengths, gap_share=0.0), None, 0)


def random_panel_table(lengths: tuple[int, ...], **options: object):
    return grid_table(random_grids(ROLES, lengths, **options), ROLES)


def starts(panel: Panel, config: SplitSection, part: str, stride: int = 1) -> np.ndarray:
    """Positions of the window starts within their items."""
    split = split_panel(panel, config, None)
    ranges = window_ranges(panel, split, part, CONTEXT, PREDICTION, stride)
    rows = [
        first + step * stride for first, count in zip(ranges.first, ranges.count, strict=True) for step in range(count)
    ]
    return panel.row_position()[np.asarray(rows, int)]


# Borders


def test_borders_are_shares_of_each_items_own_length():
    split = split_panel(plain_panel(100, 57), SplitSection(), None)
    assert split.borders.tolist() == [[70, 80, 100], [39, 45, 57]]
    begin, end = split.bounds("train")
    assert (begin.tolist(), end.tolist()) == ([0, 0], [70, 39])
    begin, end = split.bounds("test")
    assert (begin.tolist(), end.tolist()) == ([80, 45], [100, 57])


def test_borders_do_not_lose_a_step_to_rounding():
    assert 0.7 + 0.1 < 0.8  # one trap
    assert 0.7 * 90 < 63  # another
    lengths = np.arange(10, 1500)
    panel = replace(plain_panel(10), item_length=lengths, item_ids=tuple(map(str, lengths)))
    placed = split_panel(panel, SplitSection(train=0.7, validation=0.1, test=0.2), None).borders
    exact = [[length * 7 // 10, length * 8 // 10, length] for length in lengths.tolist()]
    assert placed[lengths == 1000].tolist() == [[700, 800, 1000]]
    assert lengths[(placed != exact).any(axis=1)].tolist() == []


def test_shares_may_leave_the_end_unused():
    split = split_panel(plain_panel(200), SplitSection(train=0.5, validation=0.1, test=0.1), None)
    assert split.borders.tolist() == [[100, 120, 140]]


def test_borders_in_steps():
    panel = plain_panel(100, 90)
    split = split_panel(panel, SplitSection(borders=(40, 60, 90)), None)
    assert split.borders.tolist() == [[40, 60, 90]] * 2
    with pytest.raises(DataError, match="borders end at step 91 but series 'item1' has 90 steps"):
        split_panel(panel, SplitSection(borders=(40, 60, 91)), None)


def test_standard_borders_are_the_sources():
    panel = plain_panel(100)
    assert split_panel(panel, SplitSection(borders="standard"), (30, 50, 80)).borders.tolist() == [[30, 50, 80]]
    with pytest.raises(ConfigError, match="this source has no published borders; give three numbers"):
        split_panel(panel, SplitSection(borders="standard"), None)


def test_shares_are_taken_though_the_source_has_standard_borders():
    assert split_panel(plain_panel(100), SplitSection(), (30, 50, 80)).borders.tolist() == [[70, 80, 100]]


# Windows of a series without gaps, by arithmetic


def test_strict_windows_lie_in_their_part_as_a_whole():
    panel = plain_panel(200)
    assert starts(panel, SplitSection(), "train").tolist() == list(range(131))
    assert starts(panel, SplitSection(), "validation").tolist() == list(range(140, 151))
    assert starts(panel, SplitSection(), "test").tolist() == list(range(160, 191))


def test_deployment_windows_look_back_across_the_border():
    panel, config = plain_panel(200), SplitSection(mode="deployment")
    assert starts(panel, config, "train").tolist() == list(range(131))
    assert starts(panel, config, "validation").tolist() == list(range(134, 151))
    assert starts(panel, config, "test").tolist() == list(range(154, 191))


@pytest.mark.parametrize("mode", ["strict", "deployment"])
@pytest.mark.parametrize("stride", [2, 3, 7, 1000])
def test_strides(mode: str, stride: int):
    panel, config = plain_panel(200, 150), SplitSection(mode=mode)
    for part in PARTS:
        every = starts(panel, config, part)
        breaks = np.flatnonzero(np.diff(every) != 1) + 1
        expected = np.concatenate([piece[::stride] for piece in np.split(every, breaks)])
        assert starts(panel, config, part, stride).tolist() == expected.tolist()


def test_a_part_exactly_as_long_as_one_window_has_one():
    panel = plain_panel(100)
    assert starts(panel, SplitSection(borders=(50, 60, 100)), "validation").tolist() == [50]
    assert starts(panel, SplitSection(borders=(50, 59, 100)), "validation").tolist() == []
    assert starts(panel, SplitSection(borders=(50, 54, 100), mode="deployment"), "validation").tolist() == [44]


# Windows of series with gaps: properties


@pytest.mark.parametrize("mode", ["strict", "deployment"])
@pytest.mark.parametrize("seed", range(3))
def test_no_window_crosses_a_segment_and_no_target_leaves_its_part(mode: str, seed: int):
    panel = build_panel(random_panel_table((400, 300, 500), seed=seed), None, 3)
    split = split_panel(panel, SplitSection(mode=mode), None)
    length, position, item = CONTEXT + PREDICTION, panel.row_position(), panel.row_item()
    segment = np.repeat(np.arange(len(panel.segment_item)), panel.segment_length)
    targets_of: dict[str, set] = {}
    whole_inside = 0
    for part in PARTS:
        ranges = window_ranges(panel, split, part, CONTEXT, PREDICTION, 1)
        first = np.concatenate([np.arange(f, f + c) for f, c in zip(ranges.first, ranges.count, strict=True)])
        rows = first[:, None] + np.arange(length)
        assert len(first) == ranges.num_windows > 20
        assert (segment[rows] == segment[rows[:, :1]]).all()
        assert (np.diff(position[rows], axis=1) == 1).all()
        assert (np.diff(panel.timestamps[rows], axis=1) == np.timedelta64(1, "h")).all()
        begin, end = (bound[item[rows]] for bound in split.bounds(part))
        inside = (position[rows] >= begin) & (position[rows] < end)
        assert inside[:, CONTEXT:].all()
        whole_inside += int(inside.all())
        targets_of[part] = set(rows[:, CONTEXT:].ravel().tolist())
    assert whole_inside == 3 if mode == "strict" else whole_inside < 3  # deployment does look back
    assert targets_of["train"].isdisjoint(targets_of["validation"] | targets_of["test"])
    assert targets_of["validation"].isdisjoint(targets_of["test"])


def test_items_too_short_for_a_window_are_passed_over():
    panel = plain_panel(300, 8, 300)
    split = split_panel(panel, SplitSection(), None)
    for part in PARTS:
        ranges = window_ranges(panel, split, part, CONTEXT, PREDICTION, 1)
        assert set(panel.row_item()[ranges.first].tolist()) == {0, 2}


# No window at all


def test_windows_that_exist_are_not_complained_about():
    panel = plain_panel(200)
    split = split_panel(panel, SplitSection(), None)
    for part in PARTS:
        require_windows(window_ranges(panel, split, part, 6, 4, 1), panel, split, part, 10)


def test_series_shorter_than_a_window():
    with pytest.raises(DataError) as caught:
        prepared(single_table(np.arange(9)), CONTEXT, PREDICTION)
    assert str(caught.value) == (
        "series too short: a window needs 10 steps (model.context_length + model.prediction_length), "
        "the longest series has 9; shorten the lengths"
    )


def test_gaps_that_leave_no_window():
    values = np.arange(200.0)
    values[::9] = np.nan
    with pytest.raises(
        DataError, match=r"no window without a long gap: .* the longest stretch has 8; raise data\.max_gap"
    ):
        prepared(single_table(values), CONTEXT, PREDICTION, max_gap=0)
    assert len(prepared(single_table(values), CONTEXT, PREDICTION, max_gap=1).test) > 0


@pytest.mark.parametrize(
    ("split", "part", "span"),
    [
        ({}, "validation", 9),
        ({"train": 0.05, "validation": 0.45, "test": 0.5}, "train", 4),
        ({"train": 0.45, "validation": 0.5, "test": 0.05}, "test", 5),
    ],
)
def test_a_part_too_short_for_a_window_is_named(split: dict, part: str, span: int):
    with pytest.raises(DataError) as caught:
        prepared(single_table(np.arange(89)), CONTEXT, PREDICTION, split=split)
    assert f"the {part} part has no window: a window needs 10 steps" in str(caught.value)
    assert f"the part spans {span} steps at most" in str(caught.value)
    assert f"enlarge data.split.{part}" in str(caught.value)


def test_what_the_error_advises_helps():
    data = prepared(single_table(np.arange(89)), CONTEXT, PREDICTION, split={"mode": "deployment"})
    assert [len(windows) for windows in data.windows.values()] == [53, 6, 15]
