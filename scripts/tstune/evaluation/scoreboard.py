"""One table: every model on the same windows, and a sentence that says which is best."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from tstune.evaluation.metrics import Scores

OURS = ("per_item", "fine_tuned", "zero_shot", "average")
"""Forecasts of the run's own model, the one that is judged first; the others are baselines."""


def best_model(scores: Mapping[str, Scores], metric: str = "rmse") -> str:
    """Name of the model with the lowest value; NaN never wins."""
    return _best_first({name: values.metrics for name, values in scores.items()}, metric)[0]


def best_baseline(scores: Mapping[str, Scores]) -> str | None:
    """Name of the baseline with the lowest RMSE; None without baselines."""
    baselines = {name: values for name, values in scores.items() if name not in OURS}
    return best_model(baselines) if baselines else None


def format_scoreboard(scores: Mapping[str, Scores], unit: str | None, verdict: str, part: str = "test") -> str:
    """Markdown table, best RMSE first, with the verdict's sentence beneath."""
    return format_metrics({name: values.metrics for name, values in scores.items()}, unit, verdict, part)


def format_metrics(
    metrics: Mapping[str, Mapping[str, float | None]], unit: str | None, verdict: str, part: str = "test"
) -> str:
    """The same table from the numbers of `metrics.json`."""
    metrics = {name: {key: np.nan if v is None else v for key, v in row.items()} for name, row in metrics.items()}
    first = next(iter(metrics.values()))
    columns = [name for name in first if name.startswith(("rmse", "mae")) and name != "mae_scaled"]
    columns = [name for name in columns if not name.startswith("mae@")] + ["mase"]
    order = _best_first(metrics, "rmse")
    width = max(map(len, order))
    lines = [
        f"| {'model':<{width}} | " + " | ".join(f"{name:>11}" for name in columns) + " |",
        f"|{'-' * (width + 2)}|" + "|".join("-" * 12 + ":" for _ in columns) + "|",
    ]
    for name in order:
        values = metrics[name]
        lines.append(f"| {name:<{width}} | " + " | ".join(f"{values[column]:>11.4g}" for column in columns) + " |")
    measured_in = f", RMSE and MAE in {unit}" if unit else ""
    lines.append("")
    lines.append(f"{first['num_windows']:,} {part} windows, the same for every model{measured_in}.")
    lines.append(f"Best by RMSE: {order[0]} ({metrics[order[0]]['rmse']:.4g}). {verdict}")
    return "\n".join(lines)


def _best_first(metrics: Mapping[str, Mapping[str, float]], metric: str) -> list[str]:
    return sorted(metrics, key=lambda name: np.nan_to_num(metrics[name][metric], nan=np.inf))


def format_per_item(rows: Sequence[Mapping[str, object]]) -> str:
    """Markdown table of the adapters per item, with a sentence beneath."""
    lines = [
        "| item | test windows | rmse, base | rmse, per item | change | adapter | on the test windows |",
        "|---|---:|---:|---:|---:|---|---|",
    ]
    for row in rows:
        fate = "kept" if row["kept"] else f"not kept: {row['reason']}"
        if row["rmse_base"] is None:
            lines.append(f"| {row['item_id']} | 0 | | | | {fate} | no test window |")
            continue
        base, tuned = row["rmse_base"], row["rmse_per_item"]
        effect = ("helped" if tuned < base else "hurt") if row["kept"] else "base used"
        change = f"{100 * (tuned / base - 1):+.1f} %"
        lines.append(
            f"| {row['item_id']} | {row['num_windows']} | {base:.4g} | {tuned:.4g} | {change} | {fate} | {effect} |"
        )
    kept = [row for row in rows if row["kept"]]
    helped = sum(row["rmse_base"] is not None and row["rmse_per_item"] < row["rmse_base"] for row in kept)
    lines.append("")
    lines.append(
        f"{len(rows)} items: {len(kept)} adapters kept by their own validation windows, "
        f"{helped} of them helped on test."
    )
    return "\n".join(lines)
