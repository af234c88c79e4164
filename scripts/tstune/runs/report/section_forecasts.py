"""Single forecasts to look at, and whether their intervals are as sure as they say."""

from __future__ import annotations

import math
from datetime import datetime
from itertools import pairwise

from markupsafe import Markup

from tstune.runs.report.blocks import (
    Cells,
    Columns,
    Figure,
    LegendEntry,
    Omitted,
    ReportBlock,
    ReportSection,
    Table,
    Text,
)
from tstune.runs.report.charts import (
    SQUARE,
    Axes,
    IntervalRow,
    Line,
    both,
    histogram,
    hours_axis,
    interval_chart,
    line_chart,
)
from tstune.runs.report.run_files import RunFiles
from tstune.runs.report.words import duration, label, measured, style

_MOST_ROWS = 100  # of the forecast in the table of one example; the plot has all steps
_KINDS = {"best": "Best", "typical": "Typical", "worst": "Worst"}


def forecasts(run: RunFiles) -> ReportSection | Omitted:
    """Examples with history, truth, forecasts and interval: the best, a typical one, the worst, one with a low."""
    examples = run.evaluation["examples"]
    if not examples:
        return Omitted("forecasts", "No example forecasts: evaluation.json holds none.")
    models = [model for model in run.models if any(model in example["forecasts"] for example in examples)]
    shown = {run.judged, run.reference}
    legend = [LegendEntry("truth", "reading", "truth")]
    legend += [LegendEntry(model, label(model), style(model, run.models), model in shown) for model in models]
    figures: list[ReportBlock] = [
        _example(run, example, n, models, shown) for n, example in enumerate(examples, start=1)
    ]
    blocks: list[ReportBlock] = [Columns(figures, legend)]
    if not any(example.get("quantiles") for example in examples):
        blocks.append(Text("No interval bands: this run forecasts no quantiles (forecast.quantiles).", note=True))
    return ReportSection("forecasts", "Forecasts", blocks)


def calibration(run: RunFiles) -> ReportSection | Omitted:
    """Coverage with confidence and width, scores, reliability, PIT, coverage by lead time."""
    found = run.evaluation.get("uncertainty")
    if not found:
        reason = "No calibration: this run forecasts no quantiles; set forecast.quantiles for intervals."
        return Omitted("calibration", reason)
    calibrated = found.get("calibration") or {}
    how = f"Intervals of this run: {label(found['method'])}"
    if calibrated.get("num_windows"):
        how += f", calibrated on {calibrated['num_windows']:,} {calibrated.get('part', 'validation')} windows"
    blocks: list[ReportBlock] = [Text(f"{how}; all methods are judged on the same test windows.")]
    rows = [(name, interval) for name, method in found["methods"].items() for interval in method.get("intervals", [])]
    if rows:
        rows.sort(key=lambda row: (row[1]["nominal"], row[0] != found["method"]))
        blocks.append(_coverage(run, found["method"], rows))
    blocks.append(_scores(run, found))
    small = [figure for figure in (_reliability(run, found), _pit(found)) if figure is not None]
    if small:
        blocks.append(Columns(small))
    if found.get("coverage_by_step"):
        blocks.append(_coverage_by_step(run, found["coverage_by_step"]))
    return ReportSection("calibration", "Calibration", blocks)


def interval_pairs(levels: list[str]) -> list[tuple[str, str]]:
    """Lower and upper level of each central interval, the widest first."""
    known = {round(float(level), 6): level for level in levels}
    lower = sorted(level for level in known if level < 0.5 and round(1 - level, 6) in known)
    return [(known[level], known[round(1 - level, 6)]) for level in lower]


