"""Writes a command-line override so that Hydra reads the value the way a YAML file would."""

from __future__ import annotations

import math
import re
from pathlib import Path

import yaml
from hydra.core.override_parser.types import Quote, QuotedString
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from tstune.config.simple_manager import check_override, parse_override
from tstune.errors import ConfigError

_KEY = re.compile(r"[a-z_$][\w$-]*([./@:][\w$-]+)*", re.ASCII | re.IGNORECASE)  # dotted key, group, group@package


def to_hydra(override: str, folder: Path) -> str:
    """Translate one override for a primary config that lies in `folder`.

    ``key=value`` may set any key, also one the files leave out, so it becomes ``++key=value``; it stays a choice
    where `key` is a group, a folder beside the file. Hydra's own forms ``+key=value``, ``++key=value``, ``~key`` and
    ``group@package=option`` keep their meaning. Values are YAML everywhere: Hydra's grammar would read ``010``,
    ``on``, ``a: b`` or ``%d/%m/%Y`` in another way than a recipe.

    Raises:
        ConfigError: not of the form of an override, or a value that is not YAML.
    """
    prefix = override[: len(override) - len(override.lstrip("+~"))]
    key, equals, text = override[len(prefix) :].partition("=")
    if prefix not in ("", "+", "++", "~"):
        raise ConfigError(f"override {override!r}: {prefix} is none of Hydra's prefixes: + adds, ++ sets, ~ removes")
    if not (prefix == "~" and key and not equals):
        check_override(override[len(prefix) :])
    if not _KEY.fullmatch(key):
        raise ConfigError(f"override {override!r}: {key!r} is no key, e.g. training.learning_rate is one")
    if key.partition(".")[0].partition("/")[0] == "hydra":
        raise ConfigError(f"override {override!r}: settings of Hydra itself have no effect here, leave it out")
    if not equals:
        return override
    if _is_group(key, folder):
        choice = _choice(text)
        if choice is not None:
            return f"{prefix}{key}={choice}"
    try:
        value = OmegaConf.to_container(parse_override(f"value={text}"), resolve=False)["value"]
        return f"{prefix or '++'}{key}={_write(value)}"
    except (yaml.YAMLError, OmegaConfBaseException, TypeError) as error:
        raise ConfigError(f"override cannot be read: {override!r}: {' '.join(str(error).split())}") from None


def _is_group(key: str, folder: Path) -> bool:
    return "@" in key or "/" in key or ("." not in key and (folder / key).is_dir())


def _choice(text: str) -> str | None:
    """Options of a group by their file names (``off`` is a name here, no truth value); None for a mapping of keys."""
    try:
        names = yaml.load(text, Loader=yaml.BaseLoader)  # reads every scalar as text
    except yaml.YAMLError:
        names = text
    if isinstance(names, dict):
        return None
    return _write(names or "")


def _write(value: object) -> str:
    """The value in Hydra's grammar."""
    match value:
        case None:
            return "null"
        case bool():
            return str(value).lower()
        case int():
            return str(value)
        case float():
            return repr(value) if math.isfinite(value) else str(value)
        case str():
            return QuotedString(text=value, quote=Quote.single).with_quotes()
        case list():
            return f"[{','.join(_write(item) for item in value)}]"
        case dict():
            pairs = (f"{_escape(str(key))}:{_write(item)}" for key, item in value.items())
            return f"{{{','.join(pairs)}}}"
    raise TypeError(f"a value of type {type(value).__name__} has no place in a configuration")


def _escape(key: str) -> str:
    """A key inside a mapping, which Hydra's grammar does not allow to be quoted."""
    return re.sub(r"([\\()\[\]{}:=, \t])", r"\\\1", key)
