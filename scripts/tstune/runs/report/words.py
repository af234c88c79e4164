"""How a report writes numbers, and what it calls models, metrics and horizons."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from tstune.domains import domains

MISSING = "–"
_SPACE = "\u00a0"  # a number and its unit stay on one line

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
_HYPHENATED = {"fine_tuned": "fine-tuned", "zero_shot": "zero-shot"}
_OURS = ("fine_tuned", "zero_shot", "average", "per_item")
_COLOURED = (*_OURS, "ridge", "lightgbm", "persistence", "seasonal_naive", "context_mean")

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


def significant_digits(values: Sequence[float | None], digits: int = 4) -> list[str]:
    """Values with the decimals that give the largest of them `digits` significant digits."""
    largest = max([abs(value) for value in values if _known(value)], default=0.0)
    decimals = digits - 1 - math.floor(math.log10(largest)) if largest > 0 else 0
    return fixed(values, min(max(decimals, 0), 6))


def fixed(values: Sequence[float | None], decimals: int, signed: bool = False) -> list[str]:
    """Values with a fixed number of decimals; `signed` writes the plus too."""
    return [_fixed(value, decimals, signed) if _known(value) else MISSING for value in values]


def percents(shares: Sequence[float | None], decimals: int = 1, signed: bool = False) -> list[str]:
    """Shares of 1 as percent, without the sign %."""
    return fixed([100 * share if _known(share) else None for share in shares], decimals, signed)


def counts(values: Sequence[float | None]) -> list[str]:
    """Whole numbers with thousands separated."""
    return [f"{round(value):,}" if _known(value) else MISSING for value in values]


def measured(value: float | None, unit: str, digits: int = 4) -> str:
    """One value with its unit."""
    text = significant_digits([value], digits)[0]
    return text if text == MISSING or not unit else f"{text}{_SPACE}{unit}"


def duration(seconds: float | None) -> str:
    """A span of time in its two largest units: ``8 h``, ``42 h 40 min``, ``3.2 s``."""
    if not _known(seconds):
        return MISSING
    if seconds < 60:
        return f"{seconds:.3g}{_SPACE}s"
    units = (("d", 86400), ("h", 3600), ("min", 60), ("s", 1))
    if seconds < 3 * 86400:  # 42 h says more than 1 d 18 h
        units = units[1:]
    rest, parts = round(seconds), []
    for name, size in units:
        number, rest = divmod(rest, size)
        if number:
            parts.append(f"{number}{_SPACE}{name}")
    return " ".join(parts[:2])


def label(name: str) -> str:
    """A model or range in words."""
    return _HYPHENATED.get(name, name.replace("_", " "))


def in_words(sentence: str, models: list[str]) -> str:
    """A sentence of the verdict with the names of the models in words."""
    for name in sorted(models, key=len, reverse=True):
        sentence = re.sub(rf"\b{re.escape(name)}\b", label(name).replace("\\", r"\\"), sentence)
    return sentence.replace(" %", f"{_SPACE}%")


def style(name: str, models: list[str]) -> str:
    """CSS classes of a model's line: a colour, and a dash for what is not the run's own model."""
    strangers = [model for model in models if model not in _COLOURED]
    free = [slot for slot, model in enumerate(_COLOURED) if model not in models] or [8]
    slot = _COLOURED.index(name) if name in _COLOURED else free[strangers.index(name) % len(free)]
    if name in _OURS:
        return f"c{slot}"
    return f"c{slot} d{[model for model in models if model not in _OURS].index(name) % 4 + 1}"


def metric_header(metric: str, unit: str) -> str:
    """Column header of a metric: its name, horizon and unit."""
    name, _, horizon = metric.partition("@")
    text, kind = _METRICS.get(name) or (name.replace("_", " ").replace("rmse", "RMSE"), _kind(name))
    text = text if kind else name
    text += f" at {horizon_label(horizon)}" if horizon else ""
    kind = unit if kind == "unit" else kind
    return f"{text} ({kind})" if kind else text


def _kind(metric: str) -> str:
    """Unit of a metric that carries a level in its name, or is a domain's."""
    if metric.startswith("width_"):
        return "unit"
    if re.fullmatch(r"coverage_[\d.]+", metric):
        return "share"
    return next((kind for domain in domains() if (kind := domain.metric_kind(metric))), "")


def horizon_label(name: str) -> str:
    """``30min`` as ``30 min``."""
    return re.sub(r"(?<=\d)(?=[A-Za-z])", _SPACE, name)


def plural(number: int, noun: str) -> str:
    """``1 item``, ``2,000 items``."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _fixed(value: float, decimals: int, signed: bool) -> str:
    text = f"{value:{'+' if signed else ''},.{decimals}f}"
    return text.replace("-", "") if float(text.replace(",", "")) == 0 else text  # no "-0.0"


def _known(value: float | None) -> bool:
    return value is not None and math.isfinite(value)
