"""How much memory weights, gradients and optimizer will take, before training starts."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import nn

from tstune.errors import ConfigError

_MIB = 2**20
_SHARDED = {
    "none": (),
    "ddp": (),
    "zero1": ("optimizer",),
    "zero2": ("optimizer", "gradients"),
    "zero3": ("optimizer", "gradients", "weights"),
    "fsdp": ("optimizer", "gradients", "weights"),
}


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes each process holds all through training; see `estimate_training_memory`."""

    weights: int
    gradients: int
    optimizer_states: int
    left_out: tuple[str, ...] = ("activations",)

    @property
    def total(self) -> int:
        """Sum of the three, in bytes."""
        return self.weights + self.gradients + self.optimizer_states

    def describe(self) -> str:
        """One line in MiB that also names what is left out."""
        mib = [f"{count / _MIB:.1f}" for count in (self.total, self.weights, self.gradients, self.optimizer_states)]
        return (
            f"{mib[0]} MiB per process (weights {mib[1]}, gradients {mib[2]}, optimizer {mib[3]}), "
            f"without {', '.join(self.left_out)}"
        )


def estimate_training_memory(
    module: nn.Module, optimizer_name: str, strategy: str, num_processes: int, precision: str
) -> MemoryEstimate:
    """Count what weights, gradients and optimizer take on each process. Buffers and activations are not counted.

    Autocast (none, ddp, fsdp) keeps the weights as they are. DeepSpeed (zero1 to zero3) holds them and the gradients
    in the half format and a float32 copy of the learning ones with the optimizer; stages 1 and 2 do so in float32 too.
    Sources: ZeRO (arXiv 1910.02054, section 3.1), DeepSpeed 0.19 `stage_1_and_2.py` and `stage3.py`,
    bitsandbytes 0.50 `Optimizer2State.init_state`, transformers 5 `Adafactor`.

    Args:
        module: before it is wrapped; parameters that need no gradient are frozen.
        optimizer_name: as `training.optimizer`.
        strategy: ``none``, ``ddp``, ``zero1``, ``zero2``, ``zero3`` or ``fsdp``.
        num_processes: processes that train together.
        precision: ``no``, ``fp16`` or ``bf16``.

    Raises:
        ConfigError: another strategy or optimizer.
    """
    if strategy not in _SHARDED:
        raise ConfigError(f"strategy {strategy!r} is not one of {', '.join(_SHARDED)}")
    is_zero, is_half = strategy.startswith("zero"), precision in ("fp16", "bf16")
    weights = gradients = optimizer = 0
    for parameter in module.parameters():
        count, size = parameter.numel(), parameter.element_size()
        if is_zero and is_half and parameter.is_floating_point():
            size = 2
        weights += count * size
        if parameter.requires_grad:
            gradients += count * size
            shape, state_size = ((count,), 4) if is_zero else (tuple(parameter.shape), size)  # ZeRO flattens
            optimizer += _state_bytes(optimizer_name, shape, state_size)
            optimizer += 4 * count if is_zero and (is_half or strategy != "zero3") else 0
    shares = [num_processes if part in _SHARDED[strategy] else 1 for part in ("weights", "gradients", "optimizer")]
    held = (math.ceil(total / share) for total, share in zip((weights, gradients, optimizer), shares, strict=True))
    left_out = ["activations"]
    if is_half and not is_zero:
        left_out.append("half-precision copies of the weights in use")
    if strategy == "ddp":
        left_out.append("DDP's buckets (as large as the gradients)")
    elif strategy != "none":
        left_out.append("communication buffers")
    if optimizer_name == "paged_adamw_8bit":
        left_out.append("any paging of the optimizer to the host")
    return MemoryEstimate(*held, left_out=tuple(left_out))


def _state_bytes(optimizer: str, shape: tuple[int, ...], size: int) -> int:
    """Bytes of an optimizer's state for a parameter of `shape` with `size` bytes per value."""
    count = math.prod(shape)
    if optimizer == "adamw":
        return 2 * count * size
    if optimizer == "sgd":  # momentum
        return count * size
    if optimizer == "adafactor":  # a row and a column for each matrix
        return size * (math.prod(shape[:-1]) + math.prod((*shape[:-2], shape[-1])) if len(shape) > 1 else count)
    if optimizer in ("adamw_8bit", "paged_adamw_8bit"):  # small parameters stay in float32; a scale per 256 values
        return 2 * 4 * count if count < 4096 else 2 * (count + 4 * math.ceil(count / 256))
    raise ConfigError(f"no memory estimate for training.optimizer={optimizer}")
