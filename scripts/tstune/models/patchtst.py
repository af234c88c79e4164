"""PatchTST (transformers): a transformer over patches, every channel on its own."""

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


class PatchTSTSection(ModelSection):
    """PatchTST: a transformer over patches that forecasts each channel alone.

    The architecture keys (`patch_length` to `norm_type`) build a model from scratch. With pretrained weights they are
    read from the checkpoint, and a value given here must agree with it.
    """

    type: Literal["patchtst"] = "patchtst"
    pretrained: str | None = None
    """Folder of a checkpoint, Hub id (`ibm-granite/granite-timeseries-patchtst`), or null for random weights."""
    patch_length: int | None = Field(None, ge=1)
    """Steps per patch; 12 when built from scratch."""
    patch_stride: int | None = Field(None, ge=1)
    """Steps from one patch to the next; the patch length when built from scratch."""
    d_model: int | None = Field(None, ge=2)
    """Width; 128 when built from scratch."""
    num_layers: int | None = Field(None, ge=1)
    """Encoder layers; 3 when built from scratch."""
    num_heads: int | None = Field(None, ge=1)
    """Attention heads; 16 when built from scratch."""
    ffn_dim: int | None = Field(None, ge=1)
    """Width of a layer's hidden part; 512 when built from scratch."""
    norm_type: Literal["batchnorm", "layernorm"] | None = None
    """Normalisation in the layers; batchnorm, the published one, when built from scratch. Its statistics are those of
    each process's own windows: with several processes, layernorm alone gives the numbers of one."""
    dropout: float | None = Field(None, ge=0, lt=1)
    """Dropout inside the layers; null keeps the checkpoint's (0.2 from scratch)."""
    head_dropout: float | None = Field(None, ge=0, lt=1)
    """Dropout before the forecast head; null keeps the checkpoint's (0.2 from scratch)."""


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
