"""The first page: did it help, what was kept, the numbers that matter, and the scoreboard."""

from __future__ import annotations

from tstune.evaluation.report.blocks import (
    Block,
    Column,
    Definitions,
    Details,
    Fact,
    Facts,
    Figure,
    Omitted,
    Section,
    Table,
    Text,
    Verdict,
)
from tstune.evaluation.report.folder import RunFiles
from tstune.evaluation.report.interval_charts import IntervalRow, interval_chart
from tstune.evaluation.report.names import MODELS_EXPLAINED, horizon_label, in_words, label, metric_header
from tstune.evaluation.report.numbers import duration, measured, percent
from tstune.evaluation.report.svg import both

_EFFECT_STYLE = {"helped": "better", "no clear difference": "neutral", "hurt": "worse"}


def summary(run: RunFiles) -> Section:
    """Verdict, saved model, key numbers."""
    sentence = in_words(run.verdict["sentence"], [run.verdict["model"], *run.models])
    headline, dot, rest = (part[:1].upper() + part[1:] for part in sentence.partition(". "))
    effect = run.verdict.get("effect")
    verdict = Verdict(effect, headline + dot.strip(), rest, _kept(run))
    return Section("summary", "Summary", [verdict, Facts(_facts(run)), Text(_task(run), note=True)])


def path_length(run: RunFiles) -> str:
    """The forecast's length, in time if its steps have one length."""
    steps = run.evaluation["prediction_length"]
    return duration(steps * run.step_seconds) if run.step_seconds else f"{steps} steps"


def scoreboard(run: RunFiles) -> Section:
    """Key metrics of all models; all metrics folded away."""
    models = [model for model in run.models if model in run.metrics]
    known = [metric for model in models for metric in run.metrics[model]]
    metrics = list(dict.fromkeys(known))
    key = [m for m in metrics if m in ("rmse", "mae", "mase") or m.startswith("rmse@")]
    key.sort(key=lambda metric: (metric == "mase", metrics.index(metric)))
    columns = [Column.text("Model", [label(model) for model in models])]
    columns += [
        Column.number(metric_header(m, run.unit), [run.metrics[model].get(m) for model in models], lowest=True)
        for m in key
    ]
    ours = frozenset(number for number, model in enumerate(models) if model == run.judged)
    windows = next((run.metrics[model].get("num_windows") for model in models), None)
    counted = f"{round(windows):,} test windows, the same for every model; " if windows else ""
    whole = [Column.text("Metric", [metric_header(metric, run.unit) for metric in metrics])]
    rows = [[run.metrics[model].get(metric) for model in models] for metric in metrics]
    cells = [
        Column.number("", row).cells if m != "num_windows" else Column.count("", row).cells
        for m, row in zip(metrics, rows, strict=True)
    ]
    whole += [Column(label(model), [row[number] for row in cells]) for number, model in enumerate(models)]
    explained = [(label(model), MODELS_EXPLAINED[model]) for model in models if model in MODELS_EXPLAINED]
    return Section(
        "scoreboard",
        "Scoreboard",
        [
            Table("All models on the test windows", columns, ours),
            Text(
                f"{counted}RMSE and MAE without a horizon are over the whole {path_length(run)} of a forecast, with "
                "one at that lead time. Lower is better; the lowest of each column is bold. Shaded: the model this "
                "report is about. MASE is the error over that of a seasonal naive forecast on the training part.",
                note=True,
            ),
            Details("All metrics", [Table("All metrics of all models", whole)]),
            Details("What the models are", [Definitions(explained)]),
        ],
    )


def comparisons(run: RunFiles) -> Section | Omitted:
    """The judged model against every other, with intervals."""
    found = run.verdict["comparisons"]
    if not found:
        return Omitted("comparisons", "No comparison: there is no other model on the same test windows.")
    model = label(run.verdict["model"])
    has_interval = any(row.get("low") is not None for row in found)
    rows = [_interval_row(row) for row in found]
    limits = _limits(found)

    def draw(width: float) -> object:
        what = f"Change of RMSE of {model} against each other model, with 95 % intervals"
        sides = (f"{model} better", f"{model} worse")
        return interval_chart(rows, width, what, "change of RMSE (%)", zero=0.0, sides=sides, limits=limits)

    table = Table(
        f"{model} against the others",
        [
            Column.text(f"{model} against", [label(row["reference"]) for row in found]),
            Column.text("Effect", [row["effect"] for row in found]),
            Column.percent("Change of RMSE (%)", [row["change"] for row in found], signed=True),
            Column.percent("95 % interval, low (%)", [row.get("low") for row in found], signed=True),
            Column.percent("95 % interval, high (%)", [row.get("high") for row in found], signed=True),
            Column.count("Items better (count)", [row["items_better"] for row in found]),
            Column.count("Items worse (count)", [row["items_worse"] for row in found]),
            Column.count("Items (count)", [row["num_items"] for row in found]),
        ],
    )
    wide, narrow = both(draw)
    blocks: list[Block] = [
        Figure(
            "forest-plot",
            f"RMSE of {model} against each other model",
            wide,
            narrow,
            table,
            "A dot left of the line: lower error. An interval that crosses the line: no clear difference."
            if has_interval
            else "",
        ),
        Text(_drawn_from(run, has_interval), note=True),
    ]
    return Section("comparisons", "Comparisons", blocks)


