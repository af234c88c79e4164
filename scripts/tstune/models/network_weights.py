"""Find, check and load weights in the format of a family's own library (transformers' from_pretrained)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from huggingface_hub.errors import StrictDataclassError
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
    "T5ForConditionalGeneration": "chronos_t5",
    "TimesFm2_5ModelForPrediction": "timesfm",
    "FlowStateForPrediction": "flowstate",
    "PatchTSTFMForPrediction": "patchtst_fm",
    "PatchTSTForPrediction": "patchtst",
    "PatchTSMixerForPrediction": "patchtsmixer",
}
"""Architecture that a config.json names -> the family that reads it."""

_FILES = ("model.safetensors", "model.safetensors.index.json")


@dataclass(frozen=True)
class Architecture:
    """How the network of a family is called and loaded.

    Attributes:
        title: name for messages.
        network_class: loads and saves checkpoints.
        config_class: reads its config.json.
        check: raises `CheckpointError` if the values of a config.json do not suit the section.
        required: beginnings of names of tensors that must be in the file, though the library lets them be missing and
            fills them with random numbers.
        dropout_key: key of config.json that `model.dropout` sets; None if there is none.
    """

    title: str
    network_class: type[PreTrainedModel]
    config_class: type[PreTrainedConfig]
    check: Callable[[ModelSection, dict], None]
    required: tuple[str, ...] = ()
    dropout_key: str | None = "dropout_rate"


def load_network(
    architecture: Architecture,
    section: ModelSection,
    random_weights: bool = False,
    fit: Callable[[PreTrainedConfig], None] | None = None,
) -> PreTrainedModel:
    """Load a checkpoint in float32.

    Args:
        architecture: of the family.
        section: weights, context length and dropout.
        random_weights: keep the checkpoint's architecture, not its weights.
        fit: sets what of the config depends on the run, before the network is made.

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
        _check_class(architecture, name, values)
        architecture.check(section, values)
        config = architecture.config_class.from_pretrained(name, revision=revision)
    except (OSError, ValueError, StrictDataclassError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(not_found(name, error)) from None
    if architecture.dropout_key is not None and getattr(section, "dropout", None) is not None:
        setattr(config, architecture.dropout_key, section.dropout)
    if fit is not None:
        fit(config)
    if random_weights:
        return architecture.network_class(config)
    try:
        network, report = architecture.network_class.from_pretrained(
            name, revision=revision, config=config, dtype=torch.float32, output_loading_info=True
        )
        lacking = sorted({*report["missing_keys"], *_missing(architecture.required, network, name, revision)})
    except (OSError, ValueError, TypeError, RuntimeError, SafetensorError) as error:
        raise CheckpointError(f"model.pretrained={name}: the weights cannot be read: {first_line(error)}") from None
    if lacking:
        raise CheckpointError(
            f"model.pretrained={name}: its tensors do not fit its own config.json: {lacking[0]} is missing; the folder "
            "mixes files of two models"
        )
    return network


def wrong_family(name: str, found: str, title: str) -> CheckpointError:
    """The refusal of a checkpoint whose config.json names the architecture `found`."""
    family = _FAMILY_OF.get(found)
    fix = f"set model.type={family}" if family else "use another checkpoint"
    return CheckpointError(f"model.pretrained={name} is a {found}, not a {title} checkpoint; {fix}")


def require_context(name: str, longest: int, asked: int) -> None:
    """Stop if a network reads fewer steps than the run asks for.

    Raises:
        CheckpointError: it does.
    """
    if asked > longest:
        raise CheckpointError(
            f"model.pretrained={name} reads at most {longest} steps, the run asks for {asked}; "
            f"set model.context_length={longest} or less"
        )


def require_levels(name: str, levels: list[float]) -> None:
    """Stop if the levels of a network's quantiles do not ascend or have no median.

    Raises:
        CheckpointError: they do not.
    """
    if 0.5 not in levels or sorted(set(levels)) != list(levels):
        raise CheckpointError(
            f"model.pretrained={name} forecasts the quantiles {levels}; they must ascend and hold the median, 0.5"
        )


def _check_class(architecture: Architecture, name: str, values: dict) -> None:
    found = (values.get("architectures") or [values.get("model_type", "unknown")])[0]
    if found != architecture.network_class.__name__:
        raise wrong_family(name, found, architecture.title)


def _missing(required: tuple[str, ...], network: PreTrainedModel, name: str, revision: str | None) -> list[str]:
    """Required tensors that are not in the file; transformers does not report what a model lets be missing."""
    path = next((found for file in _FILES if (found := _file(name, file, revision)) is not None), None)
    if not required or path is None or path.suffix != ".safetensors":
        return []
    with safe_open(path, framework="pt") as weights:
        stored = set(weights.keys())
    return [key for key in network.state_dict() if key.startswith(required) and key not in stored]


def _file(name: str, file: str, revision: str | None) -> Path | None:
    found = cached_file(name, file, revision=revision, _raise_exceptions_for_missing_entries=False)
    return None if found is None else Path(found)
