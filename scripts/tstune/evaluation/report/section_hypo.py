"""Hypoglycaemia: does the forecast warn, by window and by event."""

from __future__ import annotations

from tstune.evaluation.report.blocks import Block, Choices, Column, Figure, Omitted, Section, Table, Text
from tstune.evaluation.report.folder import RunFiles
from tstune.evaluation.report.interval_charts import IntervalRow, interval_chart
from tstune.evaluation.report.names import label
from tstune.evaluation.report.numbers import measured
from tstune.evaluation.report.svg import both


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
    windows = one.get("windows") or {}
    models = [model for model in run.models if model in windows]
    blocks: list[Block] = []
    if models:
        first = windows[models[0]]
        blocks.append(
            Text(
                f"{first['num_low']:,} of {first['num_windows']:,} windows hold a reading below the limit. Windows that "
                "begin below it are left out: who is low already needs no warning."
            )
        )
        blocks.append(_windows(run, name, windows, models))
    events = one.get("events") or {}
    alarms = [model for model in run.models if model in events]
    if alarms:
        blocks.append(_events(run, events, alarms))
        wanted = events[alarms[0]].get("false_alarms_per_day")
        source = events[alarms[0]].get("threshold_from", "validation")
        blocks.append(
            Text(
                f"Events by the consensus definition (at least 15 minutes below the limit). Each model's threshold was "
                f"chosen on the {source} part for {wanted:g} false alarms per day." if wanted is not None else "",
                note=True,
            )
        )
    else:
        blocks.append(
            Text("No table of events: no event below this limit that an alarm could have announced, or no validation windows to choose a threshold on.", note=True)
        )
    return blocks


def _windows(run: RunFiles, name: str, windows: dict, models: list[str]) -> Figure:
    values = [windows[model] for model in models]
    base = 100 * values[0]["base_rate"] if values[0].get("base_rate") is not None else None
    rows = [
        IntervalRow(
            label=label(model),
            value=None if one.get("auprc") is None else 100 * one["auprc"],
            low=None,
            high=None,
            style="better" if model == run.judged else "neutral",
            written="no value: one kind of window only" if one.get("auprc") is None else f"{100 * one['auprc']:.1f} %",
            expected=base,
        )
        for model, one in zip(models, values, strict=True)
    ]
    what = "Average precision (AUPRC) of the warning for a low reading in the window"
    wide, narrow = both(lambda width: interval_chart(rows, width, what, "AUPRC (%)", limits=(0.0, 100.0)))
    columns = [
        Column.text("Model", [label(model) for model in models]),
        Column.count("Windows (count)", [one.get("num_windows") for one in values]),
        Column.count("With a low reading (count)", [one.get("num_low") for one in values]),
        Column.percent("Base rate (%)", [one.get("base_rate") for one in values]),
        Column.decimal("AUROC (0 to 1)", [one.get("auroc") for one in values], 3),
        Column.decimal("AUPRC (0 to 1)", [one.get("auprc") for one in values], 3),
        Column.decimal("Brier score (0 to 1)", [one.get("brier") for one in values], 4),
    ]
    ours = frozenset(number for number, model in enumerate(models) if model == run.judged)
    caption = "Upright marks: the base rate, which a warning without skill has."
    return Figure(f"hypo-{name}", what, wide, narrow, Table("Warnings by window", columns, ours), caption)


def _events(run: RunFiles, events: dict, models: list[str]) -> Table:
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
    ours = frozenset(number for number, model in enumerate(models) if model == run.judged)
    return Table("Warnings by event", columns, ours)
