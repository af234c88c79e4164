"""A Chronos network between windows of ours and quantiles in its normalised space, in two halves: encode and head.

The network normalises each series by its own context: `loc`, `scale`, and for Chronos-2 an arcsinh. Missing readings go
in as NaN, which the network masks; a zero would be a reading.
"""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import nn

from tstune.data.table import Roles
from tstune.data.windows import Batch
from tstune.models.network_module import NetworkModule


class ChronosModule(NetworkModule):
    """A network of chronos-forecasting with `chronos_config`, `instance_norm` and `output_patch_embedding`."""

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
        loc, scale = (
            values.view(features.shape[0], -1)[:, None, : self.num_targets] for values in (loc, scale)
        )  # fmt: skip
        return {"features": features, "loc": loc, "scale": scale, "has_scale": self.has_scale(batch).float()}
