"""Weights and optimizer of a run as files, whole or in shards, as the strategy has them."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from tstune.runtime.distributed import DistributedManager

_WEIGHTS, _OPTIMIZER, _SHARDS = "learning.safetensors", "optimizer.pt", "shards"


def save_training_state(
    folder: Path, module: nn.Module, optimizer: torch.optim.Optimizer, manager: DistributedManager
) -> None:
    """Write what training changes. A collective: every rank must call it.

    Without sharding the main process writes the learning parameters and buffers (a few hundred KB for an adapter)
    and the optimizer; FSDP and DeepSpeed write their shards through Accelerate.
    """
    if manager.is_sharded:
        manager.accelerator.save_state(str(folder / _SHARDS))
        return
    if manager.is_main:
        save_file(_changing(manager.unwrap(module)), folder / _WEIGHTS)
        scaler = manager.accelerator.scaler
        states = {"optimizer": optimizer.state_dict(), "scaler": scaler.state_dict() if scaler else None}
        torch.save(states, folder / _OPTIMIZER)


def load_training_state(
    folder: Path, module: nn.Module, optimizer: torch.optim.Optimizer, manager: DistributedManager
) -> None:
    """Read what `save_training_state` wrote, on every rank."""
    if manager.is_sharded:
        manager.wait()
        manager.accelerator.load_state(str(folder / _SHARDS))
        return
    bare = manager.unwrap(module)
    bare.load_state_dict(load_file(folder / _WEIGHTS), strict=False)
    states = torch.load(folder / _OPTIMIZER, map_location="cpu", weights_only=True)
    optimizer.load_state_dict(states["optimizer"])
    if states["scaler"] is not None:
        manager.accelerator.scaler.load_state_dict(states["scaler"])


def _changing(module: nn.Module) -> dict[str, torch.Tensor]:
    learning = {name for name, parameter in module.named_parameters() if parameter.requires_grad}
    # with every name of a shared parameter, which a file may hold once only
    parameters = {name for name, _ in module.named_parameters(remove_duplicate=False)}
    state = {name: value for name, value in module.state_dict().items() if isinstance(value, torch.Tensor)}
    return {name: value.contiguous() for name, value in state.items() if name in learning or name not in parameters}
