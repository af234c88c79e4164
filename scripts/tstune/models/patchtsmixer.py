"""PatchTSMixer (transformers): an MLP-mixer over patches; its channels are apart, or mixed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from tstune.config.section import ModelSection
from tstune.data.table import Roles
from tstune.errors import CheckpointError, ConfigError
from tstune.models.patch_forecaster import PatchForecaster, patch_architecture

if TYPE_CHECKING:
    from transformers import PreTrainedConfig


class PatchTSMixerSection(ModelSection):
    """PatchTSMixer: an MLP-mixer over patches.

    The architecture keys (`patch_length` to `channel_mode`) build a model from scratch. With pretrained weights they
    are read from the checkpoint, and a value given here must agree with it.
    """

    type: Literal["patchtsmixer"] = "patchtsmixer"
    pretrained: str | None = None
    """Folder of a checkpoint, Hub id (`ibm-granite/granite-timeseries-patchtsmixer`), or null for random weights."""
    patch_length: int | None = Field(None, ge=1)
    """Steps per patch; 8 when built from scratch."""
    patch_stride: int | None = Field(None, ge=1)
    """Steps from one patch to the next; the patch length when built from scratch."""
    d_model: int | None = Field(None, ge=1)
    """Width; 48 when built from scratch."""
    num_layers: int | None = Field(None, ge=1)
    """Mixer layers; 3 when built from scratch."""
    expansion_factor: int | None = Field(None, ge=1)
    """Width of a mixer's hidden layer over its input; 3 when built from scratch."""
    gated_attn: bool | None = None
    """Gate after each mixer; true when built from scratch."""
    self_attn: bool | None = None
    """Self-attention across patches; false when built from scratch."""
    channel_mode: Literal["auto", "common_channel", "mix_channel"] = "auto"
    """`common_channel` forecasts each channel alone, `mix_channel` lets them exchange information and fixes how many
    there are; `auto` is the checkpoint's, and from scratch mixes only if there are conditional columns."""
    dropout: float | None = Field(None, ge=0, lt=1)
    """Dropout inside the mixers; null keeps the checkpoint's (0.5 from scratch)."""
    head_dropout: float | None = Field(None, ge=0, lt=1)
    """Dropout before the forecast head; null keeps the checkpoint's (0.7 from scratch)."""


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
