"""From what a user writes to a registry, and from a registry to a model."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from tstune.errors import RegistryError

if TYPE_CHECKING:
    from tstune.models.base import BaseTimeSeriesFoundationModel
    from tstune.registry.interfaces import ModelRegistry

VARIABLE = "TSTUNE_REGISTRY"
DEFAULT = "registry"
PREFIX = "registry:"
_MLFLOW = "mlflow+"


def open_registry(location: str | Path | None = None) -> ModelRegistry:
    """A folder, or ``mlflow+http://host:port`` (also https, or ``mlflow+sqlite:///file``) for MLflow's registry.

    Args:
        location: None takes the environment variable TSTUNE_REGISTRY, else the folder ``registry``.

    Raises:
        RegistryError: neither a folder nor such an address, or one with a password in it.
    """
    place = str(location or os.environ.get(VARIABLE) or DEFAULT)
    if place.startswith(_MLFLOW):
        from tstune.registry.mlflow_registry import MLflowModelRegistry

        return MLflowModelRegistry(place.removeprefix(_MLFLOW))
    scheme, separator, _ = place.partition("://")
    if separator:
        raise RegistryError(
            f"the registry {scheme}://… is not known: give a folder, or {_MLFLOW}http://host:port for an MLflow server"
        )
    from tstune.registry.local_registry import LocalModelRegistry

    return LocalModelRegistry(place)


def load_saved_model(model: str | Path, registry: str | Path | None = None) -> BaseTimeSeriesFoundationModel:
    """Load a run folder, or ``registry:name@alias`` and ``registry:name:version`` from a model registry.

    Raises:
        CheckpointError: the folder is not a saved model.
        RegistryError: there is no such version, or it is damaged.
    """
    if str(model).startswith(PREFIX):
        return open_registry(registry).load(str(model).removeprefix(PREFIX))
    from tstune.models.registry import load_model

    return load_model(model)
