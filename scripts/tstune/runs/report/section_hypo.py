"""Hypoglycaemia: does the forecast warn, by window and by event."""

from __future__ import annotations

from tstune.runs.report.blocks import Block, Choices, Column, Figure, Omitted, Section, Table, Text
from tstune.runs.report.charts import IntervalRow, both, interval_chart
from tstune.runs.report.run_files import RunFiles
from tstune.runs.report.words import horizon_label, label, measured


def hypo(run: RunFiles) -> Section | Omitted | None:
    """Windows and events below each limit."""
    glucose = run.evaluation.get("glucose")
    if not glucose:
        return None
    found = glucose.get("hypo") or {}
    if not found:
        return Omitted("hypo", "No hypoglycaemia section: evaluation.json holds none.")
    unit = glucose.get("native") or run.unit
    options = {f"below {measured(one['limit'], unit, 2)}": _one(run, name, one) for name, one in found.items()}
    return Section("hypo", "Hypoglycaemia", [Choices("Limit", options)])


def _one(run: RunFiles, name: str, one: dict) -> list[Block]:
    spans = {f"whole {run.path_length}": one.get("windows") or {}}
    spans |= {f"next {horizon_label(until)}": windows for until, windows in (one.get("windows_up_to") or {}).items()}
    options: dict[str, list[Block]] = {}
    for number, (span, windows) in enumerate(spans.items()):
        if any(windows.get(model) for model in run.models):
            options[span] = _windows(run, f"hypo-{name}-{number}", span, windows)
    return [Choices("Within the", options, group="within"), *_events(run, one)]


def _windows(run: RunFiles, id_: str, span: str, windows: dict) -> list[Block]:
    models = [model for model in run.models if windows.get(model)]
    values = [windows[model] for model in models]
    base = values[0].get("base_rate")
    rows = [
        IntervalRow(
            label=label(model),
            value=None if one.get("auprc") is None else 100 * one["auprc"],
            low=None,
            high=None,
            style="better" if model == run.judged else "neutral",
            written="not defined" if one.get("auprc") is None else f"{100 * one['auprc']:.1f} %",
            expected=None if base is None else 100 * base,
        )
        for model, one in zip(models, values, strict=True)
    ]
    what = f"Average precision (AUPRC) of the warning, {span}"
    plots = both(lambda width: interval_chart(rows, width, what, "AUPRC (%)", limits=(0.0, 100.0)))
    columns = [
        Column.text("Model", [label(model) for model in models]),
        Column.count("Windows (count)", [one.get("num_windows") for one in values]),
        Column.count("With a low reading (count)", [one.get("num_low") for one in values]),
        Column.percent("Base rate (%)", [one.get("base_rate") for one in values]),
        Column.decimal("AUROC (0 to 1)", [one.get("auroc") for one in values], 3),
        Column.decimal("AUPRC (0 to 1)", [one.get("auprc") for one in values], 3),
        Column.decimal("Brier score (0 to 1)", [one.get("brier") for one in values], 4),
    ]
    if any(one.get("brier_of_base_rate") is not None for one in values):
        reference = [one.get("brier_of_base_rate") for one in values]
        columns.append(Column.decimal("Brier score of the base rate (0 to 1)", reference, 4))
    table = Table(f"Warnings by window, {span}", columns, _ours(run, models))
    counted = Text(
        f"{values[0].get('num_low') or 0:,} of {values[0].get('num_windows') or 0:,} windows hold a reading below the "
        "limit. Windows that begin below it are left out: who is low already needs no warning."
    )
    caption = (
        "Upright marks: the base rate, which a warning without skill has. A model with quantiles warns by its "
        "probability of a low reading, one without by how low its forecast goes."
    )
    return [counted, Figure(id_, what, plots, table, caption)]


def _events(run: RunFiles, one: dict) -> list[Block]:
    events = one.get("events") or {}
    models = [model for model in run.models if events.get(model)]
    if not models:
        reason = "No table of events: the validation windows hold no event below this limit to choose a threshold on."
        return [Text(reason, note=True)]
    values = [events[model] for model in models]
    columns = [
        Column.text("Model", [label(model) for model in models]),
        Column.count("Events (count)", [one.get("num_events") for one in values]),
        Column.count("Detected (count)", [one.get("detected") for one in values]),
        Column.percent("Sensitivity (%)", [one.get("sensitivity") for one in values]),
        Column.percent("Precision (%)", [one.get("precision") for one in values]),
        Column.decimal("Median lead time (min)", [one.get("median_lead_minutes") for one in values], 0),
        Column.decimal("False alarms wanted (per day)", [one.get("false_alarms_per_day") for one in values], 2),
        Column.decimal("False alarms found (per day)", [one.get("false_alarms_per_day_found") for one in values], 2),
    ]
    ahead = one.get("events_horizon_minutes")
    note = "Events by the consensus definition: at least 15 minutes below the limit. "
    if ahead is not None:
        note += f"An alarm looks {ahead:g} min ahead. "
    note += f"Each model's threshold was chosen on the {values[0].get('threshold_from', 'validation')} part."
    silent = [label(model) for model in run.models if model in events and model not in models]
    if silent:
        note += f" No alarm could be set for {', '.join(silent)}."
    return [Table("Warnings by event", columns, _ours(run, models)), Text(note, note=True)]


def _ours(run: RunFiles, models: list[str]) -> frozenset[int]:
    return frozenset(number for number, model in enumerate(models) if model == run.judged)
