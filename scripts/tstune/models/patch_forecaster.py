"""What PatchTST and PatchTSMixer share: their module, models from scratch, what a checkpoint must say, their parts."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import nn

from tstune.config.section import ModelSection
from tstune.data.prepared import Preprocessor
from tstune.data.table import Roles
from tstune.data.windows import Batch
from tstune.errors import CheckpointError, ConfigError
from tstune.models.network_forecaster import NetworkForecaster, ScaledModule
from tstune.models.network_weights import Architecture
from tstune.runtime.logs import logger

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel


@dataclass(frozen=True)
class PatchArchitecture:
    """How a family over patches is built.

    Attributes:
        names: key of the section -> key of config.json, of what the weights fix.
        defaults: key of the section -> value when built from scratch; the patch stride is the patch length.
        constants: key of config.json -> value when built from scratch.
        dropouts: key of the section -> keys of config.json that it sets.
        mask_name: what the network calls the mask of what was observed.
    """

    names: Mapping[str, str]
    defaults: Mapping[str, object]
    constants: Mapping[str, object]
    dropouts: Mapping[str, tuple[str, ...]]
    mask_name: str


class PatchModule(ScaledModule):
    """A network of transformers with `model`, `head` and a `config` of patches, in two halves: encode and head.

    Args:
        network: it.
        preprocessor: channels, and the scaler fitted on the training part.
        prediction_length: steps that are asked for.
        mask_name: what the network calls the mask of what was observed.
    """

    def __init__(
        self, network: PreTrainedModel, preprocessor: Preprocessor, prediction_length: int, mask_name: str
    ) -> None:
        super().__init__(network, preprocessor, prediction_length, network.config.prediction_length)
        self.mask_name = mask_name

    def forward(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Forecast [batch, steps, targets, 1] in scaled units, and the scaler's mean and std [targets]."""
        encoded = batch if "features" in batch else self.encode(batch)
        values = self._core.head(encoded["features"])[:, : self.num_steps, : self.num_targets]
        values = values * encoded["scale"] + encoded["loc"]
        return values[..., None], *self.target_scale

    def encode(self, batch: Batch) -> Batch:
        """First half: features [batch, channels, patches, width], loc and scale [batch, 1, targets] of the window."""
        past, observed = self.scaled_context(batch)
        output = self._core.model(past_values=past, **{self.mask_name: observed}, return_dict=True)
        loc, scale = (values[..., : self.num_targets] for values in (output.loc, output.scale))
        return {"features": output.last_hidden_state, "loc": loc, "scale": scale}

    @property
    def _core(self) -> nn.Module:
        """The network itself, within the peft model if there is one: both have a `model`."""
        base = getattr(self.network, "get_base_model", None)
        return self.network if base is None else base()


