"""Fine-tune and judge time-series foundation models with HuggingFace Accelerate.

Importing this package is cheap: every public name is loaded on first use.
"""

from __future__ import annotations

import importlib
import logging

from tstune.models.registry import flat_classes, forecaster_modules

# bitsandbytes reports optional kernels it does not find as soon as peft imports it
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)

__version__ = "0.1.0"

# public name -> module that defines it
_PUBLIC = {
    "BaseTimeSeriesFoundationModel": "tstune.models.base",
    "ModelConfig": "tstune.config.flat",
    "DistributedConfig": "tstune.config.schema",
    "LoRAConfig": "tstune.config.schema",
    "LoRAManager": "tstune.models.adapters",
    "LoRATrainer": "tstune.models.adapters",
    "add_lora_adapters": "tstune.models.adapters",
    "RunConfig": "tstune.config.schema",
    "TrainingConfig": "tstune.config.flat",
    "TTMExperimentConfig": "tstune.config.flat",
    "ConfigManager": "tstune.config.managers",
    "SimpleConfigManager": "tstune.config.managers",
    "HydraConfigManager": "tstune.config.managers",
    "TTMTrainer": "tstune.trainer",
    "ExperimentTracker": "tstune.tracking.interfaces",
    "SimpleExperimentTracker": "tstune.tracking.simple_tracker",
    "SimpleExperimentLogger": "tstune.tracking.simple_tracker",
    "MLflowExperimentTracker": "tstune.tracking.mlflow_tracker",
    "MLflowExperimentLogger": "tstune.tracking.mlflow_tracker",
    "WandbExperimentTracker": "tstune.tracking.wandb_tracker",
    "TensorBoardExperimentTracker": "tstune.tracking.tensorboard_tracker",
    "CompositeTracker": "tstune.tracking.composite",
    "ModelRegistry": "tstune.registry.model_registry",
    "LocalModelRegistry": "tstune.registry.model_registry",
    "open_registry": "tstune.registry",
    "DistributedManager": "tstune.runtime.distributed",
    "GPUManager": "tstune.runtime.memory",
    "TstuneError": "tstune.errors",
    "LeakError": "tstune.errors",
    "autotune": "tstune.sweeps.autotune",
    "load_model": "tstune.models.registry",
    "forecast": "tstune.runs.compare.frames",
    "cross_validation": "tstune.runs.compare.frames",
    "plot_series": "tstune.runs.compare.frames",
    "available_models": "tstune.models.registry",
    "available_sources": "tstune.data.sources",
    "describe_sources": "tstune.data.sources",
    "prepare_data": "tstune.data.prepared",
    "get_datasets": "tstune.data.prepared",
    "get_loader": "tstune.data.sources",
    "get_model": "tstune.models.ttm",
    "describe_cohort": "tstune.data.describe",
    "estimate_training_memory": "tstune.runtime.memory",
    "MISSING": "tstune.data.panel",
    "INTERPOLATED": "tstune.data.panel",
    "OBSERVED": "tstune.data.panel",
}

_PUBLIC |= forecaster_modules() | dict.fromkeys(flat_classes(), "tstune.config.flat")

__all__ = sorted(_PUBLIC)


def __getattr__(name: str) -> object:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'tstune' has no attribute {name!r}; public names: {', '.join(__all__)}")
    return getattr(importlib.import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return __all__
