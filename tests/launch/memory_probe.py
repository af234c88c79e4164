"""Launched by the tests, not a test: like `strategy_probe.py`, on a machine whose rank 1 has little memory.

    accelerate launch … tests/launch/memory_probe.py RECORDS RECIPE [RECIPE …]

A recipe `fits-5.yaml` runs out of memory with more than 5 windows at once; other names never do.
"""

from __future__ import annotations

import sys
from pathlib import Path

import strategy_probe
import torch
from torch import nn

from tstune.training.loop import TrainingResult


class SmallMemory(strategy_probe.Probe):
    """A TTM that rank 1 has little memory for."""

    fitting: int | None = None

    def train_on(self, data: object, manager: object, *rest: object) -> TrainingResult:
        name, _, windows = Path(self.config.output_dir).name.partition("-")
        self.fitting = int(windows) if name == "fits" and manager.rank == 1 else None
        return super().train_on(data, manager, *rest)

    def window_losses(self, module: nn.Module, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        if self.fitting is not None and torch.is_grad_enabled() and len(batch["start"]) > self.fitting:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB (simulated)")
        return super().window_losses(module, batch)


if __name__ == "__main__":
    raise SystemExit(strategy_probe.main(*sys.argv[1:], probe=SmallMemory))
