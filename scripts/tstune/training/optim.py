"""Optimizer groups and learning-rate schedules as plain functions of the step, so that resuming needs no state."""

from __future__ import annotations

import math

import torch
from torch import nn

from tstune.config.schema import TrainingSection


def build_optimizer(module: nn.Module, config: TrainingSection) -> torch.optim.AdamW:
    """AdamW over the learning parameters; biases and normalisation weights get no weight decay."""
    learning = [parameter for parameter in module.parameters() if parameter.requires_grad]
    groups = [
        {"params": [parameter for parameter in learning if parameter.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [parameter for parameter in learning if parameter.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=config.learning_rate,
        betas=(config.adam_beta1, config.adam_beta2),
    )


def learning_rate_factor(scheduler: str, step: int, total_steps: int, warmup_fraction: float) -> float:
    """Factor on the peak learning rate at optimizer step `step` (0 is the first).

    ``warmup_cosine`` rises linearly from 0 and falls along a half cosine to 0, as in transformers;
    ``one_cycle`` rises and falls along cosines from 1/25 to 1 to 1/250000, as in torch's `OneCycleLR`.
    """
    if scheduler == "constant":
        return 1.0
    if scheduler == "warmup_cosine":
        warmup = round(warmup_fraction * total_steps)
        if step < warmup:
            return step / max(1, warmup)
        return 0.5 * (1.0 + math.cos(math.pi * min(1.0, (step - warmup) / max(1, total_steps - warmup))))
    first, last = 1 / 25, 1 / 250_000
    peak = warmup_fraction * total_steps - 1.0
    if step <= peak:
        return _cosine(first, 1.0, step / peak if peak else 1.0)
    return _cosine(1.0, last, (step - peak) / max(1e-12, total_steps - 1.0 - peak))


def _cosine(begin: float, end: float, share: float) -> float:
    return end + (begin - end) / 2.0 * (1.0 + math.cos(math.pi * min(1.0, share)))
