"""TimesFM 2.5 (transformers): a stack of decoder layers over patches, every series on its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import nn

from tstune.config.section import ModelSection, TimesFMSection
from tstune.data.table import Roles
from tstune.data.windows import Batch
from tstune.errors import CheckpointError, ConfigError
from tstune.models.modules import NetworkModule, observed_or_nan
from tstune.models.network_forecaster import QuantileForecaster
from tstune.models.network_weights import Architecture, require_context


class TimesFMModule(NetworkModule):
    """A network between windows of ours and quantiles in its normalised space; each target of each window is a series.

    The network takes padding at the front only. Gaps after the first reading are bridged as in TimesFM's own
    preprocessing; what is missing before it, and what the first patch lacks, is padding.
    """

    input_layer = "input_ff_layer"

    def __init__(self, network: nn.Module, roles: Roles, prediction_length: int) -> None:
        config = network.config
        super().__init__(network, roles, prediction_length, config.horizon_length, tuple(config.quantiles))
        self.stays_positive = config.infer_is_positive

    def forward(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        encoded = batch if "features" in batch else self.encode(batch)
        quantiles = self._through_heads(encoded).transpose(1, 2)
        return quantiles, encoded["loc"], encoded["scale"]

    def encode(self, batch: Batch) -> Batch:
        """First half: features [batch, targets, 1 or 2, width], the last state of each series.

        Two of them, of the series and of its mirror image, if the network is made to treat both alike.
        """
        rows, padding = bridged(self.target_series(batch))
        padding &= ~padding.all(dim=1, keepdim=True)  # the library takes an empty series for zeros
        loc, scale = _mean_and_std(rows, ~padding)
        rows = (rows - loc) / scale
        lacking = -rows.shape[1] % self.plain.config.patch_length
        rows, padding = F.pad(rows, (lacking, 0)), F.pad(padding, (lacking, 0), value=True)
        if self.plain.config.force_flip_invariance:
            rows, padding = torch.stack([rows, -rows], 1).flatten(0, 1), padding.repeat_interleave(2, 0)
        found = self.plain.model(past_values=rows, past_values_padding=padding.long())
        shape = (batch["past_values"].shape[0], self.num_targets)
        return {
            "features": found.last_hidden_state[:, -1].view(*shape, -1, found.last_hidden_state.shape[-1]),
            "patch_loc": found.context_mu[:, -1].view(*shape, -1),
            "patch_scale": found.context_sigma[:, -1].view(*shape, -1),
            "loc": loc.view(-1, 1, self.num_targets),
            "scale": scale.view(-1, 1, self.num_targets),
            "has_scale": self.has_scale(batch).float(),
        }

    def never_negative(self, batch: Batch) -> torch.Tensor:
        """[batch, 1, targets] True where no reading of the context was below zero."""
        context = observed_or_nan(batch)[..., : self.num_targets]
        return context.nan_to_num(nan=torch.inf).amin(dim=1, keepdim=True) >= 0

    def _through_heads(self, encoded: Batch) -> torch.Tensor:
        """[batch, targets, steps, levels]: the median of one head, the distance of the others to it from the other."""
        network, median = self.plain, self.levels.index(0.5)
        point = self._projected(network.output_projection_point, encoded)
        if not network.config.use_continuous_quantile_head:
            return point
        spread = self._projected(network.output_projection_quantiles, encoded)
        covered = spread.shape[-2]  # steps; beyond them the first head knows the quantiles alone
        near = spread - spread[..., median, None] + point[..., :covered, median, None]
        return torch.cat([near, point[..., covered:, :]], dim=-2)

    def _projected(self, head: nn.Module, encoded: Batch) -> torch.Tensor:
        """[batch, targets, steps, levels] of one head, in the normalised space of the whole context."""
        loc, scale = (encoded[name][..., None, None] for name in ("patch_loc", "patch_scale"))
        columns = 1 + len(self.levels)  # the first is a mean, which nothing decodes
        values = head(encoded["features"]).unflatten(-1, (-1, columns))[..., : self.num_steps, 1:] * scale + loc
        if values.shape[2] == 1:
            return values[:, :, 0]
        return (values[:, :, 0] - values[:, :, 1].flip(-1)) / 2


class TimesFMForecaster(QuantileForecaster):
    """TimesFM 2.5 behind the common interface; it reads targets only.

    The loss is that of `QuantileForecaster`. The library adds the squared error of the median, and pairs the
    columns below it with the level above theirs, which would teach them wrong quantiles (transformers 5.23, tested).
    """

    model_type = "timesfm"
    title, library, section, module_class = "TimesFM 2.5", "transformers", TimesFMSection, TimesFMModule
    lora_targets = (
        *("q_proj", "k_proj", "v_proj", "o_proj", "fc1", "fc2"),
        *("output_projection_point.output_layer", "output_projection_quantiles.output_layer"),
    )
    block_classes: ClassVar[tuple[str, ...]] = ("TimesFm2_5DecoderLayer",)
    parts: ClassVar[Mapping[str, str]] = {
        "input_ff_layer": "backbone",
        "layers": "backbone",
        "output_projection_point": "head",
        "output_projection_quantiles": "head",
    }
    architecture = Architecture(
        title,
        "transformers>=5.23,<6",
        "transformers:TimesFm2_5ModelForPrediction",
        "transformers:TimesFm2_5Config",
        dropout_key="attention_dropout",
    )

    @classmethod
    def _check_config(cls, section: ModelSection, values: dict) -> None:
        name, known = section.pretrained, cls.architecture.config_class()
        longest, horizon, levels, median = (
            values.get(key, getattr(known, key))
            for key in ("context_length", "horizon_length", "quantiles", "decode_index")
        )
        require_context(name, longest, section.context_length)
        if section.prediction_length > horizon:
            raise CheckpointError(
                f"model.pretrained={name} forecasts {horizon} steps and its library rolls out no more, the run asks "
                f"for {section.prediction_length}; set model.prediction_length={horizon} or less"
            )
        if 0.5 not in levels or sorted(set(levels)) != list(levels) or median != levels.index(0.5) + 1:
            raise CheckpointError(
                f"model.pretrained={name} forecasts the quantiles {levels} and decodes number {median}; they must "
                "ascend, and that number must be the median, 0.5"
            )

    def _check_mode(self) -> None:
        if self.config.tuning.mode == "decoder":
            raise ConfigError(
                "tuning.mode=decoder: the decoder layers of TimesFM 2.5 are its backbone, it has no decoder beside "
                "them; use head, bias, lora, dora or full"
            )
        super()._check_mode()

    def _values(self, batch: Batch) -> torch.Tensor:
        values = super()._values(batch)
        if not self.module.stays_positive:
            return values
        # the library asks for the least reading of the whole batch, which would let one window change another
        never_negative = self.module.never_negative(batch)[..., None].to(values.device)
        return torch.where(never_negative, values.clamp(min=0), values)


def bridged(series: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Bridge what is missing after the first reading: a straight line between readings, the last one held.

    Takes [rows, steps] with NaN; returns them without, zero before the first reading, and True there.
    """
    observed, length = ~series.isnan(), series.shape[1]
    steps = torch.arange(length, device=series.device).expand_as(series)
    before = torch.where(observed, steps, -1).cummax(dim=1).values
    after = torch.where(observed, steps, length).flip(1).cummin(dim=1).values.flip(1)
    readings = series.nan_to_num()
    low = readings.gather(1, before.clamp(min=0))
    high = torch.where(after < length, readings.gather(1, after.clamp(max=length - 1)), low)
    share = (steps - before) / (after - before).clamp(min=1)
    leading = before < 0
    return torch.where(leading, 0.0, low + (high - low) * share), leading


def _mean_and_std(rows: torch.Tensor, valid: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """[rows, 1] each, of the valid steps of [rows, steps]; 1 where nothing varies."""
    count = valid.sum(dim=1, keepdim=True)
    mean = torch.where(valid, rows, 0.0).sum(dim=1, keepdim=True) / count
    squares = torch.where(valid, rows - mean, 0.0).square().sum(dim=1, keepdim=True)
    std = (squares / (count - 1).clamp(min=1)).sqrt()
    return mean, torch.where(std < 1e-6, 1.0, std)
