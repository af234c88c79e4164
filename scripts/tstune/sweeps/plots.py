"""Pictures of a sweep: how the best loss came down, and which keys mattered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate

import optuna
from matplotlib.figure import Figure
from optuna.importance import FanovaImportanceEvaluator, get_param_importances

from tstune.sweeps.attempts import Point
from tstune.sweeps.checks import METRIC


def importances(study: optuna.Study, losses: Sequence[float], seed: int) -> dict[str, float] | str:
    """Share of the losses' variance that each key explains (fANOVA), or why that cannot be said."""
    if len(losses) < 2:
        return "it takes at least two finished trials"
    if len(set(losses)) == 1:
        return "every finished trial has the same validation loss"
    try:
        found = get_param_importances(study, evaluator=FanovaImportanceEvaluator(seed=seed), normalize=False)
    except RuntimeError as error:  # what it says where its trees find nothing to split
        return " ".join(str(error).split())
    if not any(found.values()):
        return "no key that was varied explains the losses"
    return found


def plot_importances(shares: Mapping[str, float]) -> Figure:
    """A bar for each key."""
    figure = Figure(figsize=(7, 1.2 + 0.4 * len(shares)), layout="constrained")
    axes = figure.subplots()
    names = list(reversed(shares))
    axes.barh(names, [shares[name] for name in names])
    axes.set(xlabel=f"share of the variance of {METRIC} (fANOVA)", xlim=(0, 1), title="Importance")
    return figure


def plot_history(points: Sequence[Point]) -> Figure:
    """The loss of each trial and the best so far; trials without a result at the foot."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    finished = [point for point in points if point.state == "finished"]
    if finished:
        numbers, losses = [point.number for point in finished], [point.loss for point in finished]
        axes.scatter(numbers, losses, label="finished")
        axes.step(numbers, list(accumulate(losses, min)), where="post", color="grey", label="best so far")
    foot = axes.get_xaxis_transform()  # x in trials, y as a share of the height
    for state, marker in (("pruned", "v"), ("failed", "x")):
        numbers = [point.number for point in points if point.state == state]
        if numbers:
            heights = [0.03] * len(numbers)
            axes.scatter(numbers, heights, marker=marker, color="tab:red", transform=foot, label=state, clip_on=False)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set(xlabel="trial", ylabel=METRIC, title="History")
    if axes.get_legend_handles_labels()[0]:
        axes.legend()
    return figure
