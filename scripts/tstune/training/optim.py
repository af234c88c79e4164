"""Optimizers, schedules, averaged weights, and the learning-rate finder."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.data import Dataset

from tstune.config.schema import TrainingSection
from tstune.data.windows import window_loader
from tstune.errors import TrainingError
from tstune.models.adapters import part_of, train_mode
from tstune.runtime.distributed import DistributedManager, learning_parameters, like
from tstune.runtime.logs import logger

if TYPE_CHECKING:
    from tstune.models.contract import ForecastModel


def running_statistics(module: nn.Module) -> list[tuple[str, torch.Tensor]]:
    """Names and buffers of every batch normalisation; none for most networks."""
    return [
        (f"{name}.{key}" if name else key, buffer)
        for name, part in module.named_modules()
        if isinstance(part, _BatchNorm)
        for key, buffer in part.named_buffers(recurse=False)
    ]


@torch.no_grad()
def share_running_statistics(module: nn.Module, manager: DistributedManager) -> None:
    """Give every rank the mean of all ranks' statistics, each of which saw its own windows only. A collective."""
    if manager.num_processes > 1:
        for _, buffer in running_statistics(module):
            if buffer.is_floating_point():
                buffer.copy_(manager.mean(buffer.clone()))


class WeightAverage:
    """Keeps average = decay * average + (1 - decay) * weight for every learning parameter.

    Early in training the decay is min(decay, (1 + n) / (10 + n)) after n updates, so that the random start is
    forgotten quickly.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self._decay = decay
        self.updates = 0
        learning = learning_parameters(module)
        self._names = [name for name, _ in learning]
        self._learning = [parameter for _, parameter in learning]
        self._average = [parameter.detach().clone() for parameter in self._learning]

    @torch.no_grad()
    def update(self) -> None:
        """Take in the weights as they are now."""
        self.updates += 1
        decay = min(self._decay, (1 + self.updates) / (10 + self.updates))
        torch._foreach_lerp_(self._average, [p.detach() for p in self._learning], 1.0 - decay)

    def named(self) -> list[tuple[str, torch.Tensor]]:
        """Names and averages."""
        return list(zip(self._names, self._average, strict=True))

    @torch.no_grad()
    def restore(self, averages: dict[str, torch.Tensor], updates: int) -> None:
        """Go on from the averages of a checkpoint."""
        self.updates = updates
        for name, average in self.named():
            average.copy_(like(averages[name], average))

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Swap the averages in, and the weights back afterwards."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        for parameter, average in zip(self._learning, self._average, strict=True):
            kept = parameter.detach().clone()
            parameter.copy_(average)
            average.copy_(kept)


def build_optimizer(
    module: nn.Module, config: TrainingSection, learning_rate: float, parts: Collection[str]
) -> torch.optim.Optimizer:
    """Optimizer over the learning parameters.

    Biases and normalisation weights get no weight decay. Each group carries ``lr_factor``, the factor of
    its part of the model (`training.backbone_lr_factor` and so on, see `part_of`).
    """
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            factor = getattr(config, f"{part_of(name, parts)}_lr_factor", 1.0)
            groups.setdefault((factor, parameter.ndim >= 2), []).append(parameter)
    described = [
        {
            "params": parameters,
            "weight_decay": config.weight_decay if decays else 0.0,
            "lr": learning_rate * factor,
            "lr_factor": factor,
        }
        for (factor, decays), parameters in groups.items()
    ]
    return _create(config, described, learning_rate)


def _create(config: TrainingSection, groups: list[dict], learning_rate: float) -> torch.optim.Optimizer:
    betas = (config.adam_beta1, config.adam_beta2)
    if config.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=learning_rate, betas=betas, fused=True)
    if config.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=learning_rate, momentum=0.9)
    if config.optimizer == "adafactor":
        from transformers.optimization import Adafactor

        return Adafactor(groups, lr=learning_rate, relative_step=False, scale_parameter=False, warmup_init=False)
    import bitsandbytes as bnb

    on_cpu = groups[0]["params"][0].device.type == "cpu"
    if config.optimizer == "paged_adamw_8bit" and not on_cpu:
        return bnb.optim.PagedAdamW8bit(groups, lr=learning_rate, betas=betas)
    if config.optimizer == "paged_adamw_8bit":
        logger.warning("training.optimizer=paged_adamw_8bit: there is nothing to page on a CPU, this is adamw_8bit")
    return bnb.optim.AdamW8bit(groups, lr=learning_rate, betas=betas)


def learning_rate_factor(scheduler: str, step: int, total_steps: int, warmup_fraction: float) -> float:
    """Factor on the peak learning rate at optimizer step `step` (0 is the first), by a schedule of `SCHEDULES`."""
    return SCHEDULES[scheduler](step, total_steps, warmup_fraction)


def _warmup_cosine(step: int, total_steps: int, warmup_fraction: float) -> float:
    """Rises linearly from 0 and falls along a half cosine to 0, as in transformers."""
    warmup = round(warmup_fraction * total_steps)
    if step < warmup:
        return step / max(1, warmup)
    return 0.5 * (1.0 + math.cos(math.pi * min(1.0, (step - warmup) / max(1, total_steps - warmup))))


def _one_cycle(step: int, total_steps: int, warmup_fraction: float) -> float:
    """Rises and falls along cosines from 1/25 to 1 to 1/250000, as in torch's `OneCycleLR`."""
    first, last = 1 / 25, 1 / 250_000
    peak = warmup_fraction * total_steps - 1.0
    if step <= peak:
        return _cosine(first, 1.0, step / peak if peak else 1.0)
    return _cosine(1.0, last, (step - peak) / max(1e-12, total_steps - 1.0 - peak))


