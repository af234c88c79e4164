"""Chronos-Bolt (chronos-forecasting): a T5 encoder and decoder, every series on its own."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import nn
from transformers import T5Config

from tstune.data.table import Roles
from tstune.data.windows import Batch
from tstune.models.chronos_base import ChronosForecaster, chronos_architecture
from tstune.models.chronos_library import ChronosBoltModelForForecasting, ChronosBoltPipeline
from tstune.models.chronos_module import ChronosModule
from tstune.models.network_forecaster import refuse_other_columns
from tstune.models.network_module import as_series, observed_or_nan


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
    block_classes: ClassVar[tuple[str, ...]] = ("T5Block",)
    architecture = chronos_architecture("Chronos-Bolt", ChronosBoltModelForForecasting, T5Config)

    def _module_for(self, network: nn.Module, roles: Roles) -> ChronosModule:
        return BoltModule(network, roles, self.config.model.prediction_length)

    def _check_roles(self, roles: Roles) -> None:
        refuse_other_columns(self.model_type, roles)

    def _unrolled(self, batch: Batch) -> torch.Tensor:
        targets = self.module.num_targets
        context = as_series(observed_or_nan(batch)[..., :targets])
        found = ChronosBoltPipeline(self.network).predict(context, self.config.model.prediction_length)
        return found.view(-1, targets, *found.shape[1:]).permute(0, 3, 1, 2)
