"""Model registry: numbered, checksummed versions of finished runs, with aliases such as `champion`.

    from tstune.registry import open_registry
    registry = open_registry()                       # TSTUNE_REGISTRY, else the folder registry/
    version = registry.register("runs/mine", "cgm")  # cgm:1
    model = registry.load("cgm@champion")

Importing this package is cheap: torch is loaded by the call that needs it.
"""

from tstune.errors import RegistryError
from tstune.registry.model_registry import (
    LocalModelRegistry,
    ModelRegistry,
    Promotion,
    load_saved_model,
    open_registry,
    saved_folder,
)
from tstune.registry.versions import AliasChange, ModelVersion, Reference, StoredFile, VersionComparison, check_name

__all__ = [
    "AliasChange",
    "VersionComparison",
    "LocalModelRegistry",
    "ModelRegistry",
    "ModelVersion",
    "Promotion",
    "Reference",
    "RegistryError",
    "StoredFile",
    "check_name",
    "load_saved_model",
    "open_registry",
    "saved_folder",
]
