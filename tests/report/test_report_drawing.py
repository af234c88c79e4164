"""Numbers, ticks, paths and colours of the report."""

from __future__ import annotations

import re
from datetime import datetime
from pathlib import Path

import pytest

import tstune.runs.report as report
from tstune.runs.report.blocks import Cells, Table
from tstune.runs.report.charts import Scale, area, nice_ticks, polyline, tag, tick_labels
from tstune.runs.report.section_forecasts import interval_pairs
from tstune.runs.report.section_run import item_spans, split_timeline
from tstune.runs.report.words import (
    MISSING,
    duration,
    fixed,
    in_words,
    metric_header,
    percents,
    significant_digits,
    style,
)


@pytest.mark.parametrize(
    ("values", "written"),
    [
        ([58.0193, 9.5, None], ["58.02", "9.50", MISSING]),
        ([3.22043, 0.5], ["3.220", "0.500"]),
        ([12345.6, 1.0], ["12,346", "1"]),
        ([0.00012345], ["0.000123"]),
        ([0.0, float("nan")], ["0", MISSING]),
        ([], []),
    ],
)
def test_a_column_has_four_significant_digits_of_its_largest(values, written):
    assert significant_digits(values) == written


def test_a_rounded_zero_has_no_minus():
    assert fixed([-0.04, -0.06, 0.04], 1) == ["0.0", "-0.1", "0.0"]
    assert fixed([-0.04, 0.06], 1, signed=True) == ["0.0", "+0.1"]
    assert percents([0.7874, None]) == ["78.7", MISSING]


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.3014, "0.301 s"),
        (300, "5 min"),
        (5400, "1 h 30 min"),
        (28800, "8 h"),
        (153600, "42 h 40 min"),
        (604800, "7 d"),
    ],
)
def test_a_duration_is_in_its_two_largest_units(seconds, words):
    assert duration(seconds).replace("\u00a0", " ") == words


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [(0, 97, [0, 20, 40, 60, 80]), (-30, 6, [-30, -20, -10, 0]), (0.002, 0.0101, [0.002, 0.004, 0.006, 0.008, 0.01])],
)
def test_ticks_are_round_and_inside(low, high, ticks):
    found = nice_ticks(low, high, 5)
    assert found == pytest.approx(ticks)
    assert len(set(tick_labels(found))) == len(found), "labels differ"


def test_a_line_breaks_where_nothing_was_read():
    assert polyline([(0.0, 1.0), (1.0, 2.0), None, (3.0, 4.0)]) == "M0 1L1 2M3 4h0"
    assert polyline([None, None]) == ""
    band = area([(0.0, 1.0), (1.0, 1.0), None, (3.0, 1.0)], [(0.0, 5.0), (1.0, 6.0), (2.0, 6.0), (3.0, 7.0)])
    assert band == "M0 1L1 1L1 6L0 5ZM3 1L3 7Z"


def test_a_scale_maps_its_ends_and_holds_what_lies_beyond():
    scale = Scale(0.0, 10.0, 100.0, 0.0)
    assert [scale(0), scale(10), scale.inside(20)] == [100, 0, 0]


def test_text_and_attributes_of_an_element_are_escaped():
    assert tag("text", "<b>&", data_key='"><script>') == (
        '<text data-key="&#34;&gt;&lt;script&gt;">&lt;b&gt;&amp;</text>'
    )


def test_rows_of_a_table_keep_what_is_marked():
    table = Table("t", [Cells.text("a", "xyz"), Cells.number("b (u)", [3, 1, 2], lowest=True)], frozenset({2}))
    assert table.columns[1].best == 1
    some = table.only([1, 2])
    assert [list(column.cells) for column in some.columns] == [["y", "z"], ["1.000", "2.000"]]
    assert (some.columns[1].best, some.highlight) == (0, frozenset({1}))
    assert table.only([0]).columns[1].best is None


def test_intervals_are_pairs_of_levels_the_widest_first():
    assert interval_pairs(["0.1", "0.5", "0.9", "0.25", "0.75", "0.99"]) == [("0.1", "0.9"), ("0.25", "0.75")]


def test_models_are_told_apart_by_colour_or_dash():
    models = ["fine_tuned", "zero_shot", "average", "per_item", "ridge", "lightgbm", "persistence", "mine", "yours"]
    looks = [style(model, models) for model in models]
    assert len(set(looks)) == len(models)
    assert [" d" in look for look in looks] == [False] * 4 + [True] * 5


def test_names_in_words():
    assert in_words("fine_tuned beats ridge: 1.9 % lower", ["fine_tuned", "ridge"]) == (
        "fine-tuned beats ridge: 1.9\u00a0% lower"
    )
    assert metric_header("rmse@30min", "mg/dL") == "RMSE at 30\u00a0min (mg/dL)"
    assert metric_header("my_metric", "mg/dL") == "my_metric"


def test_spans_follow_the_borders_of_the_manifest():
    item = {"item_id": "a", "first": "2024-01-01T00:00:00", "last": "2024-01-11T00:00:00", "grid_steps": 11}
    spans = item_spans(item | {"begins": [0, 7, 0], "borders": [7, 8, 0]})
    assert spans == {
        "unused": (datetime(2024, 1, 1), datetime(2024, 1, 11)),
        "train": (datetime(2024, 1, 1), datetime(2024, 1, 8)),
        "validation": (datetime(2024, 1, 8), datetime(2024, 1, 9)),
    }
    later = {part: tuple(moment.replace(year=2034) for moment in pair) for part, pair in spans.items()}
    apart = "so each begins at its own first reading"
    assert apart not in split_timeline({"a": spans, "b": spans}).caption
    assert apart in split_timeline({"a": spans, "b": later}).caption, "ten years apart"


def test_colours_have_enough_contrast():
    """WCAG 2.1: 4.5 for text, 3 for lines that carry meaning."""
    css = (Path(report.__file__).parent / "assets/report.css").read_text(encoding="utf-8")
    light = css.partition(":root {")[2].partition("}")[0]
    dark = css.partition(':root[data-theme="dark"] {')[2].partition("}")[0]
    system = css.partition(':root:not([data-theme="light"]) {')[2].partition("}")[0]
    assert dark.split() == system.split(), "the toggle and the system give the same dark"
    for theme in (light, dark):
        colours = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6});", theme))
        assert len(colours) > 25
        for name in ("ink", "muted", "accent", "warn-ink"):
            for ground in ("warn",) if name == "warn-ink" else ("card", "page"):
                assert _contrast(colours[name], colours[ground]) >= 4.5, (name, ground)
        for name in [f"c{number}" for number in range(9)] + ["neutral"]:
            assert _contrast(colours[name], colours["card"]) >= 3, name


def _contrast(first, second):
    def luminance(colour):
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    bright, dim = sorted((luminance(first), luminance(second)), reverse=True)
    return (bright + 0.05) / (dim + 0.05)
