"""Plain YAML files, merged and interpolated by OmegaConf."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationKeyError, MissingMandatoryValue, OmegaConfBaseException
from yaml import YAMLError

from tstune.config.interfaces import ConfigManager
from tstune.config.schema import RunConfig
from tstune.config.validation import validate
from tstune.errors import ConfigError


class SimpleConfigManager(ConfigManager):
    """One YAML file is one run: schema default < file < ``key=value``."""

    def load_config(self, config_path: str | Path, overrides: Sequence[str] = ()) -> RunConfig:
        """Read a YAML file, apply overrides such as ``training.learning_rate=5e-4`` and validate the result."""
        path = Path(config_path)
        values = read_values(path, overrides)
        if "models" in values:
            raise ConfigError(f"{path} lists several models: give it to scripts/compare_models.py")
        return validate(values, origin=str(path))

    def validate_config(self, config: RunConfig | dict) -> bool:
        """Return True, or raise one `ConfigError` that lists every problem."""
        values = config.model_dump() if isinstance(config, RunConfig) else config
        validate(values, origin="configuration")
        return True

    def save_config(self, config: RunConfig, output_path: str | Path) -> None:
        """Write every key with its resolved value."""
        text = OmegaConf.to_yaml(OmegaConf.create(config.model_dump(mode="json")))
        Path(output_path).write_text(text, encoding="utf-8")


def read_values(path: Path, overrides: Sequence[str] = ()) -> dict:
    """Read one file, apply ``key=value`` changes and fill in every interpolation; nothing is validated yet."""
    tree = read_yaml(path)
    if "defaults" in tree:
        raise ConfigError(f"{path} has a defaults list: give it with --hydra instead of --config")
    return resolve(_override(tree, overrides), path)


def read_yaml(path: Path) -> DictConfig:
    """Read one file as it stands: nothing merged, nothing interpolated."""
    sections = f"{path} must hold sections such as model: and data:, with their keys"
    if not path.is_file():
        raise ConfigError(f"config file {path} does not exist; recipes lie under recipes/")
    try:
        tree = OmegaConf.load(path)
    except (YAMLError, UnicodeDecodeError, OmegaConfBaseException) as error:
        raise ConfigError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None
    except RecursionError:
        raise ConfigError(f"{path}: an anchor (&) of its YAML holds itself") from None
    except OSError:  # OmegaConf's word for YAML that is a bare number or truth value
        raise ConfigError(sections) from None
    if not isinstance(tree, DictConfig):
        raise ConfigError(f"{sections}, not a list")
    return tree


def resolve(tree: DictConfig, path: Path) -> dict:
    """Fill in every interpolation; `path` is the file that is named in the error."""
    try:
        return OmegaConf.to_container(tree, resolve=True, throw_on_missing=True)
    except MissingMandatoryValue as error:
        key = error.full_key
        raise ConfigError(f"{path}: {key} is ??? and must be given: {key}=… on the command line") from None
    except InterpolationKeyError as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(
            f"{path}: {error.full_key}: {reason}; an interpolation sees what files and command line say, "
            "not the defaults of the schema"
        ) from None
    except OmegaConfBaseException as error:
        where = f"{error.full_key}: " if error.full_key else ""
        raise ConfigError(f"{path}: {where}{str(error).splitlines()[0]}") from None


def _override(tree: DictConfig, overrides: Sequence[str]) -> DictConfig:
    for override in overrides:
        check_override(override)
    for override in overrides:
        try:
            tree = OmegaConf.merge(tree, parse_override(override))
        except (YAMLError, OmegaConfBaseException) as error:
            reason = " ".join(str(error).split())
            raise ConfigError(f"override cannot be read: {override!r}: {reason}") from None
    return tree


def check_override(override: str) -> None:
    """Refuse what is not ``key=value``."""
    key, equals, _ = override.partition("=")
    if not equals or not key.strip() or key.startswith("-"):
        raise ConfigError(f"override {override!r} is not of the form key=value, e.g. training.learning_rate=5e-4")
    if override.endswith("=???"):  # OmegaConf's mark for a value that is still to be given
        raise ConfigError(f"override {override!r} gives no value")


def parse_override(override: str) -> DictConfig:
    """Read ``key=value`` into a tree with that one key; the value is YAML, as in a file."""
    key, _, value = override.partition("=")
    if value.startswith(("%", "@", "`")):  # YAML cannot begin a text with these; dates such as %d/%m/%Y do
        value = json.dumps(value)
    return OmegaConf.from_dotlist([f"{key}={value}"])
