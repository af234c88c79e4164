"""What Chronos-Bolt and Chronos-2 share: a module in two halves, their parts, and what their config.json must say."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import ClassVar

import torch
from pydantic import Field
from torch import nn

from tstune.config.section import ModelSection
from tstune.data.table import Roles
from tstune.data.windows import Batch
from tstune.errors import CheckpointError
from tstune.models.network_forecaster import NetworkModule, QuantileForecaster
from tstune.models.network_weights import Architecture, require_context, require_levels

CHRONOS = "chronos-forecasting>=2.3.2,<3"
"""The package of all Chronos families."""


class ChronosSection(ModelSection):
    """What all Chronos families have."""

    dropout: float | None = Field(None, ge=0, lt=1)
    """Dropout while tuning; null keeps the checkpoint's."""


class ChronosModule(NetworkModule):
    """A network of chronos-forecasting between our windows and quantiles in its normalised space: encode, then head.

    It normalises each series by its own context: `loc`, `scale`, and for Chronos-2 an arcsinh. Missing readings go in
    as NaN, which it masks; a zero would be a reading.
    """

    def __init__(self, network: nn.Module, roles: Roles, prediction_length: int, native_length: int) -> None:
        levels = tuple(network.chronos_config.quantiles)
        super().__init__(network, roles, prediction_length, native_length, levels)

    def forward(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Quantiles [batch, steps, targets, levels] in normalised space, loc and scale [batch, 1, targets]."""
        encoded = batch if "features" in batch else self.encode(batch)
        quantiles = self._through_head(encoded["features"])
        return quantiles[:, : self.num_steps], encoded["loc"], encoded["scale"]

    @abstractmethod
    def encode(self, batch: Batch) -> Batch:
        """First half: features [batch, targets, …, width], and what `normalise` and `has_scale` need."""

    @abstractmethod
    def _through_head(self, features: torch.Tensor) -> torch.Tensor:
        """[batch, native steps, targets, levels] from the features."""

    def normalise(self, values: torch.Tensor, loc: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        """Original units -> normalised space, [batch, steps, targets]."""
        return self.network.instance_norm(values, (loc, scale))[0]

    def in_original_units(self, values: torch.Tensor, loc: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        """Normalised space -> original units, [batch, steps, targets, levels] float32."""
        return self.network.instance_norm.inverse(values, (loc[..., None], scale[..., None]))

    def _encoded(self, features: torch.Tensor, loc: torch.Tensor, scale: torch.Tensor, batch: Batch) -> Batch:
        """What `encode` returns, from loc and scale [batch * channels, 1]."""
        by_window = (values.view(features.shape[0], -1) for values in (loc, scale))
        loc, scale = (values[:, None, : self.num_targets] for values in by_window)
        return {"features": features, "loc": loc, "scale": scale, "has_scale": self.has_scale(batch).float()}


class ChronosForecaster(QuantileForecaster):
    """A family of chronos-forecasting; its loss is the library's up to a constant factor (tested)."""

    library, script = CHRONOS.partition(">")[0], "finetune_chronos.py"
    lora_targets = ("q", "k", "v", "o", "output_patch_embedding.output_layer")
    parts: ClassVar[Mapping[str, str]] = {
        "shared": "backbone",
        "input_patch_embedding": "backbone",
        "encoder": "backbone",
        "decoder": "decoder",
        "output_patch_embedding": "head",
    }
    pipeline: ClassVar[str]
    """What forecasts with a checkpoint in the library."""

    @classmethod
    def _check_config(cls, section: ModelSection, values: dict) -> None:
        name, settings = section.pretrained, values.get("chronos_config")
        if not isinstance(settings, dict):
            raise CheckpointError(
                f"model.pretrained={name} is a {cls.architecture.network.rpartition(':')[2]} without chronos_config, "
                f"not a {cls.title} checkpoint; use another checkpoint"
            )
        longest, levels = (settings.get(key) for key in ("context_length", "quantiles"))
        if not isinstance(longest, int) or not isinstance(levels, list):
            raise CheckpointError(
                f"model.pretrained={name}: chronos_config in its config.json names no lengths and levels"
            )
        require_context(name, longest, section.context_length)
        require_levels(name, levels)

    @classmethod
    def loading_code(cls, place: str, preprocessor: dict, adapter: bool, base: str | None) -> list[str]:
        """Lines of Python that load what was published with chronos-forecasting."""
        lines = [f"from chronos import {cls.pipeline}", ""]
        if not adapter:
            return [
                *lines,
                f'pipeline = {cls.pipeline}.from_pretrained("{place}")  # values in original units, in and out',
            ]
        return [
            *lines,
            "from peft import PeftModel",
            f'pipeline = {cls.pipeline}.from_pretrained("{base}")',
            f'pipeline.model = PeftModel.from_pretrained(pipeline.model, "{place}").merge_and_unload()',
        ]


def chronos_architecture(title: str, network: str, config: str) -> Architecture:
    """How a family of chronos-forecasting is loaded that has `chronos_config` and forecasts quantiles."""
    return Architecture(title, CHRONOS, network, config, required=("input_patch_embedding.", "output_patch_embedding."))