class PatchForecaster(NetworkForecaster):
    """A point forecaster over patches, of transformers."""

    library = "transformers"
    patches: ClassVar[PatchArchitecture]
    parts: ClassVar[Mapping[str, str]] = {"encoder": "backbone", "head": "head"}

    @abstractmethod
    def _check_sizes(self, options: Mapping[str, object]) -> None:
        """Refuse an architecture from scratch whose sizes do not fit together."""

    def _scratch_options(self, roles: Roles) -> dict[str, object]:
        """What else of config.json depends on the channels when built from scratch."""
        return {"num_input_channels": len(roles.channels)}

    def _module_for(self, network: PreTrainedModel, roles: Roles) -> PatchModule:
        return PatchModule(network, self.preprocessor, self.config.model.prediction_length, self.patches.mask_name)

    def _load(self, roles: Roles, pretrained: str | None = None, random_weights: bool = False) -> PreTrainedModel:
        if pretrained is None and self.config.model.pretrained is None:
            return self._from_scratch(roles)
        return super()._load(roles, pretrained, random_weights)

    def _from_scratch(self, roles: Roles) -> PreTrainedModel:
        section, mode = self.config.model, self.config.tuning.mode
        if section.quantization != "none":
            raise ConfigError(
                f"model.quantization={section.quantization} packs pretrained weights, but model.pretrained is null; "
                "set it to a folder or Hub id, or model.quantization=none"
            )
        if mode != "from_scratch":
            logger.warning(
                "model.pretrained is null: tuning.mode=%s starts from random weights, frozen ones included", mode
            )
        options = {
            key: default if getattr(section, key) is None else getattr(section, key)
            for key, default in self.patches.defaults.items()
        }
        stride = options["patch_length"] if section.patch_stride is None else section.patch_stride
        if options["patch_length"] >= section.context_length:
            raise ConfigError(
                f"model.patch_length={options['patch_length']} must be less than "
                f"model.context_length={section.context_length}"
            )
        self._check_sizes(options)
        named = {name: options[key] for key, name in self.patches.names.items() if key in options}
        lengths = {name: getattr(section, name) for name in ("context_length", "prediction_length")}
        rest = self.patches.constants | self._scratch_options(roles)
        config = self.architecture.config_class(**named, **lengths, **rest, patch_stride=stride)
        for key, names in self.patches.dropouts.items():
            for name in names:
                setattr(config, name, options[key])
        self._fit_to(config, roles)
        return self.architecture.network_class(config)

    def _fit_to(self, config: PreTrainedConfig, roles: Roles) -> None:
        config.num_input_channels = len(roles.channels)
        for key, names in self.patches.dropouts.items():
            value = getattr(self.config.model, key)
            if value is not None:
                for name in names:
                    setattr(config, name, value)

    def _freeze(self, mode: str) -> None:
        super()._freeze(mode)
        if self.network.config.positional_encoding_type == "sincos":
            for name, parameter in self.network.named_parameters():
                if name.endswith("position_enc"):  # sines and cosines, which the library keeps as they are
                    parameter.requires_grad = False


def patch_architecture(title: str, patches: PatchArchitecture, scalings: tuple[object, ...] = ("std",)) -> Architecture:
    """How a family over patches is loaded.

    Args:
        title: name for messages, and of its classes in transformers.
        patches: its keys.
        scalings: values of `scaling` that stand for a window's own mean and deviation.
    """

    def check(section: ModelSection, values: dict) -> None:
        name, values = section.pretrained, architecture.config_class().to_dict() | values
        context, steps = values["context_length"], values["prediction_length"]
        if context != section.context_length:
            raise CheckpointError(
                f"model.pretrained={name} has context_length {context}, the run asks for {section.context_length}; set "
                f"model.context_length={context} or use another checkpoint"
            )
        if section.prediction_length > steps:
            raise CheckpointError(
                f"model.pretrained={name} forecasts {steps} steps, the run asks for {section.prediction_length}; set "
                f"model.prediction_length={steps} or less, or model.pretrained=null to build a longer one from scratch"
            )
        if values["loss"] != "mse":
            raise CheckpointError(
                f"model.pretrained={name} forecasts a distribution (loss {values['loss']}); use a checkpoint that "
                "forecasts points (loss mse)"
            )
        if values["scaling"] not in scalings:
            raise CheckpointError(
                f"model.pretrained={name} has scaling {values['scaling']}; use a checkpoint whose windows are "
                "normalised by their own mean and deviation (scaling std)"
            )
        for key, stored in patches.names.items():
            asked, found = getattr(section, key), values[stored]
            if asked is not None and asked != found:
                raise CheckpointError(
                    f"model.pretrained={name} has {stored} {found}, the run asks for {asked}; leave out model.{key}, "
                    "or set model.pretrained=null to build it from scratch"
                )

    names = (f"transformers:{title}{part}" for part in ("ForPrediction", "Config"))
    architecture = Architecture(title, "transformers>=5.23,<6", *names, check, dropout_key=None)
    return architecture
