"""How the run went: training curves, cost, provenance."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from markupsafe import Markup

from tstune.evaluation.report.bar_charts import phase_bars
from tstune.evaluation.report.blocks import (
    Block,
    Code,
    Column,
    Definitions,
    Details,
    Figure,
    LegendEntry,
    Omitted,
    Section,
    Table,
)
from tstune.evaluation.report.folder import RunFiles
from tstune.evaluation.report.line_chart import Axes, Series, line_chart
from tstune.evaluation.report.names import label
from tstune.evaluation.report.numbers import duration, percent
from tstune.evaluation.report.svg import both


def training(run: RunFiles) -> Section | Omitted:
    """Loss and learning rate over optimizer steps."""
    steps = sorted({row["step"] for row in run.history if "step" in row})
    if len(steps) < 2:
        return Omitted("training", "No training curves: nothing was trained in this run.")
    figures = [
        _curve(
            run,
            steps,
            "loss",
            "Loss",
            "loss (scaled units)",
            {"train_loss": "training", "validation_loss": "validation"},
        ),
        _curve(
            run, steps, "learning-rate", "Learning rate", "learning rate (per step)", {"learning_rate": "learning rate"}
        ),
    ]
    found = run.environment.get("training") or {}
    pairs = _pairs(
        ("steps", found.get("num_steps"), "{:,}"),
        ("epochs", found.get("num_epochs"), "{:,}"),
        ("kept step", found.get("best_step"), "{:,}"),
        ("lowest validation loss", found.get("best_validation_loss"), "{:.4g} (scaled units)"),
        ("stopped early", {True: "yes", False: "no"}.get(found.get("stopped_early")), "{}"),
        ("highest learning rate", found.get("learning_rate"), "{:.3g} per step"),
    )
    blocks: list[Block] = [figure for figure in figures if figure is not None]
    return Section("training", "Training", [*blocks, Definitions(pairs)])


def cost(run: RunFiles) -> Section:
    """Time, memory, parameters, hardware."""
    environment = run.environment
    parameters, trained = environment.get("parameters") or {}, environment.get("training") or {}
    hardware, memory = environment.get("hardware") or {}, environment.get("peak_memory_mb") or {}
    device = environment.get("device_name") or environment.get("device")
    total, trainable = parameters.get("total"), parameters.get("trainable")
    share = f" ({percent(trainable / total)})" if total and trainable is not None else ""
    pairs = _pairs(
        ("whole run", environment.get("seconds") and duration(environment["seconds"]), "{}"),
        ("training", trained.get("seconds") and duration(trained["seconds"]), "{}"),
        ("speed", trained.get("windows_per_second"), "{:,.0f} training windows/s"),
        ("parameters trained", trainable, "{:,}" + share),
        ("parameters in all", total, "{:,}"),
        *[(f"peak memory, {name}", value, "{:,.0f} MiB") for name, value in memory.items()],
        ("hardware", device, "{}"),
        ("memory of the device", hardware.get("total_memory_mib"), "{:,.0f} MiB"),
        ("processes", environment.get("num_processes"), "{:,}"),
        ("threads per process", environment.get("num_threads"), "{:,}"),
    )
    blocks: list[Block] = [Definitions(pairs)]
    phases = environment.get("phases") or {}
    if phases:
        names = [label(name) for name in phases]
        bars = [(label(name), one["seconds"], duration(one["seconds"])) for name, one in phases.items()]
        what = "Time of each phase"
        wide, narrow = both(lambda width: phase_bars(bars, width, what))
        columns = [
            Column.text("Phase", names),
            Column.number("Time (s)", [one.get("seconds") for one in phases.values()], key="seconds"),
        ]
        peaks = list(dict.fromkeys(key for one in phases.values() for key in one if key.endswith("_peak_mib")))
        for key in peaks:
            name = key.removesuffix("_peak_mib").replace("_", " ")
            columns.append(Column.count(f"Peak memory, {name} (MiB)", [one.get(key) for one in phases.values()]))
        blocks.append(Figure("phases", what, wide, narrow, Table(what, columns)))
    return Section("cost", "Cost", blocks)


def provenance(run: RunFiles) -> Section:
    """Where everything came from, and the configuration."""
    manifest, environment, config = run.manifest, run.environment, run.config
    model = config.get("model") or {}
    pairs = _pairs(
        ("data", manifest["source"], "{}"),
        ("licence of the data", manifest.get("licence"), "{}"),
        ("weights", model.get("pretrained") or ", ".join(model.get("members") or ()) or "random (from scratch)", "{}"),
        ("revision of the weights", model.get("revision"), "{}"),
        ("tuning mode", (config.get("tuning") or {}).get("mode"), "{}"),
        ("seed", config.get("seed"), "{}"),
        ("commit", environment.get("git_commit"), "{}"),
        ("command", environment.get("command"), "{}"),
        ("Python", environment.get("python"), "{}"),
        ("platform", environment.get("platform"), "{}"),
    )
    blocks: list[Block] = [Definitions(pairs)]
    files = manifest.get("files") or []
    if files:
        columns = [
            Column.text("File", [one["path"] for one in files]),
            Column.text("SHA-256, first 12 digits", [(one.get("sha256") or "")[:12] for one in files]),
        ]
        blocks.append(Details(f"Files read ({len(files):,})", [Table("Files read", columns, tall=len(files) > 15)]))
    packages = environment["packages"]
    columns = [Column.text("Package", list(packages)), Column.text("Version", list(packages.values()))]
    blocks.append(Details("Packages", [Table("Versions of packages", columns)]))
    blocks.append(Details("Configuration", [Code(run.config_text)]))
    return Section("provenance", "Provenance", blocks)


def _curve(run: RunFiles, steps: list[int], id_: str, title: str, y_title: str, keys: dict[str, str]) -> Figure | None:
    by_key = {key: {row["step"]: row[key] for row in run.history if row.get(key) is not None} for key in keys}
    by_key = {key: values for key, values in by_key.items() if values}
    if not by_key:
        return None
    own = sorted({step for values in by_key.values() for step in values})
    styles = dict(zip(keys, ("c0", "c1"), strict=False))
    drawn = _every(own, 600)
    series = [_series(key, styles[key], by_key[key], drawn) for key in by_key]
    best = (run.environment.get("training") or {}).get("best_step")
    marks = [(best, f"kept: step {best:,}")] if best is not None and id_ == "loss" else []

    def draw(width: float) -> Markup:
        axes = Axes(drawn, "optimizer step", y_title, from_zero=id_ != "loss", marks=marks)
        return line_chart(axes, series, width, title)

    wide, narrow = both(draw)
    columns = [Column.count("Step", drawn)]
    for key, values in by_key.items():
        cells = ["" if step not in values else f"{values[step]:.4g}" for step in drawn]
        columns.append(Column(f"{keys[key]} ({'scaled units' if id_ == 'loss' else 'per step'})", cells, key=key))
    legend = [LegendEntry(key, keys[key], styles[key]) for key in by_key] if len(by_key) > 1 else []
    table = Table(title, columns, tall=True)
    brief = table.only(_every(range(len(drawn)), 15))
    return Figure(id_, title, wide, narrow, table, "", legend, brief)


def _series(key: str, style: str, values: dict[int, float], steps: list[int]) -> Series:
    """Linear between the steps where it was logged, so that two series may be logged at different ones."""
    known = sorted(values)
    inside = [known[0] <= step <= known[-1] for step in steps]
    line = np.interp(steps, known, [values[step] for step in known])
    return Series(key, style, [float(v) if ok else None for v, ok in zip(line, inside, strict=True)])


def _every(steps: Sequence[int], most: int) -> list[int]:
    """At most so many of them, evenly spread, the first and the last among them."""
    if len(steps) <= most:
        return list(steps)
    return sorted({steps[round(i * (len(steps) - 1) / (most - 1))] for i in range(most)})


def _pairs(*entries: tuple[str, object, str]) -> list[tuple[str, str]]:
    return [(name, pattern.format(value)) for name, value, pattern in entries if value is not None]
