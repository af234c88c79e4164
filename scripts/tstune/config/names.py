"""Names of keys: dotted, as in a file, and flat, as keywords."""

from __future__ import annotations

import typing
from collections.abc import Iterator, Mapping
from functools import cache
from operator import attrgetter

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from tstune.config.section import DEFAULT_FAMILY, ModelSection, section_class


def dotted(values: Mapping, prefix: str = "", sign: str = ".") -> Iterator[tuple[str, object]]:
    """Yield every leaf, for example ``("training.learning_rate", 0.001)``; `sign` stands between the names."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from dotted(value, f"{prefix}{name}{sign}", sign)
        else:
            yield f"{prefix}{name}", value


def merged(base: Mapping, changes: Mapping) -> dict:
    """`base` with the leaves of `changes` replaced."""
    result = dict(base)
    for key, value in changes.items():
        nested = isinstance(value, Mapping) and isinstance(result.get(key), Mapping)
        result[key] = merged(result[key], value) if nested else value
    return result


def subsection(field: FieldInfo, family: str = DEFAULT_FAMILY) -> type[BaseModel] | None:
    """The section a key holds, of this model family; None for a plain value."""
    annotation = field.annotation
    if annotation is ModelSection:
        return section_class(family)
    is_section = (
        isinstance(annotation, type) and not typing.get_origin(annotation) and issubclass(annotation, BaseModel)
    )
    return annotation if is_section else None


def paths_of(section: type[BaseModel], family: str = DEFAULT_FAMILY, prefix: str = "") -> Iterator[str]:
    """Yield every key below a section as a dotted path, where the `model` section is that of a family."""
    for name, field in section.model_fields.items():
        below = subsection(field, family)
        if below is None:
            yield f"{prefix}{name}"
        else:
            yield from paths_of(below, family, f"{prefix}{name}.")


# Keys whose last part alone would be ambiguous or unclear.
_RENAMED = {
    "model.type": "model_type",
    "tuning.mode": "tuning_mode",
    "forecast.method": "forecast_method",
    "forecast.half_life": "forecast_half_life",
    "data.source": "data_source",
    "data.path": "data_path",
    "data.cache": "data_cache",
    "evaluation.batch_size": "eval_batch_size",
    "distributed.enabled": "distributed",
    "distributed.strategy": "distributed_strategy",
    "tracking.trackers": "trackers",
}
# Sections whose keys have a name before them.
_PREFIXES = {"data.split": "split_", "lora": "lora_", "tracking": "tracking_", "pretraining": "pretraining_"}

ALIASES: dict[str, str] = {
    "model_path": "pretrained",
    "forecast_length": "prediction_length",
    "batch_size": "per_device_batch_size",
    "gradient_clip_val": "max_grad_norm",
    "data_source_name": "data_source",
    "experiment_name": "tracking_experiment",
}
"""Other names people know -> flat keyword."""

SWITCHES: dict[str, tuple[str, str]] = {
    "fp16": ("mixed_precision", "fp16"),
    "bf16": ("mixed_precision", "bf16"),
    "freeze_backbone": ("tuning_mode", "decoder"),
}
"""Boolean keyword -> (flat keyword, value it stands for). False asks for nothing, but forbids that value."""


def flat_name(path: str) -> str:
    """The keyword of a dotted path."""
    section, _, key = path.rpartition(".")
    return _RENAMED.get(path, _PREFIXES.get(section, "") + key)


def flat_value(config: BaseModel, name: str) -> object:
    """What a configuration says under a flat name; an `AttributeError` where it has no such name."""
    if name in SWITCHES:
        target, value = SWITCHES[name]
        return flat_value(config, target) == value
    path = _paths(type(config), config.model.type).get(ALIASES.get(name, name))
    if path is None:
        raise AttributeError(f"{type(config).__name__} has no key {name!r}")
    return attrgetter(path)(config)


@cache
def _paths(root: type[BaseModel], family: str) -> dict[str, str]:
    return {flat_name(path): path for path in paths_of(root, family)}
