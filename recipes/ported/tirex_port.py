"""TiRex of NX-AI as a model by a dotted path; its network is that of its own package, with a licence of its own.

    pip install --no-deps 'tirex-ts>=1.4,<2'
    PYTHONPATH=recipes/ported python scripts/finetune_ttm.py --config recipes/ttm/cgm_sample/zero_shot.yaml \
        model.type=tirex_port:TiRex model.pretrained=NX-AI/TiRex

`model.pretrained` is the Hub id or a folder with its model.ckpt. Each target is a series of its own; quantiles with
forecast.method=quantile_head; head, bias and full learn by the pinball loss. Slow on a CPU, one patch after another.
"""

import json
from dataclasses import asdict
from pathlib import Path
from types import ModuleType
from typing import ClassVar

import torch
from safetensors.torch import load_model, save_model
from torch import nn

from tstune.data.table import Roles
from tstune.data.windows import Batch
from tstune.errors import ConfigError
from tstune.models.contract import optional_module
from tstune.models.modules import NetworkModule
from tstune.models.network_forecaster import QuantileForecaster
from tstune.models.network_weights import Architecture, require_context

PACKAGE = "tirex-ts>=1.4,<2"


def _library() -> ModuleType:
    return optional_module("tirex.models.tirex", "TiRex", PACKAGE)


class TiRexModule(NetworkModule):
    """Each target of each window is a series of its own, in units of the deviation of its context."""

    input_layer = None

    def __init__(self, network: nn.Module, roles: Roles, prediction_length: int) -> None:
        super().__init__(network, roles, prediction_length, prediction_length, tuple(network.config.quantiles))

    def forward(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Quantiles [batch, steps, targets, levels], rolled out as the library does it, loc and scale."""
        series = self.target_series(batch)
        loc, scale = self.plain.tokenizer.scaler.get_loc_scale(series)
        quantiles = (self.plain._forecast_tensor(series, self.num_steps) - loc[..., None]) / scale[..., None]
        quantiles = quantiles.unflatten(0, (-1, self.num_targets)).permute(0, 3, 1, 2)
        return quantiles, loc.view(-1, 1, self.num_targets), scale.view(-1, 1, self.num_targets)


class TiRex(QuantileForecaster):
    """Weights of TiRex behind the common interface."""

    module_class = TiRexModule
    architecture = Architecture("TiRex", PACKAGE, "tirex.models.tirex:TiRexZero", "tirex.models.tirex:TiRexZeroConfig")
    parts: ClassVar[dict[str, str]] = {
        **dict.fromkeys(("input_patch_embedding", "blocks", "out_norm"), "backbone"),
        "output_patch_embedding": "head",
    }

    def save_weights(self, folder: Path) -> None:
        """JSON and safetensors in `model/`: what the library keeps in a pickle."""
        (folder / "model").mkdir(parents=True)
        known = asdict(self.module.plain.config)
        del known["nan_mask_value"]  # the library sets it itself
        values = {"train_ctx_len": known.pop("train_ctx_len"), "model_config": known}
        (folder / "model" / "config.json").write_text(json.dumps(values, indent=2), encoding="utf-8")
        save_model(self.module.plain, str(folder / "model" / "model.safetensors"))

    def _load(self, roles: Roles, pretrained: str | None = None, random_weights: bool = False) -> nn.Module:
        """The network of `model.pretrained`, or of a folder that `save_weights` wrote."""
        named = self.config.model.pretrained
        if self.config.tuning.mode in ("lora", "dora", "from_scratch") or not (pretrained or named):
            raise ConfigError("tirex_port: set model.pretrained, and tuning.mode=zero_shot, head, bias or full")
        if pretrained is not None:
            values = json.loads((Path(pretrained) / "config.json").read_text(encoding="utf-8"))
            network = _library().TiRexZero(backend="torch", **values)
            load_model(network, str(Path(pretrained) / "model.safetensors"))
            return network
        local = Path(named) / "model.ckpt"
        where = str(local) if local.is_file() else named
        network = _library().TiRexZero.from_pretrained(where, backend="torch", device="cpu")
        require_context(named, network.config.train_ctx_len, self.config.model.context_length)
        return network