def _example(run: RunFiles, example: dict, number: int, models: list[str], shown: set) -> Figure:
    history, truth = list(example.get("history") or []), list(example["truth"])
    places = [*range(1 - len(history), 1), *range(1, len(truth) + 1)]
    stops = _stops(len(history), len(truth))
    hours = run.step_seconds / 3600 if run.step_seconds else 1.0
    x = [place * hours for place in places]
    before, quantiles = [None] * len(history), example.get("quantiles") or {}
    pairs = _drawn(interval_pairs(list(quantiles)))
    bands = [(before + quantiles[low], before + quantiles[high]) for low, high in pairs]
    series = []
    for model in sorted(example["forecasts"], key=lambda name: (name != run.judged, name not in shown)):
        line = before + list(example["forecasts"][model])
        own = bands if model == run.judged else ()
        series.append(Line(model, style(model, run.models), line, own, shown=model in shown))
    series.append(Line("truth", "truth", history + truth))
    axes = Axes(
        x,
        f"{'hours' if run.step_seconds else 'steps'} from the forecast's start",
        f"{example.get('target') or 'value'} ({run.unit})",
        x_ticks=hours_axis(x[0], x[-1], SQUARE) if run.step_seconds else None,
        zone=run.domain.band(run.unit) if run.domain else None,
        marks=[(0.0, "")],
        stops=stops,
        inputs=example.get("inputs") or {},
    )
    moment = f"{datetime.fromisoformat(example['origin']):%Y-%m-%d %H:%M}"
    kinds = _KINDS | dict(run.domain.examples if run.domain else {})
    title = f"{kinds.get(example['kind'], example['kind'])}: {example['item']}"
    chart = line_chart(axes, series, SQUARE, f"{title}, {moment}: history, reading and forecasts")
    columns = _example_columns(run, example, places, models, pairs)
    whole = Table(f"{example['item']}, {moment}", columns, tall=True)
    words, error = [moment], _rmse(example["forecasts"].get(run.judged), truth)
    if error is not None:
        words.append(f"RMSE of {label(run.judged)} {measured(error, run.unit, 3)}")
    if bands:
        words.append("bands " + " and ".join(f"{_nominal(*pair):g} %" for pair in pairs))
    if axes.inputs:
        words.append(f"bars at the foot: {', '.join(axes.inputs)}, each on its own scale")
    brief = whole.only([len(history) + row for row in run.horizon_rows])
    return Figure(f"forecast-{number}", title, [chart], whole.only(stops), " · ".join(words), brief=brief)


def _example_columns(
    run: RunFiles, example: dict, places: list[int], models: list[str], pairs: list[tuple[str, str]]
) -> list[Cells]:
    past, step = [None] * len(example.get("history") or []), run.step_seconds
    when = [f"{'-' if at < 0 else ''}{duration(abs(at) * step)}" if step and at else str(at) for at in places]
    readings = [*(example.get("history") or []), *example["truth"]]
    columns = [Cells.text("From start", when), Cells.number(f"reading ({run.unit})", readings, key="truth")]
    for model in models:
        if model in example["forecasts"]:
            values = past + list(example["forecasts"][model])
            columns.append(Cells.number(f"{label(model)} ({run.unit})", values, key=model))
    for name, values in (example.get("inputs") or {}).items():
        columns.append(Cells.number(name, list(values) + [None] * (len(places) - len(values))))
    for level in (level for pair in pairs for level in pair):
        values = past + list(example["quantiles"][level])
        columns.append(Cells.number(f"{float(level):g} quantile ({run.unit})", values, key=run.judged))
    return columns


