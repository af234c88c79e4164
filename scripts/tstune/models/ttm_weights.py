"""Find, check and load Tiny Time Mixer weights; report what is fresh."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import resources
from pathlib import Path

import yaml
from safetensors import SafetensorError
from tsfm_public import TinyTimeMixerConfig, TinyTimeMixerForPrediction
from tsfm_public.toolkit.get_model import get_model

from tstune.config.model_sections import TTMSection
from tstune.data.table import Roles
from tstune.errors import CheckpointError, ConfigError
from tstune.models.builtin_weights import BUILTIN, builtin_folder
from tstune.models.ttm_quantile_head import QUANTILE_HEAD, head_options
from tstune.models.weight_files import first_line, not_found, require_config_file

# Architecture of TTM-r2 512-96, for models built from scratch.
SCRATCH_DEFAULTS = {
    "patch_length": 64,
    "d_model": 192,
    "num_layers": 2,
    "expansion_factor": 2,
    "adaptive_patching_levels": 3,
    "gated_attn": True,
    "self_attn": False,
    "use_positional_encoding": False,
    "decoder_num_layers": 2,
    "decoder_d_model": 128,
    "dropout": 0.2,
    "head_dropout": 0.2,
}
_FIXED_BY_WEIGHTS = [name for name in SCRATCH_DEFAULTS if name not in ("dropout", "head_dropout")]
# Layers that exist only with some channel roles; a checkpoint without them is still the same backbone.
_MAY_BE_FRESH = ("decoder.", "head.", f"{QUANTILE_HEAD}.", "backbone.encoder.freq_mod.")


def channel_options(section: TTMSection, roles: Roles) -> dict:
    """Constructor arguments that depend on the channels, not on the weights."""
    channels = len(roles.channels)
    mixes, has_future = roles.has_covariates, bool(roles.control_indices)
    mode = section.decoder_mode
    options = {
        "num_input_channels": channels,
        "prediction_channel_indices": list(range(roles.num_targets)) if mixes else None,
        "exogenous_channel_indices": roles.control_indices or None,
        "enable_forecast_channel_mixing": has_future,
        "decoder_mode": ("mix_channel" if mixes else "common_channel") if mode == "auto" else mode,
        "loss": "mse",  # ours is masked and computed outside
    }
    if roles.static_categorical:
        if mode == "common_channel":
            raise ConfigError(
                "model.decoder_mode=common_channel forecasts each channel alone and cannot read "
                f"{roles.static_categorical[0]!r} of data.static_categorical_columns; use mix_channel or auto"
            )
        options["categorical_vocab_size_list"] = roles.num_categories
    if has_future:
        options["fcm_use_mixer"] = True
        options["fcm_context_length"] = 1 if section.fcm_context_length is None else section.fcm_context_length
        options["fcm_mix_layers"] = section.fcm_mix_layers or 2
    return options


def build_from_scratch(
    section: TTMSection, roles: Roles, quantiles: Sequence[float] = ()
) -> TinyTimeMixerForPrediction:
    """Random weights in the architecture of the configuration.

    Raises:
        ConfigError: an architecture whose sizes do not fit together.
    """
    options = {
        name: default if getattr(section, name) is None else getattr(section, name)
        for name, default in SCRATCH_DEFAULTS.items()
    }
    patch, levels = options["patch_length"], options["adaptive_patching_levels"]
    if section.context_length % patch:
        raise ConfigError(f"model.context_length={section.context_length} is no multiple of model.patch_length={patch}")
    widest = 2 ** max(levels - 1, 0)
    if levels and options["d_model"] % widest:
        raise ConfigError(
            f"model.d_model={options['d_model']} must be a multiple of {widest} for "
            f"model.adaptive_patching_levels={levels}"
        )
    if levels > 1 and options["d_model"] // widest <= 4:  # granite-tsfm leaves such levels out
        raise ConfigError(
            f"model.d_model={options['d_model']} is too narrow for model.adaptive_patching_levels={levels}: "
            f"it must be greater than {4 * widest}; raise it or lower the levels"
        )
    config = TinyTimeMixerConfig(
        context_length=section.context_length,
        prediction_length=section.prediction_length,
        patch_stride=patch,
        scaling="std",
        **options,
        **channel_options(section, roles),
        **head_options(quantiles),
    )
    return TinyTimeMixerForPrediction(config)


def load_pretrained(
    section: TTMSection,
    roles: Roles,
    frequency: str,
    random_weights: bool = False,
    quantiles: Sequence[float] = (),
) -> tuple[TinyTimeMixerForPrediction, list[str], list[str]]:
    """Load a checkpoint for these channels and lengths.

    Args:
        section: weights, lengths and overrides.
        roles: channels.
        frequency: grid step; helps granite-tsfm pick a revision on the Hub.
        random_weights: keep the checkpoint's architecture, not its weights.
        quantiles: levels of a quantile head to add; none leaves the checkpoint as it is.

    Returns:
        the model, names of tensors that are fresh, names of tensors of the checkpoint that were not used.

    Raises:
        CheckpointError: not found, damaged, or of another shape or architecture.
    """
    if section.pretrained == BUILTIN:
        folder = builtin_folder(section.context_length, section.prediction_length)
        section = section.model_copy(update={"pretrained": str(folder)})
    name, revision = section.pretrained, section.revision
    require_config_file(name)
    if not Path(name).is_dir() and revision is None:
        revision = _hub_revision(section, frequency)
    try:
        config = TinyTimeMixerConfig.from_pretrained(name, revision=revision)
    except (OSError, ValueError) as error:
        raise CheckpointError(not_found(name, error)) from None
    _check_architecture(config, section)
    for key in ("dropout", "head_dropout"):
        if getattr(section, key) is not None:
            setattr(config, key, getattr(section, key))
    options = channel_options(section, roles)
    if config.multi_quantile_head and quantiles:
        options["quantile_levels"] = list(quantiles)
    elif quantiles:
        options |= head_options(quantiles)
    for key, value in options.items():
        setattr(config, key, value)
    if section.prediction_length > config.prediction_length:
        config.prediction_length = section.prediction_length  # a longer head, fresh
    shorter = section.prediction_length < config.prediction_length
    config.prediction_filter_length = section.prediction_length if shorter else None
    if random_weights:
        return TinyTimeMixerForPrediction(config), [], []
    try:
        model, report = TinyTimeMixerForPrediction.from_pretrained(
            name, revision=revision, config=config, ignore_mismatched_sizes=True, output_loading_info=True
        )
    except (OSError, ValueError, TypeError, RuntimeError, SafetensorError) as error:
        raise CheckpointError(f"model.pretrained={name}: the weights cannot be read: {first_line(error)}") from None
    mismatched = [entry[0] for entry in report["mismatched_keys"]]
    fresh = sorted({*report["missing_keys"], *mismatched})
    wrong = [key for key in fresh if not key.startswith(_MAY_BE_FRESH)]
    if wrong:
        raise CheckpointError(
            f"model.pretrained={name}: its tensors do not fit a TTM with its own config.json, e.g. {wrong[0]}; "
            "the folder mixes files of two models"
        )
    return model, fresh, sorted(report["unexpected_keys"])


def _check_architecture(config: TinyTimeMixerConfig, section: TTMSection) -> None:
    name = section.pretrained
    if config.model_type != "tinytimemixer" or "patch_length" not in config.to_dict():
        raise CheckpointError(f"model.pretrained={name} is a {config.model_type} model, not a Tiny Time Mixer")
    if config.context_length != section.context_length:
        raise CheckpointError(
            f"model.pretrained={name} has context_length {config.context_length}, the run asks for "
            f"{section.context_length}; set model.context_length={config.context_length} or use another checkpoint"
        )
    for key in _FIXED_BY_WEIGHTS:
        asked, found = getattr(section, key), getattr(config, key)
        if asked is not None and asked != found:
            raise CheckpointError(
                f"model.pretrained={name} has {key} {found}, the run asks for {asked}; "
                f"leave out model.{key}, or set model.pretrained=null to build it from scratch"
            )


def _hub_revision(section: TTMSection, frequency: str) -> str | None:
    """Let granite-tsfm choose the branch of its own repositories; other repositories keep their default."""
    try:
        key = get_model(
            section.pretrained,
            context_length=section.context_length,
            prediction_length=section.prediction_length,
            freq=frequency,
            return_model_key=True,
        )
    except ValueError as error:
        raise CheckpointError(
            f"model.pretrained={section.pretrained} has no model for model.context_length={section.context_length}, "
            f"model.prediction_length={section.prediction_length} ({first_line(error)})"
        ) from None
    table = yaml.safe_load(resources.files("tsfm_public.resources.model_paths_config").joinpath("ttm.yaml").read_text())
    for models in table.values():
        if key in models:
            return models[key]["revision"]
    return key
