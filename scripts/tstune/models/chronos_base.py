"""What Chronos-Bolt and Chronos-2 share: their parts, and what their config.json must say."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from transformers import PreTrainedConfig, PreTrainedModel

from tstune.config.model_sections import ModelSection
from tstune.errors import CheckpointError
from tstune.models.network_weights import Architecture, require_context, require_levels
from tstune.models.quantile_forecaster import QuantileForecaster


class ChronosForecaster(QuantileForecaster):
    """A family of chronos-forecasting; its loss is the library's up to a constant factor (tested)."""

    parts: ClassVar[Mapping[str, str]] = {
        "shared": "backbone",
        "input_patch_embedding": "backbone",
        "encoder": "backbone",
        "decoder": "decoder",
        "output_patch_embedding": "head",
    }


def chronos_architecture(
    title: str, network_class: type[PreTrainedModel], config_class: type[PreTrainedConfig]
) -> Architecture:
    """How a family of chronos-forecasting is loaded."""

    def check(section: ModelSection, values: dict) -> None:
        name = section.pretrained
        settings = values.get("chronos_config")
        if not isinstance(settings, dict):
            raise CheckpointError(
                f"model.pretrained={name} is a {network_class.__name__} without chronos_config, not a {title} "
                "checkpoint; use another checkpoint"
            )
        longest, levels = (settings.get(key) for key in ("context_length", "quantiles"))
        if not isinstance(longest, int) or not isinstance(levels, list):
            raise CheckpointError(
                f"model.pretrained={name}: chronos_config in its config.json names no lengths and levels"
            )
        require_context(name, longest, section.context_length)
        require_levels(name, levels)

    embeddings = ("input_patch_embedding.", "output_patch_embedding.")
    return Architecture(title, network_class, config_class, check, required=embeddings)
