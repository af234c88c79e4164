"""Single forecasts to look at: the best, a typical one, the worst, and one with a low reading."""

from __future__ import annotations

import math
from datetime import datetime

from tstune.evaluation.glucose_units import LIMITS
from tstune.evaluation.report.blocks import Block, Column, Columns, Figure, LegendEntry, Omitted, Section, Table, Text
from tstune.evaluation.report.folder import RunFiles
from tstune.evaluation.report.line_chart import Axes, Series, hours_axis, line_chart
from tstune.evaluation.report.names import label, style
from tstune.evaluation.report.numbers import duration, measured
from tstune.evaluation.report.section_errors import at_horizons

_WIDTH = 370.0
_MOST_ROWS = 100  # of the forecast in the table of one example; the plot has all steps
_KINDS = {"best": "Best", "typical": "Typical", "worst": "Worst", "hypo": "With a low reading"}


def forecasts(run: RunFiles) -> Section | Omitted:
    """Examples with history, truth, forecasts and interval."""
    examples = run.evaluation["examples"]
    if not examples:
        return Omitted("forecasts", "No example forecasts: evaluation.json holds none.")
    models = [model for model in run.models if any(model in example["forecasts"] for example in examples)]
    shown = {run.judged, run.reference}
    legend = [LegendEntry("truth", "reading", "truth")]
    legend += [LegendEntry(model, label(model), style(model, run.models), model in shown) for model in models]
    figures = [_figure(run, example, number, models, shown) for number, example in enumerate(examples, start=1)]
    blocks: list[Block] = [Columns(figures, legend)]
    if not any(example.get("quantiles") for example in examples):
        blocks.append(Text("No interval bands: this run forecasts no quantiles (forecast.quantiles).", note=True))
    return Section("forecasts", "Forecasts", blocks)


def interval_pairs(levels: list[str]) -> list[tuple[str, str]]:
    """Lower and upper level of each central interval, the widest first."""
    known = {round(float(level), 6): level for level in levels}
    lower = sorted(level for level in known if level < 0.5 and round(1 - level, 6) in known)
    return [(known[level], known[round(1 - level, 6)]) for level in lower]


def _figure(run: RunFiles, example: dict, number: int, models: list[str], shown: set) -> Figure:
    history, truth = list(example.get("history") or []), list(example["truth"])
    ahead = len(truth)
    places = [*range(1 - len(history), 1), *range(1, ahead + 1)]
    stops = _stops(len(history), ahead)
    hours = run.step_seconds / 3600 if run.step_seconds else 1.0
    x = [place * hours for place in places]
    before = [None] * len(history)
    quantiles = example.get("quantiles") or {}
    pairs = interval_pairs(list(quantiles))
    bands = [(before + quantiles[low], before + quantiles[high]) for low, high in _drawn(pairs)]
    series = []
    for model in sorted(example["forecasts"], key=lambda name: (name != run.judged, name not in shown)):
        mine = bands if model == run.judged else ()
        line = before + list(example["forecasts"][model])
        series.append(Series(model, style(model, run.models), line, mine, shown=model in shown))
    series.append(Series("truth", "truth", history + truth))
    target = example.get("target") or "value"
    limits = LIMITS["low"], LIMITS["high"]
    zone = None
    if run.is_glucose and run.unit in limits[0]:
        zone = (limits[0][run.unit], limits[1][run.unit])
    ticks = hours_axis(x[0], x[-1], 350) if run.step_seconds else None
    axes = Axes(
        x,
        "hours from the forecast's start" if run.step_seconds else "steps from the forecast's start",
        f"{target} ({run.unit})",
        x_ticks=ticks,
        zone=zone,
        marks=[(0.0, "")],
        height=250.0,
        stops=stops,
    )
    kind = _KINDS.get(example["kind"], str(example["kind"]))
    item = str(example["item"])
    title = f"{kind}: {item}"
    description = f"{title}, {_moment(example['origin'])}: history, reading and forecasts"
    chart = line_chart(axes, series, _WIDTH, description)
    whole = _table(run, example, places, models, _drawn(pairs), history + truth)
    rows = [len(history) + row for row in at_horizons(run)]
    error = _rmse(example["forecasts"].get(run.judged), truth)
    words = [_moment(example["origin"])]
    if error is not None:
        words.append(f"RMSE of {label(run.judged)} {measured(error, run.unit, 3)}")
    if bands:
        words.append("bands " + " and ".join(f"{_nominal(*pair):g} %" for pair in _drawn(pairs)))
    caption = " · ".join(words)
    return Figure(f"forecast-{number}", title, chart, None, whole.only(stops), caption, brief=whole.only(rows))


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


def _table(
    run: RunFiles, example: dict, places: list[int], models: list[str], pairs: list[tuple[str, str]], readings: list
) -> Table:
    past = [None] * (len(places) - len(example["truth"]))
    step = run.step_seconds
    when = [
        f"{'-' if place < 0 else ''}{duration(abs(place) * step)}" if step and place else str(place) for place in places
    ]
    columns = [Column.text("From start", when), Column.number(f"reading ({run.unit})", readings, key="truth")]
    for model in models:
        if model in example["forecasts"]:
            values = past + list(example["forecasts"][model])
            columns.append(Column.number(f"{label(model)} ({run.unit})", values, key=model))
    for low, high in pairs:
        for level in (low, high):
            name = f"{float(level):g} quantile ({run.unit})"
            columns.append(Column.number(name, past + list(example["quantiles"][level]), key=run.judged))
    return Table(f"{example['item']}, {_moment(example['origin'])}", columns, tall=True)


def _rmse(forecast: list | None, truth: list) -> float | None:
    pairs = [(f, t) for f, t in zip(forecast or [], truth, strict=bool(forecast)) if f is not None and t is not None]
    return math.sqrt(sum((f - t) ** 2 for f, t in pairs) / len(pairs)) if pairs else None


def _moment(text: str) -> str:
    return f"{datetime.fromisoformat(text):%Y-%m-%d %H:%M}"
