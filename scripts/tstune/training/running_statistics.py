"""The means and variances that batch normalisation collects while training: no parameters, but part of the weights."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from tstune.runtime.distributed import DistributedManager


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
