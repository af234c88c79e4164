"""Views of `RunConfig`: flat keywords, `TTMConfig(context_length=512, batch_size=64)`, and the design documents' words.

They hold no schema of their own. Names, defaults, documentation and checks come from `RunConfig`; a name is only led to
its place in the nested configuration.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache

from tstune.config.names import ALIASES, SWITCHES, flat_name, flat_value
from tstune.config.schema import RunConfig
from tstune.config.section import section_classes
from tstune.config.validation import leaf_paths, section_at, validate
from tstune.errors import ConfigError
from tstune.models.registry import flat_classes, model_class
from tstune.named_code import ours


@cache
def flat_paths() -> dict[str, str]:
    """Flat keyword -> dotted path in `RunConfig`, of all model families."""
    return {flat_name(path): path for family in section_classes() for path in leaf_paths(family)}


def nested(keywords: Mapping[str, object]) -> dict[str, object]:
    """Flat keywords in their places in the sections."""
    tree: dict = {}
    for name, value in _resolve_names(keywords).items():
        *parents, leaf = flat_paths()[name].split(".")
        section = tree
        for parent in parents:
            section = section.setdefault(parent, {})
        section[leaf] = value
    return tree


class ModelConfig:
    """A run described by flat keywords.

    Every keyword of the schema is accepted by its own name, by the aliases of `ALIASES` and by the
    switches of `SWITCHES`. `run_config` is the validated `RunConfig`; attributes read from it.

    Raises:
        ConfigError: unknown keyword, wrong value, or two names for one thing that disagree.
    """

    model_type = "ttm"

    def __init__(self, **keywords: object) -> None:
        values = nested({"model_type": self.model_type} | keywords)
        ours(values)
        self.run_config: RunConfig = validate(values, origin=type(self).__name__)

    def __getattr__(self, name: str) -> object:
        if name == "run_config":  # not set yet: keep copy and pickle away from recursion
            raise AttributeError(name)
        try:
            return flat_value(self.run_config, name)
        except AttributeError:
            raise AttributeError(f"{type(self).__name__} has no parameter {name!r}{_closest(name)}") from None

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


_MOVED = {"model.path": "model_path", "data.source_name": "data_source_name", "training.lora_rank": "lora_rank"}
"""Key of a section that is elsewhere in a recipe -> its flat name."""
_SIGNS = {"model_type", "model_path", "architecture", "experiment_name", *_MOVED}
"""Keys that no recipe has."""


@dataclass
class TrainingConfig:
    """The `training` part of a `TTMExperimentConfig`; `mixed_precision` is what the hardware does best, or none."""

    batch_size: int
    learning_rate: float
    num_epochs: int
    mixed_precision: bool = True
    lora_rank: int | None = None


@dataclass
class TTMExperimentConfig:
    """A run in the words of the design document; every other key has its default. Managers take it like a `RunConfig`.

    A `RunConfig` reads the same way: `config.model_path`, `config.training.batch_size`, `config.training.lora_rank`.
    """

    model_path: str
    data_source: str
    training: TrainingConfig
    experiment_name: str
    output_dir: str

    @classmethod
    def of(cls, config: RunConfig) -> TTMExperimentConfig:
        """What a configuration says."""
        training = config.training
        precise = training.mixed_precision not in (None, "no")
        chosen = training.batch_size, training.learning_rate, training.num_epochs, precise, training.lora_rank
        return cls(
            config.model_path, config.data_source, TrainingConfig(*chosen), config.experiment_name, config.output_dir
        )


def as_run_config(config: RunConfig | TTMExperimentConfig | Mapping, origin: str = "configuration") -> RunConfig:
    """The validated run that any form of a configuration describes.

    Raises:
        ConfigError: with every problem found, in one message.
    """
    if isinstance(config, RunConfig):
        config = config.model_dump()
    elif isinstance(config, TTMExperimentConfig):
        values = asdict(config)
        model, data = {"path": values.pop("model_path")}, {"source_name": values.pop("data_source")}
        config = {"model": model, "data": data} | values
    elif not isinstance(config, Mapping):
        raise ConfigError(
            f"{origin} is a {type(config).__name__}; give a RunConfig, a TTMExperimentConfig or a mapping"
        )
    return validate(as_recipe(config), origin)


def as_recipe(values: Mapping[str, object]) -> dict:
    """A file of flat names below its sections (`architecture.forecast_length`, `training.batch_size`) as a recipe.

    Any other file stays as it is.
    """
    sections = {name: value for name, value in values.items() if isinstance(value, Mapping)}
    inner = {f"{name}.{key}" for name, section in sections.items() for key in section}
    if not _SIGNS & {*values, *inner}:
        return dict(values)
    recipe: dict = {}
    flat: dict = {}
    for name, value in values.items():
        if name == "architecture" and isinstance(value, Mapping):
            flat |= value
        elif name not in RunConfig.model_fields:
            flat[name] = value
        elif isinstance(value, Mapping):
            recipe[name] = {}
            for key, said in value.items():
                moved = _MOVED.get(f"{name}.{key}", key if key in ALIASES or key in SWITCHES else None)
                (recipe[name] if moved is None else flat)[moved or key] = said
        else:
            recipe[name] = value
    rank = flat.pop("lora_rank", None)
    return _merged(recipe, nested(flat if rank is None else flat | {"lora_rank": rank, "lora_enabled": True}))


def _merged(recipe: dict, more: Mapping, above: str = "") -> dict:
    for name, value in more.items():
        key = f"{above}{name}"
        if isinstance(value, Mapping):
            recipe[name] = _merged(dict(recipe.get(name, {})), value, f"{key}.")
        elif name in recipe and recipe[name] != value:
            raise ConfigError(f"{key} is given twice, as {recipe[name]!r} and as {value!r}; leave out one of the two")
        else:
            recipe[name] = value
    return recipe
