"""Did it help: the verdict, the scoreboard, and where the error comes from, by lead time and by item."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from markupsafe import Markup

from tstune.runs.report.blocks import (
    Cells,
    Choices,
    Definitions,
    Details,
    Fact,
    Facts,
    Figure,
    HeatMap,
    LegendEntry,
    Omitted,
    ReportBlock,
    ReportSection,
    Table,
    Text,
    VerdictBlock,
)
from tstune.runs.report.charts import Axes, IntervalRow, Line, both, change_bars, forest_plot, hours_axis, line_chart
from tstune.runs.report.run_files import RunFiles
from tstune.runs.report.words import (
    MODELS_EXPLAINED,
    duration,
    horizon_label,
    in_words,
    label,
    measured,
    metric_header,
    percents,
    plural,
    style,
)

_EFFECT_STYLE = {"helped": "better", "no clear difference": "neutral", "hurt": "worse"}
_MOST_ROWS = 400
_INPUTS = {
    "conditional": "known in the past only",
    "control": "known ahead",
    "time_features": "of the time",
    "static_real": "constant",
    "static_categorical": "constant",
}
_MOST_COLOUR = 0.30  # a change of 30 % or more has the full colour


def summary(run: RunFiles) -> ReportSection:
    """Verdict, saved model, key numbers."""
    sentence = in_words(run.verdict["sentence"], [run.verdict["model"], *run.models])
    headline, dot, rest = (part[:1].upper() + part[1:] for part in sentence.partition(". "))
    verdict = VerdictBlock(run.verdict.get("effect"), headline + dot.strip(), rest, _kept(run))
    return ReportSection("summary", "Summary", [verdict, Facts(_facts(run)), Text(_task(run), note=True)])


def scoreboard(run: RunFiles) -> ReportSection:
    """Key metrics of all models; all metrics folded away."""
    models = [model for model in run.models if model in run.metrics]
    metrics = list(dict.fromkeys(metric for model in models for metric in run.metrics[model]))
    key = [m for m in metrics if m in ("rmse", "mae", "mase") or m.startswith("rmse@")]
    key.sort(key=lambda metric: (metric == "mase", metrics.index(metric)))
    rows = {metric: [run.metrics[model].get(metric) for model in models] for metric in metrics}
    columns = [Cells.text("Model", [label(model) for model in models])]
    columns += [Cells.number(metric_header(metric, run.unit), rows[metric], lowest=True) for metric in key]
    columns += _beside(run, models)
    ours = frozenset(number for number, model in enumerate(models) if model == run.judged)
    windows = next((run.metrics[model].get("num_windows") for model in models), None)
    counted = f"{round(windows):,} test windows, the same for every model; " if windows else ""
    whole = [Cells.text("Metric", [metric_header(metric, run.unit) for metric in metrics])]
    cells = [(Cells.count if m == "num_windows" else Cells.number)("", row).cells for m, row in rows.items()]
    whole += [Cells(label(model), [row[number] for row in cells]) for number, model in enumerate(models)]
    explained = [(label(model), MODELS_EXPLAINED[model]) for model in models if model in MODELS_EXPLAINED]
    note = (
        f"{counted}RMSE and MAE without a horizon are over the whole {run.path_length} of a forecast, with "
        "one at that lead time. Lower is better; the lowest of each column is bold. Shaded: the model this "
        "report is about. MASE is the error over that of a seasonal naive forecast on the training part."
    )
    blocks: list[ReportBlock] = [
        Table("All models on the test windows", columns, ours),
        Text(note, note=True),
        Details("All metrics", [Table("All metrics of all models", whole)]),
        Details("What the models are", [Definitions(explained)]),
    ]
    return ReportSection("scoreboard", "Scoreboard", blocks)


def _beside(run: RunFiles, models: list[str]) -> list[Cells]:
    """What a choice between models also asks for: their validation score, and their time."""
    known = [(run.environment.get("models") or {}).get(model) or {} for model in models]
    validation = [one.get("validation_rmse") for one in known]
    times = {"Time to fit": "fit_seconds", "Time to forecast": "forecast_seconds"}
    columns = [Cells.number(f"RMSE, validation ({run.unit})", validation, lowest=True)] if any(validation) else []
    for header, key in times.items():
        if any(key in one for one in known):
            columns.append(Cells(header, [duration(one.get(key)) for one in known]))
    return columns


def comparisons(run: RunFiles) -> ReportSection | Omitted:
    """The judged model against every other, with intervals."""
    found = run.verdict["comparisons"]
    if not found:
        return Omitted("comparisons", "No comparison: there is no other model on the same test windows.")
    model = label(run.verdict["model"])
    rows = [
        IntervalRow.of_change(
            label(row["reference"]),
            _EFFECT_STYLE.get(row["effect"], "neutral"),
            row["change"],
            row.get("low"),
            row.get("high"),
        )
        for row in found
    ]
    what = f"Change of RMSE of {model} against each other model, with 95 % intervals"
    plots = forest_plot(rows, what, (f"{model} better", f"{model} worse"))
    columns = [
        Cells.text(f"{model} against", [label(row["reference"]) for row in found]),
        Cells.text("Effect", [row["effect"] for row in found]),
        Cells.percent("Change of RMSE (%)", [row["change"] for row in found], signed=True),
        Cells.percent("95 % interval, low (%)", [row.get("low") for row in found], signed=True),
        Cells.percent("95 % interval, high (%)", [row.get("high") for row in found], signed=True),
        Cells.count("Items better (count)", [row["items_better"] for row in found]),
        Cells.count("Items worse (count)", [row["items_worse"] for row in found]),
        Cells.count("Items (count)", [row["num_items"] for row in found]),
    ]
    caption = "A dot left of the line: lower error. An interval that crosses the line: no clear difference."
    known = any(row.low is not None for row in rows)
    title, table = f"RMSE of {model} against each other model", Table(f"{model} against the others", columns)
    figure = Figure("forest-plot", title, plots, table, caption if known else "")
    blocks = [figure, Text(_drawn_from(run.verdict, known), note=True)]
    if found[0].get("lead_times"):
        blocks.insert(1, _by_lead_time(model, found))
    return ReportSection("comparisons", "Comparisons", blocks)


def _by_lead_time(model: str, rows: list[dict]) -> Table:
    """The change at single lead times; what is clear says so."""
    columns = [Cells.text(f"{model} against", [label(row["reference"]) for row in rows])]
    for number, lead in enumerate(rows[0]["lead_times"]):
        cells = [row["lead_times"][number] for row in rows]
        words = [f" {one['effect']}" if one["effect"] in ("better", "worse") else "" for one in cells]
        changes = percents([one["change"] for one in cells], signed=True)
        column = Cells(f"At {horizon_label(lead['label'])} (%)", [a + b for a, b in zip(changes, words, strict=True)])
        columns.append(column)
    return Table("Change of RMSE at single lead times; better and worse where its 95 % interval says so", columns)


def horizons(run: RunFiles) -> ReportSection | Omitted:
    """RMSE at every lead time."""
    by_step = run.evaluation["rmse_by_step"]
    found = {model: by_step[model] for model in run.models if model in by_step}
    if not found:
        return Omitted("horizons", "No RMSE by lead time: evaluation.json holds none.")
    x, x_title = run.lead_axis
    leads = (run.judged, run.reference)
    series, columns, has_band = [], [Cells.text("Lead time", run.lead_times)], False
    for model, values in sorted(found.items(), key=lambda pair: leads.index(pair[0]) if pair[0] in leads else 2):
        bounds = values.get("low"), values.get("high")
        with_band = None not in bounds
        has_band |= with_band
        bands = [bounds] if with_band and model in leads else []
        series.append(Line(model, style(model, run.models), values["values"], bands))
        columns.append(Cells.number(f"{label(model)} ({run.unit})", values["values"], key=model))
        for name, side in zip(("low", "high"), bounds if with_band else (), strict=False):
            column = Cells.number(f"{label(model)}, 95 % {name} ({run.unit})", side, key=model)
            columns.append(replace(column, quiet=model not in leads))

    def draw(width: float) -> Markup:
        ticks = hours_axis(0.0, x[-1], width) if run.step_seconds else []
        inside = [(place, text) for place, text in ticks if x[0] <= place <= x[-1]] or None
        axes = Axes(x, x_title, f"RMSE ({run.unit})", from_zero=True, x_ticks=inside)
        return line_chart(axes, series, width, "RMSE of every model by lead time")

    legend = [LegendEntry(model, label(model), style(model, run.models)) for model in found]
    missing = "No bands: the test windows are too few days for an interval."
    caption = "Bands: 95 % block bootstrap." if has_band else missing
    what = "RMSE by lead time"
    table = Table(what, columns, tall=True)
    figure = Figure("rmse-by-horizon", what, both(draw), table, caption, legend, table.only(run.horizon_rows))
    return ReportSection("horizons", "RMSE by horizon", [figure])


def items(run: RunFiles) -> ReportSection | Omitted:
    """Which items gain and which lose."""
    rows = [row for row in run.evaluation["per_item"] if (row.get("rmse") or {}).get(run.judged) is not None]
    if not rows:
        return Omitted("items", "No table by item: no item has an observed reading in a test window.")
    reference = run.reference
    metrics = [key for key, value in rows[0].items() if isinstance(value, dict)]
    if reference is None:
        alone = [(metrics[0], model, label(model)) for model in run.models]
        return ReportSection("items", "By item", [_errors(run, rows, f"{metrics[0].upper()} of each item", alone)])
    left_out = len(run.evaluation["per_item"]) - len(rows)
    rows.sort(key=lambda row: _change(row, "rmse", run.judged, reference) or 0.0)
    blocks: list[ReportBlock] = []
    if len(rows) > 1:
        blocks.append(_change_by_item(run, rows, reference))
    if len(rows) > _MOST_ROWS:
        note = f"The tables below show the {_MOST_ROWS // 2} items that gain most and least, of {len(rows):,}."
        blocks.append(Text(note, note=True))
        rows = [*rows[: _MOST_ROWS // 2], *rows[-_MOST_ROWS // 2 :]]
    judged, against = label(run.judged), label(reference)
    caption = f"Change of RMSE against {against} in percent; below 0 is a lower error."
    by_model = _changes(run, rows, [("rmse", one, label(one)) for one in run.models if one != reference], reference)
    rmse = [(metric, run.judged, _at(metric) or "whole path") for metric in metrics if metric.startswith("rmse")]
    by_horizon = _changes(run, rows, rmse, reference)
    every = [("rmse", model, label(model)) for model in run.models]
    ours = [(one, run.judged, f"{one.partition('@')[0].upper()} {_at(one)}".strip()) for one in metrics]
    maps: dict[str, list[ReportBlock]] = {}
    for name, title, change, raw in (
        ("models", f"Items and models against {against}", by_model, _errors(run, rows, "RMSE of each item", every)),
        (
            "horizons",
            f"Items and horizons, {judged} against {against}",
            by_horizon,
            _errors(run, rows, f"Errors of {judged} by item", ours),
        ),
    ):
        maps[name] = [HeatMap(f"heat-map-{name}", title, change, raw, caption)]
    blocks.append(Choices("Columns", maps))
    if left_out:
        reason = f"{left_out:,} items have no observed reading in a test window and are left out."
        blocks.append(Text(reason, note=True))
    return ReportSection("items", "By item", blocks)


def _drawn_from(verdict: dict, has_interval: bool) -> str:
    if not has_interval:
        blocks, days = verdict.get("num_blocks", 0), verdict.get("block_days", 1)
        return f"No intervals: {blocks} blocks of {days} d are too few days to draw from."
    whom = "other items like these" if verdict.get("speaks_of_other_items") else "other days of the same items"
    return (
        f"Paired block bootstrap over {verdict['num_blocks']:,} blocks of {verdict['block_days']} d from "
        f"{plural(verdict['num_items'], 'item')} and {verdict['num_windows']:,} windows, "
        f"{verdict['draws']:,} draws, seed {verdict['seed']}. The intervals speak of {whom}."
    )


def _kept(run: RunFiles) -> str:
    kept, training = run.verdict["kept"], run.environment.get("training")
    if not training:
        return f"Saved model: {label(kept)}; nothing was trained."
    if kept == "zero_shot":
        return "Saved model: zero-shot; no training step lowered the validation loss."
    step = f"step {training['best_step']:,} of {training['num_steps']:,}"
    return f"Saved model: {label(kept)}, {step}, chosen on the validation part."


def _task(run: RunFiles) -> str:
    frequency = run.evaluation.get("frequency") or run.manifest.get("frequency")
    targets = ", ".join(run.evaluation.get("targets") or [])
    history = run.evaluation.get("context_length")
    seen = run.time_of(history) if history else f"{history} steps"
    every = f", one value every {horizon_label(frequency)}" if frequency else ""
    items = plural(run.manifest.get("num_items", len(run.manifest["items"])), "item")
    return (
        f"Task: {targets or 'the target'} {run.path_length} ahead from {seen} of history{every}. "
        f"Data: {run.manifest['source']}, {items}. {_inputs(run.manifest.get('channels') or {})}"
    )


def _inputs(channels: Mapping[str, Sequence[str]]) -> str:
    """What the forecasts are made from."""
    named = [f"{', '.join(channels[role])} ({words})" for role, words in _INPUTS.items() if channels.get(role)]
    return f"Inputs: the history itself{', and ' if named else ' alone'}{'; '.join(named)}."


def _facts(run: RunFiles) -> list[Fact]:
    metrics = run.metrics.get(run.judged, {})
    facts = [_rmse_fact(run, "rmse", f"RMSE over the whole {run.path_length}")]
    against = next((row for row in run.verdict["comparisons"] if row["reference"] == run.reference), None)
    if against is not None:
        interval = "no interval: too few days"
        if against.get("low") is not None:
            interval = f"95 % interval {100 * against['low']:+.1f} to {100 * against['high']:+.1f} %"
        facts.append(Fact(f"RMSE against {label(run.reference)}", f"{100 * against['change']:+.1f}", "%", interval))
    horizons = [name for name in metrics if name.startswith("rmse@") and metrics[name] is not None]
    chosen = next((name for name in ("rmse@60min", "rmse@1h", *horizons) if name in horizons), None)
    if chosen:
        facts.append(_rmse_fact(run, chosen, f"RMSE {_at(chosen)}"))
    return [*facts, _coverage_fact(run) or _windows_fact(run, against)]


def _rmse_fact(run: RunFiles, metric: str, name: str) -> Fact:
    text, _, _ = measured(run.metrics.get(run.judged, {}).get(metric), run.unit).partition("\u00a0")
    others = run.domain.other_units(run, metric) if run.domain else []
    notes = [measured(value, unit, 3) for unit, value in others]
    if other := run.reference and run.metrics[run.reference].get(metric):
        notes.append(f"{label(run.reference)} {measured(other, '')}")
    return Fact(name, text, run.unit, " · ".join(notes))


def _coverage_fact(run: RunFiles) -> Fact | None:
    uncertainty = run.evaluation.get("uncertainty")
    intervals = uncertainty["methods"].get(uncertainty["method"], {}).get("intervals", []) if uncertainty else []
    chosen = next((row for row in intervals if abs(row["nominal"] - 0.8) < 1e-6), intervals[0] if intervals else None)
    if chosen is None:
        return None
    note = f"width {measured(chosen['width'], run.unit, 3)}"
    if chosen.get("low") is not None:
        note = f"95 % interval {100 * chosen['low']:.1f} to {100 * chosen['high']:.1f} %, {note}"
    return Fact(f"Coverage of the {100 * chosen['nominal']:g} % interval", f"{100 * chosen['coverage']:.1f}", "%", note)


def _windows_fact(run: RunFiles, against: dict | None) -> Fact:
    note = plural(run.verdict.get("num_items", 0), "item")
    if against and against["num_items"] > 1:
        (share,) = percents([against["items_better"] / against["num_items"]], 0)
        note += f", better than {label(run.reference)} for {share}\u00a0%"
    return Fact("Test windows", f"{run.verdict.get('num_windows', 0):,}", "windows", note)


def _at(metric: str) -> str:
    """``rmse@1h`` as ``at 1 h``; nothing for a metric of the whole path."""
    _, _, horizon = metric.partition("@")
    return f"at {horizon_label(horizon)}" if horizon else ""


def _change(row: dict, metric: str, model: str, reference: str) -> float | None:
    values = row.get(metric) or {}
    mine, other = values.get(model), values.get(reference)
    return None if mine is None or not other else mine / other - 1


def _changes(run: RunFiles, rows: list[dict], cells: list[tuple[str, str, str]], reference: str) -> Table:
    """Coloured changes of (metric, model, header) by item."""
    columns = [Cells.text("Item", [row["item"] for row in rows])]
    if {True, False} <= {row.get("seen") for row in rows}:
        columns.append(Cells.text("Trained on", [{True: "yes", False: "no"}.get(row.get("seen")) for row in rows]))
    columns.append(Cells.count("Windows (count)", [row.get("num_windows") for row in rows]))
    for metric, model, header in cells:
        changes = [_change(row, metric, model, reference) for row in rows]
        shades = [None if c is None else max(-1.0, min(1.0, c / _MOST_COLOUR)) for c in changes]
        columns.append(replace(Cells.percent(f"{header} (%)", changes, signed=True), shades=shades))
    return Table.capped(f"Change of RMSE against {label(reference)}", columns)


def _errors(run: RunFiles, rows: list[dict], title: str, cells: list[tuple[str, str, str]]) -> Table:
    """Errors of (metric, model, header) by item."""
    columns = [Cells.text("Item", [row["item"] for row in rows])]
    columns.append(Cells.count("Windows (count)", [row.get("num_windows") for row in rows]))
    for metric, model, header in cells:
        values = [(row.get(metric) or {}).get(model) for row in rows]
        columns.append(Cells.number(f"{header} ({run.unit})", values))
    return Table.capped(title, columns)


def _change_by_item(run: RunFiles, rows: list[dict], reference: str) -> Figure:
    pairs = [(str(row["item"]), _change(row, "rmse", run.judged, reference)) for row in rows]
    pairs = [(name, 100 * change) for name, change in pairs if change is not None]
    names, changes = [name for name, _ in pairs], [change for _, change in pairs]
    what = f"Change of RMSE of {label(run.judged)} against {label(reference)} by item"
    plots = both(lambda width: change_bars(names, changes, width, what, "change of RMSE (%)"))
    columns = [Cells.text("Item", names), Cells.decimal("Change of RMSE (%)", changes, 1, signed=True)]
    caption = f"Lower error for {sum(change < 0 for change in changes):,} of {len(changes):,} items."
    return Figure("change-by-item", what, plots, Table.capped(what, columns), caption)
