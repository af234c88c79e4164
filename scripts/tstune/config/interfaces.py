"""What every configuration system must offer, so that the training code never knows which one is in use."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path

from tstune.config.schema import RunConfig


class ConfigManager(ABC):
    """Loads, validates and saves a `RunConfig`."""

    @abstractmethod
    def load_config(self, config_path: str | Path, overrides: Sequence[str] = ()) -> RunConfig:
        """Read a configuration, apply ``key=value`` overrides and validate it.

        Raises:
            ConfigError: with every problem found, in one message.
        """

    @abstractmethod
    def validate_config(self, config: RunConfig | dict) -> bool:
        """Return True for a valid configuration.

        Raises:
            ConfigError: with every problem found, in one message.
        """

    @abstractmethod
    def save_config(self, config: RunConfig, output_path: str | Path) -> None:
        """Write the resolved configuration so that loading it reruns the same run."""
