"""TimesFM 2.5 (transformers): a stack of decoder layers over patches, every series on its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import nn

from tstune.config.model_sections import ModelSection
from tstune.data.table import Roles
from tstune.data.windows import Batch
from tstune.errors import CheckpointError, ConfigError, MissingDependencyError
from tstune.models.network_forecaster import refuse_other_columns
from tstune.models.network_weights import Architecture, require_context
from tstune.models.quantile_forecaster import QuantileForecaster
from tstune.models.timesfm_module import TimesFMModule

try:
    from transformers import TimesFm2_5Config, TimesFm2_5ModelForPrediction
except ImportError:  # older than the family
    raise MissingDependencyError("TimesFM 2.5 needs a newer package: pip install 'transformers>=5.23,<6'") from None


def _check(section: ModelSection, values: dict) -> None:
    name, known = section.pretrained, TimesFm2_5Config()
    longest, horizon, levels, median = (
        values.get(key, getattr(known, key))
        for key in ("context_length", "horizon_length", "quantiles", "decode_index")
    )
    require_context(name, longest, section.context_length)
    if section.prediction_length > horizon:
        raise CheckpointError(
            f"model.pretrained={name} forecasts {horizon} steps and its library rolls out no more, the run asks for "
            f"{section.prediction_length}; set model.prediction_length={horizon} or less"
        )
    if 0.5 not in levels or sorted(set(levels)) != list(levels) or median != levels.index(0.5) + 1:
        raise CheckpointError(
            f"model.pretrained={name} forecasts the quantiles {levels} and decodes number {median}; they must ascend, "
            "and that number must be the median, 0.5"
        )


class TimesFMForecaster(QuantileForecaster):
    """TimesFM 2.5 behind the common interface; it reads targets only.

    The loss is that of `QuantileForecaster`. The library adds the squared error of the median, and pairs the
    columns below it with the level above theirs, which would teach them wrong quantiles (transformers 5.23, tested).
    """

    model_type = "timesfm"
    block_classes: ClassVar[tuple[str, ...]] = ("TimesFm2_5DecoderLayer",)
    parts: ClassVar[Mapping[str, str]] = {
        "input_ff_layer": "backbone",
        "layers": "backbone",
        "output_projection_point": "head",
        "output_projection_quantiles": "head",
    }
    architecture = Architecture(
        "TimesFM 2.5", TimesFm2_5ModelForPrediction, TimesFm2_5Config, _check, dropout_key="attention_dropout"
    )

    def _module_for(self, network: nn.Module, roles: Roles) -> TimesFMModule:
        return TimesFMModule(network, roles, self.config.model.prediction_length)

    def _check_roles(self, roles: Roles) -> None:
        refuse_other_columns(self.model_type, roles)

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
