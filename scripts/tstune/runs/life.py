"""What a run does before and after training: checkpoints to go on from, memory, trackers."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tstune.config.dotted import dotted
from tstune.config.schema import RunConfig
from tstune.errors import ConfigError, OutputError, RegistryError
from tstune.models.contract import ForecastModel
from tstune.registry import open_registry
from tstune.runtime.distributed import DistributedManager
from tstune.runtime.logs import logger
from tstune.runtime.memory import GPUManager, estimate_training_memory
from tstune.runtime.signals import StopSignal
from tstune.tracking.composite import CompositeTracker, build_tracker
from tstune.tracking.composite import guarded as guard
from tstune.tracking.interfaces import ExperimentTracker
from tstune.tracking.run import TRACKING_FILE, TrackedRun, remember_run
from tstune.training.checkpoint import CheckpointStore
from tstune.training.contract import Checkpoints

_FREE_TO_CHANGE = (
    "training.checkpoint_every_steps",
    "training.checkpoint_every_minutes",
    "training.keep_checkpoints",
    "training.resume_from_checkpoint",
    "training.auto_batch_size",
    "training.num_workers",
    "data.path",
    "model.pretrained",
)
"""Settings that may differ when a run goes on: they do not change its result, or what they name is compared itself."""


def guarded_tracker(
    tracker: ExperimentTracker | None, config: RunConfig, manager: DistributedManager
) -> CompositeTracker:
    """Trackers that cannot stop the run, on the main process; none elsewhere."""
    if tracker is None or not manager.is_main:
        return build_tracker(config.tracking, manager.is_main)
    return tracker if isinstance(tracker, CompositeTracker) else guard([tracker], config.tracking)


@contextmanager
def remembered(checkpoint_folder: Path | None, tracked: TrackedRun) -> Iterator[None]:
    """Note the trackers' run beside its checkpoints, as long as there is something to go on with."""
    if checkpoint_folder is None or not tracked.is_tracked:
        yield
        return
    remember_run(checkpoint_folder, tracked)
    try:
        yield
    finally:
        if [path.name for path in _files(checkpoint_folder)] == [TRACKING_FILE]:
            shutil.rmtree(checkpoint_folder)


def _files(folder: Path) -> list[Path]:
    return list(folder.iterdir()) if folder.is_dir() else []


def keep_checkpoints(folder: Path | None, output_dir: Path) -> None:
    """Move the checkpoints of the finished run into its folder."""
    if folder is not None and any(path.name != TRACKING_FILE for path in _files(folder)):
        (folder / TRACKING_FILE).unlink(missing_ok=True)
        folder.rename(output_dir / "checkpoints")


def prepare_memory(model: ForecastModel, manager: DistributedManager, gpu: GPUManager) -> None:
    """Say what training will hold, and spend time for memory where asked."""
    if model.module is None:  # fitted in closed form, or by a service
        return
    training = model.config.training
    if training.gradient_checkpointing:
        gpu.enable_gradient_checkpointing(model.network)
    strategy = f"zero{manager.zero_stage}" if manager.zero_stage else manager.strategy
    precision = manager.accelerator.mixed_precision
    estimate = estimate_training_memory(model.module, training.optimizer, strategy, manager.num_processes, precision)
    logger.info("memory for training: %s", estimate.describe())


def open_checkpoint_folder(
    output_dir: str | Path | None, overwrite: bool, resume: str | None, manager: DistributedManager
) -> Path | None:
    """Where this run's checkpoints lie; those of an earlier run with this output_dir are not mixed in by accident."""
    if output_dir is None:
        if resume == "auto":
            raise ConfigError("training.resume_from_checkpoint=auto needs an output_dir, the checkpoints lie beside it")
        return None
    folder = Path(f"{output_dir}.checkpoints")
    if resume is None and manager.is_main and folder.is_dir():
        if not overwrite and any(path.name != TRACKING_FILE for path in _files(folder)):
            raise OutputError(
                f"{folder} holds checkpoints of an unfinished run: set training.resume_from_checkpoint=auto to go on, "
                "or overwrite=true to begin anew"
            )
        shutil.rmtree(folder)
    return folder


def plan_checkpoints(
    folder: Path | None,
    config: RunConfig,
    resume: str | None,
    data_fingerprint: str,
    stop: StopSignal,
    manager: DistributedManager,
) -> Checkpoints | None:
    """How this run writes checkpoints and goes on from one; None without a folder.

    A checkpoint is only gone on from with the same settings and, by `data_fingerprint`, the same data.
    """
    if folder is None:
        return None
    settings = config.training
    sections = config.model_dump(
        mode="json", include={"model", "data", "pretraining", "tuning", "lora", "training", "seed"}
    )
    identity = {name: value for name, value in dotted(sections) if name not in _FREE_TO_CHANGE}
    if config.forecast.quantiles and config.forecast.method == "quantile_head":  # its loss depends on the levels
        identity["forecast.quantiles"] = config.forecast.quantiles
    return Checkpoints(
        CheckpointStore(folder, settings.keep_checkpoints, manager),
        settings.checkpoint_every_steps,
        settings.checkpoint_every_minutes,
        resume,
        identity | {"readings": data_fingerprint},
        stop,
    )


def register_run(config: RunConfig, folder: Path) -> str | None:
    """Put a finished run into the model registry if the configuration names a model; returns ``name:version``.

    The run is done and stays, so a registry that fails now is a warning.
    """
    tracking = config.tracking
    if tracking.register_as is None:
        return None
    try:
        reference = open_registry(tracking.registry).register(folder, tracking.register_as).reference
    except RegistryError as error:
        logger.warning(
            "not registered (%s); try again: python scripts/manage_registry.py register %s --name %s",
            error,
            folder,
            tracking.register_as,
        )
        return None
    logger.info("registered as %s", reference)
    return reference
