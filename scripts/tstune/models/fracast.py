"""Fracast (fracast): one convolution shared by a ladder of scales; its 85,001 weights come in its package."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import torch
from torch import nn
from torch.nn import functional as F
from transformers import PreTrainedConfig, PreTrainedModel

from tstune.config.section import PACKAGED, FracastSection, ModelSection
from tstune.data.defaults import CONTEXTS
from tstune.data.table import Roles
from tstune.data.windows import Batch
from tstune.models.modules import NetworkModule
from tstune.models.network_forecaster import QuantileForecaster
from tstune.models.network_weights import Architecture, require_context, require_levels
from tstune.named_code import optional_module

TITLE, PACKAGE = "Fracast", "fracast>=0.1,<0.2"
_SMALLEST_SPAN = 1e-5


class FracastConfig(PreTrainedConfig):
    """The two sections of a config.json of fracast, and what transformers writes beside them."""

    model_type = "fracast"

    def __init__(self, model: dict | None = None, pyramid: dict | None = None, **others: object) -> None:
        self.model, self.pyramid = model or {}, pyramid or {"ratios": []}
        super().__init__(**others)


class FracastNetwork(PreTrainedModel):
    """Encoder and head of fracast under the names of its files, which its own `FracastModel` reads as well."""

    config_class = FracastConfig
    main_input_name = "values"

    def __init__(self, config: FracastConfig) -> None:
        super().__init__(config)
        library = optional_module("fracast._core.model", TITLE, PACKAGE)
        self.core, self.head = library.build_from_cfg({"model": config.model, "pyramid": config.pyramid})
        self.post_init()

    def forward(self, values: torch.Tensor, observed: torch.Tensor) -> torch.Tensor:
        """[rows, horizon, levels] from [rows, W] values of 0 to 1, 0 where nothing was observed."""
        hidden = self.core(values[:, None], observed[:, None], observed[:, None].to(values.dtype))
        return self.head.forward_horizon(hidden, last_obs=values[:, -1:], ctx=values, ctx_mask=observed)

    def _init_weights(self, module: nn.Module) -> None:
        """The library has drawn them."""


class FracastModule(NetworkModule):
    """Each target of each window is a series of its own, from its lowest reading (0) to its highest (1)."""

    input_layer = None

    def __init__(self, network: nn.Module, roles: Roles, prediction_length: int) -> None:
        known = network.config.model
        super().__init__(network, roles, prediction_length, int(known["horizon"]), tuple(known["quantiles"]))
        self.width = int(known["W"])

    def forward(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        quantiles, loc, scale = self.block(self.target_series(batch))
        shape = (-1, 1, self.num_targets)
        quantiles = quantiles[:, : self.num_steps].unflatten(0, (-1, self.num_targets)).transpose(1, 2)
        return quantiles, loc.view(shape), scale.view(shape)

    def block(self, series: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """One pass: quantiles [rows, horizon, levels], loc and scale [rows, 1] of [rows, steps] with NaN for gaps."""
        observed = ~series.isnan()
        some = observed.any(dim=1, keepdim=True)
        low = torch.where(observed, series, torch.inf).amin(dim=1, keepdim=True)
        high = torch.where(observed, series, -torch.inf).amax(dim=1, keepdim=True)
        loc = torch.where(some, low, 0.0)
        scale = torch.where(some, (high - low).clamp_min(_SMALLEST_SPAN), 1.0)
        values = torch.where(observed, (series - loc) / scale, 0.0)
        before = (self.width - series.shape[1], 0)
        return self.network(F.pad(values, before), F.pad(observed, before)), loc, scale


class FracastForecaster(QuantileForecaster):
    """Fracast behind the common interface; it reads targets only."""

    model_type = "fracast"
    title, library, section, module_class = TITLE, "fracast", FracastSection, FracastModule
    lora_targets = ("pw", "up", "down", "out_proj")
    max_series = 64  # each keeps a state of every step of its longest context
    parts: ClassVar[Mapping[str, str]] = {"core": "backbone", "head": "head"}
    architecture = Architecture(
        TITLE,
        PACKAGE,
        "tstune.models.fracast:FracastNetwork",
        "tstune.models.fracast:FracastConfig",
        dropout_key=None,
        also_named=("fracast",),
    )

    @classmethod
    def require_packages(cls) -> None:
        optional_module("fracast", TITLE, PACKAGE)

    @classmethod
    def loading_code(cls, place: str, preprocessor: dict, adapter: bool, base: str | None) -> list[str]:
        """Lines of Python that load what was published with fracast."""
        if adapter:
            return super().loading_code(place, preprocessor, adapter, base)
        lines = ["from fracast import FracastModel", ""]
        return [*lines, f'model = FracastModel.from_pretrained("{place}", weights="fp32")  # values in original units']

    def known_lengths(self) -> Sequence[tuple[int, None]]:
        """Any up to the longest context of the weights."""
        return [(context, None) for context in (2048, 1024, *CONTEXTS)]

    @classmethod
    def _check_config(cls, section: ModelSection, values: dict) -> None:
        require_context(section.pretrained, int(values["model"]["W"]), section.context_length)
        require_levels(section.pretrained, values["model"]["quantiles"])

    def _load(self, roles: Roles, pretrained: str | None = None, random_weights: bool = False) -> nn.Module:
        if pretrained is None and self.config.model.pretrained == PACKAGED:
            pretrained = str(Path(optional_module("fracast", TITLE, PACKAGE).__file__).parent / "weights")
        return super()._load(roles, pretrained, random_weights)

    def _unrolled(self, batch: Batch) -> torch.Tensor:
        """The median of each block is the context of the next, as the library has it."""
        module, found = self.module, []
        series, median = module.target_series(batch), module.levels.index(0.5)
        for _ in range(-(-self.config.model.prediction_length // module.native_length)):
            quantiles, loc, scale = module.block(series[:, -module.width :])
            found.append(quantiles * scale[..., None] + loc[..., None])
            series = torch.cat([series, found[-1][..., median]], dim=1)
        steps = torch.cat(found, dim=1)[:, : self.config.model.prediction_length]
        return steps.unflatten(0, (-1, module.num_targets)).transpose(1, 2).float()
