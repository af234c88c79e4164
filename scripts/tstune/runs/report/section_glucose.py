"""Glucose: errors in both units, by range, error grids, ranges of the forecast, strata."""

from __future__ import annotations

from tstune.evaluation.error_grids import ERROR_GRIDS
from tstune.runs.report.blocks import (
    Block,
    Choices,
    Column,
    Details,
    Figure,
    LegendEntry,
    Omitted,
    Section,
    Table,
    Text,
)
from tstune.runs.report.charts import Span, both, grid_chart, span_chart
from tstune.runs.report.run_files import RunFiles
from tstune.runs.report.words import horizon_label, label, metric_header

_RANGES = (("tbr2", "very low"), ("tbr1", "low"), ("tir", "in range"), ("tar1", "high"), ("tar2", "very high"))
_LIMITS = ": low below 3.9 mmol/L (70 mg/dL), high above 10.0 (180)"
_METRICS = ("rmse", "mae", "bias", "mard")
_RANGE_LIMITS = "Very low is below 3.0 mmol/L (54 mg/dL), low to 3.9 (70), in range to 10.0 (180), high to 13.9 (250)."


def glucose(run: RunFiles) -> Section | Omitted:
    """Errors at each horizon in both units, by range, temporal gain, tasks."""
    found = run.evaluation.get("glucose")
    if not found:
        return Omitted(
            "glucose",
            f"No glucose sections: they need one target in mg/dL or mmol/L; this run has {_targets(run)}.",
        )
    blocks: list[Block] = []
    if found.get("points"):
        blocks += _points(run, found)
    if found.get("by_range"):
        blocks.append(_by_range(run, found))
    gains = found.get("temporal_gain")
    if gains:
        models = _in_order(run, gains)
        labels = list(dict.fromkeys(name for model in models for name in gains[model]))
        columns = [Column.text("Model", [label(model) for model in models])]
        columns += [
            Column.decimal(f"at\u00a0{horizon_label(name)} (min)", [gains[model].get(name) for model in models], 0)
            for name in labels
        ]
        blocks.append(Table("Temporal gain", columns, _ours(run, models)))
        blocks.append(
            Text(
                "Temporal gain: how much earlier the forecast shows what comes than the readings do; 0 for "
                "persistence, at most the horizon.",
                note=True,
            )
        )
    tasks = found.get("tasks")
    if tasks:
        blocks.append(_tasks(run, tasks, found.get("native") or run.unit))
    return Section("glucose", "Glucose errors", blocks)


def error_grids(run: RunFiles) -> Section | Omitted | None:
    """Clarke, Parkes and DTS grids at each horizon."""
    found = run.evaluation.get("glucose")
    if not found:
        return None
    grids = found.get("error_grids") or {}
    if not grids:
        return Omitted("error-grids", "No error grids: evaluation.json holds none.")
    options = {name: [_grid(run, name, grid, found.get("native") or run.unit)] for name, grid in grids.items()}
    titles = {_grid_title(name): blocks for name, blocks in options.items()}
    note = (
        "Error grids were made for meters, where reference and reading are of the same moment. For a forecast they "
        "weigh errors by risk, from A (none) to E (dangerous); they say nothing about the accuracy of a device."
    )
    return Section("error-grids", "Error grids", [Choices("Grid", titles), Text(note, note=True)])


