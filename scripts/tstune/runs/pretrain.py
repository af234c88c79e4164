"""Pre-training: a model from random weights on generated series, to a run folder others can start from."""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from tstune.config.schema import DataSection, EvaluationSection, ForecastSection, RunConfig
from tstune.data.prepared import Preprocessor
from tstune.data.scaler import Scaler
from tstune.data.synthetic import FixedSyntheticWindows, SeriesRecipe, SyntheticWindows
from tstune.data.table import Roles
from tstune.errors import ConfigError
from tstune.models.contract import ForecastModel
from tstune.runs.folder import RunFolder
from tstune.runs.life import (
    guarded_tracker,
    keep_checkpoints,
    open_checkpoint_folder,
    plan_checkpoints,
    prepare_memory,
    remembered,
)
from tstune.runtime.distributed import DistributedManager
from tstune.runtime.environment import describe_environment, set_seed
from tstune.runtime.logs import logger, setup_logging
from tstune.runtime.memory import GPUManager
from tstune.runtime.signals import StopSignal
from tstune.tracking.interfaces import ExperimentTracker
from tstune.tracking.run import TRACKING_FILE, TrackedRun, remembered_run
from tstune.training.contract import TrainingResult
from tstune.training.losses import window_losses

_VALIDATION_SEED = 1_000_003
"""Added to the run's seed: series of the validation windows are of no training batch."""


@dataclass(frozen=True)
class SyntheticData:
    """What `train_on` needs: windows and how a table would be read."""

    train: SyntheticWindows
    validation: FixedSyntheticWindows
    preprocessor: Preprocessor
    manifest: dict


def pretrain(
    model: ForecastModel,
    output_dir: str | Path | None = None,
    overwrite: bool = False,
    manager: DistributedManager | None = None,
    resume: str | None = None,
    tracker: ExperimentTracker | None = None,
) -> dict:
    """Train a model on generated series and keep the weights of the lowest loss on generated validation series.

    Args:
        model: its configuration says lengths, steps and what the series are made of.
        output_dir, overwrite, manager, resume, tracker: as in `BaseTimeSeriesFoundationModel.fit`.

    Returns:
        ``losses`` {forecast: loss on the validation windows}: ``pretrained``, ``context_mean``, ``persistence`` ·
        ``parameters`` · ``training`` · ``output_dir`` · ``run_id``.

    Raises:
        ConfigError: a setting that pre-training cannot follow.
    """
    setup_logging()
    begin = time.perf_counter()
    config = model.config
    _check(config)
    manager = manager or DistributedManager(config.distributed, config.training.mixed_precision)
    logger.info(manager.describe())
    gpu = GPUManager(manager.device)
    gpu.allow_tf32(config.training.tf32)
    with StopSignal() as stop, RunFolder(output_dir, overwrite, manager.is_main, resumes=resume is not None) as run:
        checkpoint_folder = open_checkpoint_folder(output_dir, overwrite, resume, manager)
        data = generate_data(config, manager.num_processes)
        set_seed(config.seed)
        model.build(data.preprocessor)
        model.to(manager.device)
        parameters = model.get_model_info()
        run_id = remembered_run(checkpoint_folder) if resume and manager.is_main else None
        with (
            TrackedRun(guarded_tracker(tracker, config, manager), config, run_id) as tracked,
            remembered(checkpoint_folder, tracked),
        ):
            tracked.log_parameters(parameters)
            fingerprint = hashlib.sha256(json.dumps(data.manifest, sort_keys=True).encode()).hexdigest()
            checkpoints = plan_checkpoints(checkpoint_folder, config, resume, fingerprint, stop, manager)
            prepare_memory(model, manager, gpu)
            history_path = run.path / "history.jsonl" if run.path else None
            with gpu.phase("training"):
                training = model.train_on(data, manager, history_path, checkpoints, tracked)
            losses = {"pretrained": training.best_validation_loss} | _simple_losses(data, config)
            tracked.log_scores("validation", {name: {"loss": loss} for name, loss in losses.items()})
            results = {
                "losses": losses,
                "parameters": parameters,
                "training": training,
                "output_dir": None if output_dir is None else str(output_dir),
                "run_id": tracked.run_id,
            }
            if run.path is not None:
                environment = describe_environment(manager.device, manager.num_processes)
                environment["seconds"] = round(time.perf_counter() - begin, 2)
                environment |= {"peak_memory_mb": gpu.peak_memory(), "hardware": gpu.report(), "phases": gpu.phases}
                _write(run, model, data, results, environment)
                if tracked.is_tracked:
                    run.write_json(TRACKING_FILE, tracked.to_dict())
                with stop.deferred():
                    run.commit()
                    keep_checkpoints(checkpoint_folder, Path(output_dir))
                tracked.log_folder(Path(output_dir))
    manager.wait()
    return results


