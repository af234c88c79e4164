"""Configuration systems: plain YAML merged by OmegaConf, or groups composed by Hydra; both give a `RunConfig`."""

from __future__ import annotations

import json
import logging
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.basecontainer import BaseContainer
from omegaconf.errors import InterpolationKeyError, MissingMandatoryValue, OmegaConfBaseException
from yaml import YAMLError

from tstune.config.flat import TTMExperimentConfig, as_recipe, as_run_config
from tstune.config.names import merged
from tstune.config.schema import RunConfig
from tstune.config.section import RESOLVED
from tstune.config.validation import validate
from tstune.errors import ConfigError
from tstune.foreign_files import read_plain_yaml
from tstune.named_code import foreign, ours


class ConfigManager(ABC):
    """Loads, validates and saves a run.

    One of your own may return a `TTMExperimentConfig`, and may leave out `overrides`.
    """

    @abstractmethod
    def load_config(self, config_path: str | Path, overrides: Sequence[str] = ()) -> RunConfig:
        """Read a configuration, apply ``key=value`` overrides and validate it.

        Raises:
            ConfigError: with every problem found, in one message.
        """

    @abstractmethod
    def validate_config(self, config: RunConfig | TTMExperimentConfig | dict) -> bool:
        """Return True for a valid configuration; False, with every problem in the log, for any other."""

    @abstractmethod
    def save_config(self, config: RunConfig | TTMExperimentConfig, output_path: str | Path) -> None:
        """Write the resolved configuration so that loading it reruns the same run."""


class SimpleConfigManager(ConfigManager):
    """One YAML file is one run: schema default < file < ``key=value``."""

    def load_config(self, config_path: str | Path, overrides: Sequence[str] = ()) -> RunConfig:
        """Read a YAML file, apply overrides such as ``training.learning_rate=5e-4`` and validate the result."""
        path = Path(config_path)
        if path.is_file() and path.read_bytes().startswith(RESOLVED.encode()):
            values = _saved_values(path, overrides)
        else:
            values = read_values(path, overrides)
        if "models" in values:
            raise ConfigError(f"{path} lists several models: give it to scripts/compare_models.py")
        ours(values)
        return validate(values, origin=str(path))

    def validate_config(self, config: RunConfig | TTMExperimentConfig | dict) -> bool:
        try:
            as_run_config(config)
        except ConfigError as error:
            logging.getLogger(__name__).error("%s", error)
            return False
        return True

    def save_config(self, config: RunConfig | TTMExperimentConfig, output_path: str | Path) -> None:
        """Write every key with its resolved value; `load_saved_config` reads them back as they are."""
        values = as_run_config(config).model_dump(mode="json")
        text = yaml.dump(values, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=1000)
        Path(output_path).write_text(f"{RESOLVED}\n{text}", encoding="utf-8")


class _Dumper(yaml.SafeDumper):
    """Quotes text such as ``1e-3``, which YAML 1.1 takes for text and OmegaConf for a number."""


def _quoted(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    try:
        float(text)
    except ValueError:
        return dumper.represent_str(text)
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style='"')


_Dumper.add_representer(str, _quoted)


