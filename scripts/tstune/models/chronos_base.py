"""What Chronos-Bolt and Chronos-2 share: build, loss, quantiles, files."""

from __future__ import annotations

import warnings
from abc import abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import ClassVar

import torch
from torch import nn

from tstune.adapters import freeze_by_mode, part_of
from tstune.data.pipeline import Preprocessor
from tstune.data.table import Roles
from tstune.data.windows import Batch
from tstune.errors import ConfigError
from tstune.models.base import MODEL_FOLDER, BaseTimeSeriesFoundationModel
from tstune.models.chronos_library import interpolate_quantiles
from tstune.models.chronos_module import ChronosModule
from tstune.models.chronos_weights import ChronosArchitecture, load_network
from tstune.runtime.logs import logger, quiet_transformers
from tstune.training.losses import quantile_window_losses


class ChronosForecaster(BaseTimeSeriesFoundationModel):
    """A family of chronos-forecasting behind the common interface, trained by our loop with its own loss.

    The loss is twice the pinball loss of the network's quantiles in its normalised space. It is the mean over observed
    steps and levels; the library's is the same up to a constant factor, see `tests/models/test_chronos_library.py`.
    A target whose context is flat or empty weighs nothing: there is no scale to measure its loss in. Readings go in
    and come out in original units; `data.scale` matters for the scores only.
    """

    architecture: ClassVar[ChronosArchitecture]
    parts: ClassVar[Mapping[str, str]] = {
        "shared": "backbone",
        "input_patch_embedding": "backbone",
        "encoder": "backbone",
        "decoder": "decoder",
        "output_patch_embedding": "head",
    }

    @abstractmethod
    def _module_for(self, network: nn.Module, roles: Roles) -> ChronosModule:
        """The family's module around its network."""

    @abstractmethod
    def _check_roles(self, roles: Roles) -> None:
        """Refuse columns that the family does not read."""

    @abstractmethod
    def _unrolled(self, batch: Batch) -> torch.Tensor:
        """[batch, prediction, targets, levels] beyond the steps of one forward pass, by the library's pipeline."""

    @property
    def network(self) -> nn.Module:
        """The library's network, or the peft model around it."""
        return self.module.network

    @network.setter
    def network(self, network: nn.Module) -> None:
        self.module.network = network

    def build(self, preprocessor: Preprocessor) -> None:
        """Load the network, choose what learns, and say so.

        Raises:
            CheckpointError: weights missing, damaged or of another family.
            ConfigError: columns, levels or a mode that this family does not know.
        """
        mode = self.config.tuning.mode
        self._check_roles(preprocessor.roles)
        quiet_transformers()
        self.fresh = []
        self._wrap(load_network(self.architecture, self.config.model, mode == "from_scratch"), preprocessor)
        self._check_mode()
        self._check_levels()
        if self.config.training.loss != "mse" and mode != "zero_shot":
            logger.warning(
                "training.loss=%s has no say here: %s learns with the pinball loss of its own quantiles",
                self.config.training.loss,
                self.architecture.title,
            )
        if self.config.model.prediction_length > self.module.native_length:
            logger.warning(
                "model.prediction_length=%d is more than the %d steps of one forward pass: longer forecasts are rolled "
                "out as the library does, and training looks at the first %d steps only",
                self.config.model.prediction_length,
                self.module.native_length,
                self.module.native_length,
            )
        if mode in ("lora", "dora"):
            self.add_adapter()
        else:
            freeze_by_mode(self.network, mode, self.parts, ())
        self.log_parameters()

    def forecast(self, batch: Batch) -> torch.Tensor:
        """[batch, prediction, targets] float32 in original units: the median."""
        return self._own_quantiles(batch)[..., self.module.levels.index(0.5)]

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
        values, levels = self._own_quantiles(batch).sort(dim=-1).values, self.native_levels
        if levels == self.module.levels:
            return values
        return interpolate_quantiles(list(levels), list(self.module.levels), values)

    def window_losses(self, module: nn.Module, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Twice the pinball loss in the network's normalised space, per window."""
        quantiles, loc, scale = module(batch)
        targets = batch["future_values"][:, : self.module.num_steps, : self.module.num_targets]
        normalised = self.module.normalise(targets, loc, scale)
        return quantile_window_losses(quantiles.float(), normalised, self._weighing(batch), self.module.levels)

    def window_weights(self, batch: Batch) -> torch.Tensor:
        """[batch] number of targets that weigh, of the steps of one forward pass."""
        return self._weighing(batch).sum(dim=(1, 2))

    def frozen_encoder(self) -> Callable[[Batch], Batch] | None:
        """Everything before the head, if only the head learns."""
        learning = {part_of(name, self.parts) for name, value in self.module.named_parameters() if value.requires_grad}
        return self.module.encode if learning == {"head"} else None

    def save_weights(self, folder: Path) -> None:
        """Write `model/`, which the library's pipeline loads.

        With a quantised base these are the weights before packing; the adapter lies beside them.
        """
        network = self.network
        if self.config.model.quantization != "none":
            network = load_network(self.architecture, self.config.model)
        network.save_pretrained(folder / MODEL_FOLDER)

    def load_weights(self, folder: Path) -> None:
        """Read `model/`; every tensor must be there."""
        quiet_transformers()
        section = self.config.model.model_copy(update={"pretrained": str(folder / MODEL_FOLDER), "revision": None})
        self._wrap(load_network(self.architecture, section), self.preprocessor)
        # torch picks its kernel by requires_grad: frozen as it was saved, the forecast is the same bit for bit
        mode = self.config.tuning.mode
        freeze_by_mode(self.network, "zero_shot" if mode in ("lora", "dora") else mode, self.parts, ())

    def _own_quantiles(self, batch: Batch) -> torch.Tensor:
        """[batch, prediction, targets, network's levels] in original units, as the network orders them."""
        self.module.eval()
        batch = {name: tensor.to(self._device) for name, tensor in batch.items()}
        if self.config.model.prediction_length <= self.module.native_length:
            return self.module.in_original_units(*self.module(batch))
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "We recommend keeping prediction length")  # `build` has said so
            return self._unrolled(batch).to(self._device)

    def _weighing(self, batch: Batch) -> torch.Tensor:
        """[batch, steps, targets] True where a target was observed and its context has a scale."""
        observed = batch["future_observed_mask"][:, : self.module.num_steps, : self.module.num_targets]
        return observed & self.module.has_scale(batch)

    @property
    def _device(self) -> torch.device:
        return next(self.module.parameters()).device

    def _wrap(self, network: nn.Module, preprocessor: Preprocessor) -> None:
        self.preprocessor = preprocessor
        self.module = self._module_for(network, preprocessor.roles)
        self.quantize()
        self.module.eval()

    def _check_mode(self) -> None:
        mode = self.config.tuning.mode
        components = {name for name, _ in self.network.named_children()}
        if mode == "decoder" and not any(self.parts.get(name) == "decoder" for name in components):
            raise ConfigError(
                f"tuning.mode=decoder: {self.architecture.title} has an encoder and no decoder; use head, bias, lora, "
                "dora or full"
            )

    def _check_levels(self) -> None:
        section, own = self.config.forecast, self.module.levels
        outside = [level for level in section.quantiles if not own[0] <= level <= own[-1]]
        if section.method == "quantile_head" and outside:
            raise ConfigError(
                f"forecast.quantiles: {outside[0]:g} lies outside {own[0]:g} to {own[-1]:g}, which this checkpoint "
                "forecasts; leave it out, or use forecast.method=split_conformal"
            )
