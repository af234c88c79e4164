"""Model families by name, loaded on first use."""

from __future__ import annotations

import difflib
import importlib
import json
from pathlib import Path
from typing import TYPE_CHECKING

from tstune.errors import CheckpointError, ConfigError

if TYPE_CHECKING:
    from tstune.models.base import BaseTimeSeriesFoundationModel

# name -> module:class
_MODELS = {
    "ttm": "tstune.models.ttm:TTMForecaster",
    "chronos_bolt": "tstune.models.chronos_bolt:ChronosBoltForecaster",
    "chronos2": "tstune.models.chronos2:Chronos2Forecaster",
    "timegpt": "tstune.models.timegpt:TimeGPTForecaster",
    "persistence": "tstune.models.baselines:Persistence",
    "seasonal_naive": "tstune.models.baselines:SeasonalNaive",
    "context_mean": "tstune.models.baselines:ContextMean",
    "ridge": "tstune.models.baselines:Ridge",
    "lightgbm": "tstune.models.lightgbm_lags:LightGBM",
}


def available_models() -> list[str]:
    """Names of all model families and baselines."""
    return sorted(_MODELS)


def model_class(name: str) -> type[BaseTimeSeriesFoundationModel]:
    """Class of a model family.

    Raises:
        ConfigError: unknown name.
    """
    if name not in _MODELS:
        close = difflib.get_close_matches(name, available_models(), n=1)
        hint = f"did you mean {close[0]}? " if close else ""
        raise ConfigError(f"unknown model {name!r}; {hint}available: {', '.join(available_models())}")
    module, _, attribute = _MODELS[name].partition(":")
    return getattr(importlib.import_module(module), attribute)


def load_model(folder: str | Path) -> BaseTimeSeriesFoundationModel:
    """Load a saved model of whatever family the folder holds.

    Raises:
        CheckpointError: the folder is not a saved model.
    """
    path = Path(folder) / "preprocessor.json"
    if not path.is_file():
        raise CheckpointError(f"{folder} is not a run folder: preprocessor.json is missing")
    try:
        model_type = json.loads(path.read_text(encoding="utf-8"))["model_type"]
    except (ValueError, KeyError, TypeError):
        raise CheckpointError(f"{path} is damaged") from None
    return model_class(model_type).load(folder)