def generate_data(config: RunConfig, num_processes: int) -> SyntheticData:
    """The windows of a run: as many as its steps take, and those that choose the weights."""
    lengths = config.model.context_length, config.model.prediction_length
    training, pretraining = config.training, config.pretraining
    recipe = SeriesRecipe.from_dict(pretraining.series)
    per_step = training.per_device_batch_size * training.gradient_accumulation_steps * num_processes
    num_windows = training.max_steps * per_step
    logger.info("windows: train %d, validation %d, all generated", num_windows, pretraining.validation_windows)
    preprocessor = Preprocessor(
        roles=Roles(target=("value",)),
        frequency="h",
        max_gap=0,
        scaler=Scaler(torch.zeros(1).numpy(), torch.ones(1).numpy()),
        unit=None,
        timestamp_column="timestamp",
        timestamp_format=None,
        item_id_column=None,
        columns_as="items",
        on_duplicate="error",
    )
    manifest = {
        "source": "synthetic",
        "licence": "generated by this project",
        "seed": config.seed,
        "series": recipe.to_dict(),
        "windows": {"train": num_windows, "validation": pretraining.validation_windows},
    }
    return SyntheticData(
        SyntheticWindows(*lengths, num_windows, config.seed, recipe),
        FixedSyntheticWindows(*lengths, pretraining.validation_windows, config.seed + _VALIDATION_SEED, recipe),
        preprocessor,
        manifest,
    )


def _check(config: RunConfig) -> None:
    """Refuse settings that would be passed over in silence."""
    if config.model.pretrained is not None or config.tuning.mode != "from_scratch":
        raise ConfigError("pre-training starts from random weights: leave out model.pretrained and tuning.mode")
    if config.training.max_steps is None or config.training.num_epochs != 1:
        raise ConfigError("the stream of series has no end: set training.max_steps, and training.num_epochs=1")
    if config.model.type != "ttm":
        raise ConfigError(f"model.type={config.model.type}: pre-training is for ttm")
    if config.training.context_dropping:
        raise ConfigError("training.context_dropping: generated series have whole contexts; leave it out")
    unused = {"data": DataSection(), "evaluation": EvaluationSection(), "forecast": ForecastSection()}
    for name, section in unused.items():
        if getattr(config, name) != section:
            raise ConfigError(f"{name}: pre-training generates its own series; leave this section out")


def _simple_losses(data: SyntheticData, config: RunConfig) -> dict[str, float]:
    """The same loss for two forecasts anyone can make, on the same windows."""
    batch = data.validation.__getitems__(range(len(data.validation)))
    future, observed = batch["future_values"], batch["future_observed_mask"]
    last = batch["past_values"][:, -1:].expand_as(future)
    losses = {}
    for name, forecast in {"context_mean": torch.zeros_like(future), "persistence": last}.items():
        totals, weights = window_losses(forecast, future, observed, config.training.loss, config.training.huber_delta)
        losses[name] = (totals.sum() / weights.sum()).item()
    return losses


def _write(run: RunFolder, model: ForecastModel, data: SyntheticData, results: dict, environment: dict) -> None:
    training: TrainingResult = results["training"]
    dropout = model.config.pretraining.saved_dropout
    for key in ("dropout", "head_dropout"):
        setattr(model.network.config, key, dropout)
    model.save(run.path)
    run.write_json("metrics.json", {"validation": {name: {"loss": loss} for name, loss in results["losses"].items()}})
    run.write_json("manifest.json", data.manifest)
    summary = {name: value for name, value in vars(training).items() if name not in ("history", "lr_curve")}
    run.write_json("environment.json", environment | {"parameters": results["parameters"], "training": summary})
    losses = "\n".join(f"| {name} | {loss:.4f} |" for name, loss in results["losses"].items())
    text = f"""# Weights pre-trained on generated series

{results["parameters"]["total"]:,} parameters, {model.config.model.context_length} steps in,
{model.config.model.prediction_length} out. {training.num_steps:,} steps, {training.windows_per_second:.0f} windows/s,
{environment["seconds"] / 60:.0f} min on {environment["device"]} with {environment["num_processes"]} process(es); seed
{model.config.seed}, commit {environment["git_commit"] or "unknown"}.
The weights are those of step {training.best_step:,}.

| forecast of the generated validation windows | {model.config.training.loss} loss |
|---|---|
{losses}

Start from them with `model.pretrained=<this folder>/model`.
"""
    (run.path / "README.md").write_text(text, encoding="utf-8")
