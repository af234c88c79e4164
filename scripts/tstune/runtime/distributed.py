"""Processes and their strategy: what was asked for, what Accelerate gave, and the same calls for every strategy.

Also whole parameters out of a sharded module, and back in.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Collection, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from datetime import timedelta
from pathlib import Path

import psutil
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import DistributedType, broadcast_object_list, send_to_device
from torch import nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor, distribute_tensor

from tstune.config.schema import DistributedConfig, RunConfig
from tstune.errors import ConfigError, DistributedError, MissingDependencyError
from tstune.runtime.logs import logger

_AMPERE = 8
"""First major compute capability with bf16 and TF32 in hardware; older GPUs only emulate bf16, slowly."""
_BF16_INSTRUCTIONS = {"avx512_bf16", "amx_bf16", "bf16"}
"""Flags of processors that have it; the last is Arm's."""


def compute_capability(device: torch.device) -> tuple[int, int] | None:
    """(major, minor) of an NVIDIA GPU; None for anything else, AMD included."""
    if device.type != "cuda" or torch.version.hip is not None:
        return None
    return torch.cuda.get_device_capability(device)


def supported_formats(device: torch.device) -> dict[str, bool]:
    """Whether ``bf16`` and ``fp16`` may be used as mixed precision here, and whether ``tf32`` exists.

    As `torch.cuda.is_bf16_supported(including_emulation=False)`, but for this device rather than the current one; a CPU
    has bf16 if its instructions have, and never fp16. AMD GPUs are not claimed to have TF32. On MPS runs nothing of
    this project, so nothing is claimed.
    """
    capability = compute_capability(device)
    ampere = capability is not None and capability[0] >= _AMPERE
    amd = device.type == "cuda" and capability is None
    native = device.type == "cpu" and cpu_has_bf16()
    return {"bf16": ampere or amd or native, "fp16": device.type == "cuda", "tf32": ampere}


def cpu_has_bf16() -> bool:
    """True if this processor multiplies bf16 itself; others emulate it, several times slower than float32."""
    path = Path("/proc/cpuinfo")
    return path.is_file() and not _BF16_INSTRUCTIONS.isdisjoint(path.read_text(encoding="utf-8").split())


def choose_precision(device: torch.device, wanted: str | None, fallback: bool = False) -> str | None:
    """Turn ``auto`` into what suits the device: bf16 on GPUs from compute capability 8 on, fp16 on older ones, else no.

    Anything else is returned as it is; None means what `accelerate launch` was given. fp16 without a GPU is a
    `ConfigError`, unless `fallback` takes what ``auto`` takes there.
    """
    on_gpu = device.type == "cuda"
    if wanted == "auto":
        return "no" if not on_gpu else "bf16" if supported_formats(device)["bf16"] else "fp16"
    emulated = device.type == "cpu" and not cpu_has_bf16()
    if on_gpu or not (wanted == "fp16" or (wanted == "bf16" and emulated)):
        return wanted
    lack = "fp16 needs a GPU" if wanted == "fp16" else "this processor only emulates bf16, several times slower"
    allow = "training.precision_fallback=true"
    if fallback:
        logger.warning("%s: float32 runs instead, as %s allows", lack, allow)
        return "no"
    if wanted == "bf16":
        logger.warning("%s than float32: set training.mixed_precision=no, or %s", lack, allow)
        return wanted
    others = "no" if emulated else "bf16 or no"
    raise ConfigError(
        f"mixed precision {lack}; on a {device.type.upper()} set training.mixed_precision to {others}, or {allow} to "
        "run float32 wherever fp16 is missing"
    )


def allow_tf32(device: torch.device, enabled: bool) -> bool:
    """Let float32 matrix products and convolutions round their factors to 10 bits (TF32), or not; False without TF32.

    Sets torch's `allow_tf32` flags and not the newer `fp32_precision`: in torch 2.11 the former set both, while after
    the latter `torch.compile` still reads the former and stops (pytorch/pytorch#166387, #189955).
    """
    if not supported_formats(device)["tf32"]:
        return False
    torch.backends.cuda.matmul.allow_tf32 = enabled
    torch.backends.cudnn.allow_tf32 = enabled
    return True


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


