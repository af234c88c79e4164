"""PatchTST (transformers): a transformer over patches, every channel on its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from transformers import PatchTSTConfig, PatchTSTForPrediction, PreTrainedConfig

from tstune.data.table import Roles
from tstune.errors import CheckpointError, ConfigError
from tstune.models.network_forecaster import refuse_other_columns
from tstune.models.patch_forecaster import PatchArchitecture, PatchForecaster, patch_architecture

# Architecture of granite-tsfm's example on ETTh1, 512-96, for models built from scratch.
PATCHES = PatchArchitecture(
    names={
        "patch_length": "patch_length",
        "patch_stride": "patch_stride",
        "d_model": "d_model",
        "num_layers": "num_hidden_layers",
        "num_heads": "num_attention_heads",
        "ffn_dim": "ffn_dim",
        "norm_type": "norm_type",
    },
    defaults={
        "patch_length": 12,
        "d_model": 128,
        "num_layers": 3,
        "num_heads": 16,
        "ffn_dim": 512,
        "norm_type": "batchnorm",
        "dropout": 0.2,
        "head_dropout": 0.2,
    },
    constants={"pooling_type": None, "scaling": "std", "loss": "mse"},
    dropouts={"dropout": ("path_dropout", "ff_dropout"), "head_dropout": ("head_dropout",)},
    mask_name="past_observed_mask",
)


class PatchTSTForecaster(PatchForecaster):
    """PatchTST behind the common interface; it reads targets only."""

    model_type = "patchtst"
    block_classes: ClassVar[tuple[str, ...]] = ("PatchTSTEncoderLayer",)
    patches = PATCHES
    architecture = patch_architecture("PatchTST", PatchTSTForPrediction, PatchTSTConfig, PATCHES)

    def _check_roles(self, roles: Roles) -> None:
        refuse_other_columns(self.model_type, roles)

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
