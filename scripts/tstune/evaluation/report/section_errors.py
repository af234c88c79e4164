"""Where the error comes from: by lead time and by item."""

from __future__ import annotations

from dataclasses import replace

from markupsafe import Markup

from tstune.evaluation.report.bar_charts import change_bars
from tstune.evaluation.report.blocks import (
    Block,
    Choices,
    Column,
    Figure,
    HeatMap,
    LegendEntry,
    Omitted,
    Section,
    Table,
    Text,
)
from tstune.evaluation.report.folder import RunFiles
from tstune.evaluation.report.line_chart import Axes, Series, hours_axis, line_chart
from tstune.evaluation.report.names import horizon_label, label, style
from tstune.evaluation.report.numbers import duration
from tstune.evaluation.report.svg import both

_MOST_ROWS = 400
_MOST_COLOUR = 0.30  # a change of 30 % or more has the full colour


def lead_times(run: RunFiles) -> list[str]:
    """Lead time of each forecast step in words."""
    steps = range(1, run.evaluation["prediction_length"] + 1)
    return [duration(step * run.step_seconds) if run.step_seconds else f"step {step}" for step in steps]


def lead_axis(run: RunFiles) -> tuple[list[float], str]:
    """Position of each forecast step on an axis, and the title of that axis."""
    steps = range(1, run.evaluation["prediction_length"] + 1)
    if not run.step_seconds:
        return [float(step) for step in steps], "lead time (steps)"
    return [step * run.step_seconds / 3600 for step in steps], "lead time (h)"


def at_horizons(run: RunFiles) -> list[int]:
    """Rows of the configured horizons in a table with a row per forecast step; the last step if there are none."""
    steps = run.evaluation["prediction_length"]
    return sorted({step - 1 for step in (run.evaluation.get("horizons") or {}).values()} | {steps - 1})


def horizons(run: RunFiles) -> Section | Omitted:
    """RMSE at every lead time."""
    found = {
        model: run.evaluation["rmse_by_step"][model] for model in run.models if model in run.evaluation["rmse_by_step"]
    }
    if not found:
        return Omitted("horizons", "No RMSE by lead time: evaluation.json holds none.")
    x, x_title = lead_axis(run)
    leads = (run.judged, run.reference)
    series, columns = [], [Column.text("Lead time", lead_times(run))]
    has_band = False
    for model, values in sorted(found.items(), key=lambda pair: leads.index(pair[0]) if pair[0] in leads else 2):
        bounds = (values.get("low"), values.get("high"))
        with_band = None not in bounds
        has_band |= with_band
        bands = [bounds] if with_band and model in leads else []
        series.append(Series(model, style(model, run.models), values["values"], bands))
        columns.append(Column.number(f"{label(model)} ({run.unit})", values["values"], key=model))
        if with_band:
            for name, side in zip(("low", "high"), bounds, strict=True):
                column = Column.number(f"{label(model)}, 95 % {name} ({run.unit})", side, key=model)
                columns.append(replace(column, quiet=model not in leads))

    def draw(width: float) -> Markup:
        ticks = hours_axis(0.0, x[-1], width) if run.step_seconds else None
        axes = Axes(x, x_title, f"RMSE ({run.unit})", from_zero=True, x_ticks=_within(ticks, x))
        return line_chart(axes, series, width, "RMSE of every model by lead time")

    wide, narrow = both(draw)
    legend = [LegendEntry(model, label(model), style(model, run.models)) for model in found]
    caption = (
        "Bands: 95 % block bootstrap." if has_band else "No bands: the test windows are too few days for an interval."
    )
    table = Table("RMSE by lead time", columns, tall=True)
    return Section(
        "horizons",
        "RMSE by horizon",
        [
            Figure(
                "rmse-by-horizon",
                "RMSE by lead time",
                wide,
                narrow,
                table,
                caption,
                legend,
                table.only(at_horizons(run)),
            )
        ],
    )


