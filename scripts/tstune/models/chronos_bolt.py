"""Chronos-Bolt (chronos-forecasting): a T5 encoder and decoder, every series on its own."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import nn
from transformers import T5Config

from tstune.data.table import Roles
from tstune.data.windows import Batch
from tstune.errors import ConfigError
from tstune.models.chronos_base import ChronosForecaster
from tstune.models.chronos_library import ChronosBoltModelForForecasting, ChronosBoltPipeline
from tstune.models.chronos_module import ChronosModule, as_series, observed_or_nan
from tstune.models.chronos_weights import ChronosArchitecture


class BoltModule(ChronosModule):
    """Each target of each window is a series of its own."""

    def encode(self, batch: Batch) -> Batch:
        """First half: features [batch, targets, width], the decoder's one state of each series."""
        context = as_series(observed_or_nan(batch)[..., : self.num_targets])
        hidden, (loc, scale), embedded, attention_mask = self.network.encode(context)
        state = self.network.decode(embedded, attention_mask, hidden)
        features = state.view(len(batch["past_values"]), self.num_targets, -1)
        return self._encoded(features, loc, scale, batch)

    def _through_head(self, features: torch.Tensor) -> torch.Tensor:
        flat = self.network.output_patch_embedding(features)
        return flat.view(*features.shape[:2], len(self.levels), self.native_length).permute(0, 3, 1, 2)

    def _native_length(self) -> int:
        return self.network.chronos_config.prediction_length


class ChronosBoltForecaster(ChronosForecaster):
    """Chronos-Bolt behind the common interface; it reads targets only."""

    model_type = "chronos_bolt"
    block_classes: ClassVar[tuple[str, ...]] = ("T5Block",)
    architecture = ChronosArchitecture("Chronos-Bolt", ChronosBoltModelForForecasting, T5Config)

    def _module_for(self, network: nn.Module, roles: Roles) -> ChronosModule:
        return BoltModule(network, roles, self.config.model.prediction_length)

    def _check_roles(self, roles: Roles) -> None:
        others = (*roles.conditional, *roles.control, *roles.statics, *roles.time_features)
        if others:
            raise ConfigError(
                f"model.type=chronos_bolt forecasts each series from its own past and cannot read {others[0]!r}: leave "
                "conditional, control, static columns and time features out of data, or use model.type chronos2 or ttm"
            )

    def _unrolled(self, batch: Batch) -> torch.Tensor:
        targets = self.module.num_targets
        context = as_series(observed_or_nan(batch)[..., :targets])
        found = ChronosBoltPipeline(self.network).predict(context, self.config.model.prediction_length)
        return found.view(-1, targets, *found.shape[1:]).permute(0, 3, 1, 2)
