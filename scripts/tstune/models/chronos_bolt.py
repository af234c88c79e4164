"""Chronos-Bolt (chronos-forecasting): a T5 encoder and decoder, every series on its own."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import nn

from tstune.data.table import Roles
from tstune.data.windows import Batch
from tstune.models.chronos_base import ChronosForecaster, ChronosModule, ChronosSection, chronos_architecture
from tstune.models.network_forecaster import as_series, observed_or_nan


class ChronosBoltSection(ChronosSection):
    """Chronos-Bolt: a T5 encoder and decoder over patches that forecasts quantiles; every series on its own."""

    type: Literal["chronos_bolt"] = "chronos_bolt"
    pretrained: str | None = None
    """Folder of a checkpoint or Hub id (`amazon/chronos-bolt-small`)."""


class BoltModule(ChronosModule):
    """Each target of each window is a series of its own."""

    def __init__(self, network: nn.Module, roles: Roles, prediction_length: int) -> None:
        super().__init__(network, roles, prediction_length, network.chronos_config.prediction_length)

    def encode(self, batch: Batch) -> Batch:
        """First half: features [batch, targets, width], the decoder's one state of each series."""
        context = as_series(observed_or_nan(batch)[..., : self.num_targets])
        hidden, (loc, scale), embedded, attention_mask = self.network.encode(context)
        state = self.network.decode(embedded, attention_mask, hidden)
        features = state.view(batch["past_values"].shape[0], self.num_targets, -1)
        return self._encoded(features, loc, scale, batch)

    def _through_head(self, features: torch.Tensor) -> torch.Tensor:
        flat = self.network.output_patch_embedding(features)
        return flat.view(*features.shape[:2], len(self.levels), self.native_length).permute(0, 3, 1, 2)


class ChronosBoltForecaster(ChronosForecaster):
    """Chronos-Bolt behind the common interface; it reads targets only."""

    model_type = "chronos_bolt"
    title, pipeline, section, module_class = "Chronos-Bolt", "ChronosBoltPipeline", ChronosBoltSection, BoltModule
    block_classes: ClassVar[tuple[str, ...]] = ("T5Block",)
    architecture = chronos_architecture(
        title, "chronos.chronos_bolt:ChronosBoltModelForForecasting", "transformers:T5Config"
    )

    def _unrolled(self, batch: Batch) -> torch.Tensor:
        from chronos import ChronosBoltPipeline

        targets = self.module.num_targets
        context = as_series(observed_or_nan(batch)[..., :targets])
        found = ChronosBoltPipeline(self.network).predict(context, self.config.model.prediction_length)
        return found.view(-1, targets, *found.shape[1:]).permute(0, 3, 1, 2)
