"""The words of the design documents: their files as recipes, and the run that a file describes in their classes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass

from tstune.config.flat import nested
from tstune.config.schema import RunConfig
from tstune.config.section import ALIASES, SWITCHES
from tstune.config.validation import validate
from tstune.errors import ConfigError

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

    Raises:
        ConfigError: an unknown name, or two names for one thing that disagree.
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
