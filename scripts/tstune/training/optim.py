"""Optimizers by name, schedules as plain functions of the step, averages of weights."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from tstune.config.schema import TrainingSection
from tstune.models.adapters import part_of
from tstune.runtime.distributed import DistributedManager
from tstune.runtime.logs import logger
from tstune.runtime.sharding import learning_parameters, like


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
    its part of the model (`training.backbone_lr_factor` and so on).

    Args:
        module: network.
        config: the `training` section.
        learning_rate: peak learning rate.
        parts: names of the parts of the model, see `part_of`.
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


def _constant(step: int, total_steps: int, warmup_fraction: float) -> float:
    return 1.0


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


SCHEDULES = {"constant": _constant, "warmup_cosine": _warmup_cosine, "one_cycle": _one_cycle}
"""`training.scheduler` -> factor by step, total steps and warm-up share; the names stand in the schema too."""


def _cosine(begin: float, end: float, share: float) -> float:
    return end + (begin - end) / 2.0 * (1.0 + math.cos(math.pi * min(1.0, share)))
