"""The only place that creates an `Accelerator`, and that checks it is the one that was asked for."""

from __future__ import annotations

import os

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import DistributedType
from torch import nn

from tstune.config.schema import DistributedConfig
from tstune.errors import ConfigError, DistributedError

_STRATEGY = {
    DistributedType.NO: "none",
    DistributedType.MULTI_GPU: "ddp",
    DistributedType.MULTI_CPU: "ddp",
    DistributedType.FSDP: "fsdp",
    DistributedType.DEEPSPEED: "deepspeed",
}


class DistributedManager:
    """Starts Accelerate and compares what it gave with what the run asked for.

    Never trains something other than what was asked: a missing process or another strategy stops the run.

    Args:
        config: what the run needs.
        mixed_precision: ``no``, ``fp16``, ``bf16``, or None for what the launcher was given.
        gradient_accumulation_steps: batches per optimizer step.

    Raises:
        DistributedError: with the command line or key that mends it.
    """

    def __init__(
        self,
        config: DistributedConfig | None = None,
        mixed_precision: str | None = None,
        gradient_accumulation_steps: int = 1,
    ) -> None:
        self.config = config or DistributedConfig()
        launched = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
        if mixed_precision is not None and launched not in ("no", mixed_precision):
            raise DistributedError(
                f"training.mixed_precision={mixed_precision} but accelerate was launched with {launched}; "
                "set one of them, or both alike"
            )
        wanted = mixed_precision or launched
        on_cpu = not torch.cuda.is_available() or os.environ.get("ACCELERATE_USE_CPU", "").lower() == "true"
        if wanted == "fp16" and on_cpu:
            raise ConfigError("mixed precision fp16 needs a GPU; on a CPU set training.mixed_precision to bf16 or no")
        if AcceleratorState._shared_state and PartialState().num_processes == 1:
            AcceleratorState._reset_state()  # a second run in one Python session may use another precision
        self.accelerator = Accelerator(
            mixed_precision=wanted, gradient_accumulation_steps=gradient_accumulation_steps, cpu=on_cpu or None
        )
        self._check()

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

    def unwrap(self, module: nn.Module) -> nn.Module:
        """Return the network without the wrapper of the strategy."""
        if self.strategy == "none":
            return module  # Accelerate's own way imports DeepSpeed to find this out
        return self.accelerator.unwrap_model(module)

    def describe(self) -> str:
        """One line for the log."""
        precision = self.accelerator.mixed_precision
        return (
            f"{self.num_processes} process(es), strategy {self.strategy}, device {self.device}, precision {precision}"
        )

    def _check(self) -> None:
        config, found = self.config, self.num_processes
        announced = int(os.environ.get("WORLD_SIZE", "1"))
        if announced != found:
            raise DistributedError(
                f"the launcher announced {announced} processes (WORLD_SIZE) but Accelerate joined {found}: this would "
                "be several independent trainings; use a config file of accelerate_configs/ that fits this machine"
            )
        if config.world_size is not None and config.world_size != found:
            raise DistributedError(
                f"distributed.world_size={config.world_size} but {found} process(es) are running; "
                f"start with: accelerate launch --num_processes {config.world_size} …"
            )
        if config.enabled and found == 1:
            raise DistributedError(
                "distributed.enabled=true but one process is running; "
                "start with: accelerate launch --config_file accelerate_configs/ddp.yaml --num_processes 2 …"
            )
        if config.enabled is not False and config.strategy not in (None, self.strategy):
            raise DistributedError(
                f"distributed.strategy={config.strategy} but Accelerate runs {self.strategy}; "
                "pick the matching file of accelerate_configs/"
            )
