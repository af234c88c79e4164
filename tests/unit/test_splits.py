"""Where the parts of a split begin and end, and which windows lie in them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from unit.builders import grid_table, prepared, random_grids, single_table

from tstune.config.schema import SplitSection
from tstune.data.panel import Panel
from tstune.data.preprocess import build_panel
from tstune.data.splits import PARTS, split_panel, window_ranges
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


def test_borders_do_not_lose_a_step_to_rounding():
    assert 0.7 + 0.1 < 0.8  # one trap
    assert 0.7 * 90 < 63  # another
    lengths = np.arange(10, 1500)
    panel = replace(plain_panel(10), item_length=lengths, item_ids=tuple(map(str, lengths)))
    placed = split_panel(panel, SplitSection(train=0.7, validation=0.1, test=0.2), None).borders
    exact = [[length * 7 // 10, length * 8 // 10, length] for length in lengths.tolist()]
    assert placed[lengths == 1000].tolist() == [[700, 800, 1000]]
    assert lengths[(placed != exact).any(axis=1)].tolist() == []


@pytest.mark.parametrize(
    ("lengths", "config", "borders"),
    [
        ((100, 57), {}, [[70, 80, 100], [39, 45, 57]]),  # shares of each item's own length, whatever is published
        ((200,), {"train": 0.5, "validation": 0.1, "test": 0.1}, [[100, 120, 140]]),  # the end may be left unused
        ((100, 90), {"borders": (40, 60, 90)}, [[40, 60, 90]] * 2),
        ((100,), {"borders": "standard"}, [[30, 50, 80]]),
    ],
)
def test_borders(lengths: tuple[int, ...], config: dict, borders: list[list[int]]):
    split = split_panel(plain_panel(*lengths), SplitSection(**config), (30, 50, 80))
    assert split.borders.tolist() == borders
    assert split.bounds("train")[0].tolist() == [0] * len(lengths)
    assert split.bounds("test")[0].tolist() == [row[1] for row in borders]
    assert split.bounds("test")[1].tolist() == [row[2] for row in borders]


def test_borders_that_cannot_be_placed():
    with pytest.raises(DataError, match="borders end at step 91 but series 'item1' has 90 steps"):
        split_panel(plain_panel(100, 90), SplitSection(borders=(40, 60, 91)), None)
    with pytest.raises(ConfigError, match="this source has no published borders; give three numbers"):
        split_panel(plain_panel(100), SplitSection(borders="standard"), None)


# Windows of a series without gaps, by arithmetic


@pytest.mark.parametrize(("mode", "lookback"), [("strict", 0), ("deployment", CONTEXT)])
@pytest.mark.parametrize("stride", [1, 2, 3, 7, 1000])
def test_windows_lie_in_their_part_or_look_back_from_it(mode: str, lookback: int, stride: int):
    panel, config = plain_panel(200, 150), SplitSection(mode=mode)
    ranges = {"train": [(0, 131), (0, 96)], "validation": [(140, 151), (105, 111)], "test": [(160, 191), (120, 141)]}
    for part in PARTS:
        back = 0 if part == "train" else lookback
        expected = [start for first, stop in ranges[part] for start in range(first - back, stop, stride)]
        assert starts(panel, config, part, stride).tolist() == expected


def test_a_part_exactly_as_long_as_one_window_has_one():
    panel = plain_panel(100)
    assert starts(panel, SplitSection(borders=(50, 60, 100)), "validation").tolist() == [50]
    assert starts(panel, SplitSection(borders=(50, 59, 100)), "validation").tolist() == []
    assert starts(panel, SplitSection(borders=(50, 54, 100), mode="deployment"), "validation").tolist() == [44]


def test_targets_of_a_padded_context_lie_in_their_part():
    """The context is longer than the series, so that all of it may look back."""
    panel, config = plain_panel(20), SplitSection(borders=(10, 15, 20), mode="deployment")
    split = split_panel(panel, config, None)
    for part, first in (("train", 3), ("validation", 10), ("test", 15)):
        ranges = window_ranges(panel, split, part, 30, PREDICTION, 1, padding=27)
        assert (ranges.first + 30).tolist() == [first]
        assert ranges.count.tolist() == [{"train": 4}.get(part, 2)]


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


def test_series_shorter_than_a_window():
    with pytest.raises(DataError) as caught:
        prepared(single_table(np.arange(5)), CONTEXT, PREDICTION)
    assert str(caught.value) == (
        "series too short: a window needs 10 steps (model.context_length + model.prediction_length), "
        "the longest series has 5; no context length works: more readings are needed, or other parts (data.split)"
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
        ({"mode": "strict"}, "validation", 9),
        ({"train": 0.05, "validation": 0.45, "test": 0.5}, "train", 4),
        ({"train": 0.45, "validation": 0.5, "test": 0.05, "mode": "strict"}, "test", 5),
    ],
)
def test_a_part_too_short_for_a_window_is_named(split: dict, part: str, span: int):
    with pytest.raises(DataError) as caught:
        prepared(single_table(np.arange(89)), CONTEXT, PREDICTION, split=split)
    assert f"the {part} part has no window: a window needs 10 steps" in str(caught.value)
    assert f"the part spans {span} steps at most" in str(caught.value)


def test_auto_lets_contexts_look_back_where_a_part_would_have_no_window():
    found = prepared(single_table(np.arange(89)), CONTEXT, PREDICTION)
    assert (found.config.split.mode, found.split.mode) == ("deployment", "deployment")
    assert [len(windows) for windows in found.windows.values()] == [53, 6, 15]
    assert prepared(single_table(np.arange(200)), CONTEXT, PREDICTION).split.mode == "strict"