def profile(run: RunFiles) -> Section | None:
    """Time in ranges and variability of forecasts against the readings."""
    found = (run.evaluation.get("glucose") or {}).get("profile")
    if not found:
        return None
    unit = run.evaluation["glucose"].get("native") or run.unit
    rows = ["truth", *_in_order(run, found)]
    rows = [name for name in rows if name in found]
    names = ["readings" if name == "truth" else label(name) for name in rows]
    drawn = [(shown, _stacked(found[name]), "") for shown, name in zip(names, rows, strict=True)]
    what = "Time in ranges of the readings and of each forecast"
    ticks = [(tick, f"{tick} %" if tick else "0") for tick in (0, 25, 50, 75, 100)]
    plots = both(lambda width: span_chart(drawn, width, what, (0, 100), ticks))
    columns = [Column.text("", names)]
    columns += [
        Column.decimal(f"{text.capitalize()} (%)", [found[n].get(key) for n in rows], 1) for key, text in _RANGES
    ]
    columns += [
        Column.number(f"Mean ({unit})", [found[name].get("mean") for name in rows]),
        Column.number(f"SD ({unit})", [found[name].get("sd") for name in rows]),
        Column.decimal("CV (%)", [found[name].get("cv") for name in rows], 1),
        Column.decimal("GMI (%)", [found[name].get("gmi") for name in rows], 2),
    ]
    legend = [LegendEntry("", text, f"block range-{key}") for key, text in _RANGES]
    caption = f"{_RANGE_LIMITS} A forecast that leans to the mean has less time outside the range and a lower CV."
    figure = Figure("time-in-ranges", what, plots, Table(what, columns), caption, legend)
    return Section("profile", "Ranges and profile", [figure])


def strata(run: RunFiles) -> Section | None:
    """RMSE of groups of windows: seen and unseen people, sensors, participants."""
    found = (run.evaluation.get("glucose") or {}).get("strata")
    if not found:
        return None
    groups = {name: one for name, one in found.items() if not name.startswith("participant ")}
    people = {name.removeprefix("participant "): one for name, one in found.items() if name.startswith("participant ")}
    metrics = [key for key in next(iter(found.values())) if key.startswith("rmse")]
    blocks: list[Block] = [
        Choices(
            "Unit",
            {
                unit: [_strata_table(run, groups, metric, unit, "Stratum") for metric in metrics]
                + (
                    [Details("Participants", [_strata_table(run, people, m, unit, "Participant") for m in metrics])]
                    if people
                    else []
                )
                for unit in run.evaluation["glucose"]["units"]
            },
            group="unit",
        )
    ]
    return Section("strata", "Strata", blocks)


def _stacked(profile: dict) -> list[Span]:
    """Shares of the ranges, one behind the other."""
    spans, begin = [], 0.0
    for key, name in _RANGES:
        share = profile.get(key) or 0.0
        if share > 0:
            spans.append(Span(begin, begin + share, f"range-{key}", f", {name}: {share:.1f} %", f"{share:.0f}"))
        begin += share
    return spans


def _where(metric: str) -> str:
    """`rmse@30min` as ``at 30 min``."""
    _, _, horizon = metric.partition("@")
    return f"at\u00a0{horizon_label(horizon)}" if horizon else "whole path"


def _targets(run: RunFiles) -> str:
    targets = run.evaluation.get("targets") or []
    return f"{len(targets)} target{'s' if len(targets) != 1 else ''} in {run.unit}"


def _in_order(run: RunFiles, found: dict) -> list[str]:
    return [model for model in run.models if model in found]


def _ours(run: RunFiles, models: list[str]) -> frozenset[int]:
    return frozenset(number for number, model in enumerate(models) if model == run.judged)


def _points(run: RunFiles, found: dict) -> list[Block]:
    points, units = found["points"], found["units"]
    models = _in_order(run, points)
    keys = list(dict.fromkeys(key for model in models for unit in units for key in points[model].get(unit, {})))
    options: dict[str, list[Block]] = {}
    for metric in _METRICS:
        own = [key for key in keys if key.partition("@")[0] == metric]
        if not own:
            continue
        own.sort(key=lambda key: "@" not in key)  # the whole path comes last
        tables = []
        for unit in units if metric != "mard" else units[:1]:
            columns = [Column.text("Model", [label(model) for model in models])]
            for key in own:
                header = _where(key)
                values = [points[model].get(unit, {}).get(key) for model in models]
                columns.append(
                    Column.number(f"{header} ({'%' if metric == 'mard' else unit})", values, lowest=metric != "bias")
                )
            tables.append(Table(metric_header(metric, unit), columns, _ours(run, models)))
        options[metric_header(metric, "").partition(" (")[0]] = list(tables)
    note = "Bias is forecast minus reading. Only observed readings are scored. 1 mmol/L is 18.016 mg/dL."
    return [Choices("Error", options), Text(note, note=True)]


