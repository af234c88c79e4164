"""Who is in the data, when, how it was cut, and what was checked for leaks."""

from __future__ import annotations

from tstune.evaluation.report.blocks import Block, Column, Details, Figure, LegendEntry, Section, Table, Text
from tstune.evaluation.report.folder import RunFiles
from tstune.evaluation.report.numbers import MISSING, duration
from tstune.evaluation.report.svg import both
from tstune.evaluation.report.timeline import MOST_ROWS, PARTS, Spans, by_calendar, chosen_rows, item_spans, timeline

_COHORT_HEADERS = {
    "item_id": "Item",
    "days": "Length (d)",
    "readings": "Readings (count)",
    "step": "Sensor step",
    "missing_%": "Missing (%)",
    "mean": "Mean ({unit})",
    "cv_%": "CV (%)",
    "time_in_range_%": "Time in range (%)",
    "time_below_%": "Time below (%)",
    "time_above_%": "Time above (%)",
    "windows_train": "Train (windows)",
    "windows_validation": "Validation (windows)",
    "windows_test": "Test (windows)",
    "dropped": "Left out",
}
_WORDS = ("item_id", "step", "dropped")

_CHECKS = {
    "held_out_item": "an item that is held out has no step in train",
    "window_over_gap": "no window crosses a long gap or the end of an item",
    "window_over_border": "no window lies over a border between parts",
    "repeated_time": "no time appears twice in an item",
    "target_in_earlier_part": "no forecast step of a later part lies in a window of an earlier one",
    "context_in_earlier_part": "no history of a later part lies in a window of an earlier one",
    "purge": "parts are as far apart as data.split.purge says",
    "scaler": "the scaler was fitted on the training part only",
    "imputation": "no gap was filled with a value from after the forecast's start",
    "duplicate_series": "no two items share the same stretch of readings across parts",
    "trained_on": "the weights have not seen the test readings in an earlier run",
}


def cohort(run: RunFiles) -> Section:
    """Cohort, timeline, leak audit."""
    blocks: list[Block] = [Text(_split_sentence(run))]
    spans = [one for one in map(item_spans, run.manifest["items"]) if one is not None]
    if spans:
        blocks += _timeline(spans)
    else:
        blocks.append(Text("No timeline: the manifest of this run holds no dates.", note=True))
    if run.cohort:
        blocks.append(_cohort_table(run))
    blocks.append(_leak_audit(run))
    found = {name: one for name, one in (run.manifest.get("cleaning") or {}).items() if one.get("count")}
    if found:
        columns = [
            Column.text("What looked wrong", [name.replace("_", " ") for name in found]),
            Column.count("Found (count)", [one["count"] for one in found.values()]),
            Column.text("What was done", [one.get("action", "") for one in found.values()]),
        ]
        blocks.append(Details("Cleaning", [Table("What the cleaning found", columns)]))
    return Section("cohort", "Cohort and split", blocks)


def _timeline(spans: list[Spans]) -> list[Block]:
    drawn = chosen_rows(spans)
    wide, narrow = both(lambda width: timeline(drawn, width, "Training, validation and test time of each item"))
    columns = [Column.text("Item", [one.item for one in spans])]
    for part in PARTS:
        pairs = [one.parts.get(part) for one in spans]
        columns.append(
            Column.text(f"{part.capitalize()} from", [pair and f"{pair[0]:%Y-%m-%d %H:%M}" for pair in pairs])
        )
        columns.append(Column.text(f"{part.capitalize()} to", [pair and f"{pair[1]:%Y-%m-%d %H:%M}" for pair in pairs]))
    table = Table.capped("Borders of the split (local time)", columns)
    capped = (
        f" {MOST_ROWS} of {len(spans):,} items, evenly chosen; the table has all." if len(spans) > MOST_ROWS else ""
    )
    shifted = "" if by_calendar(spans) else " Items were read years apart, so each begins at its own first reading."
    keys = [("train", "train"), ("validation", "validation"), ("test", "test"), ("unused", "in no part")]
    caption = f"Time of each item by part.{shifted}{capped}"
    return [Figure("split-timeline", "Split timeline", wide, narrow, table, caption, legend=_static_legend(keys))]


def _static_legend(keys: list[tuple[str, str]]) -> list[LegendEntry]:
    return [LegendEntry("", name, f"block {style}") for style, name in keys]


def _cohort_table(run: RunFiles) -> Table:
    columns = []
    for name in run.cohort[0]:
        header = _COHORT_HEADERS.get(name, name.replace("_", " ")).format(unit=run.unit)
        values = [row[name] for row in run.cohort]
        if name in _WORDS:
            columns.append(Column.text(header, values))
        else:
            columns.append(Column(header, [_with_commas(value) for value in values]))
    return Table.capped("Cohort", columns)


def _with_commas(value: str | None) -> str:
    if not value:
        return MISSING
    whole, dot, decimals = value.partition(".")
    return f"{int(whole):,}{dot}{decimals}" if whole.lstrip("-").isdigit() else value


def _split_sentence(run: RunFiles) -> str:
    manifest, split = run.manifest, run.manifest.get("split") or {}
    windows = manifest.get("windows") or {}
    how = {"time": "by time within each item", "item": "by item", "both": "by item and by time"}
    text = f"Cut {how.get(split.get('by'), 'by time')}"
    if split.get("preset"):
        text += f", preset {split['preset']}"
    elif split.get("borders_at"):
        text += f", at {', '.join(str(moment) for moment in split['borders_at'] if moment)}"
    elif split.get("borders") is None and split.get("by") == "time" and split.get("train"):
        text += f", {100 * split['train']:g} / {100 * split['validation']:g} / {100 * split['test']:g} % of its time"
    purge = split.get("purge_steps")
    if purge:
        text += (
            f", with {duration(purge * run.step_seconds) if run.step_seconds else f'{purge} steps'} between the parts"
        )
    if windows:
        text += ". Windows: " + ", ".join(f"{part} {number:,}" for part, number in windows.items())
    unseen = manifest.get("unseen_items") or []
    if unseen:
        text += f". {len(unseen):,} tested item{'s were' if len(unseen) > 1 else ' was'} never trained on"
    return text + "."


def _leak_audit(run: RunFiles) -> Table:
    audit = run.manifest["leak_check"]
    checks = audit.get("checks", [])
    allowed = audit.get("allowed", [])
    results = ["passed"] * len(checks)
    if allowed and "duplicate_series" in checks:
        more = f" and {len(allowed) - 1:,} more" if len(allowed) > 1 else ""
        results[checks.index("duplicate_series")] = f"allowed by data.split.allow_overlap: {allowed[0]}{more}"
    columns = [
        Column.text("Check", [name.replace("_", " ") for name in checks]),
        Column.text("What must hold", [_CHECKS.get(name, "") for name in checks]),
        Column.text("Result", results),
    ]
    return Table(f"Leak audit: {len(checks)} checks before anything was trained", columns)
