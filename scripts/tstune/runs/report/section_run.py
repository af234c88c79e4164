"""Who is in the data and how it was cut; how the run went, what it cost, and where everything came from."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

import numpy as np
from markupsafe import Markup

from tstune.config.section import member_name
from tstune.runs.report.blocks import (
    Cells,
    Code,
    Definitions,
    Details,
    Figure,
    LegendEntry,
    Omitted,
    ReportBlock,
    ReportSection,
    Table,
    Text,
)
from tstune.runs.report.charts import WIDE, Axes, Line, Span, Ticks, both, line_chart, nice_ticks, span_chart
from tstune.runs.report.run_files import RunFiles
from tstune.runs.report.words import MISSING, duration, label, percents, plural

_PARTS = ("train", "validation", "test")
_YES_OR_NO = {True: "yes", False: "no"}
_MOST_ROWS = 40
_DATE_STEPS = (1 / 24, 1 / 8, 1 / 4, 1 / 2, 1, 2, 3, 7, 14, 28, 56, 91, 182, 365, 730)  # days
_COHORT_HEADERS = {
    "item_id": "Item",
    "days": "Length (d)",
    "readings": "Readings (count)",
    "step": "Sensor step",
    "mean": "Mean ({unit})",
    "cv_%": "CV (%)",
    "windows_train": "Train (windows)",
    "windows_validation": "Validation (windows)",
    "windows_test": "Test (windows)",
    "dropped": "Left out",
}
_DECISIVE = ("item_id", *(f"windows_{part}" for part in _PARTS), "dropped")
"""Columns that say who is judged, and who is not: they stand first."""
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


def members(run: RunFiles) -> ReportSection | None:
    """The models of a comparison: how each was made and at what cost, or why it is missing; None of one model."""
    listed = run.environment.get("members")
    if not listed:
        return None
    scores = [run.metrics.get(one["name"], {}).get("rmse") for one in listed]
    columns = [
        Cells.text("Model", [label(one["name"]) for one in listed]),
        Cells.text("Family", [one["family"] for one in listed]),
        Cells.text("Weights", [(one["weights"] or "").rpartition("/")[2] for one in listed]),
        Cells.text("Tuning", [one["mode"] for one in listed]),
        Cells.count("Parameters trained", [one["trainable"] for one in listed]),
        Cells("Time to tune", [duration(one["seconds"]) for one in listed]),
        Cells.number(f"RMSE ({run.unit})", scores, lowest=True),
    ]
    judged = frozenset(number for number, one in enumerate(listed) if one["name"] == run.judged)
    missing = [(f"{label(one['name'])} is missing", one["reason"]) for one in listed if one["reason"] is not None]
    note = f"{len(listed) - len(missing)} of {len(listed)} models were had; all of them forecast the same windows."
    blocks: list[ReportBlock] = [Text(note), Table(f"{len(listed)} models were listed", columns, judged)]
    return ReportSection("members", "Models compared", blocks + ([Definitions(missing)] if missing else []))


def cohort(run: RunFiles) -> ReportSection:
    """Cohort, timeline, leak audit."""
    blocks: list[ReportBlock] = [Text(_split_sentence(run))]
    dated = [one for one in run.manifest["items"] if {"first", "last", "begins", "borders", "grid_steps"} <= set(one)]
    if dated:
        blocks.append(split_timeline({str(one["item_id"]): item_spans(one) for one in dated}))
    else:
        blocks.append(Text("No timeline: the manifest of this run holds no dates.", note=True))
    if run.cohort:
        columns = []
        for name in dict.fromkeys([*(name for name in _DECISIVE if name in run.cohort[0]), *run.cohort[0]]):
            header = _COHORT_HEADERS.get(name, _in_words(name)).format(unit=run.unit)
            values = [row[name] for row in run.cohort]
            words = name in ("item_id", "step", "dropped")
            columns.append(Cells.text(header, values) if words else Cells(header, list(map(_with_commas, values))))
        blocks.append(Table.capped("Cohort", columns))
    blocks.append(_leak_audit(run.manifest["leak_check"]))
    found = {name: one for name, one in (run.manifest.get("cleaning") or {}).items() if one.get("count")}
    if found:
        columns = [
            Cells.text("What looked wrong", [name.replace("_", " ") for name in found]),
            Cells.count("Found (count)", [one["count"] for one in found.values()]),
            Cells.text("What was done", [one.get("action", "") for one in found.values()]),
        ]
        blocks.append(Details("Cleaning", [Table("What the cleaning found", columns)]))
    return ReportSection("cohort", "Cohort and split", blocks)


def training(run: RunFiles) -> ReportSection | Omitted:
    """Loss and learning rate over optimizer steps."""
    if len({row["step"] for row in run.history if "step" in row}) < 2:
        return Omitted("training", "No training curves: nothing was trained in this run.")
    losses = {"train_loss": "training", "validation_loss": "validation"}
    figures = [
        _curve(run, "loss", "Loss", "scaled units", losses),
        _curve(run, "learning-rate", "Learning rate", "per step", {"learning_rate": "learning rate"}),
    ]
    found, tuning = run.environment.get("training") or {}, run.config.get("tuning", {})
    share = found.get("tuned_share", 1)
    pairs = _pairs(
        ("steps", found.get("num_steps"), "{:,}"),
        ("epochs", found.get("num_epochs"), "{:,}"),
        ("kept step", found.get("best_step"), "{:,}"),
        ("lowest validation loss", found.get("best_validation_loss"), "{:.4g} (scaled units)"),
        ("stopped early", _YES_OR_NO.get(found.get("stopped_early")), "{}"),
        ("highest learning rate", found.get("learning_rate"), "{:.3g} per step"),
        ("random weights mixed in at the start", tuning.get("noise_start") or None, "{:.0%}"),
        ("way from the untuned weights gone", share if share < 1 else None, "{:.0%}"),
    )
    blocks: list[ReportBlock] = [*(figure for figure in figures if figure), Definitions(pairs)]
    if seeds := found.get("soup"):
        averaged = [number for number, one in enumerate(seeds) if one["averaged"]]
        columns = [
            Cells.text("Seed", [one["seed"] for one in seeds]),
            Cells("Lowest validation loss (scaled units)", [f"{one['validation_loss']:.4g}" for one in seeds]),
            Cells.count("At step", [one["best_step"] for one in seeds]),
            Cells.text("In the average", [_YES_OR_NO[one["averaged"]] for one in seeds]),
        ]
        title = f"{len(averaged)} of {len(seeds)} seeds were averaged"
        blocks.append(Table(title, columns, frozenset(averaged)))
    return ReportSection("training", "Training", blocks)


def cost(run: RunFiles) -> ReportSection:
    """Time, memory, parameters, hardware."""
    environment = run.environment
    parameters, trained = environment.get("parameters") or {}, environment.get("training") or {}
    hardware, memory = environment.get("hardware") or {}, environment.get("peak_memory_mb") or {}
    total, trainable = parameters.get("total"), parameters.get("trainable")
    share = f" ({percents([trainable / total])[0]}\u00a0%)" if total and trainable is not None else ""
    pairs = _pairs(
        ("whole run", environment.get("seconds") and duration(environment["seconds"]), "{}"),
        ("training", trained.get("seconds") and duration(trained["seconds"]), "{}"),
        ("speed", trained.get("windows_per_second"), "{:,.0f} training windows/s"),
        ("parameters trained", trainable, "{:,}" + share),
        ("parameters in all", total, "{:,}"),
        *[(f"peak memory, {name}", value, "{:,.0f} MiB") for name, value in memory.items()],
        ("hardware", environment.get("device_name") or environment.get("device"), "{}"),
        ("memory of the device", hardware.get("total_memory_mib"), "{:,.0f} MiB"),
        ("processes", environment.get("num_processes"), "{:,}"),
        ("threads per process", environment.get("num_threads"), "{:,}"),
    )
    blocks: list[ReportBlock] = [Definitions(pairs)]
    phases, what = environment.get("phases") or {}, "Time of each phase"
    if phases:
        longest = max(one["seconds"] for one in phases.values()) or 1.0
        bars = [
            (label(name), [Span(0, one["seconds"], "c0", f": {duration(one['seconds'])}")], duration(one["seconds"]))
            for name, one in phases.items()
        ]
        columns = [Cells.text("Phase", list(map(label, phases)))]
        columns.append(Cells.number("Time (s)", [one.get("seconds") for one in phases.values()], key="seconds"))
        for key in dict.fromkeys(key for one in phases.values() for key in one if key.endswith("_peak_mib")):
            name = key.removesuffix("_peak_mib").replace("_", " ")
            columns.append(Cells.count(f"Peak memory, {name} (MiB)", [one.get(key) for one in phases.values()]))
        plots = both(lambda width: span_chart(bars, width, what, (0, longest)))
        blocks.append(Figure("phases", what, plots, Table(what, columns)))
    return ReportSection("cost", "Cost", blocks)


def provenance(run: RunFiles) -> ReportSection:
    """Where everything came from, and the configuration."""
    manifest, environment, config = run.manifest, run.environment, run.config
    model = config.get("model") or {}
    names = ", ".join(map(member_name, model.get("members") or ()))
    pairs = _pairs(
        ("data", manifest["source"], "{}"),
        ("licence of the data", manifest.get("licence"), "{}"),
        ("weights", model.get("pretrained") or names or "random (from scratch)", "{}"),
        ("revision of the weights", model.get("revision"), "{}"),
        ("tuning mode", (config.get("tuning") or {}).get("mode"), "{}"),
        ("seed", config.get("seed"), "{}"),
        ("commit", environment.get("git_commit"), "{}"),
        ("command", environment.get("command"), "{}"),
        ("Python", environment.get("python"), "{}"),
        ("platform", environment.get("platform"), "{}"),
    )
    blocks: list[ReportBlock] = [Definitions(pairs)]
    files, packages = manifest.get("files") or [], environment["packages"]
    if files:
        columns = [
            Cells.text("File", [one["path"] for one in files]),
            Cells.text("SHA-256, first 12 digits", [(one.get("sha256") or "")[:12] for one in files]),
        ]
        blocks.append(Details(f"Files read ({len(files):,})", [Table("Files read", columns, tall=len(files) > 15)]))
    columns = [Cells.text("Package", list(packages)), Cells.text("Version", list(packages.values()))]
    blocks.append(Details("Packages", [Table("Versions of packages", columns)]))
    return ReportSection("provenance", "Provenance", [*blocks, Details("Configuration", [Code(run.config_text)])])


def item_spans(item: dict) -> dict[str, tuple[datetime, datetime]]:
    """Begin and end of each part of an item of the manifest that has a step, and of all its readings (`unused`)."""
    first, last = datetime.fromisoformat(item["first"]), datetime.fromisoformat(item["last"])
    step = (last - first) / max(int(item["grid_steps"]) - 1, 1)
    bounds = zip(_PARTS, item["begins"], item["borders"], strict=True)
    parts = {part: (first + step * begin, min(first + step * end, last)) for part, begin, end in bounds if end > begin}
    return {"unused": (first, last)} | parts


def split_timeline(items: dict[str, dict[str, tuple[datetime, datetime]]]) -> Figure:
    """When each item was read, and which of its time is train, validation and test."""
    names = list(items)
    chosen = names if len(names) <= _MOST_ROWS else [names[number] for number in _every(range(len(names)), _MOST_ROWS)]
    whole = {name: items[name]["unused"] for name in chosen}
    origin = min(first for first, _ in whole.values())
    longest = max(last - first for first, last in whole.values())
    by_calendar = max(last for _, last in whole.values()) - origin <= 4 * longest
    rows, day = [], timedelta(days=1)
    for name, (first, _) in whole.items():
        start = origin if by_calendar else first
        pieces = [
            Span((begin - start) / day, (end - start) / day, part, f", {part}: {_minute(begin)} to {_minute(end)}")
            for part, (begin, end) in items[name].items()
        ]
        rows.append((name, pieces, ""))
    days = max([1e-6, *(piece.end for _, pieces, _ in rows for piece in pieces)])
    what, x_title = "Training, validation and test time of each item", "days since the first reading of each item"

    def draw(width: float) -> Markup:
        ticks = _day_ticks(origin if by_calendar else None, days, 7 if width >= WIDE else 4)
        return span_chart(rows, width, what, (0, days), ticks, "date" if by_calendar else x_title)

    columns = [Cells.text("Item", names)]
    for part in _PARTS:
        pairs = [spans.get(part) for spans in items.values()]
        for number, side in enumerate(("from", "to")):
            moments = [pair and _minute(pair[number]) for pair in pairs]
            columns.append(Cells.text(f"{part.capitalize()} {side}", moments))
    caption = "Time of each item by part."
    if not by_calendar:
        caption += " Items were read years apart, so each begins at its own first reading."
    if len(names) > _MOST_ROWS:
        caption += f" {_MOST_ROWS} of {len(names):,} items, evenly chosen; the table has all."
    legend = [LegendEntry("", name, f"block {name}") for name in _PARTS]
    legend.append(LegendEntry("", "in no part", "block unused"))
    table = Table.capped("Borders of the split (local time)", columns)
    return Figure("split-timeline", "Split timeline", both(draw), table, caption, legend)


def _day_ticks(origin: datetime | None, days: float, count: int) -> Ticks:
    """Dates from `origin` on, or numbers of days without one."""
    if origin is None:
        return [(tick, f"{tick:g}") for tick in nice_ticks(0, days, count)]
    step = next((size for size in _DATE_STEPS if days / size <= count), days)
    midnight = origin.replace(hour=0, minute=0, second=0, microsecond=0)
    moments = [midnight + timedelta(days=step * number) for number in range(int(days / step) + 2)]
    pattern = "%Y-%m-%d" if step >= 1 else "%m-%d %H:%M"
    places = [((moment - origin) / timedelta(days=1), f"{moment:{pattern}}") for moment in moments]
    return [(place, text) for place, text in places if 0 <= place <= days]


def _minute(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M}"


def _in_words(name: str) -> str:
    """`time_in_range_%` as ``Time in range (%)``."""
    words, percent, _ = name.replace("_", " ").partition(" %")
    return f"{words.capitalize()} (%)" if percent else words


def _with_commas(value: str | None) -> str:
    if not value:
        return MISSING
    whole, dot, decimals = value.partition(".")
    return f"{int(whole):,}{dot}{decimals}" if whole.lstrip("-").isdigit() else value


def _split_sentence(run: RunFiles) -> str:
    split, windows = run.manifest.get("split") or {}, run.manifest.get("windows") or {}
    how = {"time": "by time within each item", "item": "by item", "both": "by item and by time"}
    text = f"Cut {how.get(split.get('by'), 'by time')}"
    if split.get("preset"):
        text += f", preset {split['preset']}"
    elif split.get("borders_at"):
        text += f", at {', '.join(str(moment) for moment in split['borders_at'] if moment)}"
    elif split.get("borders") is None and split.get("by") == "time" and split.get("train"):
        text += f", {100 * split['train']:g} / {100 * split['validation']:g} / {100 * split['test']:g} % of its time"
    if split.get("purge_steps"):
        text += f", with {run.time_of(split['purge_steps'])} between the parts"
    if windows:
        text += ". Windows: " + ", ".join(f"{part} {number:,}" for part, number in windows.items())
    if unseen := len(run.manifest.get("unseen_items") or []):
        text += f". {plural(unseen, 'tested item')} {'were' if unseen > 1 else 'was'} never trained on"
    return text + "."


def _leak_audit(audit: dict) -> Table:
    checks, allowed = audit.get("checks", []), audit.get("allowed", [])
    results = ["passed"] * len(checks)
    if allowed and "duplicate_series" in checks:
        more = f" and {len(allowed) - 1:,} more" if len(allowed) > 1 else ""
        results[checks.index("duplicate_series")] = f"allowed by data.split.allow_overlap: {allowed[0]}{more}"
    columns = [
        Cells.text("Check", [name.replace("_", " ") for name in checks]),
        Cells.text("What must hold", [_CHECKS.get(name, "") for name in checks]),
        Cells.text("Result", results),
    ]
    return Table(f"Leak audit: {len(checks)} checks before anything was trained", columns)


def _curve(run: RunFiles, id_: str, title: str, unit: str, keys: dict[str, str]) -> Figure | None:
    by_key = {key: {row["step"]: row[key] for row in run.history if row.get(key) is not None} for key in keys}
    by_key = {key: values for key, values in by_key.items() if values}
    if not by_key:
        return None
    steps = _every(sorted({step for values in by_key.values() for step in values}), 600)
    styles = dict(zip(keys, ("c0", "c1"), strict=False))
    series, columns = [], [Cells.count("Step", steps)]
    for key, values in by_key.items():
        # linear between the steps where it was logged, so that two series may be logged at different ones
        known = sorted(values)
        line = np.interp(steps, known, [values[step] for step in known], left=np.nan, right=np.nan)
        series.append(Line(key, styles[key], [None if np.isnan(value) else float(value) for value in line]))
        cells = [f"{values[step]:.4g}" if step in values else "" for step in steps]
        columns.append(Cells(f"{keys[key]} ({unit})", cells, key=key))
    best = (run.environment.get("training") or {}).get("best_step") if id_ == "loss" else None
    marks = [] if best is None else [(best, f"kept: step {best:,}")]
    axes = Axes(steps, "optimizer step", f"{title.lower()} ({unit})", from_zero=id_ != "loss", marks=marks)
    plots = both(lambda width: line_chart(axes, series, width, title))
    legend = [LegendEntry(key, keys[key], styles[key]) for key in by_key] if len(by_key) > 1 else []
    table = Table(title, columns, tall=True)
    return Figure(id_, title, plots, table, "", legend, table.only(_every(range(len(steps)), 15)))


def _every(steps: Sequence[int], most: int) -> list[int]:
    """At most so many of them, evenly spread, the first and the last among them."""
    if len(steps) <= most:
        return list(steps)
    return sorted({steps[round(i * (len(steps) - 1) / (most - 1))] for i in range(most)})


def _pairs(*entries: tuple[str, object, str]) -> list[tuple[str, str]]:
    return [(name, pattern.format(value)) for name, value, pattern in entries if value is not None]
