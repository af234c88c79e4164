"""What families share whose network forecasts quantiles: the pinball loss, the median, levels in between."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import torch
from torch import nn

from tstune.data.windows import Batch
from tstune.errors import ConfigError
from tstune.models.network_forecaster import NetworkForecaster
from tstune.runtime.logs import logger
from tstune.training.losses import quantile_window_losses


class QuantileForecaster(NetworkForecaster):
    """A network that forecasts quantiles; its loss is twice their pinball loss in the normalised space."""

    learns_with: ClassVar[str] = "the pinball loss of its own quantiles"

    def forecast(self, batch: Batch) -> torch.Tensor:
        """[batch, prediction, targets] float32 in original units: the median."""
        return self._values(batch)[..., self.module.levels.index(0.5)]

    @property
    def native_levels(self) -> tuple[float, ...]:
        """The configured levels where they lie within those of the network, else the network's."""
        if self.module is None:
            return ()
        asked, own = tuple(self.config.forecast.quantiles), self.module.levels
        return asked if asked and own[0] <= asked[0] and asked[-1] <= own[-1] else own

    def native_quantiles(self, batch: Batch) -> torch.Tensor:
        """[batch, prediction, targets, native levels] float32 in original units, ascending.

        Quantiles that cross are put in order; a level between two of the network lies on the line between them.
        """
        values, levels = self._values(batch).sort(dim=-1).values, self.native_levels
        return values if levels == self.module.levels else between_levels(values, self.module.levels, levels)

    def window_losses(self, module: nn.Module, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Twice the pinball loss in the network's normalised space, per window."""
        quantiles, loc, scale = module(batch)
        truth = self._truth(batch, loc, scale)
        return quantile_window_losses(quantiles.float(), truth, self._weighing(batch), self.module.levels)

    def _check_built(self) -> None:
        section, own = self.config.forecast, self.module.levels
        outside = [level for level in section.quantiles if not own[0] <= level <= own[-1]]
        if section.method == "quantile_head" and outside:
            raise ConfigError(
                f"forecast.quantiles: {outside[0]:g} lies outside {own[0]:g} to {own[-1]:g}, which this checkpoint "
                "forecasts; leave it out, or use forecast.method=split_conformal"
            )
        if self.config.training.loss != "mse" and self.config.tuning.mode != "zero_shot":
            logger.warning(
                "training.loss=%s has no say here: %s learns with %s",
                self.config.training.loss,
                self.architecture.title,
                self.learns_with,
            )
        super()._check_built()


def between_levels(values: torch.Tensor, own: tuple[float, ...], asked: tuple[float, ...]) -> torch.Tensor:
    """[…, asked] quantiles on the straight lines between ascending ones [..., own]; asked lie within own."""
    above = np.clip(np.searchsorted(own, asked), 1, len(own) - 1)
    low, high = np.take(own, above - 1), np.take(own, above)
    share = torch.as_tensor((np.asarray(asked) - low) / (high - low), dtype=values.dtype, device=values.device)
    return torch.lerp(values[..., above - 1], values[..., above], share)
