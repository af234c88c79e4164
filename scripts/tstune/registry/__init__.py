"""Model registry: numbered, checksummed versions of finished runs, with aliases such as `champion`.

    from tstune.registry import open_registry
    registry = open_registry()                       # TSTUNE_REGISTRY, else the folder registry/
    version = registry.register("runs/mine", "cgm")  # cgm:1
    model = registry.load("cgm@champion")

Importing this package is cheap: every public name is loaded on first use, torch and mlflow by the call that needs them.
"""

from __future__ import annotations

import importlib

# public name -> module that defines it
_PUBLIC = {
    "ModelRegistry": "tstune.registry.interfaces",
    "LocalModelRegistry": "tstune.registry.local_registry",
    "MLflowModelRegistry": "tstune.registry.mlflow_registry",
    "ModelVersion": "tstune.registry.records",
    "StoredFile": "tstune.registry.records",
    "Reference": "tstune.registry.names",
    "AliasChange": "tstune.registry.alias_history",
    "Comparison": "tstune.registry.comparison",
    "Promotion": "tstune.registry.interfaces",
    "check_name": "tstune.registry.names",
    "open_registry": "tstune.registry.opening",
    "load_saved_model": "tstune.registry.opening",
    "RegistryError": "tstune.errors",
}

__all__ = sorted(_PUBLIC)


def __getattr__(name: str) -> object:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'tstune.registry' has no attribute {name!r}; public names: {', '.join(__all__)}")
    return getattr(importlib.import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return __all__
