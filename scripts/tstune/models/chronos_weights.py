"""Find, check and load Chronos weights in the format of chronos-forecasting."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.utils import cached_file

from tstune.config.model_sections import ModelSection
from tstune.errors import CheckpointError, ConfigError
from tstune.models.weight_files import first_line, not_found, require_config_file

_FAMILY_OF = {
    "ChronosBoltModelForForecasting": "chronos_bolt",
    "Chronos2Model": "chronos2",
    "TinyTimeMixerForPrediction": "ttm",
}
"""Architecture that a config.json names -> the family that reads it."""

# chronos-forecasting lets these be missing and fills them with random numbers
_EMBEDDINGS = ("input_patch_embedding.", "output_patch_embedding.")
_FILES = ("model.safetensors", "model.safetensors.index.json")


@dataclass(frozen=True)
class ChronosArchitecture:
    """How a family of chronos-forecasting is called and loaded.

    Attributes:
        title: name for messages.
        network_class: its network; loads and saves checkpoints.
        config_class: reads its config.json.
    """

    title: str
    network_class: type[PreTrainedModel]
    config_class: type[PreTrainedConfig]


def load_network(
    architecture: ChronosArchitecture, section: ModelSection, random_weights: bool = False
) -> PreTrainedModel:
    """Load a checkpoint in float32.

    Args:
        architecture: of the family.
        section: weights, context length and dropout.
        random_weights: keep the checkpoint's architecture, not its weights.

    Raises:
        ConfigError: there is no checkpoint, so no architecture.
        CheckpointError: not found, damaged, of another family, or it reads fewer steps than asked for.
    """
    name, revision = section.pretrained, section.revision
    if name is None:
        raise ConfigError(
            f"model.pretrained is null, but {architecture.title} takes its architecture from a checkpoint; set it to a "
            "folder or Hub id (tuning.mode=from_scratch then trains that architecture from random weights)"
        )
    require_config_file(name)
    try:
        values, _ = PreTrainedConfig.get_config_dict(name, revision=revision)
        _check_architecture(architecture, section, values)
        config = architecture.config_class.from_pretrained(name, revision=revision)
    except (OSError, ValueError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(not_found(name, error)) from None
    if getattr(section, "dropout", None) is not None:
        config.dropout_rate = section.dropout
    if random_weights:
        return architecture.network_class(config)
    try:
        network, report = architecture.network_class.from_pretrained(
            name, revision=revision, config=config, dtype=torch.float32, output_loading_info=True
        )
        lacking = sorted({*report["missing_keys"], *_missing_embeddings(network, name, revision)})
    except (OSError, ValueError, TypeError, RuntimeError, SafetensorError) as error:
        raise CheckpointError(f"model.pretrained={name}: the weights cannot be read: {first_line(error)}") from None
    if lacking:
        raise CheckpointError(
            f"model.pretrained={name}: its tensors do not fit its own config.json: {lacking[0]} is missing; the folder "
            "mixes files of two models"
        )
    return network


def _check_architecture(architecture: ChronosArchitecture, section: ModelSection, values: dict) -> None:
    name, wanted = section.pretrained, architecture.network_class.__name__
    found = (values.get("architectures") or [values.get("model_type", "unknown")])[0]
    if found != wanted or not isinstance(values.get("chronos_config"), dict):
        family = _FAMILY_OF.get(found)
        fix = f"set model.type={family}" if family and found != wanted else "use another checkpoint"
        raise CheckpointError(f"model.pretrained={name} is a {found}, not a {architecture.title} checkpoint; {fix}")
    longest, levels = (values["chronos_config"].get(key) for key in ("context_length", "quantiles"))
    if not isinstance(longest, int) or not isinstance(levels, list):
        raise CheckpointError(f"model.pretrained={name}: chronos_config in its config.json names no lengths and levels")
    if section.context_length > longest:
        raise CheckpointError(
            f"model.pretrained={name} reads at most {longest} steps, the run asks for {section.context_length}; "
            f"set model.context_length={longest} or less"
        )
    if 0.5 not in levels or sorted(set(levels)) != levels:
        raise CheckpointError(
            f"model.pretrained={name} forecasts the quantiles {levels}; they must ascend and hold the median, 0.5"
        )


def _missing_embeddings(network: PreTrainedModel, name: str, revision: str | None) -> list[str]:
    """Embeddings that are not in the file; transformers does not report what a model lets be missing."""
    path = next((found for file in _FILES if (found := _file(name, file, revision)) is not None), None)
    if path is None or path.suffix != ".safetensors":
        return []
    with safe_open(path, framework="pt") as weights:
        stored = set(weights.keys())
    return [key for key in network.state_dict() if key.startswith(_EMBEDDINGS) and key not in stored]


def _file(name: str, file: str, revision: str | None) -> Path | None:
    found = cached_file(name, file, revision=revision, _raise_exceptions_for_missing_entries=False)
    return None if found is None else Path(found)
