"""YAML files composed from config groups by Hydra, without Hydra's application around them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.singleton import Singleton
from hydra.errors import HydraException, MissingConfigException
from omegaconf import DictConfig
from omegaconf.basecontainer import BaseContainer
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from tstune.config.hydra_overrides import to_hydra
from tstune.config.interfaces import ConfigManager
from tstune.config.schema import RunConfig
from tstune.config.simple_manager import SimpleConfigManager, read_yaml, resolve
from tstune.config.validation import validate
from tstune.errors import ConfigError

VERSION_BASE = "1.3"


class HydraConfigManager(ConfigManager):
    """A primary config and the options it names in its defaults list are one run.

    Schema default < options in the order of the list < ``key=value``. The groups are the folders beside the file. A
    file without a defaults list is read as `SimpleConfigManager` reads it.
    """

    def load_config(self, config_path: str | Path, overrides: Sequence[str] = ()) -> RunConfig:
        """Compose a YAML file with overrides such as ``tuning=lora training.learning_rate=5e-4`` and validate it."""
        path = Path(config_path)
        _check_primary(path)
        translated = [to_hydra(override, path.parent) for override in overrides]
        tree = _compose(path, translated, overrides)
        return validate(resolve(tree, path), origin=str(path))

    def validate_config(self, config: RunConfig | dict) -> bool:
        """Return True, or raise one `ConfigError` that lists every problem."""
        return SimpleConfigManager().validate_config(config)

    def save_config(self, config: RunConfig, output_path: str | Path) -> None:
        """Write every key with its resolved value, as one file without groups."""
        SimpleConfigManager().save_config(config, output_path)


def _check_primary(path: Path) -> None:
    tree = read_yaml(path)
    if path.suffix != ".yaml":
        raise ConfigError(f"{path}: Hydra reads files that end in .yaml only; rename it")
    settings = tree._get_node("hydra")
    if settings is not None and not (isinstance(settings, DictConfig) and set(settings) <= {"searchpath"}):
        raise ConfigError(f"{path}: hydra: only hydra.searchpath has a meaning here, take the other settings out")


def _compose(path: Path, translated: list[str], overrides: Sequence[str]) -> DictConfig:
    try:
        with _leaving_no_trace(), initialize_config_dir(str(path.parent.absolute()), version_base=VERSION_BASE):
            return compose(path.name, translated)
    except MissingConfigException as error:
        if error.options is None:
            raise ConfigError(f"{path}: {_one_line(error).partition(' Config search path:')[0]}") from None
        group, _, option = error.missing_cfg_file.rpartition("/")
        choices = ", ".join(error.options) or "none"
        raise ConfigError(f"{path}: {group} has no option {option!r}; choices: {choices}") from None
    except (HydraException, OmegaConfBaseException, YAMLError) as error:
        text = _one_line(error)
        for ours, theirs in zip(translated, overrides, strict=True):
            text = text.replace(ours, theirs)
        raise ConfigError(f"{path}: {text}") from None
    except (OSError, ValueError) as error:  # the primary file itself was read before
        raise ConfigError(f"{path}: a file of its groups cannot be used: {_one_line(error)}") from None
    except RecursionError:
        raise ConfigError(f"{path}: the defaults lists of its groups lead back to themselves") from None


def _one_line(error: BaseException) -> str:
    """What went wrong: Hydra often says only where, and leaves the reason to the error it came from."""
    told = [" ".join(str(error).split())]
    if isinstance(error.__cause__, OmegaConfBaseException):
        told.append(str(error.__cause__).splitlines()[0])
    return ": ".join(text for text in told if text)


@contextmanager
def _leaving_no_trace() -> Iterator[None]:
    """Hydra keeps singletons and adds resolvers to OmegaConf: give it its own, and put back what was there.

    So a program that runs in Hydra itself can use the manager too, and ``${now:…}``, which differs from rank to rank,
    is as unknown here as in a plain file.
    """
    singletons, resolvers = Singleton._instances, BaseContainer._resolvers
    Singleton._instances = {ConfigStore: singletons[ConfigStore]}  # filled once, when Hydra is imported
    BaseContainer._resolvers = dict(resolvers)
    try:
        yield
    finally:
        Singleton._instances, BaseContainer._resolvers = singletons, resolvers
