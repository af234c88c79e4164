"""PatchTST-FM (granite-tsfm): an encoder over patches of context and forecast at once, every series on its own."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import nn
from torch.nn import functional as F

from tstune.config.section import ModelSection, PatchTSTFMSection
from tstune.data.table import Roles
from tstune.data.windows import Batch
from tstune.errors import CheckpointError
from tstune.models.modules import NetworkModule, as_series
from tstune.models.network_forecaster import QuantileForecaster
from tstune.models.network_weights import GRANITE, Architecture, require_context, require_levels

if TYPE_CHECKING:
    from tsfm_public.models.patchtst_fm.configuration_patchtst_fm import PatchTSTFMConfig


class PatchTSTFMModule(NetworkModule):
    """Each target of each window is a series of its own, normalised by mean, deviation and an arcsinh.

    Steps before the first reading are padding, which nothing attends to: so does the library with series shorter than
    others. Later gaps are masked inside their patches.
    """

    def __init__(self, network: nn.Module, roles: Roles, prediction_length: int) -> None:
        from tsfm_public.models.patchtst_fm.modeling_patchtst_fm import PatchTSTFMModel

        super().__init__(network, roles, prediction_length, prediction_length, tuple(network.config.quantile_levels))
        self._core_class = PatchTSTFMModel
        self.masked_steps = masked_steps(network.config, prediction_length)

    def forward(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        backbone = self.part(self._core_class)
        config = backbone.config
        observed = as_series(batch["past_observed_mask"][..., : self.num_targets])
        values = torch.where(observed, as_series(batch["past_values"][..., : self.num_targets]), 0.0)
        begun = observed.cumsum(dim=1) > 0
        length = values.shape[1] + self.masked_steps
        before = config.context_length - length
        masks = (torch.zeros_like(observed), begun & ~observed, ~begun)  # ahead, missing, padding
        filled = [
            F.pad(F.pad(mask, (before, 0), value=pads), (0, self.masked_steps), value=ahead)
            for mask, pads, ahead in zip(masks, (False, False, True), (True, False, False), strict=True)
        ]
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "User provided device_type of 'cuda'")  # the library says so on any CPU
            output = backbone(
                F.pad(values, (before, self.masked_steps)), *filled, return_loss=False, context_length=length
            ).quantile_outputs
        loc, scale = (value.view(-1, 1, self.num_targets) for value in (backbone.norm_fn.mean, backbone.norm_fn.std))
        if config.patch_stride not in (None, config.d_patch):
            output = backbone._overlap_add(output, config.context_length, config.patch_stride)
        begin = config.context_length - self.masked_steps
        quantiles = output[:, begin : begin + self.num_steps].unflatten(0, (-1, self.num_targets))
        return quantiles.transpose(1, 2), loc, scale

    def normalise(self, values: torch.Tensor, loc: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        return torch.asinh(super().normalise(values, loc, scale))

    def in_original_units(self, values: torch.Tensor, loc: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        return super().in_original_units(torch.sinh(values.float()), loc, scale)


class PatchTSTFMForecaster(QuantileForecaster):
    """PatchTST-FM behind the common interface; it reads targets only."""

    model_type = "patchtst_fm"
    title, library, section = "PatchTST-FM", "granite-tsfm", PatchTSTFMSection
    lora_targets = ("attn.qkv", "attn.proj", "out_layer.layer2")
    max_series = 128  # the library fills the quantiles of each up to its longest context with zeros
    parts: ClassVar[Mapping[str, str]] = {
        "in_layer": "backbone",
        "pos_embed": "backbone",
        "blocks": "backbone",
        "prehead_norm": "backbone",
        "out_layer": "head",
    }
    architecture = Architecture(
        title,
        GRANITE,
        "tsfm_public.models.patchtst_fm.modeling_patchtst_fm:PatchTSTFMForPrediction",
        "tsfm_public.models.patchtst_fm.configuration_patchtst_fm:PatchTSTFMConfig",
        dropout_key=None,
    )

    def _load(self, roles: Roles, pretrained: str | None = None, random_weights: bool = False) -> nn.Module:
        network = super()._load(roles, pretrained, random_weights)
        if self.config.model.dropout is not None:  # the library's configuration has no key for it
            for part in network.modules():
                if isinstance(part, nn.Dropout):
                    part.p = self.config.model.dropout
        return network

    @classmethod
    def _check_config(cls, section: ModelSection, values: dict) -> None:
        name, config = str(section.pretrained), cls.architecture.config_class(**values)
        require_levels(name, config.quantile_levels)
        steps = masked_steps(config, section.prediction_length)
        if steps >= config.context_length:
            raise CheckpointError(
                f"model.pretrained={name} holds {config.context_length} steps of context and forecast together; "
                f"model.prediction_length={section.prediction_length} leaves none for the context"
            )
        require_context(name, config.context_length - steps, section.context_length)

    def _module_for(self, network: nn.Module, roles: Roles) -> NetworkModule:
        # FSDP refuses a class that it does not find, and checkpoints have one kind of block or both
        self.block_classes = tuple(sorted({type(block).__name__ for block in network.backbone.blocks}))
        return PatchTSTFMModule(network, roles, self.config.model.prediction_length)


def masked_steps(config: PatchTSTFMConfig, prediction_length: int) -> int:
    """Steps that the library masks behind a context: the forecast, and no fewer than it was trained to fill."""
    patches = config.pretrain_mask_cont * (2 if config.randomize_cpm else 1)
    return max(prediction_length, config.d_patch * max(patches, 2))
