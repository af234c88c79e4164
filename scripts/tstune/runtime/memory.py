"""What the device is and has, what training will hold, what each phase needed, and what to do when it is not enough."""

from __future__ import annotations

import math
import platform
import re
import resource
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch
from accelerate.utils.memory import clear_device_cache
from torch import nn

from tstune.errors import ConfigError, TrainingError
from tstune.runtime.distributed import allow_tf32, choose_precision, compute_capability, supported_formats

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


_OUT_OF_MEMORY = (  # accelerate's should_reduce_batch_size misses some, and takes cuDNN's NOT_SUPPORTED for one
    "out of memory",  # CUDA, HIP, XPU, MPS
    "DefaultCPUAllocator: can't allocate memory",
    "DefaultCPUAllocator: not enough memory",
    "_STATUS_ALLOC_FAILED",  # cuBLAS, cuDNN
)


class GPUManager:
    """Memory and number formats of one device, GPU or CPU.

    Measuring a phase resets the peaks that the system and torch keep, so ask `peak_memory` for that of the run.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._phases: dict[str, dict[str, float]] = {}
        self._open: list[dict[str, float]] = []  # largest values so far of the phases we are in, outermost first
        self._before_reset: dict[str, float] = {}

    def report(self) -> dict:
        """What the device is: JSON values, memory in MiB. Without a GPU the memory is that of the machine."""
        on_gpu, machine = self.device.type == "cuda", psutil.virtual_memory()
        free, total = torch.cuda.mem_get_info(self.device) if on_gpu else (machine.available, machine.total)
        capability = compute_capability(self.device)
        return {
            "type": self.device.type,
            "name": torch.cuda.get_device_name(self.device) if on_gpu else platform.processor() or self.device.type,
            "visible_gpus": torch.cuda.device_count(),
            "total_memory_mib": total / _MIB,
            "free_memory_mib": free / _MIB,
            "compute_capability": None if capability is None else f"{capability[0]}.{capability[1]}",
            **supported_formats(self.device),
        }

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Measure what happens inside. Phases may be nested; of one entered again memory is the largest, times add."""
        own_peak = self._reset_peaks()
        begin, begin_host = time.perf_counter(), _resident()
        self._open.append({})
        try:
            yield
            if self.device.type == "cuda":
                torch.cuda.synchronize(self.device)
        finally:
            peaks = _larger(self._open.pop(), self._peaks())
            if self._open:
                self._open[-1] = _larger(self._open[-1], peaks)
            host = "host_peak_mib" if own_peak else "host_peak_since_process_start_mib"
            found = {"host_begin_mib": begin_host, "host_end_mib": _resident(), host: peaks["host"]}
            if "device" in peaks:
                found["device_peak_mib"] = peaks["device"]
            known = self._phases.get(name, {})
            seconds = time.perf_counter() - begin
            self._phases[name] = {**_larger(known, found), "seconds": known.get("seconds", 0.0) + seconds}

    @property
    def phases(self) -> dict[str, dict[str, float]]:
        """Of each finished phase: ``seconds``, ``host_begin_mib``, ``host_end_mib`` (resident memory, mapped files
        included), ``host_peak_mib``, and on a GPU ``device_peak_mib`` (allocated by torch on it).

        Where the system cannot reset its peak (not Linux, or /proc is read-only) the field is called
        ``host_peak_since_process_start_mib``, for that is what it is.
        """
        return {name: dict(values) for name, values in self._phases.items()}

    def peak_memory(self) -> dict[str, float]:
        """Largest memory so far in MiB, phases or not: ``host`` of this process, ``device`` of the GPU if any."""
        return _larger(self._before_reset, self._peaks())

    def choose_precision(self, wanted: str | None) -> str | None:
        """See `tstune.runtime.distributed.choose_precision`."""
        return choose_precision(self.device, wanted)

    def allow_tf32(self, enabled: bool) -> bool:
        """See `tstune.runtime.distributed.allow_tf32`."""
        return allow_tf32(self.device, enabled)

    @staticmethod
    def fit_batch_size(
        try_batch: Callable[[int], None], batch_size: int, agree: Callable[[bool], bool] = lambda fits: fits
    ) -> tuple[int, int]:
        """Halve the batch until one forward and backward pass fits into memory on every rank.

        On a CPU, Linux may end the process instead of refusing the memory; nothing helps against that.

        Args:
            try_batch: runs forward and backward on so many windows. On several ranks it must not communicate
                (`accelerator.no_sync`; FSDP and ZeRO-3 cannot), else the others wait for a rank that ran out of memory.
                Gradients, buffers and random states that it changes are the caller's to reset.
            batch_size: windows per device and batch that are wanted.
            agree: gets whether it fits here, returns whether it fits on every rank.

        Returns:
            Windows per micro-batch, and how many of them make up `batch_size` (the last may be smaller).

        Raises:
            TrainingError: a single window does not fit.
        """
        size = batch_size
        while not agree(_fits(try_batch, size)):
            clear_device_cache(garbage_collection=True)
            if size == 1:
                raise TrainingError(
                    f"out of memory even with one window at a time (training.per_device_batch_size={batch_size}): try "
                    "training.mixed_precision=bf16, tuning.mode=head or lora, training.optimizer=adamw_8bit, a shorter "
                    "model.context_length, fewer columns, or a device with more memory"
                )
            size = (size + 1) // 2
        return size, math.ceil(batch_size / size)

    @staticmethod
    def enable_gradient_checkpointing(module: nn.Module) -> None:
        """Recompute activations of a transformers model, or a wrapper around one, in the backward pass."""
        # Look at the class: peft passes attributes through, and its own name would not say which model it is.
        models = [part for part in module.modules() if hasattr(type(part), "supports_gradient_checkpointing")]
        model = models[0] if models else module
        if not getattr(model, "supports_gradient_checkpointing", False):
            raise ConfigError(
                f"training.gradient_checkpointing=true but {type(model).__name__} does not support it; set it to false"
            )
        # transformers 5.23 renamed it and warns about the old name
        enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
        enable({"use_reentrant": False})

    def _peaks(self) -> dict[str, float]:
        """In MiB, since the last reset."""
        peaks = {"host": max(_peak_resident(), _resident())}
        if self.device.type == "cuda":
            peaks["device"] = torch.cuda.max_memory_allocated(self.device) / _MIB
        return peaks

    def _reset_peaks(self) -> bool:
        """Begin to measure anew; True if that worked for the host too."""
        peaks = self._peaks()
        self._before_reset = _larger(self._before_reset, peaks)
        if self._open:
            self._open[-1] = _larger(self._open[-1], peaks)
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        return _reset_peak_resident()


