"""The training loop: one loop for every model, on whatever Accelerate was launched with."""

from __future__ import annotations

import math
import time
from collections.abc import Collection
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

from tstune.adapters import train_mode
from tstune.config.schema import TrainingSection
from tstune.data.windows import Batch, window_loader
from tstune.errors import TrainingError
from tstune.runtime.distributed import DistributedManager
from tstune.runtime.logs import logger
from tstune.training.callbacks import BestWeights, History, progress_bar
from tstune.training.lr_finder import LearningRateCurve, find_learning_rate
from tstune.training.optim import build_optimizer, learning_rate_factor
from tstune.training.weight_average import WeightAverage


class Trainable(Protocol):
    """What the loop needs from a model."""

    module: nn.Module
    parts: Collection[str]

    def window_losses(self, module: nn.Module, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """([batch] summed loss, [batch] weight) of each window; call `module`, it may be a wrapper."""


@dataclass(frozen=True)
class TrainingResult:
    """What training did.

    Attributes:
        num_steps: optimizer steps taken.
        num_epochs: passes begun.
        best_step: step whose weights were kept; 0 are the weights training started from.
        best_validation_loss: scaled units.
        stopped_early: the patience ran out.
        learning_rate: peak learning rate.
        lr_curve: what the learning-rate finder saw, if it ran.
        seconds: wall time, validation included.
        windows_per_second: training windows of all processes per second of training, validation excluded.
        history: rows as in `history.jsonl`.
    """

    num_steps: int
    num_epochs: int
    best_step: int
    best_validation_loss: float
    stopped_early: bool
    learning_rate: float
    lr_curve: LearningRateCurve | None
    seconds: float
    windows_per_second: float
    history: list[dict]


def train(
    model: Trainable,
    train_windows: Dataset,
    validation_windows: Dataset,
    config: TrainingSection,
    manager: DistributedManager,
    seed: int,
    eval_batch_size: int = 256,
    history_path: Path | None = None,
    start_counts: bool = True,
    show_progress: bool = True,
) -> TrainingResult:
    """Train `model.module` in place and leave it with the weights of the lowest validation loss.

    Args:
        model: network and loss.
        train_windows, validation_windows: what to learn from, what to choose by.
        config: the `training` section.
        manager: process group.
        seed: order of the windows.
        eval_batch_size: windows per validation batch.
        history_path: JSONL file to append to; None keeps the history in memory.
        start_counts: the weights training starts from may be kept too; False for random ones.
        show_progress: draw a bar and log every validation.

    Raises:
        TrainingError: the loss is not a number any more.
    """
    accelerator = manager.accelerator
    curve, learning_rate = None, config.learning_rate
    if learning_rate == "auto":
        curve = find_learning_rate(model, train_windows, config, manager, seed)
        learning_rate = curve.suggestion
    if config.compile:
        model.module.compile()
    optimizer = build_optimizer(model.module, config, learning_rate, model.parts)
    average = WeightAverage(model.module, config.ema_decay) if config.ema_decay else None
    module, optimizer = accelerator.prepare(model.module, optimizer)
    loader = accelerator.prepare_data_loader(
        window_loader(train_windows, config.per_device_batch_size, True, seed, config.num_workers)
    )
    sampler = _epoch_sampler(loader)
    validation = accelerator.prepare_data_loader(window_loader(validation_windows, eval_batch_size))
    steps_per_epoch = math.ceil(len(loader) / config.gradient_accumulation_steps)
    total_steps = min(config.num_epochs * steps_per_epoch, config.max_steps or math.inf)
    eval_every = config.eval_every_steps or steps_per_epoch

    history = History(history_path if manager.is_main else None)
    best = BestWeights(config.early_stopping_patience)
    recent = _RunningLoss(manager)
    step = epoch = num_windows = 0
    seconds_validating = 0.0
    begin = time.perf_counter()

    def validate() -> None:
        nonlocal seconds_validating
        paused = time.perf_counter()
        with average.applied() if average else nullcontext():
            loss = validation_loss(model, module, validation, manager)
            if not math.isfinite(loss):
                raise TrainingError(_diverged("validation loss", loss, step, learning_rate))
            best.update(loss, step, _learning_state(manager, module))
        seconds_validating += time.perf_counter() - paused
        history.add(step=step, epoch=epoch, validation_loss=loss, best_step=best.best_step)
        if show_progress:
            logger.info("step %d: validation loss %.5f%s", step, loss, " (best)" if best.best_step == step else "")

    if start_counts:
        validate()
    with progress_bar(total_steps, manager.is_main and show_progress) as bar:
        while step < total_steps and not best.should_stop:
            sampler.set_epoch(epoch)
            epoch += 1
            train_mode(module)
            for batch in loader:
                with accelerator.accumulate(module):
                    factor = learning_rate_factor(config.scheduler, step, total_steps, config.warmup_fraction)
                    for group in optimizer.param_groups:
                        group["lr"] = learning_rate * factor * group["lr_factor"]
                    totals, weights = model.window_losses(module, batch)
                    loss = totals.sum() / _mean_over_ranks(manager, weights.sum()).clamp_min(1)
                    accelerator.backward(loss)
                    recent.add(totals, weights)
                    num_windows += len(totals)
                    grad_norm = None
                    if accelerator.sync_gradients and config.max_grad_norm is not None:
                        grad_norm = accelerator.clip_grad_norm_(module.parameters(), config.max_grad_norm)
                    optimizer.step()
                    optimizer.zero_grad()
                if not accelerator.sync_gradients:
                    continue
                step += 1
                bar.update()
                if average:
                    average.update()
                if step % config.log_every_steps == 0 or step == total_steps:
                    mean = recent.reset()
                    if not math.isfinite(mean):
                        raise TrainingError(_diverged("training loss", mean, step, learning_rate))
                    row = {"step": step, "epoch": epoch, "train_loss": mean, "learning_rate": learning_rate * factor}
                    if grad_norm is not None:
                        row["grad_norm"] = float(grad_norm)
                    history.add(**row)
                    bar.set_postfix(loss=f"{mean:.4f}", refresh=False)
                if step % eval_every == 0 or step == total_steps:
                    validate()
                    train_mode(module)
                if step >= total_steps or best.should_stop:
                    break
    seconds = time.perf_counter() - begin
    _restore(manager, module, best)
    model.module = manager.unwrap(module)
    model.module.eval()
    return TrainingResult(
        num_steps=step,
        num_epochs=epoch,
        best_step=best.best_step,
        best_validation_loss=best.best_loss,
        stopped_early=step < total_steps,
        learning_rate=learning_rate,
        lr_curve=curve,
        seconds=seconds,
        windows_per_second=num_windows * manager.num_processes / max(seconds - seconds_validating, 1e-9),
        history=history.rows,
    )


@torch.inference_mode()
def validation_loss(model: Trainable, module: nn.Module, loader: DataLoader, manager: DistributedManager) -> float:
    """Mean loss over all windows, each counted once on any number of ranks."""
    module.eval()
    total = weight = 0.0
    for batch in loader:
        totals, weights = manager.accelerator.gather_for_metrics(model.window_losses(module, batch))
        total += totals.double().sum().item()
        weight += weights.double().sum().item()
    return total / weight if weight else math.nan


class _RunningLoss:
    """Mean training loss since the last reset, over all ranks."""

    def __init__(self, manager: DistributedManager) -> None:
        self._manager = manager
        self._sums = torch.zeros(2, device=manager.device, dtype=torch.float64 if _has_float64(manager) else None)

    def add(self, totals: torch.Tensor, weights: torch.Tensor) -> None:
        self._sums += torch.stack([totals.detach().sum(), weights.sum()])

    def reset(self) -> float:
        total, weight = self._manager.accelerator.reduce(self._sums.clone(), "sum").tolist()
        self._sums.zero_()
        return total / weight if weight else math.nan


def _has_float64(manager: DistributedManager) -> bool:
    return manager.device.type != "mps"


def _mean_over_ranks(manager: DistributedManager, weight: torch.Tensor) -> torch.Tensor:
    """Mean weight per rank: gradients are averaged over ranks, so this makes the loss that of the global batch."""
    if manager.num_processes == 1:
        return weight
    return manager.accelerator.reduce(weight, "mean")


def _epoch_sampler(loader: DataLoader) -> object:
    """The `EpochBatchSampler` under Accelerate's shard."""
    sampler = loader.batch_sampler
    while not hasattr(sampler, "set_epoch") and hasattr(sampler, "batch_sampler"):
        sampler = sampler.batch_sampler
    return sampler


def _learning_state(manager: DistributedManager, module: nn.Module) -> dict[str, torch.Tensor]:
    unwrapped = manager.unwrap(module)
    learning = {name for name, parameter in unwrapped.named_parameters() if parameter.requires_grad}
    return {name: tensor for name, tensor in unwrapped.state_dict().items() if name in learning}


def _restore(manager: DistributedManager, module: nn.Module, best: BestWeights) -> None:
    unwrapped = manager.unwrap(module)
    unwrapped.load_state_dict(best.state, strict=False)


def _diverged(what: str, value: float, step: int, learning_rate: float) -> str:
    return (
        f"{what} is {value} at step {step}; lower training.learning_rate (now {learning_rate:g}), "
        "set training.max_grad_norm, or check the data for extreme values"
    )
