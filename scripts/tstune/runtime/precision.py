"""Number formats: which ones a device computes in, and which to train with."""

from __future__ import annotations

import torch

from tstune.errors import ConfigError

_AMPERE = 8
"""First major compute capability with bf16 and TF32 in hardware; older GPUs only emulate bf16, slowly."""


def compute_capability(device: torch.device) -> tuple[int, int] | None:
    """(major, minor) of an NVIDIA GPU; None for anything else, AMD included."""
    if device.type != "cuda" or torch.version.hip is not None:
        return None
    return torch.cuda.get_device_capability(device)


def supported_formats(device: torch.device) -> dict[str, bool]:
    """Whether ``bf16`` and ``fp16`` may be used as mixed precision here, and whether ``tf32`` exists.

    As `torch.cuda.is_bf16_supported(including_emulation=False)`, but for this device rather than the current one.
    A CPU computes bf16, often slowly, and refuses fp16. AMD GPUs are not claimed to have TF32. On MPS runs nothing
    of this project, so nothing is claimed.
    """
    capability = compute_capability(device)
    ampere = capability is not None and capability[0] >= _AMPERE
    amd = device.type == "cuda" and capability is None
    return {"bf16": ampere or amd or device.type == "cpu", "fp16": device.type == "cuda", "tf32": ampere}


def choose_precision(device: torch.device, wanted: str | None) -> str | None:
    """Turn ``auto`` into the mixed precision that suits the device.

    Args:
        device: where the training runs.
        wanted: ``auto``: bf16 on GPUs from compute capability 8 on, fp16 on older ones, no elsewhere.
            Anything else is returned as it is; None means what `accelerate launch` was given.

    Raises:
        ConfigError: fp16 without a GPU.
    """
    if wanted == "fp16" and device.type != "cuda":
        raise ConfigError(
            f"mixed precision fp16 needs a GPU; on a {device.type.upper()} set training.mixed_precision to bf16 or no"
        )
    if wanted != "auto":
        return wanted
    if device.type != "cuda":
        return "no"
    return "bf16" if supported_formats(device)["bf16"] else "fp16"


def allow_tf32(device: torch.device, enabled: bool) -> bool:
    """Let float32 matrix products and convolutions round their factors to 10 bits (TF32), or forbid it.

    Sets torch's `allow_tf32` flags and not the newer `fp32_precision`: in torch 2.11 the former set both, while
    after the latter `torch.compile` still reads the former and stops (pytorch/pytorch#166387, #189955).

    Returns:
        Whether the device has TF32. If not, nothing is changed.
    """
    if not supported_formats(device)["tf32"]:
        return False
    torch.backends.cuda.matmul.allow_tf32 = enabled
    torch.backends.cudnn.allow_tf32 = enabled
    return True
