"""Files in the words of the design documents, put into the sections and keys of the one schema."""

from __future__ import annotations

from collections.abc import Mapping

from tstune.config.flat import nested
from tstune.config.names import ALIASES, SWITCHES
from tstune.config.schema import RunConfig
from tstune.errors import ConfigError

_SIGNS = {"model_type", "model_path", "architecture"}
"""Keys at the top of a file that no recipe has."""


def as_recipe(values: Mapping[str, object]) -> dict:
    """A file of flat names below its sections (`architecture.forecast_length`, `training.batch_size`) as a recipe.

    Any other file stays as it is.

    Raises:
        ConfigError: an unknown name, or two names for one thing that disagree.
    """
    if not _SIGNS & values.keys():
        return dict(values)
    recipe: dict = {}
    flat: dict = {}
    for name, value in values.items():
        if name == "architecture" and isinstance(value, Mapping):
            flat |= value
        elif name not in RunConfig.model_fields:
            flat[name] = value
        elif isinstance(value, Mapping):
            others = {key: inner for key, inner in value.items() if key in ALIASES or key in SWITCHES}
            flat |= others
            recipe[name] = {key: inner for key, inner in value.items() if key not in others}
        else:
            recipe[name] = value
    return _merged(recipe, nested(flat))


def _merged(recipe: dict, more: Mapping) -> dict:
    for name, value in more.items():
        if isinstance(value, Mapping):
            recipe[name] = _merged(dict(recipe.get(name, {})), value)
        elif name in recipe and recipe[name] != value:
            raise ConfigError(f"{name} is given twice, as {recipe[name]!r} and as {value!r}; leave out one of the two")
        else:
            recipe[name] = value
    return recipe
