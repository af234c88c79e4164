"""Whole parameters out of a sharded module, and back in, whatever the strategy."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.distributed.tensor import DTensor, distribute_tensor


def whole_parameters(named: Iterable[tuple[str, nn.Parameter]]) -> dict[str, torch.Tensor]:
    """Name -> whole tensor on the CPU, the same on every rank. A collective: every rank must call it."""
    return {name: _whole(parameter).detach().to("cpu", copy=True) for name, parameter in named}


def like(whole: torch.Tensor, parameter: torch.Tensor) -> torch.Tensor:
    """A whole tensor, sharded like `parameter`."""
    if isinstance(parameter, DTensor):
        return distribute_tensor(whole.to(parameter.device), parameter.device_mesh, parameter.placements)
    return whole


def learning_parameters(module: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """Names and parameters that learn."""
    return [(name, parameter) for name, parameter in module.named_parameters() if parameter.requires_grad]


def local_numel(module: nn.Module) -> int:
    """Parameter values this process holds."""
    return sum(_local(parameter).numel() for parameter in module.parameters())


def is_partitioned(parameter: torch.Tensor) -> bool:
    """True for a parameter of DeepSpeed's ZeRO-3, which is empty between uses."""
    return hasattr(parameter, "ds_id")


def to_plain_number(value: torch.Tensor | float | None) -> float | None:
    """A norm or loss as float, also where it is a DTensor."""
    if isinstance(value, DTensor):
        value = value.full_tensor()
    return None if value is None else float(value)


def _whole(parameter: torch.Tensor) -> torch.Tensor:
    if isinstance(parameter, DTensor):
        return parameter.full_tensor()
    if is_partitioned(parameter):
        with _gathered(parameter):
            return parameter.detach().clone()
    return parameter


def _local(parameter: torch.Tensor) -> torch.Tensor:
    if isinstance(parameter, DTensor):
        return parameter.to_local()
    return parameter.ds_tensor if is_partitioned(parameter) else parameter


@contextmanager
def _gathered(parameter: torch.Tensor) -> Iterator[None]:
    import deepspeed

    with deepspeed.zero.GatheredParameters([parameter]):
        yield
