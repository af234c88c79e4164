"""Rehearse FSDP2 and DeepSpeed on CPU processes, before a GPU is paid for.

Accelerate has both strategies for accelerators only: on a CPU it ignores an FSDP file and starts independent
trainings. With `ACCELERATE_USE_CPU=true` this module tells it that the process group speaks gloo and that the
device is the CPU; everything after that is Accelerate's, PyTorch's and DeepSpeed's own code, so parameters are
really sharded and gradients really reduced. Measured with accelerate 1.15; a test notices when it changes.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from accelerate.state import PartialState
from accelerate.utils import DistributedType


def is_rehearsal() -> bool:
    """True if the launcher asked for FSDP or DeepSpeed, and for the CPU."""
    return wants_cpu() and (_flag("ACCELERATE_USE_FSDP") or _flag("ACCELERATE_USE_DEEPSPEED"))


@contextmanager
def rehearsing() -> Iterator[None]:
    """Create the `Accelerator` inside this context."""
    original, flag = PartialState._prepare_backend, os.environ["ACCELERATE_USE_CPU"]
    os.environ["ACCELERATE_TORCH_DEVICE"] = "cpu"
    os.environ["DS_ACCELERATOR"] = "cpu"
    PartialState._prepare_backend = lambda *_args, **_kwargs: ("gloo", DistributedType.MULTI_GPU)
    os.environ["ACCELERATE_USE_CPU"] = "false"  # it would rule both strategies out
    try:
        yield
    finally:
        os.environ["ACCELERATE_USE_CPU"] = flag
        PartialState._prepare_backend = original


def wants_cpu() -> bool:
    """True if the launcher was told to ignore GPUs."""
    return _flag("ACCELERATE_USE_CPU")


def _flag(name: str) -> bool:
    return os.environ.get(name, "").lower() in ("1", "true", "yes")
