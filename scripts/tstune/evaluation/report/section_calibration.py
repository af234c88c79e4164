"""Are the intervals as sure as they say: coverage of every method, reliability, PIT, coverage by lead time."""

from __future__ import annotations

from tstune.evaluation.report.bar_charts import histogram, square_chart
from tstune.evaluation.report.blocks import Block, Column, Columns, Figure, Omitted, Section, Table, Text
from tstune.evaluation.report.folder import RunFiles
from tstune.evaluation.report.interval_charts import IntervalRow, interval_chart
from tstune.evaluation.report.line_chart import Axes, Series, hours_axis, line_chart
from tstune.evaluation.report.names import label
from tstune.evaluation.report.numbers import measured
from tstune.evaluation.report.section_errors import at_horizons, lead_axis, lead_times
from tstune.evaluation.report.svg import both

_SQUARE = 370.0


def calibration(run: RunFiles) -> Section | Omitted:
    """Coverage with confidence and width, scores, diagrams."""
    found = run.evaluation.get("uncertainty")
    if not found:
        return Omitted(
            "calibration",
            "No calibration: this run forecasts no quantiles; set forecast.quantiles for intervals.",
        )
    blocks: list[Block] = [Text(_how(found))]
    rows = [(name, interval) for name, method in found["methods"].items() for interval in method.get("intervals", [])]
    if rows:
        blocks.append(_coverage(run, found, rows))
    blocks.append(_scores(run, found))
    small = [figure for figure in (_reliability(run, found), _pit(found)) if figure is not None]
    if small:
        blocks.append(Columns(small))
    by_step = _by_step(run, found)
    if by_step is not None:
        blocks.append(by_step)
    return Section("calibration", "Calibration", blocks)


def _name(method: str, found: dict) -> str:
    return f"{label(method)} (used)" if method == found["method"] else label(method)


def _how(found: dict) -> str:
    calibrated = found.get("calibration") or {}
    text = f"Intervals of this run: {label(found['method'])}"
    if calibrated.get("num_windows"):
        text += f", calibrated on {calibrated['num_windows']:,} {calibrated.get('part', 'validation')} windows"
    return f"{text}; all methods are judged on the same test windows."


def _coverage(run: RunFiles, found: dict, rows: list[tuple[str, dict]]) -> Figure:
    rows = sorted(rows, key=lambda row: (row[1]["nominal"], row[0] != found["method"]))
    drawn = [
        IntervalRow(
            label=f"{100 * one['nominal']:g} %, {label(name)}",
            value=_percent(one["coverage"]),
            low=_percent(one.get("low")),
            high=_percent(one.get("high")),
            style="better" if name == found["method"] else "neutral",
            written=f"{_written(one)}, width {measured(one['width'], run.unit, 3)}",
            expected=100 * one["nominal"],
        )
        for name, one in rows
    ]
    what = "Coverage of each interval with its 95 % confidence interval"
    limits = _limits(drawn)
    wide, narrow = both(lambda width: interval_chart(drawn, width, what, "readings inside (%)", limits=limits))
    intervals = [one for _, one in rows]
    table = Table(
        "Coverage and width of all methods",
        [
            Column.text("Method", [_name(name, found) for name, _ in rows]),
            Column.decimal("Nominal (%)", [_percent(one["nominal"]) for one in intervals], 0),
            Column.percent("Coverage (%)", [one["coverage"] for one in intervals]),
            Column.percent("95 % low (%)", [one.get("low") for one in intervals]),
            Column.percent("95 % high (%)", [one.get("high") for one in intervals]),
            Column.number(f"Mean width ({run.unit})", [one["width"] for one in intervals]),
            Column.count("Readings (count)", [one.get("num_readings") for one in intervals]),
            Column.count("Blocks (count)", [one.get("num_blocks") for one in intervals]),
        ],
        frozenset(number for number, (name, _) in enumerate(rows) if name == found["method"]),
    )
    caption = "Upright marks: the nominal coverage. Blue: the method of this run."
    if all(one.get("low") is None for one in intervals):
        caption += " No confidence intervals: too few days."
    return Figure("coverage", what, wide, narrow, table, caption)


