"""How models, metrics and horizons are called in a report, and how their lines look."""

from __future__ import annotations

import re

_LABELS = {
    "fine_tuned": "fine-tuned",
    "zero_shot": "zero-shot",
    "per_item": "per item",
    "seasonal_naive": "seasonal naive",
    "context_mean": "context mean",
    "very_low": "very low",
    "in_range": "in range",
}

MODELS_EXPLAINED = {
    "fine_tuned": "the model after training on this data",
    "zero_shot": "the pretrained model as it is, never trained on this data",
    "per_item": "the fine-tuned model with a small adapter for each item",
    "average": "mean of the zero-shot and the fine-tuned forecast",
    "persistence": "the last reading, held",
    "seasonal_naive": "the readings one season (usually a day) earlier",
    "context_mean": "the mean of the history",
    "ridge": "a linear model of the history, fitted on the training part",
    "lightgbm": "boosted trees on the history, fitted on the training part",
}

_SLOTS = {
    "fine_tuned": "c0",
    "zero_shot": "c1",
    "average": "c2",
    "per_item": "c3",
    "ridge": "c4",
    "lightgbm": "c5",
    "persistence": "c6",
    "seasonal_naive": "c7",
    "context_mean": "c8",
}
_OURS = ("fine_tuned", "zero_shot", "average", "per_item")
_DASHES = ("d1", "d2", "d3", "d4")

_METRICS = {
    "rmse": ("RMSE", "unit"),
    "mae": ("MAE", "unit"),
    "bias": ("Bias", "unit"),
    "mard": ("MARD", "%"),
    "mape": ("MAPE", "%"),
    "smape": ("sMAPE", "%"),
    "mase": ("MASE", "ratio"),
    "wql": ("WQL", "ratio"),
    "crps": ("CRPS", "unit"),
    "pinball": ("Pinball loss", "unit"),
    "mse_scaled": ("MSE, scaled", "no unit"),
    "mae_scaled": ("MAE, scaled", "no unit"),
    "calibration_error": ("Calibration error", "share"),
    "num_windows": ("Windows", "count"),
}


def label(name: str) -> str:
    """A model or range in words."""
    return _LABELS.get(name, name.replace("_", " "))


def in_words(sentence: str, models: list[str]) -> str:
    """A sentence of the verdict with the names of the models in words."""
    for name in sorted(models, key=len, reverse=True):
        sentence = re.sub(rf"\b{re.escape(name)}\b", label(name).replace("\\", r"\\"), sentence)
    return sentence.replace(" %", "\u00a0%")


def style(name: str, models: list[str]) -> str:
    """CSS classes of a model's line: a colour, and a dash for what is not the run's own model."""
    others = [model for model in models if model not in _OURS]
    free = [f"c{slot}" for slot in range(9) if f"c{slot}" not in {_SLOTS.get(model) for model in models}] or ["c8"]
    strangers = [model for model in models if model not in _SLOTS]
    slot = _SLOTS.get(name) or free[strangers.index(name) % len(free)]
    return slot if name in _OURS else f"{slot} {_DASHES[others.index(name) % len(_DASHES)]}"


def metric_header(metric: str, unit: str) -> str:
    """Column header of a metric: its name, horizon and unit."""
    name, _, horizon = metric.partition("@")
    found = _METRICS.get(name)
    if found is None and name.startswith(("width_", "rmse_", "bias_")):
        found = (name.replace("_", " ").replace("rmse", "RMSE"), "unit")
    if found is None and re.fullmatch(r"coverage_[\d.]+|.*_(base_rate|auroc|auprc|brier)", name):
        found = (name.replace("_", " "), "share")
    if found is None and re.fullmatch(r"(clarke|parkes|dts)_[a-e]|.*_difference", name):
        found = (name.replace("_", " "), "%")
    text, kind = found or (name, "")
    text += f" at {horizon_label(horizon)}" if horizon else ""
    kind = unit if kind == "unit" else kind
    return f"{text} ({kind})" if kind else text


def horizon_label(name: str) -> str:
    """``30min`` as ``30 min``."""
    return re.sub(r"(?<=\d)(?=[A-Za-z])", "\u00a0", name)