def _fits(try_batch: Callable[[int], None], size: int) -> bool:
    try:
        try_batch(size)
        return True
    except Exception as error:  # gone after this block, and with it the frames that hold tensors
        if not is_out_of_memory(error):
            raise
        return False


def is_out_of_memory(error: Exception) -> bool:
    """Whether a smaller batch may help: memory ran out on a GPU, another accelerator or the CPU."""
    told = isinstance(error, RuntimeError) and any(text in str(error) for text in _OUT_OF_MEMORY)
    return told or isinstance(error, (torch.OutOfMemoryError, MemoryError))


def _larger(one: dict[str, float], other: dict[str, float]) -> dict[str, float]:
    return {**one, **other, **{key: max(one[key], other[key]) for key in one.keys() & other.keys()}}


def _resident() -> float:
    """Resident memory of this process now, in MiB."""
    return psutil.Process().memory_info().rss / _MIB


def _peak_resident() -> float:
    """Peak of the resident memory since the last reset, or since the process started, in MiB."""
    status = Path("/proc/self/status")  # not getrusage: its peak may be that of the process before exec
    if status.exists() and (found := re.search(r"^VmHWM:\s+(\d+) kB$", status.read_text(), re.MULTILINE)):
        return int(found[1]) / 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (_MIB if sys.platform == "darwin" else 2**10)


def _reset_peak_resident() -> bool:
    """Linux only: begin to measure the peak anew (proc_pid_clear_refs(5), value 5). False if it cannot be done."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True
