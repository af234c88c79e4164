"""What families share that wrap the network of another library: build, loss, forecast, files."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from torch import nn

from tstune.config.section import ModelSection
from tstune.data.preprocess import Preprocessor
from tstune.data.table import Roles
from tstune.data.windows import Batch
from tstune.errors import ConfigError
from tstune.models.adapters import freeze_by_mode, part_of
from tstune.models.base import BaseTimeSeriesFoundationModel
from tstune.models.contract import MODEL_FOLDER, weights_folder
from tstune.models.modules import NetworkModule
from tstune.models.network_weights import Architecture, load_network, without
from tstune.runtime.environment import keep_freed_memory
from tstune.runtime.logs import logger, quiet_transformers
from tstune.training.losses import quantile_window_losses, window_losses

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

_SETS_PART = {
    "skip_head": "model.skip_steps=48 or model.linear_skip",
    "quantile_head": "forecast.method=quantile_head with its levels",
}
"""Modes that tune one part which not every network has -> the key that adds it."""


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

    def build(self, preprocessor: Preprocessor) -> None:
        """Load the network, choose what learns, and say so.

        Weights that are missing, damaged or of another family are a `CheckpointError`; columns, levels or a mode that
        this family does not know are a `ConfigError`.
        """
        mode = self.config.tuning.mode
        self._check_roles(preprocessor.roles)
        quiet_transformers()
        self.fresh, self.preprocessor = [], preprocessor
        self._initialize_model()
        self._check_mode()
        self._check_built()
        if mode in ("lora", "dora"):
            self.add_adapter()
        else:
            self._freeze(mode)
        self.log_parameters()

    def _initialize_model(self) -> None:
        """Load the network; a subclass may make `self.model` in its own way."""
        random_weights = self.config.tuning.mode == "from_scratch"
        self.model = self._load(self.preprocessor.roles, random_weights=random_weights)

    def forecast(self, batch: Batch) -> torch.Tensor:
        """[batch, prediction, targets] float32 in original units: the median where there are quantiles."""
        return self._median(self._values(batch))

    @property
    def native_levels(self) -> tuple[float, ...]:
        """The configured levels where they lie within those of the network, else the network's; empty for points."""
        asked, own = tuple(self.config.forecast.quantiles), () if self.module is None else self.module.levels
        return asked if asked and own and own[0] <= asked[0] and asked[-1] <= own[-1] else own

    def native_quantiles(self, batch: Batch) -> torch.Tensor:
        """[batch, prediction, targets, native levels] float32 in original units, ascending.

        Quantiles that cross are put in order; a level between two of the network lies on the line between them.
        """
        return self._at_native_levels(self._values(batch))

    def forecast_both(self, batch: Batch, item_ids: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor | None]:
        """By one forward pass, where the quantiles are those of the network."""
        here, own = NetworkForecaster, type(self)
        is_plain = own.forecast is here.forecast and own.native_quantiles is here.native_quantiles
        if not (is_plain and self.quantile_levels and self.uncertainty is None and self.item_adapters is None):
            return super().forecast_both(batch, item_ids)
        values = self._values(batch)
        return self._median(values), self._at_native_levels(values)

    def _median(self, values: torch.Tensor) -> torch.Tensor:
        levels = self.module.levels
        return values[..., levels.index(0.5) if 0.5 in levels else len(levels) // 2]

    def _at_native_levels(self, values: torch.Tensor) -> torch.Tensor:
        values, levels = values.sort(dim=-1).values, self.native_levels
        return values if levels == self.module.levels else between_levels(values, self.module.levels, levels)

    def window_losses(self, module: nn.Module, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """In the network's normalised space: twice the pinball loss of its quantiles, or else `training.loss`."""
        values, loc, scale = module(batch)
        truth = batch["future_values"][:, : self.module.num_steps, : self.module.num_targets]
        truth, observed = self.module.normalise(truth, loc, scale), self._weighing(batch)
        training = self.config.training
        if self.module.levels:
            return quantile_window_losses(values.float(), truth, observed, self.module.levels, training.step_decay)
        kind = training.loss, training.huber_delta, training.step_decay
        return window_losses(values[..., 0].float(), truth, observed, *kind)

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
        with without("deepspeed"):  # imported, in a second, to see that this is no engine of it
            network.save_pretrained(folder / MODEL_FOLDER)

    def load_weights(self, folder: Path) -> None:
        """Read `model/`; every tensor must be there."""
        quiet_transformers()
        self._wrap(self._load(self.preprocessor.roles, str(weights_folder(folder))))
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
        if any(part.training for part in self.module.modules()):  # a look takes a fifth of the time of `eval`
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

    def _wrap(self, network: nn.Module) -> None:
        keep_freed_memory()
        self.module = self._module_for(network, self.preprocessor.roles)
        self.quantize()
        self.module.eval()

    def _check_mode(self) -> None:
        named = list(self.network.named_parameters())
        found = {part_of(name, self.parts) for name in self.network.state_dict()}  # a linear skip has buffers only
        if self.config.tuning.mode == "decoder" and "decoder" not in found:
            raise ConfigError(
                f"tuning.mode=decoder: {self.architecture.title} has an encoder and no decoder beside its head; use "
                "head, bias, lora, dora or full"
            )
        mode = self.config.tuning.mode
        for part, key in _SETS_PART.items():
            if mode == part and part not in found:
                raise ConfigError(
                    f"tuning.mode={mode}: this {self.architecture.title} has none; set {key} (TTM only) or use another "
                    "mode"
                )
        if self.config.tuning.mode == "bias" and not any(name.endswith(".bias") for name, _ in named):
            raise ConfigError(
                f"tuning.mode=bias: no layer of {self.architecture.title} has a bias; use head, lora, dora or full"
            )


class QuantileForecaster(NetworkForecaster):
    """A network that always forecasts quantiles; levels between those it has lie on the lines between them."""

    learns_with: ClassVar[str] = "the pinball loss of its own quantiles"

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
