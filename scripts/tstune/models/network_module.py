"""A library's network between windows of ours and values in its normalised space.

The network normalises each series by its own context, by `loc` and `scale`. The loss lives in that space.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import nn

from tstune.data.table import Roles
from tstune.data.windows import Batch


class NetworkModule(nn.Module, ABC):
    """A network of another library, or a peft model around it.

    Args:
        network: it; peft finds no embedding by itself, so it is told the one of `input_layer`.
        roles: the channels; targets come first.
        prediction_length: steps that are asked for.
        native_length: most steps of one forward pass.
        levels: ascending levels of its quantiles; empty for a network that forecasts points.

    Attributes:
        num_targets: channels that are forecast.
        num_steps: steps of a forward pass here: what is asked for, or as much of it as one pass gives.
    """

    input_layer: ClassVar[str] = "shared"

    def __init__(
        self, network: nn.Module, roles: Roles, prediction_length: int, native_length: int, levels: tuple[float, ...]
    ) -> None:
        super().__init__()
        network._input_embed_layer = (
            self.input_layer
        )  # transformers would look for `embed_tokens`, and peft asks for it
        self.network = network
        self.num_targets = roles.num_targets
        self.native_length = native_length
        self.num_steps = min(prediction_length, native_length)
        self.levels = levels

    @abstractmethod
    def forward(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Values [batch, steps, targets, levels or 1] in normalised space, loc and scale [batch, 1, targets]."""

    def normalise(self, values: torch.Tensor, loc: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        """Original units -> normalised space, [batch, steps, targets]."""
        return (values - loc) / scale

    def in_original_units(self, values: torch.Tensor, loc: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        """Normalised space -> original units, [batch, steps, targets, levels or 1] float32."""
        return (values * scale[..., None] + loc[..., None]).float()

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


def observed_or_nan(batch: Batch) -> torch.Tensor:
    """[batch, context, channels] with NaN where nothing was read."""
    return torch.where(batch["past_observed_mask"], batch["past_values"], torch.nan)


def as_series(values: torch.Tensor) -> torch.Tensor:
    """[batch, steps, channels] -> [batch * channels, steps], the channels of a window one after another."""
    return values.transpose(1, 2).reshape(-1, values.shape[1])
