"""Flat keyword view of `RunConfig` for Python users: `TTMConfig(context_length=512, batch_size=64)`.

It holds no schema of its own. Names, defaults, documentation and checks come from `RunConfig`; this
module only maps a flat name to its place in the nested configuration.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Mapping
from functools import cache

from tstune.config.schema import LoRAConfig, PretrainingSection, RunConfig, SplitSection, TrackingSection
from tstune.config.section import section_classes
from tstune.config.validation import leaf_paths, section_at, validate
from tstune.errors import ConfigError
from tstune.models.registry import flat_classes, model_class

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
}
_RENAMED |= {f"data.split.{name}": f"split_{name}" for name in SplitSection.model_fields}
_RENAMED |= {f"lora.{name}": f"lora_{name}" for name in LoRAConfig.model_fields}
_RENAMED |= {f"tracking.{name}": f"tracking_{name}" for name in TrackingSection.model_fields}
_RENAMED |= {f"pretraining.{name}": f"pretraining_{name}" for name in PretrainingSection.model_fields}
_RENAMED["tracking.trackers"] = "trackers"


ALIASES: dict[str, str] = {
    "model_path": "pretrained",
    "forecast_length": "prediction_length",
    "batch_size": "per_device_batch_size",
    "gradient_clip_val": "max_grad_norm",
    "data_source_name": "data_source",
}
"""Other names people know -> flat keyword."""

SWITCHES: dict[str, tuple[str, str]] = {
    "fp16": ("mixed_precision", "fp16"),
    "bf16": ("mixed_precision", "bf16"),
    "freeze_backbone": ("tuning_mode", "decoder"),
}
"""Boolean keyword -> (flat keyword, value it stands for). False asks for nothing, but forbids that value."""


@cache
def flat_paths() -> dict[str, str]:
    """Flat keyword -> dotted path in `RunConfig`, of all model families."""
    paths = (path for family in section_classes() for path in leaf_paths(family=family))
    return {_RENAMED.get(path, path.rsplit(".", 1)[-1]): path for path in paths}


class ModelConfig:
    """A run described by flat keywords.

    Every keyword of the schema is accepted by its own name, by the aliases of `ALIASES` and by the
    switches of `SWITCHES`. `run_config` is the validated `RunConfig`; attributes read from it.

    Raises:
        ConfigError: unknown keyword, wrong value, or two names for one thing that disagree.
    """

    model_type = "ttm"

    def __init__(self, **keywords: object) -> None:
        flat = _resolve_names({"model_type": self.model_type} | keywords)
        nested: dict = {}
        for name, value in flat.items():
            *parents, leaf = flat_paths()[name].split(".")
            section = nested
            for parent in parents:
                section = section.setdefault(parent, {})
            section[leaf] = value
        self.run_config: RunConfig = validate(nested, origin=type(self).__name__)

    @classmethod
    def from_run_config(cls, run_config: RunConfig) -> ModelConfig:
        """Wrap an existing configuration."""
        config = cls.__new__(cls)
        config.run_config = run_config
        return config

    def __getattr__(self, name: str) -> object:
        if name == "run_config":  # not set yet: keep copy and pickle away from recursion
            raise AttributeError(name)
        if name in SWITCHES:
            target, value = SWITCHES[name]
            return getattr(self, target) == value
        name = ALIASES.get(name, name)
        if name not in flat_paths() or not self._has(flat_paths()[name]):
            raise AttributeError(f"{type(self).__name__} has no parameter {name!r}{_closest(name)}")
        value: object = self.run_config
        for part in flat_paths()[name].split("."):
            value = getattr(value, part)
        return value

    def to_dict(self) -> dict[str, object]:
        """Return every flat keyword with its value."""
        return {name: getattr(self, name) for name, path in flat_paths().items() if self._has(path)}

    def _has(self, path: str) -> bool:
        """False for keys of other model families."""
        section, _, key = path.rpartition(".")
        return section != "model" or key in type(self.run_config.model).model_fields

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ModelConfig) and self.run_config == other.run_config

    def __repr__(self) -> str:
        default = type(self)()
        changed = {name: value for name, value in self.to_dict().items() if value != getattr(default, name, None)}
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in changed.items())})"


@cache
def flat_class(family: str) -> type[ModelConfig]:
    """The flat configuration of a family, for example `TTMConfig`."""
    name = next(name for name, known in flat_classes().items() if known == family)
    cls = type(name, (ModelConfig,), {"model_type": family, "__module__": __name__})
    _document(cls)
    return cls


def __getattr__(name: str) -> type[ModelConfig]:
    """`TTMConfig`, `ChronosBoltConfig` and their sisters: one per family, made when it is asked for."""
    if name not in flat_classes():
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return flat_class(flat_classes()[name])


def _resolve_names(keywords: Mapping[str, object]) -> dict[str, object]:
    resolved: dict[str, object] = {}
    said_by: dict[str, str] = {}
    for keyword, value in keywords.items():
        name = ALIASES.get(keyword, keyword)
        if keyword in SWITCHES:
            if value not in (True, False):
                raise ConfigError(f"{keyword} must be True or False, got {value!r}")
            if not value:
                continue
            name, value = SWITCHES[keyword]
        if name not in flat_paths():
            raise ConfigError(f"unknown keyword {keyword!r}{_closest(keyword)}")
        if name in resolved and resolved[name] != value:
            raise ConfigError(f"{said_by[name]} and {keyword} both set {name}: {resolved[name]!r} and {value!r}")
        resolved[name] = value
        said_by[name] = keyword
    for switch, (name, value) in SWITCHES.items():
        if keywords.get(switch) is False and resolved.get(name) == value:
            raise ConfigError(f"{switch}=False contradicts {said_by[name]}={keywords[said_by[name]]!r}")
    return resolved


def _closest(name: str) -> str:
    known = [*flat_paths(), *ALIASES, *SWITCHES]
    match = difflib.get_close_matches(name, known, n=1)
    return f", did you mean {match[0]!r}?" if match else ""


def _document(cls: type[ModelConfig]) -> None:
    """Give the class a signature and parameter documentation taken from the schema."""
    parameters, lines = [], []
    for name, path in flat_paths().items():
        *parents, leaf = path.split(".")
        field = section_at(parents, cls.model_type).model_fields.get(leaf)
        if field is None:  # of another family
            continue
        parameters.append(inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=field.default))
        lines.append(f"    {name} (default {field.default!r}): {' '.join((field.description or '').split())}")
    aliases = ", ".join(f"{alias} = {name}" for alias, name in ALIASES.items())
    switches = ", ".join(f"{switch} sets {target}" for switch, (target, _) in SWITCHES.items())
    cls.__signature__ = inspect.Signature(parameters)
    title = model_class(cls.model_type).title
    cls.__doc__ = f"{title}, flat.\n\nArgs:\n" + "\n".join(lines) + f"\n\nAliases: {aliases}.\nSwitches: {switches}.\n"
