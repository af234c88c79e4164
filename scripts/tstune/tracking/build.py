"""From names in a configuration to a tracker."""

from __future__ import annotations

import importlib
from pathlib import Path

from tstune.config.schema import TrackingSection
from tstune.errors import ConfigError
from tstune.tracking.composite import CompositeTracker
from tstune.tracking.interfaces import ExperimentTracker

TRACKERS = {
    "file": "tstune.tracking.simple_tracker:SimpleExperimentTracker",
    "mlflow": "tstune.tracking.mlflow_tracker:MLflowExperimentTracker",
    "wandb": "tstune.tracking.wandb_tracker:WandbExperimentTracker",
    "tensorboard": "tstune.tracking.tensorboard_tracker:TensorBoardExperimentTracker",
}
"""Name -> class."""


def build_tracker(tracking: TrackingSection, is_main: bool = True) -> CompositeTracker:
    """All trackers of a configuration behind one; none on the processes that are not the main one.

    Raises:
        ConfigError: an unknown name, one named twice, or a class that cannot be imported.
    """
    twice = {name for name in tracking.trackers if tracking.trackers.count(name) > 1}
    if twice:
        raise ConfigError(f"tracking.trackers: {', '.join(sorted(twice))} is named twice; name it once")
    return guarded([_build(name, tracking) for name in tracking.trackers] if is_main else [], tracking)


def _build(name: str, tracking: TrackingSection) -> ExperimentTracker:
    kind = tracker_class(name)
    try:
        return kind.from_config(tracking)
    except TypeError as error:  # abstract methods, or a constructor that from_config does not fit
        raise ConfigError(f"tracking.trackers: {name} cannot be built: {error}; see ExperimentTracker") from None


def guarded(trackers: list[ExperimentTracker], tracking: TrackingSection) -> CompositeTracker:
    """Trackers that cannot stop the training."""
    return CompositeTracker(trackers, Path(tracking.folder) / "backlog", tracking.retry_seconds, tracking.required)


def tracker_class(name: str) -> type[ExperimentTracker]:
    """The class behind a name of `TRACKERS` or behind ``package.module:Class``.

    Raises:
        ConfigError: unknown, not importable, or not an `ExperimentTracker`.
    """
    place = TRACKERS.get(name, name)
    module_name, _, class_name = place.partition(":")
    if not module_name or not class_name:
        raise ConfigError(
            f"tracking.trackers: unknown tracker {name!r}; use {', '.join(TRACKERS)}, "
            "or your own class as package.module:Class"
        )
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise ConfigError(
            f"tracking.trackers: {name} cannot be imported ({error}); is its folder on PYTHONPATH?"
        ) from None
    found = getattr(module, class_name, None)
    if not (isinstance(found, type) and issubclass(found, ExperimentTracker)):
        raise ConfigError(f"tracking.trackers: {name} is not a class derived from tstune's ExperimentTracker")
    return found
