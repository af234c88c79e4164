"""Plots of a run as PNG files: loss curve, forecasts against truth, error by lead time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch

from tstune.data.windows import Batch, WindowDataset
from tstune.evaluation.backtest import Scores
from tstune.evaluation.verdict import OURS
from tstune.models.contract import Forecaster

if TYPE_CHECKING:  # a run loads it when it draws, after the training
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_CONTEXT_SHOWN = 2  # the plot shows this many prediction lengths of history


def plot_loss(history: Sequence[dict], path: Path) -> None:
    """Training and validation loss over optimizer steps."""
    with _axes(path, title="Loss", xlabel="optimizer step", ylabel="loss (scaled units)") as axes:
        for key, label in (("train_loss", "training"), ("validation_loss", "validation")):
            rows = [(row["step"], row[key]) for row in history if key in row]
            if rows:
                axes.plot(*zip(*rows, strict=True), marker="o" if len(rows) < 40 else None, markersize=3, label=label)
        best = [row["best_step"] for row in history if "best_step" in row]
        if best:
            axes.axvline(best[-1], color="grey", linestyle=":", label=f"kept: step {best[-1]}")


def plot_learning_rate_finder(rates: Sequence[float], losses: Sequence[float], chosen: float, path: Path) -> None:
    """Smoothed loss against the learning rate, with the one that was taken."""
    labels = {"xscale": "log", "xlabel": "learning rate", "ylabel": "smoothed loss"}
    with _axes(path, title="Learning-rate finder", **labels) as axes:
        axes.plot(rates, losses)
        axes.axvline(chosen, color="grey", linestyle=":", label=f"taken: {chosen:.2e}")


def plot_rmse_by_step(scores: Mapping[str, Scores], step: pd.Timedelta | None, unit: str | None, path: Path) -> None:
    """RMSE of every model at every forecast step."""
    xlabel = f"lead time ({'steps' if step is None else 'hours'})"
    with _axes(path, title="Error by lead time", xlabel=xlabel, ylabel=_with_unit("RMSE", unit)) as axes:
        for name, values in scores.items():
            lead = np.arange(1, 1 + len(values.rmse_by_step)) * (1 if step is None else step / pd.Timedelta("1h"))
            axes.plot(lead, values.rmse_by_step, linewidth=2 if name in OURS else 1, label=name)


def plot_forecasts(
    models: Mapping[str, Forecaster], windows: WindowDataset, chosen: Mapping[str, int], unit: str | None, path: Path
) -> None:
    """Forecasts of the given windows (label -> panel row of the window's start) against what happened.

    The first target channel is drawn.
    """
    from matplotlib.figure import Figure

    batch = windows.gather(np.array(list(chosen.values()), dtype=np.int64))
    with torch.inference_mode():
        forecasts = {name: model.forecast(batch)[..., 0].cpu().numpy() for name, model in models.items()}
    context, ahead = windows.context_length, windows.prediction_length
    shown = min(context, _CONTEXT_SHOWN * ahead)
    figure = Figure(figsize=(9, 2.8 * len(chosen)), layout="constrained")
    rows = figure.subplots(len(chosen), 1, squeeze=False)
    for index, (label, start) in enumerate(chosen.items()):
        axes = rows[index, 0]
        stamps = windows.panel.timestamps[np.maximum(np.arange(start, start + context + ahead), 0)]  # may be padded
        past, future = (batch[name][index, :, 0].numpy().copy() for name in ("past_values", "future_values"))
        past[~batch["past_observed_mask"][index, :, 0].numpy()] = np.nan
        future[~batch["future_observed_mask"][index, :, 0].numpy()] = np.nan
        level = windows.panel.level_of(int(batch["item"][index]), 0)
        axes.plot(stamps[context - shown : context], level + past[-shown:], color="black", linewidth=1, label="history")
        axes.plot(stamps[context:], level + future, color="black", linewidth=1, linestyle="--", label="what happened")
        for name, values in forecasts.items():
            axes.plot(stamps[context:], level + values[index], linewidth=1.6, label=name)
        axes.axvline(stamps[context - 1], color="grey", linewidth=0.8)
        item = windows.panel.item_ids[int(batch["item"][index])]
        axes.set_title(f"{label}: {item}, {pd.Timestamp(stamps[context]):%Y-%m-%d %H:%M}", fontsize=10)
        axes.set_ylabel(_with_unit(windows.panel.roles.target[0], unit))
        _draw_inputs(axes, batch, index, windows, stamps[context - shown :])
    rows[0, 0].legend(fontsize=8, loc="best")
    save(figure, path)


def _draw_inputs(axes: Axes, batch: Batch, index: int, windows: WindowDataset, stamps: np.ndarray) -> None:
    """Bars, at the foot, of the other columns that were read; known ahead or not, each on a scale of its own."""
    roles, ahead = windows.panel.roles, windows.prediction_length
    for place, name in enumerate(roles.columns[roles.num_targets :], start=roles.num_targets):
        values = batch["past_values"][index, ahead - len(stamps) :, place].numpy()
        if name in roles.control:
            values = np.concatenate([values, batch["future_values"][index, :, place].numpy()])
        foot = axes.twinx()
        foot.bar(
            stamps[: len(values)], values, width=stamps[1] - stamps[0], color=f"C{4 + place}", alpha=0.5, label=name
        )
        low, high = min(0.0, float(values.min())), float(values.max())
        foot.set_ylim(low, low + 4.5 * ((high - low) or 1.0))
        foot.set_axis_off()
        axes.plot([], [], color=f"C{4 + place}", alpha=0.5, linewidth=6, label=f"{name}, up to {high:g}")


def choose_windows(scores: Scores, count: int, seed: int) -> dict[str, int]:
    """Label -> first row of a good, a typical and a bad window by error (10th, 50th, 90th percentile), then by seed."""
    order = np.argsort(scores.window_rmse, kind="stable")
    order = order[np.isfinite(scores.window_rmse[order])]
    if not len(order):
        return {}
    ranked = {"typical": 0.5, "good": 0.1, "bad": 0.9}
    picked = {label: order[round(share * (len(order) - 1))] for label, share in list(ranked.items())[:count]}
    for number, index in enumerate(np.random.default_rng(seed).choice(order, max(0, count - 3)), start=1):
        picked[f"random {number}"] = index
    return {label: int(scores.window_start[index]) for label, index in picked.items()}


def _with_unit(name: str, unit: str | None) -> str:
    return f"{name} ({unit})" if unit else name


@contextmanager
def _axes(path: Path, **labels: str) -> Iterator[Axes]:
    """One plot with a legend, saved at the end."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    axes.set(**labels)
    yield axes
    axes.legend()
    save(figure, path)


def save(figure: Figure, path: Path) -> None:
    """Write a figure, and the folder that it goes into."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
