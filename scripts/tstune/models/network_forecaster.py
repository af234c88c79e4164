"""What families share that wrap the network of another library: its module, build, loss, forecast, files."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from torch import nn

from tstune.config.section import ModelSection
from tstune.data.prepared import Preprocessor
from tstune.data.table import Roles
from tstune.data.windows import Batch
from tstune.errors import ConfigError
from tstune.models.adapters import freeze_by_mode, part_of
from tstune.models.base import BaseTimeSeriesFoundationModel
from tstune.models.contract import MODEL_FOLDER, weights_folder
from tstune.models.network_weights import Architecture, load_network
from tstune.runtime.logs import logger, quiet_transformers
from tstune.training.losses import quantile_window_losses, window_losses

if TYPE_CHECKING:
    from transformers import PreTrainedConfig


class NetworkModule(nn.Module, ABC):
    """A network of another library, or a peft model around it.

    Args:
        network: it; peft finds no embedding by itself, so it is told the one of `input_layer` (None: none is wanted).
        roles: the channels; targets come first.
        prediction_length: steps that are asked for.
        native_length: most steps of one forward pass.
        levels: ascending levels of its quantiles; empty for a network that forecasts points.

    Attributes:
        num_targets: channels that are forecast.
        num_steps: steps of a forward pass here: what is asked for, or as much of it as one pass gives.
    """

    input_layer: ClassVar[str | None] = "shared"

    def __init__(
        self, network: nn.Module, roles: Roles, prediction_length: int, native_length: int, levels: tuple[float, ...]
    ) -> None:
        super().__init__()
        if self.input_layer is not None:  # transformers would look for `embed_tokens`, and peft asks for it
            network._input_embed_layer = self.input_layer
        self.network = network
        self.num_targets = roles.num_targets
        self.native_length = native_length
        self.num_steps = min(prediction_length, native_length)
        self.levels = levels

    @property
    def plain(self) -> nn.Module:
        """The network itself, within the peft model if there is one: `model` of that is something else."""
        return getattr(self.network, "get_base_model", lambda: self.network)()

    def part(self, kind: type[nn.Module]) -> nn.Module:
        """The part of the network of this class, with the adapters on it if there are any."""
        return next(part for part in self.network.modules() if isinstance(part, kind))

    def target_series(self, batch: Batch) -> torch.Tensor:
        """[batch * targets, context] with NaN where nothing was read; see `as_series`."""
        return as_series(observed_or_nan(batch)[..., : self.num_targets])

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


class ScaledModule(NetworkModule):
    """A network that reads windows in the units of the scaler of the training part, as those of granite-tsfm do.

    It normalises each window by its own mean and deviation of what was observed, over at least 0.003: in scaled units
    that is little, in the units of some readings it would be a lot. The loss lives in scaled units.
    """

    input_layer = None

    def __init__(
        self,
        network: nn.Module,
        preprocessor: Preprocessor,
        prediction_length: int,
        native_length: int,
        levels: tuple[float, ...] = (),
    ) -> None:
        super().__init__(network, preprocessor.roles, prediction_length, native_length, levels)
        scaler = preprocessor.scaler
        self.register_buffer("mean", torch.tensor(scaler.mean, dtype=torch.float32), persistent=False)
        self.register_buffer("std", torch.tensor(scaler.std, dtype=torch.float32), persistent=False)

    @property
    def target_scale(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and deviation of the targets in the training part, [targets] each."""
        return self.mean[: self.num_targets], self.std[: self.num_targets]

    def has_scale(self, batch: Batch) -> torch.Tensor:
        """[batch, 1, targets] True: the loss is measured by the scaler, which every target has."""
        future = batch["future_values"]
        return torch.ones(len(future), 1, self.num_targets, dtype=torch.bool, device=future.device)

    def scaled_context(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """[batch, context, channels] in scaled units, and True where something was read.

        The network leaves what was not observed out of its mean and deviation, but reads it: make it the mean.
        """
        observed = batch["past_observed_mask"]
        past = (batch["past_values"] - self.mean) / self.std
        count = observed.sum(dim=1, keepdim=True).clamp_min(1)
        centre = (past * observed).sum(dim=1, keepdim=True) / count
        return torch.where(observed, past, centre), observed


def observed_or_nan(batch: Batch) -> torch.Tensor:
    """[batch, context, channels] with NaN where nothing was read."""
    return torch.where(batch["past_observed_mask"], batch["past_values"], torch.nan)


def as_series(values: torch.Tensor) -> torch.Tensor:
    """[batch, steps, channels] -> [batch * channels, steps], the channels of a window one after another."""
    return values.transpose(1, 2).reshape(-1, values.shape[1])


class NetworkForecaster(BaseTimeSeriesFoundationModel):
    """A network of another library behind the common interface, trained by our loop.

    The loss lives in the network's normalised space. A target whose context is flat or empty weighs nothing: there is
    no scale to measure its loss in. Readings go in and come out in original units; `data.scaling` matters for the
    scores only, unless the module says otherwise.
    """

    architecture: ClassVar[Architecture]
    parts: ClassVar[Mapping[str, str]]
    """Components of the network's parameter names -> ``backbone``, ``decoder`` or ``head``."""
    max_series: ClassVar[int | None] = None
    """Series of one forward pass, at most, where `evaluation.batch_size` is auto; None leaves it to the device."""

    module_class: ClassVar[type[NetworkModule]]
    """The module around the network, of (network, roles, prediction length) where `_module_for` says nothing else."""

    @classmethod
    def require_packages(cls) -> None:
        """Stop if the family's library is not installed."""
        _ = cls.architecture.config_class, cls.architecture.network_class

    def _module_for(self, network: nn.Module, roles: Roles) -> NetworkModule:
        return self.module_class(network, roles, self.config.model.prediction_length)

    def _check_roles(self, roles: Roles) -> None:
        """Refuse columns that the family does not read; as it stands, all beside the targets."""
        others = (*roles.conditional, *roles.control, *roles.statics, *roles.time_features)
        if others:
            raise ConfigError(
                f"model.type={self.model_type} forecasts each series from its own past and cannot read {others[0]!r}: "
                "leave conditional, control, static columns and time features out of data, or use model.type chronos2 "
                "or ttm"
            )

    def _unrolled(self, batch: Batch) -> torch.Tensor:
        """[batch, prediction, targets, levels or 1] beyond the steps of one forward pass, as the library does it."""
        raise TypeError(f"{type(self).__name__} forecasts no more than {self.module.native_length} steps")

    def _load(self, roles: Roles, pretrained: str | None = None, random_weights: bool = False) -> nn.Module:
        """The network for these channels, with the weights of `pretrained` (None: the configured) or random ones."""
        section = self.config.model
        if pretrained is not None:
            section = section.model_copy(update={"pretrained": pretrained, "revision": None})
        fit = partial(self._fit_to, roles=roles)
        return load_network(self.architecture, section, random_weights, self._check_config, fit)

    @classmethod
    def _check_config(cls, section: ModelSection, values: dict) -> None:
        """Refuse a checkpoint by the values of its config.json."""

    def _warn_of_random_weights(self) -> None:
        if self.config.tuning.mode != "from_scratch":
            logger.warning(
                "model.pretrained is null: tuning.mode=%s starts from random weights, frozen ones included",
                self.config.tuning.mode,
            )

    def _fit_to(self, config: PreTrainedConfig, roles: Roles) -> None:
        """Set what of the config depends on the run's channels, and refuse those it cannot have."""

    def _freeze(self, mode: str) -> None:
        """Let what the mode trains learn, and nothing else."""
        freeze_by_mode(self.network, mode, self.parts, self.fresh)

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
        self.fresh, self.preprocessor = [], preprocessor
        self._wrap(self._load(preprocessor.roles, random_weights=mode == "from_scratch"), preprocessor)
        self._check_mode()
        self._check_built()
        if mode in ("lora", "dora"):
            self.add_adapter()
        else:
            self._freeze(mode)
        self.log_parameters()

    def forecast(self, batch: Batch) -> torch.Tensor:
        """[batch, prediction, targets] float32 in original units: the median where there are quantiles."""
        levels = self.module.levels
        return self._values(batch)[..., levels.index(0.5) if 0.5 in levels else len(levels) // 2]

    @property
    def native_levels(self) -> tuple[float, ...]:
        """Levels of the network's quantiles; empty if it forecasts points only."""
        return () if self.module is None else self.module.levels

    def native_quantiles(self, batch: Batch) -> torch.Tensor:
        """[batch, prediction, targets, native levels] float32 in original units, ascending."""
        return self._values(batch)

    def window_losses(self, module: nn.Module, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """In the network's normalised space: twice the pinball loss of its quantiles, or else `training.loss`."""
        values, loc, scale = module(batch)
        truth = batch["future_values"][:, : self.module.num_steps, : self.module.num_targets]
        truth, observed = self.module.normalise(truth, loc, scale), self._weighing(batch)
        training = self.config.training
        if self.module.levels:
            return quantile_window_losses(values.float(), truth, observed, self.module.levels)
        return window_losses(values[..., 0].float(), truth, observed, training.loss, training.huber_delta)

    def evaluation_batch_size(self, device: torch.device) -> int:
        """Windows per forward pass when nothing is trained; `auto` keeps to `max_series`."""
        size = super().evaluation_batch_size(device)
        if self.max_series is None or self.config.evaluation.batch_size != "auto":
            return size
        return max(1, min(size, self.max_series // self.module.num_targets))

    def window_weights(self, batch: Batch) -> torch.Tensor:
        """[batch] number of targets that weigh, of the steps of one forward pass."""
        return self._weighing(batch).sum(dim=(1, 2))

    def frozen_encoder(self) -> Callable[[Batch], Batch] | None:
        """Everything before the head, if only the head learns and the module has two halves."""
        learning = {part_of(name, self.parts) for name, value in self.module.named_parameters() if value.requires_grad}
        return getattr(self.module, "encode", None) if learning == {"head"} else None

    def save_weights(self, folder: Path) -> None:
        """Write `model/`, which the family's library loads.

        With a quantised base these are the weights before packing; the adapter lies beside them.
        """
        network = self.network if self.config.model.quantization == "none" else self._load(self.preprocessor.roles)
        network.save_pretrained(folder / MODEL_FOLDER)

    def load_weights(self, folder: Path) -> None:
        """Read `model/`; every tensor must be there."""
        quiet_transformers()
        self._wrap(self._load(self.preprocessor.roles, str(weights_folder(folder))), self.preprocessor)
        # torch picks its kernel by requires_grad: frozen as it was saved, the forecast is the same bit for bit
        mode = self.config.tuning.mode
        self._freeze("zero_shot" if mode in ("lora", "dora") else mode)

    def _check_built(self) -> None:
        """Refuse, or warn of, settings that do not suit the network that was loaded."""
        section = self.config.forecast
        if section.method == "quantile_head" and section.quantiles and not self.module.levels:
            raise ConfigError(
                f"forecast.method=quantile_head: {self.architecture.title} forecasts points only; use "
                "forecast.method=split_conformal"
            )
        if self.config.model.prediction_length > self.module.native_length:
            logger.warning(
                "model.prediction_length=%d is more than the %d steps of one forward pass: longer forecasts are rolled "
                "out as the library does, and training looks at the first %d steps only",
                self.config.model.prediction_length,
                self.module.native_length,
                self.module.native_length,
            )

    def _values(self, batch: Batch) -> torch.Tensor:
        """[batch, prediction, targets, levels or 1] in original units, as the network orders them."""
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
        named = list(self.network.named_parameters())
        found = {part_of(name, self.parts) for name, _ in named}
        if self.config.tuning.mode == "decoder" and "decoder" not in found:
            raise ConfigError(
                f"tuning.mode=decoder: {self.architecture.title} has an encoder and no decoder beside its head; use "
                "head, bias, lora, dora or full"
            )
        if self.config.tuning.mode == "bias" and not any(name.endswith(".bias") for name, _ in named):
            raise ConfigError(
                f"tuning.mode=bias: no layer of {self.architecture.title} has a bias; use head, lora, dora or full"
            )


class QuantileForecaster(NetworkForecaster):
    """A network that always forecasts quantiles; levels between those it has lie on the lines between them."""

    learns_with: ClassVar[str] = "the pinball loss of its own quantiles"

    @property
    def native_levels(self) -> tuple[float, ...]:
        """The configured levels where they lie within those of the network, else the network's."""
        asked, own = tuple(self.config.forecast.quantiles), super().native_levels
        return asked if asked and own and own[0] <= asked[0] and asked[-1] <= own[-1] else own

    def native_quantiles(self, batch: Batch) -> torch.Tensor:
        """[batch, prediction, targets, native levels] float32 in original units, ascending.

        Quantiles that cross are put in order; a level between two of the network lies on the line between them.
        """
        values, levels = self._values(batch).sort(dim=-1).values, self.native_levels
        return values if levels == self.module.levels else between_levels(values, self.module.levels, levels)

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