def refuse_ranks(what: str, why: str = "several would send and pay for the same windows") -> None:
    """Stop where a launcher started several processes of what is not for several, and say why."""
    ranks = os.environ.get("WORLD_SIZE", "1")
    if ranks != "1":
        raise DistributedError(
            f"WORLD_SIZE={ranks}: {what} is for one process, {why}; start it with python instead of accelerate launch"
        )


_STRATEGY = {
    DistributedType.NO: "none",
    DistributedType.MULTI_GPU: "ddp",
    DistributedType.MULTI_CPU: "ddp",
    DistributedType.FSDP: "fsdp",
    DistributedType.DEEPSPEED: "deepspeed",
}


class DistributedManager:
    """Starts Accelerate and compares what it gave with what the run asked for.

    Never trains something other than what was asked: a missing process or another strategy stops the run, with the
    command line or key that mends it. Mixed precision is ``no``, ``fp16``, ``bf16``, ``auto`` for what suits the
    hardware unless the launcher was given one, or None for what the launcher was given; see `choose_precision`.
    """

    def __init__(
        self,
        config: DistributedConfig | None = None,
        mixed_precision: str | None = None,
        precision_fallback: bool = False,
    ) -> None:
        self.config = config or DistributedConfig()
        self._meetings = 0
        self.rehearsal = is_rehearsal()
        if _launched_with("DEEPSPEED") and importlib.util.find_spec("deepspeed") is None:
            raise MissingDependencyError("this accelerate config needs DeepSpeed: pip install deepspeed")
        on_cpu = not torch.cuda.is_available() or wants_cpu()
        device = torch.device("cpu") if on_cpu else torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        launched = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
        if mixed_precision == "auto":
            mixed_precision = None if launched != "no" else choose_precision(device, "auto")
        if mixed_precision is not None and launched not in ("no", mixed_precision):
            raise DistributedError(
                f"training.mixed_precision={mixed_precision} but accelerate was launched with {launched}; "
                "set one of them, or both alike"
            )
        wanted = choose_precision(device, mixed_precision or launched, precision_fallback)
        if AcceleratorState._shared_state and PartialState().num_processes == 1:
            AcceleratorState._reset_state()  # a second run in one Python session may use another precision
        with rehearsing() if self.rehearsal else nullcontext():
            self.accelerator = Accelerator(mixed_precision=wanted, cpu=(on_cpu and not self.rehearsal) or None)
        _read_weights_whole()
        self.accelerator.gradient_accumulation_steps = 1  # the loop sums up micro-batches itself, see `accumulate`
        self._check()
        if self.rehearsal:
            logger.warning(
                "REHEARSAL: %s on %d CPU process(es). Sharding and steps are real, speed and memory are not; "
                "leave ACCELERATE_USE_CPU away to run on GPUs",
                self.strategy_name,
                self.num_processes,
            )

    @classmethod
    def for_run(cls, config: RunConfig) -> DistributedManager:
        """Start what a run asks for."""
        return cls(config.distributed, config.training.mixed_precision, config.training.precision_fallback)

    @property
    def is_main(self) -> bool:
        """True on the one process that prints and writes files."""
        return self.accelerator.is_main_process

    @property
    def device(self) -> torch.device:
        """Device of this process."""
        return self.accelerator.device

    @property
    def num_processes(self) -> int:
        """Processes that train together."""
        return self.accelerator.num_processes

    @property
    def strategy(self) -> str:
        """``none``, ``ddp``, ``fsdp`` or ``deepspeed``."""
        return _STRATEGY.get(self.accelerator.distributed_type, str(self.accelerator.distributed_type))

    @property
    def rank(self) -> int:
        """Number of this process among those that train together."""
        return self.accelerator.process_index

    @property
    def zero_stage(self) -> int:
        """Stage of DeepSpeed's ZeRO; 0 without DeepSpeed."""
        return self.accelerator.state.deepspeed_plugin.zero_stage if self.strategy == "deepspeed" else 0

    @property
    def strategy_name(self) -> str:
        """Like `strategy`, with the ZeRO stage."""
        return f"deepspeed (ZeRO-{self.zero_stage})" if self.zero_stage else self.strategy

    @property
    def is_sharded(self) -> bool:
        """True if `prepare` changes the module itself: keep a copy to use it afterwards."""
        return self.strategy in ("fsdp", "deepspeed")

    def prepare(
        self,
        module: nn.Module,
        optimizer: torch.optim.Optimizer,
        block_classes: Collection[str],
        batch_size: int,
        max_grad_norm: float | None,
    ) -> tuple[nn.Module, torch.optim.Optimizer]:
        """Wrap module and optimizer for the strategy, and make sure that it took hold.

        FSDP shards layers of the `block_classes` one by one; DeepSpeed has books of the batch size, and clips by
        itself.
        """
        if self.strategy == "fsdp":
            if not all(parameter.is_floating_point() for parameter in module.parameters()):
                raise DistributedError(
                    "model.quantization packs the base into whole numbers, which FSDP cannot cut into shards; set "
                    "model.quantization=none, or use accelerate_configs/ddp.yaml or deepspeed_zero3.yaml"
                )
            plugin = self.accelerator.state.fsdp_plugin
            plugin.transformer_cls_names_to_wrap = list(block_classes)
            plugin.cpu_ram_efficient_loading = False  # every rank has read the weights: they were scored and cached
        if self.strategy == "deepspeed":
            settings = self.accelerator.state.deepspeed_plugin.deepspeed_config
            settings["train_micro_batch_size_per_gpu"] = batch_size
            settings["train_batch_size"] = batch_size * self.num_processes
            settings["gradient_accumulation_steps"] = 1
            settings["gradient_clipping"] = max_grad_norm or 0.0
            settings.setdefault("zero_force_ds_cpu_optimizer", False)  # torch's AdamW needs no compiler
        self.accelerator.free_memory()  # forget what an earlier training of this session prepared
        module, optimizer = self.accelerator.prepare(module, optimizer)
        _read_weights_whole()
        self._check_sharding(module, block_classes)
        return module, optimizer

    def accumulate(self, module: nn.Module, is_last: bool) -> AbstractContextManager:
        """Around forward and backward of a micro-batch; ranks exchange gradients in the last one only."""
        self.accelerator.gradient_state._set_sync_gradients(is_last)
        return nullcontext() if is_last else self.accelerator.no_sync(module)

    def clip_gradients(self, module: nn.Module, max_norm: float | None) -> float | None:
        """Clip the gradients' common norm and return what it was; None if nothing is clipped."""
        if max_norm is None:
            return None
        return to_plain_number(self.accelerator.clip_grad_norm_(module.parameters(), max_norm))

    def to_device(self, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Move a batch to this process's device."""
        return send_to_device(batch, self.device, non_blocking=True)

    def mean(self, values: torch.Tensor) -> torch.Tensor:
        """Mean over the ranks, element by element."""
        return values if self.num_processes == 1 else self.accelerator.reduce(values, "mean")

    def from_main(self, value: object) -> object:
        """The main process's value, on every rank."""
        return broadcast_object_list([value])[0] if self.num_processes > 1 else value

    def all_agree(self, yes: bool) -> bool:
        """True if it is True on every rank."""
        return self.mean(torch.tensor(float(yes), device=self.device)).item() == 1.0

    def wait(self) -> None:
        """Wait until every rank is here."""
        self.accelerator.wait_for_everyone()

    def wait_for_main(self) -> None:
        """Wait, for days if need be, until the main process is here too: it may upload for long.

        No barrier, which would give up after minutes and take the others down.
        """
        if self.num_processes == 1:
            return
        self._meetings += 1
        key, store = f"tstune/main/{self._meetings}", torch.distributed.distributed_c10d._get_default_store()
        if self.is_main:
            store.set(key, "here")
        else:
            store.wait([key], timedelta(days=7))

    def unwrap(self, module: nn.Module) -> nn.Module:
        """Return the network without the wrapper of the strategy."""
        if self.strategy == "none":
            return module  # Accelerate's own way imports DeepSpeed to find this out
        return self.accelerator.unwrap_model(module)

    def describe(self) -> str:
        """One line for the log."""
        precision = self.accelerator.mixed_precision
        return (
            f"{self.num_processes} process(es), strategy {self.strategy_name}, device {self.device}, "
            f"precision {precision}"
        )

    def _check_sharding(self, module: nn.Module, block_classes: Collection[str]) -> None:
        if self.strategy == "fsdp":
            blocks = [child for child in module.modules() if type(child).__name__.removeprefix("FSDP") in block_classes]
            whole = [child for child in blocks if not isinstance(child, FSDPModule)]
            if not blocks or whole:
                raise DistributedError(
                    f"FSDP sharded {len(blocks) - len(whole)} of {len(blocks)} blocks ({', '.join(block_classes)}); "
                    "only the root would be sharded: use accelerate_configs/fsdp2.yaml"
                )
        if self.zero_stage == 3 and not all(map(is_partitioned, self.unwrap(module).parameters())):
            raise DistributedError("ZeRO-3 left parameters whole; use accelerate_configs/deepspeed_zero3.yaml")

    def _check(self) -> None:
        config, found = self.config, self.num_processes
        announced = int(os.environ.get("WORLD_SIZE", "1"))
        for name, strategy in (("FSDP", "fsdp"), ("DEEPSPEED", "deepspeed")):
            if _launched_with(name) and self.strategy != strategy:
                raise DistributedError(
                    f"accelerate was launched for {name} but runs {self.strategy} on {self.device}: there is no GPU "
                    "here; put ACCELERATE_USE_CPU=true in front to rehearse it on CPU processes, or use "
                    "accelerate_configs/cpu.yaml or ddp.yaml"
                )
        if announced != found:
            raise DistributedError(
                f"the launcher announced {announced} processes (WORLD_SIZE) but Accelerate joined {found}: this would "
                "be several independent trainings; use a config file of accelerate_configs/ that fits this machine"
            )
        if self.strategy == "fsdp" and not self.accelerator.is_fsdp2:
            raise DistributedError("FSDP 1 is not supported: set fsdp_version: 2, as in accelerate_configs/fsdp2.yaml")
        if config.enabled is False:
            return
        if found == 1 and _asked_for_several():
            raise DistributedError(
                "accelerate launch was asked for several processes (MASTER_ADDR=127.0.0.1 says so) but its file starts "
                "one; start with: accelerate launch --config_file accelerate_configs/ddp.yaml --num_processes 2 … "
                "(without GPUs ACCELERATE_USE_CPU=true in front); for one process python will do, or "
                "distributed.enabled=false"
            )
        if config.world_size is not None and config.world_size != found:
            raise DistributedError(
                f"distributed.world_size={config.world_size} but {found} process(es) are running; "
                f"start with: accelerate launch --num_processes {config.world_size} "
                "--config_file accelerate_configs/ddp.yaml …"
            )
        if config.enabled and found == 1:
            raise DistributedError(
                "distributed.enabled=true but one process is running; "
                "start with: accelerate launch --config_file accelerate_configs/ddp.yaml --num_processes 2 …"
            )
        if config.strategy not in (None, self.strategy):
            raise DistributedError(
                f"distributed.strategy={config.strategy} but Accelerate runs {self.strategy}; "
                "pick the matching file of accelerate_configs/"
            )


def _asked_for_several() -> bool:
    """True if `accelerate launch` had a number of processes that its file ignores.

    Of that number nothing reaches the one process but the address at which the others would have met. A job script
    that sets an address for its own purposes names a node, or the launcher has it too.
    """
    launched = "ACCELERATE_MIXED_PRECISION" in os.environ and "RANK" not in os.environ
    if not launched or os.environ.get("MASTER_ADDR") != "127.0.0.1":
        return False
    with suppress(psutil.Error):
        return "MASTER_ADDR" not in psutil.Process(os.getppid()).environ()
    return True


def _read_weights_whole() -> None:
    """Under ZeRO-3 transformers would create every model in pieces; ours are scored before and after training."""
    if _launched_with("DEEPSPEED"):
        from transformers.integrations import unset_hf_deepspeed_config

        unset_hf_deepspeed_config()


def _launched_with(name: str) -> bool:
    return os.environ.get(f"ACCELERATE_USE_{name}", "").lower() == "true"


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


@contextmanager
def _gathered(parameter: torch.Tensor) -> Iterator[None]:
    import deepspeed

    with deepspeed.zero.GatheredParameters([parameter]):
        yield