def load_saved_config(path: Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Read what `save_config` wrote into a folder: nothing is interpolated, and code that it names is not imported."""
    values = _saved_values(path, overrides)
    foreign(values, path)
    return validate(values, origin=str(path))


def _saved_values(path: Path, overrides: Sequence[str]) -> dict:
    return merged(read_saved_values(path), read_overrides(overrides))


def read_overrides(overrides: Sequence[str]) -> dict:
    """``key=value`` changes alone, as nested values; nothing is validated yet."""
    return OmegaConf.to_container(_override(OmegaConf.create({}), overrides), resolve=True)


def read_saved_values(path: Path) -> dict:
    """The same as it stands in the file, not validated."""
    values = read_plain_yaml(path, ConfigError)
    if not isinstance(values, dict):
        raise ConfigError(f"{path} must hold sections such as model: and data:, with their keys")
    return values


def read_values(path: Path, overrides: Sequence[str] = ()) -> dict:
    """Read one file, apply ``key=value`` changes and fill in every interpolation; nothing is validated yet."""
    tree = read_yaml(path)
    if "defaults" in tree:
        raise ConfigError(f"{path} has a defaults list: give it with --hydra instead of --config")
    own_words = OmegaConf.create(as_recipe(OmegaConf.to_container(tree)))
    return resolve(_override(own_words, overrides), path)


def read_yaml(path: Path) -> DictConfig:
    """Read one file as it stands: nothing merged, nothing interpolated."""
    sections = f"{path} must hold sections such as model: and data:, with their keys"
    if not path.is_file():
        raise ConfigError(f"config file {path} does not exist; recipes lie under recipes/")
    read_plain_yaml(path, ConfigError)  # within its limits: OmegaConf has none
    try:
        tree = OmegaConf.load(path)
    except (YAMLError, UnicodeDecodeError, OmegaConfBaseException) as error:
        raise ConfigError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None
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


_KEY = re.compile(r"[a-z_$][\w$-]*([./@:][\w$-]+)*", re.ASCII | re.IGNORECASE)  # dotted key, group, group@package


def to_hydra(override: str, folder: Path) -> str:
    """Translate one override for a primary config that lies in `folder`.

    ``key=value`` may set any key, also one the files leave out, so it becomes ``++key=value``; it stays a choice
    where `key` is a group, a folder beside the file. Hydra's own forms ``+key=value``, ``++key=value``, ``~key`` and
    ``group@package=option`` keep their meaning. Values are YAML everywhere: Hydra's grammar would read ``010``,
    ``on``, ``a: b`` or ``%d/%m/%Y`` in another way than a recipe.
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
    if "@" in key or "/" in key or ("." not in key and (folder / key).is_dir()):  # a group
        choice = _choice(text)
        if choice is not None:
            return f"{prefix}{key}={choice}"
    try:
        value = OmegaConf.to_container(parse_override(f"value={text}"), resolve=False)["value"]
        return f"{prefix or '++'}{key}={_write(value)}"
    except (yaml.YAMLError, OmegaConfBaseException, TypeError) as error:
        raise ConfigError(f"override cannot be read: {override!r}: {' '.join(str(error).split())}") from None


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
    """The value in Hydra's grammar, which does not let a key be quoted."""
    from hydra._internal.grammar.utils import escape_special_characters
    from hydra.core.override_parser.types import Quote, QuotedString

    match value:
        case None | bool():
            return json.dumps(value)
        case int() | float():
            return str(value)
        case str():
            return QuotedString(text=value, quote=Quote.single).with_quotes()
        case list():
            return f"[{','.join(map(_write, value))}]"
        case dict():
            pairs = (f"{escape_special_characters(str(key))}:{_write(item)}" for key, item in value.items())
            return f"{{{','.join(pairs)}}}"
    raise TypeError(f"a value of type {type(value).__name__} has no place in a configuration")


VERSION_BASE = "1.3"
DEFAULT_COMPOSITION = Path(__file__).resolve().parents[3] / "recipes/hydra/ttm.yaml"


class HydraConfigManager(SimpleConfigManager):
    """A primary config and the options it names in its defaults list are one run.

    Schema default < options in the order of the list < ``key=value``. The groups are the folders beside the file. A
    file without a defaults list is read as `SimpleConfigManager` reads it.
    """

    def load_config(self, config_path: str | Path | None = None, overrides: Sequence[str] = ()) -> RunConfig:
        """Compose a YAML file with overrides such as ``tuning=lora training.learning_rate=5e-4`` and validate it.

        None takes the composition that comes with the project, `recipes/hydra/ttm.yaml`.
        """
        path = DEFAULT_COMPOSITION if config_path is None else Path(config_path)
        _check_primary(path)
        translated = [to_hydra(override, path.parent) for override in overrides]
        tree = _compose(path, translated, overrides)
        values = as_recipe(resolve(tree, path))
        ours(values)
        return validate(values, origin=str(path))

    def load_with_hydra(self, cfg: DictConfig) -> RunConfig:
        """Validate what a function under `hydra.main`, or `hydra.compose`, was given."""
        origin = "the composed configuration"
        run = OmegaConf.masked_copy(cfg, [str(key) for key in cfg if key != "hydra"])
        return as_run_config(resolve(run, Path(origin)), origin)


def _check_primary(path: Path) -> None:
    tree = read_yaml(path)
    if path.suffix != ".yaml":
        raise ConfigError(f"{path}: Hydra reads files that end in .yaml only; rename it")
    settings = tree._get_node("hydra")
    if settings is not None and not (isinstance(settings, DictConfig) and set(settings) <= {"searchpath"}):
        raise ConfigError(f"{path}: hydra: only hydra.searchpath has a meaning here, take the other settings out")


def _compose(path: Path, translated: list[str], overrides: Sequence[str]) -> DictConfig:
    from hydra import compose, initialize_config_dir  # a fifth of a second, which a plain file does not need
    from hydra.errors import HydraException, MissingConfigException

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
    from hydra.core.config_store import ConfigStore
    from hydra.core.singleton import Singleton

    singletons, resolvers = Singleton._instances, BaseContainer._resolvers
    Singleton._instances = {ConfigStore: singletons[ConfigStore]}  # filled once, when Hydra is imported
    BaseContainer._resolvers = dict(resolvers)
    try:
        yield
    finally:
        Singleton._instances, BaseContainer._resolvers = singletons, resolvers
