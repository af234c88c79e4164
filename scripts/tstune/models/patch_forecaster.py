"""PatchTST and PatchTSMixer (transformers): a transformer and an MLP-mixer over patches."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import torch

from tstune.config.section import ModelSection, PatchTSMixerSection, PatchTSTSection
from tstune.data.preprocess import Preprocessor
from tstune.data.table import Roles
from tstune.data.windows import Batch
from tstune.errors import CheckpointError, ConfigError
from tstune.models.modules import ScaledModule
from tstune.models.network_forecaster import NetworkForecaster
from tstune.models.network_weights import Architecture, lengths_of, require_same, scratch_values

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel


class PatchModule(ScaledModule):
    """A network of transformers with `model`, `head` and a `config` of patches, in two halves: encode and head.

    `mask_name` is what the network calls the mask of what was observed.
    """

    def __init__(
        self, network: PreTrainedModel, preprocessor: Preprocessor, prediction_length: int, mask_name: str
    ) -> None:
        super().__init__(network, preprocessor, prediction_length, network.config.prediction_length)
        self.mask_name = mask_name

    def forward(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Forecast [batch, steps, targets, 1] in scaled units, and the scaler's mean and std [targets]."""
        encoded = batch if "features" in batch else self.encode(batch)
        values = self.plain.head(encoded["features"])[:, : self.num_steps, : self.num_targets]
        values = values * encoded["scale"] + encoded["loc"]
        return values[..., None], *self.target_scale(batch)

    def encode(self, batch: Batch) -> Batch:
        """First half: features [batch, channels, patches, width], loc and scale [batch, 1, targets] of the window."""
        past, observed = self.scaled_context(batch)
        output = self.plain.model(past_values=past, **{self.mask_name: observed}, return_dict=True)
        loc, scale = (values[..., : self.num_targets] for values in (output.loc, output.scale))
        return self.with_scale({"features": output.last_hidden_state, "loc": loc, "scale": scale}, batch)


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

    def known_lengths(self) -> list[tuple[int, int]]:
        """Those of the checkpoint."""
        return [] if self.config.model.pretrained is None else lengths_of(Path(self.config.model.pretrained))

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
        self._set_dropouts(config, {key: getattr(self.config.model, key) for key in self.dropouts})

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


class PatchTSTForecaster(PatchForecaster):
    """PatchTST behind the common interface; it reads targets only."""

    model_type, title, section = "patchtst", "PatchTST", PatchTSTSection
    lora_targets = ("q_proj", "k_proj", "v_proj", "out_proj", "head.projection")
    block_classes: ClassVar[tuple[str, ...]] = ("PatchTSTEncoderLayer",)
    architecture = patch_architecture(title)
    # the architecture of granite-tsfm's example on ETTh1, 512-96
    defaults: ClassVar[Mapping[str, object]] = {
        "patch_length": 12,
        "d_model": 128,
        "num_layers": 3,
        "num_heads": 16,
        "ffn_dim": 512,
        "norm_type": "batchnorm",
        "dropout": 0.2,
        "head_dropout": 0.2,
    }
    constants: ClassVar[Mapping[str, object]] = PatchForecaster.constants | {"pooling_type": None}
    renamed: ClassVar[Mapping[str, str]] = {"num_layers": "num_hidden_layers", "num_heads": "num_attention_heads"}
    dropouts: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "dropout": ("path_dropout", "ff_dropout"),
        "head_dropout": ("head_dropout",),
    }
    mask_name = "past_observed_mask"

    def _check_sizes(self, options: Mapping[str, object]) -> None:
        width, heads = options["d_model"], options["num_heads"]
        if width % heads or width % 2:
            raise ConfigError(f"model.d_model={width} must be even and a multiple of model.num_heads={heads}")

    def _fit_to(self, config: PreTrainedConfig, roles: Roles) -> None:
        name, channels = self.config.model.pretrained, len(roles.channels)
        if not config.share_projection:
            raise CheckpointError(
                f"model.pretrained={name} has share_projection false, which transformers cannot forecast with; use "
                "another checkpoint"
            )
        if not config.share_embedding and config.num_input_channels != channels:
            raise CheckpointError(
                f"model.pretrained={name} embeds each of its {config.num_input_channels} channels by itself "
                f"(share_embedding false), the run has {channels}; give as many data.target_columns in its order, or "
                "use another checkpoint"
            )
        super()._fit_to(config, roles)


class PatchTSMixerForecaster(PatchForecaster):
    """PatchTSMixer behind the common interface; where it mixes channels it reads past-only columns beside targets."""

    model_type, title, section = "patchtsmixer", "PatchTSMixer", PatchTSMixerSection
    lora_targets = ("fc1", "fc2", "attn_layer", "q_proj", "k_proj", "v_proj", "out_proj", "base_forecast_block")
    block_classes: ClassVar[tuple[str, ...]] = ("PatchTSMixerLayer",)
    architecture = patch_architecture(title)
    # the architecture of granite-tsfm's example on ETTh1, 512-96
    defaults: ClassVar[Mapping[str, object]] = {
        "patch_length": 8,
        "d_model": 48,
        "num_layers": 3,
        "expansion_factor": 3,
        "gated_attn": True,
        "self_attn": False,
        "dropout": 0.5,
        "head_dropout": 0.7,
    }
    scalings = ("std", True)
    mask_name = "observed_mask"

    def _check_roles(self, roles: Roles) -> None:
        others = (*roles.control, *roles.statics, *roles.time_features)
        if others:
            raise ConfigError(
                f"model.type=patchtsmixer reads the past only and cannot read {others[0]!r}: leave control, static "
                "columns and time features out of data (a control column may be one of data.conditional_columns), or "
                "use model.type chronos2 or ttm"
            )

    def _scratch_options(self, roles: Roles) -> dict[str, object]:
        asked = self.config.model.channel_mode
        mode = ("mix_channel" if roles.conditional else "common_channel") if asked == "auto" else asked
        return super()._scratch_options(roles) | {"mode": mode}

    def _fit_to(self, config: PreTrainedConfig, roles: Roles) -> None:
        name, channels, asked = self.config.model.pretrained, len(roles.channels), self.config.model.channel_mode
        if asked not in ("auto", config.mode):
            raise CheckpointError(
                f"model.pretrained={name} has mode {config.mode}, the run asks for {asked}; leave out "
                "model.channel_mode, or set model.pretrained=null to build it from scratch"
            )
        if roles.conditional and config.mode != "mix_channel":
            raise ConfigError(
                f"model.type=patchtsmixer with mode {config.mode} forecasts each channel alone and cannot read "
                f"{roles.conditional[0]!r} of data.conditional_columns: leave them out, or build a model that mixes "
                "with model.pretrained=null and model.channel_mode=mix_channel"
            )
        if config.mode == "mix_channel" and config.num_input_channels != channels:
            raise CheckpointError(
                f"model.pretrained={name} mixes {config.num_input_channels} channels, the run has {channels}; give as "
                "many columns in its order, or use a checkpoint with mode common_channel"
            )
        config.prediction_channel_indices = list(range(roles.num_targets)) if roles.conditional else None
        super()._fit_to(config, roles)