def _scores(run: RunFiles, found: dict) -> Table:
    methods = list(found["methods"])
    values = list(found["methods"].values())
    return Table(
        "Scores of the quantile forecasts",
        [
            Column.text("Method", [_name(name, found) for name in methods]),
            Column.number("WQL (ratio)", [one.get("wql") for one in values], lowest=True),
            Column.number(f"CRPS ({run.unit})", [one.get("crps") for one in values], lowest=True),
            Column.number(f"Pinball loss ({run.unit})", [one.get("pinball") for one in values], lowest=True),
            Column.percent("Calibration error (%)", [one.get("calibration_error") for one in values]),
            Column.percent("Crossing quantiles (%)", [one.get("crossing") for one in values], 2),
        ],
        frozenset(number for number, name in enumerate(methods) if name == found["method"]),
    )


def _reliability(run: RunFiles, found: dict) -> Figure | None:
    one = found.get("reliability")
    if not one:
        return None
    what = "Reliability: readings below each quantile"
    chart = square_chart(one["levels"], one["observed"], _SQUARE, what, ("quantile level (%)", "readings below (%)"))
    columns = [
        Column.percent("Level (%)", one["levels"]),
        Column.percent("Readings below (%)", one["observed"]),
    ]
    if one.get("pinball"):
        columns.append(Column.number(f"Pinball loss ({run.unit})", one["pinball"]))
    return Figure("reliability", what, chart, None, Table(what, columns), "On the dashed diagonal: as promised.")


def _pit(found: dict) -> Figure | None:
    one = found.get("pit")
    if not one:
        return None
    what = "PIT: where readings fall among the quantiles"
    share = [_percent(value) for value in one["share"]]
    expected = [_percent(value) for value in one["expected"]] if one.get("expected") else None
    chart = histogram(one["edges"], share, expected, _SQUARE, what, "probability integral transform", "readings (%)")
    edges = [f"{a:g} to {b:g}" for a, b in zip(one["edges"][:-1], one["edges"][1:], strict=True)]
    columns = [Column.text("PIT", edges), Column.decimal("Readings (%)", share, 1)]
    if expected:
        columns.append(Column.decimal("Expected (%)", expected, 1))
    return Figure(
        "pit",
        what,
        chart,
        None,
        Table(what, columns),
        "Bars at the marks: calibrated. A hill: intervals too wide; a valley: too narrow.",
    )


def _by_step(run: RunFiles, found: dict) -> Figure | None:
    one = found.get("coverage_by_step")
    if not one:
        return None
    x, x_title = lead_axis(run)
    values = [_percent(value) for value in one["values"]]
    nominal = 100 * one["nominal"]
    what = f"Coverage of the {nominal:g} % interval by lead time"

    def draw(width: float) -> object:
        ticks = hours_axis(x[0], x[-1], width) if run.step_seconds else None
        axes = Axes(
            x,
            x_title,
            "readings inside (%)",
            x_ticks=ticks,
            y_level=nominal,
            y_limits=(nominal - 10, min(nominal + 10, 100)),
        )
        return line_chart(axes, [Series("coverage", "c0", values)], width, what)

    wide, narrow = both(draw)
    columns = [Column.text("Lead time", lead_times(run)), Column.decimal("Coverage (%)", values, 1)]
    table = Table(what, columns, tall=True)
    caption = f"Dashed: {nominal:g} %."
    return Figure("coverage-by-step", what, wide, narrow, table, caption, brief=table.only(at_horizons(run)))


def _percent(share: float | None) -> float | None:
    return None if share is None else 100 * share


def _written(one: dict) -> str:
    if one.get("low") is None:
        return f"{100 * one['coverage']:.1f} %"
    return f"{100 * one['coverage']:.1f} % ({100 * one['low']:.1f} to {100 * one['high']:.1f})"


def _limits(rows: list[IntervalRow]) -> tuple[float, float]:
    known = [value for row in rows for value in (row.value, row.low, row.high, row.expected) if value is not None]
    return max(min(known) - 3, 0.0), min(max(known) + 3, 100.0)