def _stops(past: int, ahead: int) -> list[int]:
    """Places with a row in the table: every forecast step if they are not many, some of the history."""
    before = range(past % max(past // 24, 1), past, max(past // 24, 1))
    after = range((ahead - 1) % -(-ahead // _MOST_ROWS), ahead, -(-ahead // _MOST_ROWS))
    return [*before, *(past + step for step in after)]


def _drawn(pairs: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """At most two bands: the one nearest 80 % and the one nearest 50 %."""
    if len(pairs) <= 2:
        return pairs
    nearest = [min(pairs, key=lambda pair: abs(_nominal(*pair) - wanted)) for wanted in (80, 50)]
    return list(dict.fromkeys(nearest))


def _nominal(low: str, high: str) -> float:
    return round(100 * (float(high) - float(low)), 4)


def _rmse(forecast: list | None, truth: list) -> float | None:
    pairs = [(f, t) for f, t in zip(forecast or [], truth, strict=bool(forecast)) if f is not None and t is not None]
    return math.sqrt(sum((f - t) ** 2 for f, t in pairs) / len(pairs)) if pairs else None


def _method(name: str, used: str) -> str:
    return f"{label(name)} (used)" if name == used else label(name)


def _coverage(run: RunFiles, used: str, rows: list[tuple[str, dict]]) -> Figure:
    drawn = []
    for name, one in rows:
        low, high = _percents([one.get("low"), one.get("high")])
        confidence = "" if low is None else f" ({low:.1f} to {high:.1f})"
        drawn.append(
            IntervalRow(
                f"{100 * one['nominal']:g} %, {label(name)}",
                100 * one["coverage"],
                low,
                high,
                "better" if name == used else "neutral",
                f"{100 * one['coverage']:.1f} %{confidence}, width {measured(one['width'], run.unit, 3)}",
                expected=100 * one["nominal"],
            )
        )
    known = [v for row in drawn for v in (row.value, row.low, row.high, row.expected) if v is not None]
    limits = max(min(known) - 3, 0.0), min(max(known) + 3, 100.0)
    what = "Coverage of each interval with its 95 % confidence interval"
    intervals = [one for _, one in rows]
    columns = [
        Cells.text("Method", [_method(name, used) for name, _ in rows]),
        Cells.percent("Nominal (%)", [one["nominal"] for one in intervals], 0),
        Cells.percent("Coverage (%)", [one["coverage"] for one in intervals]),
        Cells.percent("95 % low (%)", [one.get("low") for one in intervals]),
        Cells.percent("95 % high (%)", [one.get("high") for one in intervals]),
        Cells.number(f"Mean width ({run.unit})", [one["width"] for one in intervals]),
        Cells.count("Readings (count)", [one.get("num_readings") for one in intervals]),
        Cells.count("Blocks (count)", [one.get("num_blocks") for one in intervals]),
    ]
    ours = frozenset(number for number, (name, _) in enumerate(rows) if name == used)
    table = Table("Coverage and width of all methods", columns, ours)
    caption = "Upright marks: the nominal coverage. Blue: the method of this run."
    if all(row.low is None for row in drawn):
        caption += " No confidence intervals: too few days."
    plots = both(lambda width: interval_chart(drawn, width, what, "readings inside (%)", limits))
    return Figure("coverage", what, plots, table, caption)


def _scores(run: RunFiles, found: dict) -> Table:
    methods, values = list(found["methods"]), list(found["methods"].values())
    columns = [
        Cells.text("Method", [_method(name, found["method"]) for name in methods]),
        Cells.number("WQL (ratio)", [one.get("wql") for one in values], lowest=True),
        Cells.number(f"CRPS ({run.unit})", [one.get("crps") for one in values], lowest=True),
        Cells.number(f"Pinball loss ({run.unit})", [one.get("pinball") for one in values], lowest=True),
        Cells.percent("Calibration error (%)", [one.get("calibration_error") for one in values]),
        Cells.percent("Crossing quantiles (%)", [one.get("crossing") for one in values], 2),
    ]
    ours = frozenset(number for number, name in enumerate(methods) if name == found["method"])
    return Table("Scores of the quantile forecasts", columns, ours)


def _reliability(run: RunFiles, found: dict) -> Figure | None:
    one = found.get("reliability")
    if not one:
        return None
    what = "Reliability: readings below each quantile"
    axes = Axes(
        _percents(one["levels"]),
        "quantile level (%)",
        "readings below (%)",
        x_limits=(0, 100),
        y_limits=(0, 100),
        expected=((0, 0), (100, 100)),
    )
    series = [Line("", "c0", _percents(one["observed"]), points=True)]
    columns = [Cells.percent("Level (%)", one["levels"]), Cells.percent("Readings below (%)", one["observed"])]
    if one.get("pinball"):
        columns.append(Cells.number(f"Pinball loss ({run.unit})", one["pinball"]))
    plots = [line_chart(axes, series, SQUARE, what)]
    return Figure("reliability", what, plots, Table(what, columns), "On the dashed diagonal: as promised.")


def _pit(found: dict) -> Figure | None:
    one = found.get("pit")
    if not one:
        return None
    what = "PIT: where readings fall among the quantiles"
    edges, share, expected = one["edges"], _percents(one["share"]), _percents(one.get("expected") or [])
    titles = "probability integral transform", "readings (%)"
    bins = [f"{a:g} to {b:g}" for a, b in pairwise(edges)]
    columns = [Cells.text("PIT", bins), Cells.decimal("Readings (%)", share, 1)]
    if expected:
        columns.append(Cells.decimal("Expected (%)", expected, 1))
    caption = "Bars at the marks: calibrated. A hill: intervals too wide; a valley: too narrow."
    return Figure("pit", what, [histogram(edges, share, expected, what, titles)], Table(what, columns), caption)


def _coverage_by_step(run: RunFiles, one: dict) -> Figure:
    x, x_title = run.lead_axis
    values, nominal = _percents(one["values"]), 100 * one["nominal"]
    what = f"Coverage of the {nominal:g} % interval by lead time"

    def draw(width: float) -> Markup:
        axes = Axes(
            x,
            x_title,
            "readings inside (%)",
            x_ticks=hours_axis(x[0], x[-1], width) if run.step_seconds else None,
            y_limits=(nominal - 10, min(nominal + 10, 100)),
            expected=((x[0], nominal), (x[-1], nominal)),
        )
        return line_chart(axes, [Line("coverage", "c0", values)], width, what)

    columns = [Cells.text("Lead time", run.lead_times), Cells.decimal("Coverage (%)", values, 1)]
    table = Table(what, columns, tall=True)
    caption = f"Dashed: {nominal:g} %."
    return Figure("coverage-by-step", what, both(draw), table, caption, brief=table.only(run.horizon_rows))


def _percents(shares: list[float | None]) -> list[float | None]:
    return [None if share is None else 100 * share for share in shares]