SCHEDULES = {"constant": lambda *_: 1.0, "warmup_cosine": _warmup_cosine, "one_cycle": _one_cycle}
"""`training.scheduler` -> factor by step, total steps and warm-up share; the names stand in the schema too."""


def _cosine(begin: float, end: float, share: float) -> float:
    return end + (begin - end) / 2.0 * (1.0 + math.cos(math.pi * min(1.0, share)))


LOWEST, HIGHEST, NUM_STEPS = 1e-6, 1e-1, 100
_SMOOTHING = 0.9
_GIVE_UP = 4.0  # stop when the loss is this many times its lowest value


@dataclass(frozen=True)
class LearningRateCurve:
    """Rates that were tried, the smoothed loss at each, and the suggestion."""

    learning_rates: list[float]
    losses: list[float]
    suggestion: float


def find_learning_rate(
    model: ForecastModel, windows: Dataset, config: TrainingSection, manager: DistributedManager, seed: int
) -> LearningRateCurve:
    """Suggest a peak learning rate; weights and random state are left as they were.

    The suggestion lies in the middle of the longest fall of the smoothed loss (the "valley" rule): the steepest
    point, the older rule, follows noise when the model is pretrained and the curve almost flat. Every process makes
    the same test on the same windows, so all agree.
    """
    module = model.module
    changing = [*learning_parameters(module), *running_statistics(module)]
    before = [(value, value.detach().clone()) for _, value in changing]
    rates, losses = [], []
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        optimizer = build_optimizer(module, config, LOWEST, model.parts)
        loader = window_loader(windows, config.per_device_batch_size, True, seed)
        train_mode(module)
        step, average, lowest = 0, 0.0, math.inf
        while step < NUM_STEPS:
            loader.batch_sampler.set_epoch(step)
            for batch in loader:
                rate = LOWEST * (HIGHEST / LOWEST) ** (step / (NUM_STEPS - 1))
                for group in optimizer.param_groups:
                    group["lr"] = rate * group["lr_factor"]
                batch = {name: tensor.to(manager.device) for name, tensor in batch.items()}
                totals, weights = model.window_losses(module, batch)
                loss = totals.sum() / weights.sum().clamp_min(1)
                loss.backward()
                if config.max_grad_norm is not None:
                    torch.nn.utils.clip_grad_norm_(module.parameters(), config.max_grad_norm)
                optimizer.step()
                optimizer.zero_grad()
                step += 1
                average = _SMOOTHING * average + (1 - _SMOOTHING) * loss.item()
                smooth = average / (1 - _SMOOTHING**step)
                rates.append(rate)
                losses.append(smooth)
                lowest = min(lowest, smooth)
                if step >= NUM_STEPS or not smooth < _GIVE_UP * lowest:
                    step = NUM_STEPS
                    break
    with torch.no_grad():
        for value, old in before:
            value.copy_(old)
    curve = LearningRateCurve(rates, losses, _valley(rates, losses))
    logger.info("learning-rate finder: %.2e after %d steps", curve.suggestion, len(rates))
    return curve


def _valley(rates: list[float], losses: list[float]) -> float:
    """Middle of the longest falling stretch: the longest decreasing subsequence, so that noise does not end it."""
    usable = np.flatnonzero(np.isfinite(losses))
    usable = usable[min(10, len(usable) // 2) :]  # the first values are hardly smoothed
    values = np.asarray(losses)[usable]
    length, before = np.ones(len(values), int), np.full(len(values), -1)
    for end in range(len(values)):
        earlier = np.flatnonzero(values[:end] > values[end])
        if earlier.size:
            before[end] = earlier[length[earlier].argmax()]
            length[end] = length[before[end]] + 1
    last = int(length.argmax())
    first = last
    while before[first] >= 0:
        first = int(before[first])
    if length[last] < 5:
        raise TrainingError("training.learning_rate=auto: the loss falls at no learning rate; give one, e.g. 1e-4")
    return float(rates[usable[(first + last) // 2]])
