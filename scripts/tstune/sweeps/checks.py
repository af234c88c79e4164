"""What a sweep may vary: a key of the schema that is its own to set and leaves the validation loss comparable."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tstune.config.dotted import dotted
from tstune.config.schema import RunConfig
from tstune.config.validation import leaf_paths, validate
from tstune.errors import ConfigError
from tstune.runtime.logs import logger
from tstune.sweeps.space import Dimension

METRIC = "validation_loss"

_OWN = ("output_dir", "overwrite", "tracking", "training.resume_from_checkpoint")
"""Keys a sweep sets for each trial."""

_OTHER_PROGRAM = ("pretraining",)

_ALTERS_TRAINING_ONLY = (
    "data.conditional_columns",
    "data.control_columns",
    "data.train_fraction",
    "data.train_fraction_from",
    "data.mirror_train_windows",
    "data.train_stride",
)
_MEASURES = ("data", "model.prediction_length", "training.loss", "training.huber_delta")
"""What the validation loss is a loss of: with other values its number means something else."""


def check_metric(metric: str) -> None:
    """Refuse to choose by anything but the validation part.

    Raises:
        ConfigError: it is not `METRIC`.
    """
    if metric == METRIC:
        return
    if metric.partition("/")[0].startswith("test"):
        raise ConfigError(
            f"--metric {metric}: a trial chosen on the test part makes its test score too good, the test would no "
            f"longer be one; use {METRIC}"
        )
    raise ConfigError(f"--metric {metric} is unknown; a sweep chooses by {METRIC}")


def check_space(space: Sequence[Dimension], plain: Sequence[str], groups: Path | None) -> None:
    """Refuse keys that cannot be swept, before the first trial.

    Args:
        space: swept keys.
        plain: overrides every trial gets.
        groups: folder of Hydra's config groups, None without Hydra.

    Raises:
        ConfigError: names the key and the fix.
    """
    if not space:
        raise ConfigError("nothing to sweep: give a key several values, e.g. training.learning_rate=1e-4,1e-3")
    fixed = {word.partition("=")[0].lstrip("+") for word in plain}
    for dimension in space:
        key = dimension.key
        if key in fixed:
            raise ConfigError(f"{key} is given twice, once with one value and once with several")
        if _within(key, _OWN):
            raise ConfigError(f"{key} cannot be swept: the sweep sets it for each trial")
        if _within(key, _MEASURES) and not _within(key, _ALTERS_TRAINING_ONLY):
            raise ConfigError(
                f"{key} cannot be swept: the validation loss would measure something else in each trial; "
                "start one sweep for each value"
            )
        if not (groups is not None and (groups / key).is_dir()):
            _check_key(key)


def check_base(config: RunConfig, space: Sequence[Dimension]) -> None:
    """Refuse a recipe whose trials could not be compared.

    Raises:
        ConfigError: nothing is trained, or the recipe sets what the sweep sets.
    """
    if config.tuning.mode == "zero_shot" and not any(_within(d.key, ("tuning", "lora")) for d in space):
        raise ConfigError("tuning.mode=zero_shot trains nothing, so there is no validation loss to choose by")
    if config.training.resume_from_checkpoint is not None:
        raise ConfigError("training.resume_from_checkpoint: leave it out, a sweep goes on with its trials by itself")
    if config.data.split.mode == "strict" and any(dimension.key == "model.context_length" for dimension in space):
        logger.warning(
            "model.context_length: in data.split.mode=strict a longer context leaves fewer validation windows, so the "
            "losses are not of quite the same windows; data.split.mode=deployment keeps them all"
        )


def changed_measure(base: RunConfig, trial: RunConfig) -> list[str]:
    """Keys by which the validation loss of a trial is not that of the others, for example through a config group."""
    before, after = dict(dotted(base.model_dump(mode="json"))), dict(dotted(trial.model_dump(mode="json")))
    return [
        key
        for key in before | after
        if _within(key, _MEASURES) and not _within(key, _ALTERS_TRAINING_ONLY) and before.get(key) != after.get(key)
    ]


def _check_key(key: str) -> None:
    if key in set(leaf_paths()):
        if _within(key, _OTHER_PROGRAM):
            raise ConfigError(f"{key} cannot be swept: it is for another script")
        return
    nested: object = None
    for part in reversed(key.split(".")):
        nested = {part: nested}
    if key in RunConfig.model_fields:
        example = next(path for path in leaf_paths() if path.startswith(f"{key}."))
        raise ConfigError(f"{key} is a section; sweep a key of it, such as {example}")
    validate(nested, origin="search space")
    raise ConfigError(f"search space: {key}: unknown key")


def _within(key: str, places: Sequence[str]) -> bool:
    return any(key == place or key.startswith(f"{place}.") for place in places)
