"""A Chronos network between windows of ours and quantiles in its normalised space, in two halves: encode and head.

The network normalises each series by its own context: `loc`, `scale`, and for Chronos-2 an arcsinh. The loss lives in
that space. Missing readings go in as NaN, which the network masks; a zero would be a reading.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import nn

from tstune.data.table import Roles
from tstune.data.windows import Batch


class ChronosModule(nn.Module, ABC):
    """A network of chronos-forecasting, or a peft model around it.

    Args:
        network: with `chronos_config`, `instance_norm` and `output_patch_embedding`.
        roles: the channels; targets come first.
        prediction_length: steps that are asked for.

    Attributes:
        levels: ascending levels of the quantiles.
        native_length: most steps of one forward pass.
        num_steps: steps of a forward pass here: what is asked for, or as much of it as one pass gives.
    """

    def __init__(self, network: nn.Module, roles: Roles, prediction_length: int) -> None:
        super().__init__()
        network._input_embed_layer = "shared"  # transformers would look for `embed_tokens`, and peft asks for it
        self.network = network
        self.num_targets = roles.num_targets
        self.levels = tuple(network.chronos_config.quantiles)
        self.native_length = self._native_length()
        self.num_steps = min(prediction_length, self.native_length)

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

    @abstractmethod
    def _native_length(self) -> int:
        """Most steps of one forward pass."""

    def normalise(self, values: torch.Tensor, loc: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        """Original units -> normalised space, [batch, steps, targets]."""
        return self.network.instance_norm(values, (loc, scale))[0]

    def in_original_units(self, quantiles: torch.Tensor, loc: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        """Normalised space -> original units, [batch, steps, targets, levels] float32."""
        return self.network.instance_norm.inverse(quantiles, (loc[..., None], scale[..., None]))

    def has_scale(self, batch: Batch) -> torch.Tensor:
        """[batch, 1, targets] True where the context varies.

        One that is flat or empty has no scale: the network divides by 1e-5 or 1, and the loss of a single such window
        would outweigh thousands of others.
        """
        if "has_scale" in batch:
            return batch["has_scale"] > 0
        context = observed_or_nan(batch)[..., : self.num_targets]
        highest = torch.nan_to_num(context, nan=-torch.inf).amax(dim=1, keepdim=True)
        return highest > torch.nan_to_num(context, nan=torch.inf).amin(dim=1, keepdim=True)

    def _encoded(self, features: torch.Tensor, loc: torch.Tensor, scale: torch.Tensor, batch: Batch) -> Batch:
        """What `encode` returns, from loc and scale [batch * channels, 1]."""
        loc, scale = (
            values.view(len(features), -1)[:, None, : self.num_targets] for values in (loc, scale)
        )  # fmt: skip
        return {"features": features, "loc": loc, "scale": scale, "has_scale": self.has_scale(batch).float()}


def observed_or_nan(batch: Batch) -> torch.Tensor:
    """[batch, context, channels] with NaN where nothing was read."""
    return torch.where(batch["past_observed_mask"], batch["past_values"], torch.nan)


def as_series(values: torch.Tensor) -> torch.Tensor:
    """[batch, steps, channels] -> [batch * channels, steps], the channels of a window one after another."""
    return values.transpose(1, 2).reshape(-1, values.shape[1])
