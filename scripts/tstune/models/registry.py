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
    "chronos_t5": "tstune.models.chronos_t5:ChronosT5Forecaster",
    "timesfm": "tstune.models.timesfm:TimesFMForecaster",
    "flowstate": "tstune.models.flowstate:FlowStateForecaster",
    "patchtst_fm": "tstune.models.patchtst_fm:PatchTSTFMForecaster",
    "patchtst": "tstune.models.patchtst:PatchTSTForecaster",
    "patchtsmixer": "tstune.models.patchtsmixer:PatchTSMixerForecaster",
    "timegpt": "tstune.models.timegpt:TimeGPTForecaster",
    "persistence": "tstune.models.baselines:Persistence",
    "seasonal_naive": "tstune.models.baselines:SeasonalNaive",
    "context_mean": "tstune.models.baselines:ContextMean",
    "ridge": "tstune.models.baselines:Ridge",
    "lightgbm": "tstune.models.lightgbm_lags:LightGBM",
    "auto_ets": "tstune.models.statistical:AutoETS",
    "auto_theta": "tstune.models.statistical:AutoTheta",
    "ensemble": "tstune.models.ensemble:Ensemble",
}


def available_models() -> list[str]:
    """Names of all model families and baselines."""
    return sorted(_MODELS)


def model_class(name: str) -> type[BaseTimeSeriesFoundationModel]:
    """Class of a model family, or the one that ``package.module:Class`` names.

    Raises:
        ConfigError: unknown name, or no class of a model.
    """
    if ":" in name:
        return _own_class(name)
    if name not in _MODELS:
        close = difflib.get_close_matches(name, available_models(), n=1)
        hint = f"did you mean {close[0]}? " if close else ""
        raise ConfigError(
            f"unknown model {name!r}; {hint}available: {', '.join(available_models())}, or your own class as "
            "package.module:Class"
        )
    module, _, attribute = _MODELS[name].partition(":")
    return getattr(importlib.import_module(module), attribute)


def _own_class(name: str) -> type[BaseTimeSeriesFoundationModel]:
    """Import a class that somebody else wrote, and check what a saved model of it will need."""
    from tstune.models.base import BaseTimeSeriesFoundationModel

    module_name, _, class_name = name.partition(":")
    try:
        found = getattr(importlib.import_module(module_name), class_name, None)
    except Exception as error:  # it runs code that is not ours
        reason = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no reason given'}"
        raise ConfigError(f"model {name} cannot be imported ({reason}); is its folder on PYTHONPATH?") from None
    if found is None:
        raise ConfigError(f"model {name}: {module_name} has no {class_name}")
    if not isinstance(found, type) or not issubclass(found, BaseTimeSeriesFoundationModel):
        raise ConfigError(f"model {name} is not a subclass of tstune.BaseTimeSeriesFoundationModel")
    missing = sorted(found.__abstractmethods__)
    if missing:
        raise ConfigError(f"model {name} does not define {', '.join(missing)}")
    if found.model_type != name:
        raise ConfigError(
            f"model {name} calls itself model_type={found.model_type!r}, by which a saved one would not be found; name "
            f"that one, or add to the class: model_type = {name!r}"
        )
    return found


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
