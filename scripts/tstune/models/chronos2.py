"""Chronos-2 (chronos-forecasting): an encoder in which the series of a window see each other."""

from __future__ import annotations

import math
from typing import ClassVar, Literal

import torch
from torch import nn

from tstune.data.table import Roles
from tstune.data.windows import Batch
from tstune.errors import ConfigError
from tstune.models.chronos_base import ChronosForecaster, ChronosModule, ChronosSection, chronos_architecture
from tstune.models.network_forecaster import as_series, observed_or_nan

MAX_SERIES = 256
"""Series of one forward pass without training, as in the library: attention across series grows with their square."""


class Chronos2Section(ChronosSection):
    """Chronos-2: an encoder over patches that forecasts quantiles and reads covariates, past and known."""

    type: Literal["chronos2"] = "chronos2"
    pretrained: str | None = None
    """Folder of a checkpoint or Hub id (`amazon/chronos-2`)."""


class Chronos2Module(ChronosModule):
    """The channels of a window are one group: targets, columns of the past, columns known in the future."""

    def __init__(self, network: nn.Module, roles: Roles, prediction_length: int) -> None:
        config = network.chronos_config
        super().__init__(network, roles, prediction_length, config.max_output_patches * config.output_patch_size)
        self.control_indices = roles.control_indices
        self.num_patches = math.ceil(self.num_steps / network.chronos_config.output_patch_size)

    def encode(self, batch: Batch) -> Batch:
        """First half: features [batch, targets, patches, width], the last states of the targets."""
        context = observed_or_nan(batch)
        num_windows, _, num_channels = context.shape
        known = self.known_future(batch, self.num_steps)
        states, (loc, scale), _, _ = self.network.encode(
            as_series(context),
            group_ids=torch.arange(num_windows, device=context.device).repeat_interleave(num_channels),
            future_covariates=as_series(known) if self.control_indices else None,
            num_output_patches=self.num_patches,
        )
        states = states[0][:, -self.num_patches :].view(num_windows, num_channels, self.num_patches, -1)
        return self._encoded(states[:, : self.num_targets], loc, scale, batch)

    def known_future(self, batch: Batch, num_steps: int) -> torch.Tensor:
        """[batch, steps, channels] control columns over the forecast; NaN where nothing is known, in all others too."""
        values = batch["future_values"][:, :num_steps]
        known = torch.full_like(values, torch.nan)
        known[..., self.control_indices] = values[..., self.control_indices]
        if "future_known_mask" in batch:
            known = torch.where(batch["future_known_mask"][:, :num_steps], known, torch.nan)
        return known

    def _through_head(self, features: torch.Tensor) -> torch.Tensor:
        flat = self.network.output_patch_embedding(features)  # [batch, targets, patches, levels * steps of a patch]
        by_level = flat.unflatten(-1, (len(self.levels), -1)).permute(0, 2, 4, 1, 3)
        return by_level.flatten(1, 2)


class Chronos2Forecaster(ChronosForecaster):
    """Chronos-2 behind the common interface: it reads covariates of the past and known ones."""

    model_type = "chronos2"
    title, pipeline, section, module_class = "Chronos-2", "Chronos2Pipeline", Chronos2Section, Chronos2Module
    block_classes: ClassVar[tuple[str, ...]] = ("Chronos2EncoderBlock",)
    architecture = chronos_architecture(title, "chronos.chronos2:Chronos2Model", "chronos.chronos2:Chronos2CoreConfig")

    def evaluation_batch_size(self, device: torch.device) -> int:
        """Windows per forward pass when nothing is trained; `auto` keeps to `MAX_SERIES`."""
        return min(super().evaluation_batch_size(device), self._max_windows)

    def _values(self, batch: Batch) -> torch.Tensor:
        own, size = super()._values, self._max_windows
        begins = range(0, len(batch["past_values"]), size)
        return torch.cat(
            [own({name: tensor[begin : begin + size] for name, tensor in batch.items()}) for begin in begins]
        )

    @property
    def _max_windows(self) -> int:
        return max(1, MAX_SERIES // len(self.preprocessor.roles.channels))

    def _check_roles(self, roles: Roles) -> None:
        if roles.statics:
            raise ConfigError(
                f"model.type=chronos2 normalises each series by itself, which leaves nothing of the constant "
                f"{roles.statics[0]!r}: leave data.static_real_columns and data.static_categorical_columns out, or use "
                "model.type=ttm"
            )

    def _unrolled(self, batch: Batch) -> torch.Tensor:
        from chronos import Chronos2Pipeline

        length, targets = self.config.model.prediction_length, self.module.num_targets
        context, known = observed_or_nan(batch), self.module.known_future(batch, length)
        num_known = len(self.module.control_indices)
        windows = [
            {
                "context": past.T,
                "future_covariates": future.T,
                "n_targets": targets,
                "n_covariates": past.shape[1] - targets,
                "n_future_covariates": num_known,
            }
            for past, future in zip(context, known, strict=True)
        ]
        found = Chronos2Pipeline(self.network).predict(windows, length, batch_size=MAX_SERIES)
        return torch.stack(found).permute(0, 3, 1, 2)
