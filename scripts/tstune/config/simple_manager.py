"""Plain YAML files, merged and interpolated by OmegaConf."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
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
        tree = _override(_read(path), overrides)
        try:
            values = OmegaConf.to_container(tree, resolve=True, throw_on_missing=True)
        except OmegaConfBaseException as error:
            raise ConfigError(f"{path}: {str(error).splitlines()[0]}") from None
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


def _read(path: Path) -> DictConfig:
    sections = f"{path} must hold sections such as model: and data:, with their keys"
    if not path.is_file():
        raise ConfigError(f"config file {path} does not exist; recipes lie under recipes/")
    try:
        tree = OmegaConf.load(path)
    except (YAMLError, UnicodeDecodeError, OmegaConfBaseException) as error:
        raise ConfigError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None
    except OSError:  # OmegaConf's word for YAML that is a bare number or truth value
        raise ConfigError(sections) from None
    if not isinstance(tree, DictConfig):
        raise ConfigError(f"{sections}, not a list")
    return tree


def _override(tree: DictConfig, overrides: Sequence[str]) -> DictConfig:
    for override in overrides:
        key, equals, _ = override.partition("=")
        if not equals or not key.strip() or key.startswith("-"):
            raise ConfigError(f"override {override!r} is not of the form key=value, e.g. training.learning_rate=5e-4")
        if override.endswith("=???"):  # OmegaConf's mark for a value that is still to be given
            raise ConfigError(f"override {override!r} gives no value")
    for override in overrides:
        try:
            tree = OmegaConf.merge(tree, _parse_override(override))
        except (YAMLError, OmegaConfBaseException) as error:
            reason = " ".join(str(error).split())
            raise ConfigError(f"override cannot be read: {override!r}: {reason}") from None
    return tree


def _parse_override(override: str) -> DictConfig:
    key, _, value = override.partition("=")
    if value.startswith(("%", "@", "`")):  # YAML cannot begin a text with these; dates such as %d/%m/%Y do
        value = json.dumps(value)
    return OmegaConf.from_dotlist([f"{key}={value}"])
