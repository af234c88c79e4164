"""Launched by the tests, not a test: trains recipes and writes down what each rank did.

    accelerate launch … tests/launch/strategy_probe.py RECORDS RECIPE [RECIPE …]

Each recipe is a run of its own in the same processes; `RECORDS/<recipe>-rank<rank>.json` tells about it.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from torch import nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor

from tstune import TTMForecaster
from tstune.config.managers import SimpleConfigManager
from tstune.errors import EXIT_OK, exits_cleanly
from tstune.models.base import BaseTimeSeriesFoundationModel
from tstune.models.registry import model_class
from tstune.runtime.distributed import DistributedManager, is_partitioned
from tstune.runtime.logs import setup_logging


def _local(parameter: torch.Tensor) -> torch.Tensor:
    if isinstance(parameter, DTensor):
        return parameter.to_local()
    return parameter.ds_tensor if is_partitioned(parameter) else parameter


class Noting:
    """Put before a model's class: it notes what it is trained with."""

    def __init__(self, *arguments: object) -> None:
        super().__init__(*arguments)
        self.record: dict[str, object] = {"windows": [], "fillers": []}

    def train_on(self, data: object, manager: DistributedManager, *rest: object) -> object:
        learning = [parameter for parameter in self.module.parameters() if parameter.requires_grad]
        self.record |= {
            "epoch": data.train.starts(range(len(data.train))).tolist(),
            "world_size": manager.num_processes,
            "rank": manager.rank,
            "strategy_name": manager.strategy_name,
            "whole_values": sum(parameter.numel() for parameter in self.module.parameters()),
            "learning_values": sum(parameter.numel() for parameter in learning),
        }
        return super().train_on(data, manager, *rest)

    def window_losses(self, module: nn.Module, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        if torch.is_grad_enabled():  # validation and scores run without
            self._note(module, batch)
        return super().window_losses(module, batch)

    def _note(self, module: nn.Module, batch: dict[str, torch.Tensor]) -> None:
        real = batch["future_observed_mask"].flatten(1).any(dim=1)  # the series have no gaps: only a filler has none
        self.record["windows"].append(batch["start"][real].tolist())
        self.record["fillers"].append(batch["start"][~real].tolist())
        self.record |= {
            "module": type(module).__name__,
            "local_values": sum(_local(parameter).numel() for parameter in module.parameters()),
            "wrapped_blocks": sum(isinstance(block, FSDPModule) for block in self._blocks(module)),
            "blocks": len(self._blocks(module)),
            "optimizer_values": _zero_partition(module),
        }

    def _blocks(self, module: nn.Module) -> list[nn.Module]:
        return [part for part in module.modules() if type(part).__name__.removeprefix("FSDP") in self.block_classes]


class Probe(Noting, TTMForecaster):
    """A TTM that notes what it is trained with."""


def probe_of(family: str) -> type[BaseTimeSeriesFoundationModel]:
    """The same for any family."""
    return Probe if family == "ttm" else type("Probe", (Noting, model_class(family)), {})


def _zero_partition(module: nn.Module) -> int | None:
    """Values of which this rank holds the optimizer's state under ZeRO-1 and 2, else None."""
    partitions = getattr(getattr(module, "optimizer", None), "single_partition_of_fp32_groups", None)
    return None if partitions is None else sum(partition.numel() for partition in partitions)


def run(model: Noting, manager: DistributedManager, record: Path) -> None:
    """Train one recipe and write its record."""
    results = model.fit(output_dir=model.config.output_dir, manager=manager)
    training, forecast = results["training"], model.predict(model.config.data.path)
    model.record |= {"history": training.history if training else [], "metrics": results["metrics"]}
    model.record["forecast"] = forecast[model.preprocessor.roles.target[0]].tolist()
    record.write_text(json.dumps(model.record), encoding="utf-8")


@exits_cleanly
def main(records: str, *recipes: str, probe: type[Probe] | None = None) -> int:
    setup_logging()
    configs = {Path(recipe).stem: SimpleConfigManager().load_config(recipe) for recipe in recipes}
    first = next(iter(configs.values()))
    manager = DistributedManager(first.distributed, first.training.mixed_precision)
    for name, config in configs.items():
        run((probe or probe_of(config.model.type))(config), manager, Path(records) / f"{name}-rank{manager.rank}.json")
    return EXIT_OK


if __name__ == "__main__":
    raise SystemExit(main(*sys.argv[1:]))
