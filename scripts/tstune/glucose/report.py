"""What the report of a run on glucose shows: errors in both units, error grids, hypoglycaemia, profile, strata."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np
from markupsafe import Markup

from tstune.glucose.error_grids import ERROR_GRIDS
from tstune.glucose.scores import RANGES
from tstune.runs.report.blocks import (
    Cells,
    Choices,
    Details,
    Figure,
    LegendEntry,
    Omitted,
    ReportBlock,
    ReportSection,
    Table,
    Text,
)
from tstune.runs.report.charts import (
    IntervalRow,
    Point,
    Span,
    both,
    canvas,
    interval_chart,
    plane,
    span_chart,
    stroke,
    tag,
    text,
    titled,
)
from tstune.runs.report.run_files import RunFiles
from tstune.runs.report.words import horizon_label, label, measured, metric_header, plural

_PROFILE = {"tbr2": "very low", "tbr1": "low", "tir": "in range", "tar1": "high", "tar2": "very high"}
_BOUNDS = "Very low is below 3.0 mmol/L (54 mg/dL), low to 3.9 (70), in range to 10.0 (180), high to 13.9 (250)."
_LIMITS = ": low below 3.9 mmol/L (70 mg/dL), high above 10.0 (180)"
_METRICS = ("rmse", "mae", "bias", "mard")

_WINDOWS = {  # key -> header, and how its column is written
    "num_windows": ("Windows (count)", Cells.count),
    "num_low": ("With a low reading (count)", Cells.count),
    "base_rate": ("Base rate (%)", Cells.percent),
    "auroc": ("AUROC (0 to 1)", partial(Cells.decimal, digits=3)),
    "auprc": ("AUPRC (0 to 1)", partial(Cells.decimal, digits=3)),
    "brier": ("Brier score (0 to 1)", partial(Cells.decimal, digits=4)),
    "brier_of_base_rate": ("Brier score of the base rate (0 to 1)", partial(Cells.decimal, digits=4)),
}
_EVENTS = {
    "num_events": ("Events (count)", Cells.count),
    "detected": ("Detected (count)", Cells.count),
    "sensitivity": ("Sensitivity (%)", Cells.percent),
    "precision": ("Precision (%)", Cells.percent),
    "median_lead_minutes": ("Median lead time (min)", partial(Cells.decimal, digits=0)),
    "false_alarms_per_day": ("False alarms wanted (per day)", partial(Cells.decimal, digits=2)),
    "false_alarms_per_day_found": ("False alarms found (per day)", partial(Cells.decimal, digits=2)),
}


def parts() -> tuple[Callable[[RunFiles], ReportSection | Omitted | None], ...]:
    """The sections, in the order they are read."""
    return glucose, error_grids, hypo, profile, strata


def other_units(run: RunFiles, metric: str) -> list[tuple[str, float]]:
    """(unit, value) of a metric of the judged model in the unit that is not that of the data."""
    by_unit = _part(run, "points").get(run.judged) or {}
    values = {unit: found.get(metric) for unit, found in by_unit.items() if unit != run.unit}
    return [(unit, value) for unit, value in values.items() if value is not None]


def glucose(run: RunFiles) -> ReportSection | Omitted:
    """Errors at each horizon in both units, by range, temporal gain, tasks."""
    if not run.evaluation.get("glucose"):
        has = f"{plural(len(run.evaluation.get('targets') or []), 'target')} in {run.unit}"
        return Omitted("glucose", f"No glucose sections: they need one target in mg/dL or mmol/L; this run has {has}.")
    blocks: list[ReportBlock] = []
    if _part(run, "points"):
        blocks += _points(run)
    if _part(run, "by_range"):
        blocks.append(_by_range(run))
    if _part(run, "temporal_gain"):
        blocks += _gains(run)
    if _part(run, "tasks"):
        blocks.append(_tasks(run))
    return ReportSection("glucose", "Glucose errors", blocks)


def _points(run: RunFiles) -> list[ReportBlock]:
    points, units = _part(run, "points"), run.evaluation["glucose"]["units"]
    models = _in_order(run, points)
    keys = list(dict.fromkeys(key for model in models for unit in units for key in points[model].get(unit, {})))
    options: dict[str, list[ReportBlock]] = {}
    for metric in _METRICS:
        own = [key for key in keys if key.partition("@")[0] == metric]
        if not own:
            continue
        own.sort(key=lambda key: "@" not in key)  # the whole path comes last
        tables = []
        for unit in units if metric != "mard" else units[:1]:
            columns = [
                Cells.number(
                    f"{_where(key)} ({'%' if metric == 'mard' else unit})",
                    [points[model].get(unit, {}).get(key) for model in models],
                    lowest=metric != "bias",
                )
                for key in own
            ]
            tables.append(_table(run, metric_header(metric, unit), models, columns))
        options[metric_header(metric, "").partition(" (")[0]] = list(tables)
    note = "Bias is forecast minus reading. Only observed readings are scored. 1 mmol/L is 18.016 mg/dL."
    return [Choices("Error", options), Text(note, note=True)]


def _by_range(run: RunFiles) -> Choices:
    by_range, unit = _part(run, "by_range"), _native(run)
    models = _in_order(run, by_range)
    counted = {name: by_range[model][name].get("num_readings") for model in models[::-1] for name in by_range[model]}
    headers = {
        name: f"{label(name)}{'' if counted[name] is None else f', {counted[name]:,} readings'} ({unit})"
        for name in RANGES
        if name in counted
    }
    options: dict[str, list[ReportBlock]] = {}
    for metric in ("rmse", "mae", "bias"):
        columns = [
            Cells.number(header, [by_range[m].get(name, {}).get(metric) for m in models], lowest=metric != "bias")
            for name, header in headers.items()
        ]
        title = f"{metric_header(metric, unit)} by range of the reading{_LIMITS}"
        options[metric_header(metric, "")] = [_table(run, title, models, columns)]
    return Choices("Error by range", options)


def _gains(run: RunFiles) -> list[ReportBlock]:
    gains = _part(run, "temporal_gain")
    models = _in_order(run, gains)
    columns = [
        Cells.decimal(f"at\u00a0{horizon_label(name)} (min)", [gains[model].get(name) for model in models], 0)
        for name in dict.fromkeys(name for model in models for name in gains[model])
    ]
    note = (
        "Temporal gain: how much earlier the forecast shows what comes than the readings do; 0 for "
        "persistence, at most the horizon. None where a forecast resembles the readings at no delay, as of another day."
    )
    return [_table(run, "Temporal gain", models, columns), Text(note, note=True)]


def _tasks(run: RunFiles) -> Table:
    tasks, unit = _part(run, "tasks"), _native(run)
    models = [model for model in run.models if any(model in task for task in tasks.values())]
    columns = []
    for name, task in tasks.items():
        found = [task.get(model) or {} for model in models]
        columns.append(Cells.number(f"{label(name)}: RMSE ({unit})", [one.get("rmse") for one in found], lowest=True))
        columns.append(Cells.count(f"{label(name)} (windows)", [one.get("num_windows") for one in found]))
    return _table(run, "All day, and nights from midnight", models, columns)


def error_grids(run: RunFiles) -> ReportSection | Omitted | None:
    """Clarke, Parkes and DTS grids at each horizon."""
    if not run.evaluation.get("glucose"):
        return None
    grids = _part(run, "error_grids")
    if not grids:
        return Omitted("error-grids", "No error grids: evaluation.json holds none.")
    titles = {"clarke": "Clarke", "parkes": "Parkes", "dts": "DTS"}
    options = {titles.get(name, name): [_grid(run, name, grid)] for name, grid in grids.items()}
    note = (
        "Error grids were made for meters, where reference and reading are of the same moment. For a forecast they "
        "weigh errors by risk, from A (none) to E (dangerous); they say nothing about the accuracy of a device."
    )
    return ReportSection("error-grids", "Error grids", [Choices("Grid", options), Text(note, note=True)])


def _grid(run: RunFiles, name: str, grid: dict) -> Choices:
    known = ERROR_GRIDS.get(name)
    options: dict[str, list[ReportBlock]] = {}
    for horizon, by_model in grid["horizons"].items():
        points = (grid.get("points") or {}).get(horizon, [])
        models, at = _in_order(run, by_model), horizon_label(horizon)
        zones = list(dict.fromkeys(zone for model in models for zone in by_model[model]))
        columns = [Cells.decimal(zone, [by_model[model].get(zone) for model in models], 1) for zone in zones]
        if "A" in zones and "B" in zones:
            pairs = [(by_model[model].get("A"), by_model[model].get("B")) for model in models]
            columns.append(Cells.decimal("A+B", [None if None in pair else sum(pair) for pair in pairs], 1))
        title = f"{known.title if known else name} at {at}, {label(run.judged)}"
        chart = _grid_chart(grid["outline"], points, _native(run), title)
        table = _table(run, f"Share of each zone at {at} (% of readings)", models, columns)
        caption = f"{len(points):,} pairs drawn, evenly chosen; the shares are of all."
        caption += f" {known.source}" if known else ""
        options[at] = [Figure(f"grid-{name}-{horizon}", title, [chart], table, caption, beside=True)]
    return Choices("Horizon", options, group="horizon")


def hypo(run: RunFiles) -> ReportSection | Omitted | None:
    """Hypoglycaemia below each limit: does the forecast warn, by window and by event."""
    if not run.evaluation.get("glucose"):
        return None
    found = _part(run, "hypo")
    if not found:
        return Omitted("hypo", "No hypoglycaemia section: evaluation.json holds none.")
    limits = {name: f"below {measured(one['limit'], _native(run), 2)}" for name, one in found.items()}
    options = {limits[name]: _below(run, name, one) for name, one in found.items()}
    return ReportSection("hypo", "Hypoglycaemia", [Choices("Limit", options)])


def _below(run: RunFiles, name: str, one: dict) -> list[ReportBlock]:
    spans = {f"whole {run.path_length}": one.get("windows") or {}}
    spans |= {f"next {horizon_label(until)}": windows for until, windows in (one.get("windows_up_to") or {}).items()}
    spans = {span: _of_models(run, windows) for span, windows in spans.items()}
    events = _of_models(run, one.get("events")).values()
    if not _any_low(next(iter(spans.values()))) and not any(found.get("num_events") for found in events):
        windows = max((found.get("num_windows") or 0 for found in next(iter(spans.values())).values()), default=0)
        return [Text(f"None of {windows:,} windows holds a reading below the limit: there is nothing to warn of.")]
    options = {
        span: _warnings(run, f"hypo-{name}-{number}", span, windows)
        for number, (span, windows) in enumerate(spans.items())
        if windows
    }
    return [Choices("Within the", options, group="within"), *_events(run, one)]


def _any_low(windows: Mapping[str, dict]) -> bool:
    """False if it is known that no window holds a low reading."""
    return any(found.get("num_low") != 0 for found in windows.values())


def _warnings(run: RunFiles, id_: str, span: str, windows: Mapping[str, dict]) -> list[ReportBlock]:
    values = list(windows.values())
    counted = Text(
        f"{values[0].get('num_low') or 0:,} of {values[0].get('num_windows') or 0:,} windows hold a reading below the "
        "limit. Windows that begin below it are left out: who is low already needs no warning."
    )
    if not _any_low(windows):
        return [counted]
    base = values[0].get("base_rate")
    expected = None if base is None else 100 * base
    rows = []
    for model, one in windows.items():
        value = None if one.get("auprc") is None else 100 * one["auprc"]
        written = "not defined" if value is None else f"{value:.1f} %"
        shade = "better" if model == run.judged else "neutral"
        rows.append(IntervalRow(label(model), value, None, None, shade, written, expected))
    what = f"Average precision (AUPRC) of the warning, {span}"
    plots = both(lambda width: interval_chart(rows, width, what, "AUPRC (%)", limits=(0.0, 100.0)))
    table = _table(run, f"Warnings by window, {span}", list(windows), _columns(_WINDOWS, values))
    caption = (
        "Upright marks: the base rate, which a warning without skill has. A model with quantiles warns by its "
        "probability of a low reading, one without by how low its forecast goes."
    )
    return [counted, Figure(id_, what, plots, table, caption)]


def _events(run: RunFiles, one: dict) -> list[ReportBlock]:
    events = _of_models(run, one.get("events"))
    if not events:
        reason = "No table of events: the validation windows hold no event below this limit to choose a threshold on."
        return [Text(reason, note=True)]
    values = list(events.values())
    ahead = one.get("events_horizon_minutes")
    note = "Events by the consensus definition: at least 15 minutes below the limit. "
    if ahead is not None:
        note += f"An alarm looks {ahead:g} min ahead. "
    note += f"Each model's threshold was chosen on the {values[0].get('threshold_from', 'validation')} part."
    silent = [label(model) for model in run.models if model in one["events"] and model not in events]
    if silent:
        note += f" No alarm could be set for {', '.join(silent)}."
    return [_table(run, "Warnings by event", list(events), _columns(_EVENTS, values)), Text(note, note=True)]


def profile(run: RunFiles) -> ReportSection | None:
    """Time in ranges and variability of forecasts against the readings."""
    found, unit = _part(run, "profile"), _native(run)
    if not found:
        return None
    rows = [name for name in ("truth", *run.models) if name in found]
    names = ["readings" if name == "truth" else label(name) for name in rows]
    drawn = [(name, _stacked(found[row]), "") for name, row in zip(names, rows, strict=True)]
    what = "Time in ranges of the readings and of each forecast"
    ticks = [(tick, f"{tick} %" if tick else "0") for tick in (0, 25, 50, 75, 100)]
    plots = both(lambda width: span_chart(drawn, width, what, (0, 100), ticks))
    values = {key: [found[row].get(key) for row in rows] for key in (*_PROFILE, "mean", "sd", "cv", "gmi")}
    columns = [
        Cells.text("", names),
        *(Cells.decimal(f"{text.capitalize()} (%)", values[key], 1) for key, text in _PROFILE.items()),
        Cells.number(f"Mean ({unit})", values["mean"]),
        Cells.number(f"SD ({unit})", values["sd"]),
        Cells.decimal("CV (%)", values["cv"], 1),
        Cells.decimal("GMI (%)", values["gmi"], 2),
    ]
    legend = [LegendEntry("", text, f"block range-{key}") for key, text in _PROFILE.items()]
    caption = f"{_BOUNDS} A forecast that leans to the mean has less time outside the range and a lower CV."
    figure = Figure("time-in-ranges", what, plots, Table(what, columns), caption, legend)
    return ReportSection("profile", "Ranges and profile", [figure])


def _stacked(profile: dict) -> list[Span]:
    """Shares of the ranges, one behind the other."""
    spans, begin = [], 0.0
    for key, name in _PROFILE.items():
        share = profile.get(key) or 0.0
        if share > 0:
            spans.append(Span(begin, begin + share, f"range-{key}", f", {name}: {share:.1f} %", f"{share:.0f}"))
        begin += share
    return spans


def strata(run: RunFiles) -> ReportSection | None:
    """RMSE of groups of windows: seen and unseen people, sensors, participants."""
    found = _part(run, "strata")
    if not found:
        return None
    groups = {name: one for name, one in found.items() if not name.startswith("participant ")}
    people = {name.removeprefix("participant "): one for name, one in found.items() if name.startswith("participant ")}
    metrics = [key for key in next(iter(found.values())) if key.startswith("rmse")]
    options: dict[str, list[ReportBlock]] = {}
    for unit in run.evaluation["glucose"]["units"]:
        options[unit] = [_stratum(run, groups, metric, unit, "Stratum") for metric in metrics]
        if people:
            tables = [_stratum(run, people, metric, unit, "Participant") for metric in metrics]
            options[unit].append(Details("Participants", tables))
    return ReportSection("strata", "Strata", [Choices("Unit", options, group="unit")])


def _stratum(run: RunFiles, groups: dict, metric: str, unit: str, name: str) -> Table:
    scores = [(one.get(metric) or {}).get(unit, {}) for one in groups.values()]
    columns = [
        Cells.text(name, list(groups)),
        Cells.count("Windows (count)", [one.get("num_windows") for one in groups.values()]),
        Cells.count("Items (count)", [one.get("num_items") for one in groups.values()]),
        *(
            Cells.number(f"{label(model)} ({unit})", [by_model.get(model) for by_model in scores])
            for model in run.models
            if any(model in by_model for by_model in scores)
        ),
    ]
    return Table.capped(metric_header(metric, unit), columns)


def _part(run: RunFiles, name: str) -> dict:
    """One key of the part `glucose`; empty where there is none."""
    return (run.evaluation.get("glucose") or {}).get(name) or {}


def _native(run: RunFiles) -> str:
    return (run.evaluation.get("glucose") or {}).get("native") or run.unit


def _in_order(run: RunFiles, found: Mapping[str, object]) -> list[str]:
    return [model for model in run.models if model in found]


def _of_models(run: RunFiles, found: Mapping[str, dict | None] | None) -> dict[str, dict]:
    """Model -> what there is of it, in the order of the scoreboard; without those that have nothing."""
    return {model: found[model] for model in run.models if (found or {}).get(model)}


def _columns(known: Mapping[str, tuple[str, Callable[..., Cells]]], values: list[dict]) -> list[Cells]:
    """A column for each key that any of the values has."""
    return [
        make(header, [one.get(key) for one in values])
        for key, (header, make) in known.items()
        if any(key in one for one in values)
    ]


def _table(run: RunFiles, title: str, models: list[str], columns: list[Cells]) -> Table:
    """A row for each model, that of the run marked."""
    ours = frozenset(number for number, model in enumerate(models) if model == run.judged)
    return Table(title, [Cells.text("Model", [label(model) for model in models]), *columns], ours)


def _where(metric: str) -> str:
    """`rmse@30min` as ``at 30 min``."""
    _, _, horizon = metric.partition("@")
    return f"at\u00a0{horizon_label(horizon)}" if horizon else "whole path"


def _grid_chart(
    outline: Sequence[tuple[str, Sequence[Sequence[float]]]],
    points: Sequence[Sequence[float]],
    unit: str,
    description: str,
) -> Markup:
    """An error grid: zones as tinted areas with their letters, (reading, forecast) pairs as dots."""
    highest = max(max(vertex) for _, polygon in outline for vertex in polygon)
    side, ends = 390.0, (0, highest)
    x, y, frame = plane(side, side, ends, ends, (f"Reading ({unit})", f"Forecast ({unit})"), grid=False)
    parts, letters = [], []
    for zone, polygon in outline:
        corners = " ".join(f"{x(a):.1f},{y(b):.1f}" for a, b in polygon)
        parts.append(titled(f"zone {zone}", tag("polygon", points=corners), class_=f"grid-zone z{zone}"))
        if (place := _label_place(np.asarray(polygon, dtype=np.float64), highest)) is not None:
            letters.append(text(zone, x(place[0]), y(place[1]) + 6, "middle", class_="zone-letter"))
    diagonal = stroke((x(0), y(0)), (x(highest), y(highest)), "reference")
    dots = tag(
        "path", d="".join(f"M{x.inside(a):.1f} {y.inside(b):.1f}h0" for a, b in points) or "M0 0", class_="points"
    )
    square = tag("rect", x=x.start, y=y.end, width=x.end - x.start, height=y.start - y.end, class_="frame")
    return canvas(side, side, description, "grid-chart", *parts, *frame, diagonal, dots, *letters, square)


def _label_place(polygon: np.ndarray, highest: float) -> Point | None:
    """The place inside a polygon that is farthest from its edges; None where a letter has no room."""
    low, high = polygon.min(axis=0), polygon.max(axis=0)
    share = (np.arange(40) + 0.5) / 40
    candidates = np.stack(np.meshgrid(*(low[i] + share * (high[i] - low[i]) for i in (0, 1))), axis=-1).reshape(-1, 2)
    start, end = polygon, np.roll(polygon, -1, axis=0)
    rise = np.where(end[:, 1] == start[:, 1], 1e-12, end[:, 1] - start[:, 1])
    crosses = (start[:, 1] > candidates[:, None, 1]) != (end[:, 1] > candidates[:, None, 1])
    crossing = start[:, 0] + (candidates[:, None, 1] - start[:, 1]) / rise * (end[:, 0] - start[:, 0])
    inside = (crosses & (candidates[:, None, 0] < crossing)).sum(axis=1) % 2 == 1
    along = end - start
    length = np.maximum((along**2).sum(axis=1), 1e-12)
    share = np.clip(((candidates[:, None] - start) * along).sum(axis=2) / length, 0, 1)
    distance = np.linalg.norm(candidates[:, None] - (start + share[..., None] * along), axis=2).min(axis=1)
    best = int(np.where(inside, distance, -1.0).argmax())
    return tuple(candidates[best]) if inside[best] and distance[best] > 0.025 * highest else None