def items(run: RunFiles) -> Section | Omitted:
    """Which items gain and which lose."""
    rows = [row for row in run.evaluation["per_item"] if (row.get("rmse") or {}).get(run.judged) is not None]
    if not rows:
        return Omitted("items", "No table by item: no item has an observed reading in a test window.")
    reference = run.reference
    metrics = [key for key, value in rows[0].items() if isinstance(value, dict)]
    if reference is None:
        return Section("items", "By item", [_raw_table(run, rows, metrics[0])])
    left_out = len(run.evaluation["per_item"]) - len(rows)
    rows.sort(key=lambda row: _change(row, "rmse", run.judged, reference) or 0.0)
    blocks: list[Block] = []
    if len(rows) > 1:
        blocks.append(_bars(run, rows, reference))
    if len(rows) > _MOST_ROWS:
        note = f"The tables below show the {_MOST_ROWS // 2} items that gain most and least, of {len(rows):,}."
        blocks.append(Text(note, note=True))
        rows = [*rows[: _MOST_ROWS // 2], *rows[-_MOST_ROWS // 2 :]]
    others = [model for model in run.models if model != reference]
    by_model = _map(run, rows, [("rmse", model, label(model)) for model in others], reference)
    by_horizon = _map(run, rows, [(m, run.judged, _metric_name(m)) for m in metrics if m.startswith("rmse")], reference)
    caption = f"Change of RMSE against {label(reference)} in percent; below 0 is a lower error."
    blocks.append(
        Choices(
            "Columns",
            {
                "models": [
                    HeatMap(
                        "heat-map-models",
                        f"Items and models against {label(reference)}",
                        by_model,
                        _raw_table(run, rows, "rmse"),
                        caption,
                        "lower error",
                        "higher error",
                    )
                ],
                "horizons": [
                    HeatMap(
                        "heat-map-horizons",
                        f"Items and horizons, {label(run.judged)} against {label(reference)}",
                        by_horizon,
                        _horizon_table(run, rows, metrics),
                        caption,
                        "lower error",
                        "higher error",
                    )
                ],
            },
        )
    )
    if left_out:
        blocks.append(
            Text(f"{left_out:,} items have no observed reading in a test window and are left out.", note=True)
        )
    return Section("items", "By item", blocks)


def _within(ticks: list[tuple[float, str]] | None, x: list[float]) -> list[tuple[float, str]] | None:
    return None if ticks is None else [(place, text) for place, text in ticks if x[0] <= place <= x[-1]] or None


def _metric_name(metric: str) -> str:
    _, _, horizon = metric.partition("@")
    return f"at {horizon_label(horizon)}" if horizon else "whole path"


def _change(row: dict, metric: str, model: str, reference: str) -> float | None:
    values = row.get(metric) or {}
    mine, other = values.get(model), values.get(reference)
    return None if mine is None or not other else mine / other - 1


def _map(run: RunFiles, rows: list[dict], cells: list[tuple[str, str, str]], reference: str) -> Table:
    columns = [Column.text("Item", [row["item"] for row in rows])]
    if any(row.get("seen") is not None for row in rows) and len({row.get("seen") for row in rows}) > 1:
        columns.append(Column.text("Trained on", [{True: "yes", False: "no"}.get(row.get("seen")) for row in rows]))
    columns.append(Column.count("Windows (count)", [row.get("num_windows") for row in rows]))
    for metric, model, header in cells:
        changes = [_change(row, metric, model, reference) for row in rows]
        shades = [None if c is None else max(-1.0, min(1.0, c / _MOST_COLOUR)) for c in changes]
        written = Column.percent("", changes, signed=True).cells
        columns.append(Column(f"{header} (%)", written, shades=shades))
    return Table.capped(f"Change of RMSE against {label(reference)}", columns)


def _raw_table(run: RunFiles, rows: list[dict], metric: str) -> Table:
    columns = [
        Column.text("Item", [row["item"] for row in rows]),
        Column.count("Windows (count)", [row.get("num_windows") for row in rows]),
    ]
    columns += [
        Column.number(f"{label(model)} ({run.unit})", [(row.get(metric) or {}).get(model) for row in rows])
        for model in run.models
    ]
    return Table.capped(f"{metric.upper()} of each item", columns)


def _horizon_table(run: RunFiles, rows: list[dict], metrics: list[str]) -> Table:
    columns = [Column.text("Item", [row["item"] for row in rows])]
    for metric in metrics:
        name, _, horizon = metric.partition("@")
        header = f"{name.upper()}{f' at {horizon_label(horizon)}' if horizon else ''} ({run.unit})"
        columns.append(Column.number(header, [(row.get(metric) or {}).get(run.judged) for row in rows]))
    return Table.capped(f"Errors of {label(run.judged)} by item", columns)


def _bars(run: RunFiles, rows: list[dict], reference: str) -> Figure:
    pairs = [(str(row["item"]), _change(row, "rmse", run.judged, reference)) for row in rows]
    pairs = [(name, 100 * change) for name, change in pairs if change is not None]
    names, changes = [name for name, _ in pairs], [change for _, change in pairs]
    better = sum(change < 0 for change in changes)
    what = f"Change of RMSE of {label(run.judged)} against {label(reference)} by item"
    wide, narrow = both(lambda width: change_bars(names, changes, width, what, "change of RMSE (%)"))
    columns = [Column.text("Item", names), Column.decimal("Change of RMSE (%)", changes, 1, signed=True)]
    caption = f"Lower error for {better:,} of {len(changes):,} items."
    return Figure("change-by-item", what, wide, narrow, Table.capped(what, columns), caption)
