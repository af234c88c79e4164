"""What families that wrap the network of another library share: build, loss, forecast, files."""

from __future__ import annotations

import warnings
from abc import abstractmethod
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import ClassVar

import torch
from torch import nn
from transformers import PreTrainedConfig

from tstune.adapters import freeze_by_mode, part_of
from tstune.data.prepared import Preprocessor
from tstune.data.table import Roles
from tstune.data.windows import Batch
from tstune.errors import ConfigError
from tstune.models.base import MODEL_FOLDER, BaseTimeSeriesFoundationModel, weights_folder
from tstune.models.network_module import NetworkModule
from tstune.models.network_weights import Architecture, load_network
from tstune.runtime.logs import logger, quiet_transformers
from tstune.training.losses import window_losses


class NetworkForecaster(BaseTimeSeriesFoundationModel):
    """A network of another library behind the common interface, trained by our loop.

    As it stands, one that forecasts points: the loss is `training.loss` in the network's normalised space. A target
    whose context is flat or empty weighs nothing: there is no scale to measure its loss in. Readings go in and come
    out in original units; `data.scaling` matters for the scores only, unless the module says otherwise.
    """

    architecture: ClassVar[Architecture]
    parts: ClassVar[Mapping[str, str]]
    """Components of the network's parameter names -> ``backbone``, ``decoder`` or ``head``."""
    max_series: ClassVar[int | None] = None
    """Series of one forward pass, at most, where `evaluation.batch_size` is auto; None leaves it to the device."""

    @abstractmethod
    def _module_for(self, network: nn.Module, roles: Roles) -> NetworkModule:
        """The family's module around its network."""

    @abstractmethod
    def _check_roles(self, roles: Roles) -> None:
        """Refuse columns that the family does not read."""

    def _unrolled(self, batch: Batch) -> torch.Tensor:
        """[batch, prediction, targets, levels or 1] beyond the steps of one forward pass, as the library does it."""
        raise TypeError(f"{type(self).__name__} forecasts no more than {self.module.native_length} steps")

    def _load(self, roles: Roles, pretrained: str | None = None, random_weights: bool = False) -> nn.Module:
        """The network for these channels, with the weights of `pretrained` (None: the configured) or random ones."""
        section = self.config.model
        if pretrained is not None:
            section = section.model_copy(update={"pretrained": pretrained, "revision": None})
        return load_network(self.architecture, section, random_weights, partial(self._fit_to, roles=roles))

    def _fit_to(self, config: PreTrainedConfig, roles: Roles) -> None:
        """Set what of the config depends on the run's channels, and refuse those it cannot have."""

    def _freeze(self, mode: str) -> None:
        """Let what the mode trains learn, and nothing else."""
        freeze_by_mode(self.network, mode, self.parts, ())

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
        self._wrap(self._load(preprocessor.roles, random_weights=mode == "from_scratch"), preprocessor)
        self._check_mode()
        self._check_built()
        if mode in ("lora", "dora"):
            self.add_adapter()
        else:
            self._freeze(mode)
        self.log_parameters()

    def forecast(self, batch: Batch) -> torch.Tensor:
        """[batch, prediction, targets] float32 in original units."""
        return self._values(batch)[..., 0]

    def window_losses(self, module: nn.Module, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """`training.loss` in the network's normalised space, per window."""
        values, loc, scale = module(batch)
        truth, observed, training = self._truth(batch, loc, scale), self._weighing(batch), self.config.training
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

    def _truth(self, batch: Batch, loc: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        """[batch, steps, targets] what was read, in the network's normalised space."""
        targets = batch["future_values"][:, : self.module.num_steps, : self.module.num_targets]
        return self.module.normalise(targets, loc, scale)

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


def refuse_other_columns(model_type: str, roles: Roles) -> None:
    """For families that forecast each series from its own past.

    Raises:
        ConfigError: there are columns beside the targets.
    """
    others = (*roles.conditional, *roles.control, *roles.statics, *roles.time_features)
    if others:
        raise ConfigError(
            f"model.type={model_type} forecasts each series from its own past and cannot read {others[0]!r}: leave "
            "conditional, control, static columns and time features out of data, or use model.type chronos2 or ttm"
        )
