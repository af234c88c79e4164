"""Model families and baselines by name: a table of dotted names, imported when one is asked for.

Of `tstune` only what lies below everything is imported here, types neither, so that configurations and runs find
families by it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tstune.errors import CheckpointError, ConfigError, did_you_mean
from tstune.foreign_files import read_object
from tstune.named_code import foreign, import_named, resolve, trusting

# what `model.type` may be -> module:class
_MODELS = {
    "ttm": "tstune.models.ttm:TTMForecaster",
    "chronos_bolt": "tstune.models.chronos:ChronosBoltForecaster",
    "chronos2": "tstune.models.chronos:Chronos2Forecaster",
    "chronos_t5": "tstune.models.chronos_t5:ChronosT5Forecaster",
    "timesfm": "tstune.models.timesfm:TimesFMForecaster",
    "flowstate": "tstune.models.flowstate:FlowStateForecaster",
    "patchtst_fm": "tstune.models.patchtst_fm:PatchTSTFMForecaster",
    "fracast": "tstune.models.fracast:FracastForecaster",
    "patchtst": "tstune.models.patch_forecaster:PatchTSTForecaster",
    "patchtsmixer": "tstune.models.patch_forecaster:PatchTSMixerForecaster",
    "timegpt": "tstune.models.timegpt:TimeGPTForecaster",
    "ensemble": "tstune.models.ensemble:Ensemble",
    "stack": "tstune.models.ensemble:Stack",
    # these may stand in `evaluation.baselines` too
    "persistence": "tstune.models.baselines:Persistence",
    "seasonal_naive": "tstune.models.baselines:SeasonalNaive",
    "context_mean": "tstune.models.baselines:ContextMean",
    "ridge": "tstune.models.baselines:Ridge",
    "lightgbm": "tstune.models.lightgbm_lags:LightGBM",
    "auto_ets": "tstune.models.baselines:AutoETS",
    "auto_theta": "tstune.models.baselines:AutoTheta",
}
_BASE = "tstune.models.base:BaseTimeSeriesFoundationModel"
_SUFFIX = "Forecaster"


def families() -> tuple[str, ...]:
    """What `model.type` may be, own classes aside."""
    return tuple(_MODELS)


def available_models() -> list[str]:
    """The same in the order of the alphabet."""
    return sorted(_MODELS)


def forecaster_modules() -> dict[str, str]:
    """Public class of a family -> its module, for example ``TTMForecaster`` -> ``tstune.models.ttm``."""
    found = (path.partition(":") for path in _MODELS.values())
    return {name: module for module, _, name in found if name.endswith(_SUFFIX)}


def flat_classes() -> dict[str, str]:
    """Flat configuration -> its family, for example ``TTMConfig`` -> ``ttm``."""
    found = {name: path.partition(":")[2] for name, path in _MODELS.items()}
    return {f"{cls.removesuffix(_SUFFIX)}Config": name for name, cls in found.items() if cls.endswith(_SUFFIX)}


def model_class(name: str) -> type[Any]:
    """Class of a model family or baseline, or the one that ``package.module:Class`` names; else a `ConfigError`."""
    if ":" in name:
        return _own_class(name)
    if name not in _MODELS:
        known = available_models()
        raise ConfigError(
            f"unknown model {name!r}; {did_you_mean(name, known)}available: {', '.join(known)}, or your own class as "
            "package.module:Class"
        )
    return resolve(_MODELS[name])


def load_model(folder: str | Path, trust_code: bool = False) -> Any:
    """Load a saved model, a `BaseTimeSeriesFoundationModel`, of whatever family the folder holds.

    With `trust_code` code that it names, a class, source or metric of somebody's own, is imported.
    """
    path = Path(folder) / "preprocessor.json"
    if not path.is_file():
        raise CheckpointError(f"{folder} is not a run folder: preprocessor.json is missing")
    model_type = read_object(path, keys=["model_type"])["model_type"]
    if not isinstance(model_type, str) or len(model_type) > 200:
        raise CheckpointError(f"{path} is damaged: model_type is {model_type!r:.100}, not a name")
    if ":" not in model_type and model_type not in _MODELS:
        raise CheckpointError(f"{path}: model_type is {model_type!r}, which no family of this tstune is called")
    with trusting(trust_code):
        foreign(model_type, path)
        return model_class(model_type).load(folder)


def _own_class(name: str) -> type[Any]:
    """Import a class that somebody else wrote, and check what a saved model of it will need."""
    found = import_named("model", name)
    if found is None:
        raise ConfigError("model {}: {} has no {}".format(name, *name.split(":", 1)))
    if not isinstance(found, type) or not issubclass(found, resolve(_BASE)):
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
