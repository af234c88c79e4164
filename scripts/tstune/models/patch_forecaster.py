"""What PatchTST and PatchTSMixer share: their module, models from scratch, what a checkpoint must say, their parts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import nn

from tstune.config.section import ModelSection
from tstune.data.prepared import Preprocessor
from tstune.data.table import Roles
from tstune.data.windows import Batch
from tstune.errors import CheckpointError, ConfigError
from tstune.models.network_forecaster import NetworkForecaster, ScaledModule
from tstune.models.network_weights import Architecture, require_same, scratch_values

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel


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
    parts: ClassVar[Mapping[str, str]] = {"encoder": "backbone", "head": "head"}
    defaults: ClassVar[Mapping[str, object]]
    """Key of the section -> value when built from scratch; the patch stride is the patch length."""
    constants: ClassVar[Mapping[str, object]] = {"scaling": "std", "loss": "mse"}
    """Key of config.json -> value when built from scratch."""
    renamed: ClassVar[Mapping[str, str]] = {}
    """Key of the section -> key of config.json, where they differ."""
    dropouts: ClassVar[Mapping[str, tuple[str, ...]]] = {"dropout": ("dropout",), "head_dropout": ("head_dropout",)}
    """Key of the section -> keys of config.json that it sets."""
    scalings: ClassVar[tuple[object, ...]] = ("std",)
    """Values of `scaling` that stand for a window's own mean and deviation."""
    mask_name: ClassVar[str]
    """What the network calls the mask of what was observed."""

    def _check_sizes(self, options: Mapping[str, object]) -> None:
        """Refuse an architecture from scratch whose sizes do not fit together."""

    def _scratch_options(self, roles: Roles) -> dict[str, object]:
        """What else of config.json depends on the channels when built from scratch."""
        return {"num_input_channels": len(roles.channels)}

    @classmethod
    def _check_config(cls, section: ModelSection, values: dict) -> None:
        name, values = section.pretrained, cls.architecture.config_class().to_dict() | values
        steps = values["prediction_length"]
        require_same(section, values, {"context_length": "context_length"})
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
        if values["scaling"] not in cls.scalings:
            raise CheckpointError(
                f"model.pretrained={name} has scaling {values['scaling']}; use a checkpoint whose windows are "
                "normalised by their own mean and deviation (scaling std)"
            )
        require_same(section, values, cls._names())

    @classmethod
    def _names(cls) -> dict[str, str]:
        """Key of the section -> key of config.json, of what the weights fix."""
        fixed = [*(key for key in cls.defaults if key not in cls.dropouts), "patch_stride"]
        return {key: cls.renamed.get(key, key) for key in fixed}

    def _module_for(self, network: PreTrainedModel, roles: Roles) -> PatchModule:
        return PatchModule(network, self.preprocessor, self.config.model.prediction_length, self.mask_name)

    def _load(self, roles: Roles, pretrained: str | None = None, random_weights: bool = False) -> PreTrainedModel:
        if pretrained is None and self.config.model.pretrained is None:
            return self._from_scratch(roles)
        return super()._load(roles, pretrained, random_weights)

    def _from_scratch(self, roles: Roles) -> PreTrainedModel:
        section = self.config.model
        if section.quantization != "none":
            raise ConfigError(
                f"model.quantization={section.quantization} packs pretrained weights, but model.pretrained is null; "
                "set it to a folder or Hub id, or model.quantization=none"
            )
        self._warn_of_random_weights()
        options = scratch_values(section, self.defaults)
        if options["patch_length"] >= section.context_length:
            raise ConfigError(
                f"model.patch_length={options['patch_length']} must be less than "
                f"model.context_length={section.context_length}"
            )
        self._check_sizes(options)
        options["patch_stride"] = section.patch_stride or options["patch_length"]
        named = {name: options[key] for key, name in self._names().items()}
        lengths = {name: getattr(section, name) for name in ("context_length", "prediction_length")}
        config = self.architecture.config_class(**named, **lengths, **self.constants, **self._scratch_options(roles))
        self._set_dropouts(config, options)
        self._fit_to(config, roles)
        return self.architecture.network_class(config)

    def _fit_to(self, config: PreTrainedConfig, roles: Roles) -> None:
        config.num_input_channels = len(roles.channels)
        self._set_dropouts(config, self.config.model.model_dump())

    def _set_dropouts(self, config: PreTrainedConfig, values: Mapping[str, object]) -> None:
        for key, names in self.dropouts.items():
            for name in names if values[key] is not None else ():
                setattr(config, name, values[key])

    def _freeze(self, mode: str) -> None:
        super()._freeze(mode)
        if self.network.config.positional_encoding_type == "sincos":
            for name, parameter in self.network.named_parameters():
                if name.endswith("position_enc"):  # sines and cosines, which the library keeps as they are
                    parameter.requires_grad = False


def patch_architecture(title: str) -> Architecture:
    """How a family over patches is loaded, by its title in the names of its classes."""
    names = (f"transformers:{title}{part}" for part in ("ForPrediction", "Config"))
    return Architecture(title, "transformers>=5.23,<6", *names, dropout_key=None)