def _interval_row(row: dict) -> IntervalRow:
    interval = "" if row.get("low") is None else f" ({100 * row['low']:+.1f} to {100 * row['high']:+.1f})"
    return IntervalRow(
        label=label(row["reference"]),
        value=100 * row["change"],
        low=None if row.get("low") is None else 100 * row["low"],
        high=None if row.get("high") is None else 100 * row["high"],
        style=_EFFECT_STYLE.get(row["effect"], "neutral"),
        written=f"{100 * row['change']:+.1f} %{interval}",
    )


def _limits(found: list[dict]) -> tuple[float, float]:
    """The axis: all of it, but at most -100 to +150 %, or a diverged model would hide the others."""
    values = [100 * value for row in found for value in (row["change"], row.get("low"), row.get("high")) if value]
    low, high = max(min([*values, 0.0]), -100.0), min(max([*values, 0.0]), 150.0)
    room = max(0.1 * (high - low), 0.5)
    return low - room, high + room


def _drawn_from(run: RunFiles, has_interval: bool) -> str:
    verdict = run.verdict
    if not has_interval:
        return (
            f"No intervals: {verdict.get('num_blocks', 0)} blocks of {verdict.get('block_days', 1)} d are too few days "
            "to draw from."
        )
    items = f"{verdict['num_items']:,} item{'s' if verdict['num_items'] != 1 else ''}"
    whom = "other items like these" if verdict.get("speaks_of_other_items") else "other days of the same items"
    return (
        f"Paired block bootstrap over {verdict['num_blocks']:,} blocks of {verdict['block_days']} d from "
        f"{items} and {verdict['num_windows']:,} windows, "
        f"{verdict['draws']:,} draws, seed {verdict['seed']}. The intervals speak of {whom}."
    )


def _kept(run: RunFiles) -> str:
    kept = run.verdict["kept"]
    training = run.environment.get("training")
    if not training:
        return f"Saved model: {label(kept)}; nothing was trained."
    if kept == "zero_shot":
        return "Saved model: zero-shot; no training step lowered the validation loss."
    step = f"step {training['best_step']:,} of {training['num_steps']:,}"
    return f"Saved model: {label(kept)}, {step}, chosen on the validation part."


def _task(run: RunFiles) -> str:
    history = run.evaluation.get("context_length")
    frequency = run.evaluation.get("frequency") or run.manifest.get("frequency")
    targets = ", ".join(run.evaluation.get("targets") or [])
    seen = duration(history * run.step_seconds) if history and run.step_seconds else f"{history} steps"
    items = run.manifest.get("num_items", len(run.manifest["items"]))
    every = f", one value every {horizon_label(frequency)}" if frequency else ""
    return (
        f"Task: {targets or 'the target'} {path_length(run)} ahead from {seen} of history{every}. "
        f"Data: {run.manifest['source']}, {items:,} item{'s' if items != 1 else ''}."
    )


def _facts(run: RunFiles) -> list[Fact]:
    metrics = run.metrics.get(run.judged, {})
    facts = [_rmse_fact(run, "rmse", f"RMSE over the whole {path_length(run)}")]
    against = next((row for row in run.verdict["comparisons"] if row["reference"] == run.reference), None)
    if against is not None:
        interval = "no interval: too few days"
        if against.get("low") is not None:
            interval = f"95 % interval {100 * against['low']:+.1f} to {100 * against['high']:+.1f} %"
        name = f"RMSE against {label(run.reference)}"
        facts.append(Fact(name, f"{100 * against['change']:+.1f}", "%", interval))
    horizons = [name for name in metrics if name.startswith("rmse@") and metrics[name] is not None]
    chosen = next((name for name in ("rmse@60min", "rmse@1h", *horizons) if name in horizons), None)
    if chosen:
        facts.append(_rmse_fact(run, chosen, f"RMSE at {horizon_label(chosen.partition('@')[2])}"))
    facts.append(_coverage_fact(run) or _windows_fact(run))
    return facts


def _rmse_fact(run: RunFiles, metric: str, name: str) -> Fact:
    value = run.metrics.get(run.judged, {}).get(metric)
    text, _, _ = measured(value, run.unit).partition("\u00a0")
    notes = []
    both_units = ((run.evaluation.get("glucose") or {}).get("points") or {}).get(run.judged) or {}
    for unit, values in both_units.items():
        if unit != run.unit and values.get(metric) is not None:
            notes.append(measured(values[metric], unit, 3))
    other = run.reference and run.metrics[run.reference].get(metric)
    if other:
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


def _windows_fact(run: RunFiles) -> Fact:
    items = run.verdict.get("num_items", 0)
    better = next((row for row in run.verdict["comparisons"] if row["reference"] == run.reference), None)
    note = f"{items:,} item{'s' if items != 1 else ''}"
    if better and better["num_items"] > 1:
        note += f", better than {label(run.reference)} for {percent(better['items_better'] / better['num_items'], 0)}"
    return Fact("Test windows", f"{run.verdict.get('num_windows', 0):,}", "windows", note)