def _by_range(run: RunFiles, found: dict) -> Choices:
    by_range, unit = found["by_range"], found.get("native") or run.unit
    models = _in_order(run, by_range)
    ranges = [name for name in ("low", "in_range", "high") if any(name in by_range[model] for model in models)]
    options: dict[str, list[Block]] = {}
    for metric in ("rmse", "mae", "bias"):
        columns = [Column.text("Model", [label(model) for model in models])]
        for name in ranges:
            values = [by_range[model].get(name, {}).get(metric) for model in models]
            counted = next(
                (by_range[model][name].get("num_readings") for model in models if name in by_range[model]), None
            )
            readings = f", {counted:,} readings" if counted is not None else ""
            header = f"{label(name)}{readings} ({unit})"
            columns.append(Column.number(header, values, lowest=metric != "bias"))
        title = f"{metric_header(metric, unit)} by range of the reading{_LIMITS}"
        options[metric_header(metric, "")] = [Table(title, columns, _ours(run, models))]
    return Choices("Error by range", options)


def _tasks(run: RunFiles, tasks: dict, unit: str) -> Table:
    models = [model for model in run.models if any(model in task for task in tasks.values())]
    columns = [Column.text("Model", [label(model) for model in models])]
    for name, task in tasks.items():
        found = [task.get(model) or {} for model in models]
        columns.append(Column.number(f"{label(name)}: RMSE ({unit})", [one.get("rmse") for one in found], lowest=True))
        columns.append(Column.count(f"{label(name)} (windows)", [one.get("num_windows") for one in found]))
    return Table("All day, and nights from midnight", columns, _ours(run, models))


def _grid_title(name: str) -> str:
    return {"clarke": "Clarke", "parkes": "Parkes", "dts": "DTS"}.get(name, name)


def _grid(run: RunFiles, name: str, grid: dict, unit: str) -> Choices:
    known = ERROR_GRIDS.get(name)
    options = {}
    for horizon, by_model in grid["horizons"].items():
        points = (grid.get("points") or {}).get(horizon, [])
        models = _in_order(run, by_model)
        zones = list(dict.fromkeys(zone for model in models for zone in by_model[model]))
        columns = [Column.text("Model", [label(model) for model in models])]
        columns += [Column.decimal(z, [by_model[model].get(z) for model in models], 1) for z in zones]
        if "A" in zones and "B" in zones:
            sums = [_sum(by_model[model].get("A"), by_model[model].get("B")) for model in models]
            columns.append(Column.decimal("A+B", sums, 1))
        title = f"{known.title if known else name} at {horizon_label(horizon)}, {label(run.judged)}"
        chart = grid_chart(grid["outline"], points, unit, title)
        table = Table(f"Share of each zone at {horizon_label(horizon)} (% of readings)", columns, _ours(run, models))
        caption = f"{len(points):,} pairs drawn, evenly chosen; the shares are of all." + (
            f" {known.source}" if known else ""
        )
        figure = Figure(f"grid-{name}-{horizon}", title, [chart], table, caption, beside=True)
        options[horizon_label(horizon)] = [figure]
    return Choices("Horizon", options, group="horizon")


def _sum(first: float | None, second: float | None) -> float | None:
    return None if first is None or second is None else first + second


def _strata_table(run: RunFiles, groups: dict, metric: str, unit: str, name: str) -> Table:
    models = [
        model for model in run.models if any(model in (one.get(metric) or {}).get(unit, {}) for one in groups.values())
    ]
    columns = [
        Column.text(name, list(groups)),
        Column.count("Windows (count)", [one.get("num_windows") for one in groups.values()]),
        Column.count("Items (count)", [one.get("num_items") for one in groups.values()]),
    ]
    columns += [
        Column.number(
            f"{label(model)} ({unit})", [(one.get(metric) or {}).get(unit, {}).get(model) for one in groups.values()]
        )
        for model in models
    ]
    return Table.capped(metric_header(metric, unit), columns)
