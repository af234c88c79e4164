"""Which recipes there are, which script runs one, and what this machine has for them."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from tstune.config.managers import SimpleConfigManager, read_yaml, resolve
from tstune.config.schema import RunConfig
from tstune.data.defaults import SHIPPED
from tstune.data.sources import available_sources
from tstune.errors import ConfigError, FolderError
from tstune.models.contract import ForecastModel
from tstune.models.registry import families, model_class
from tstune.runs.compare.recipe import is_compared, load_comparison
from tstune.runs.folder import METRICS, RunFolder

ROOT = Path(__file__).resolve().parents[3]
BOOK = ROOT / "recipes"
TINY = "tiny.yaml"
"""Name of the recipes that are for smoke tests only."""

_COMPOSED = "hydra"  # pieces of recipes


@dataclass(frozen=True)
class Recipe:
    """One file of the book."""

    path: Path  # the file
    name: str  # its path in the book without the suffix, e.g. ``ttm/cgm_sample/lora``

    @cached_property
    def sections(self) -> frozenset[str]:
        """Top-level keys of the file."""
        return frozenset(map(str, read_yaml(self.path)))

    @property
    def is_comparison(self) -> bool:
        """It lists several models instead of one."""
        return "models" in self.sections

    @property
    def is_pretraining(self) -> bool:
        """It makes weights from generated series."""
        return "pretraining" in self.sections

    def load(self, overrides: Sequence[str] = ()) -> RunConfig:
        """The validated run; of a comparison what its models share. `ConfigError` tells every problem at once."""
        if self.is_comparison:
            return load_comparison(self.path, overrides).config
        return SimpleConfigManager().load_config(self.path, overrides)

    def runs(self) -> dict[str, RunConfig]:
        """Every model of the file as a run, by what its keys begin with: ``""``, or ``models.<name>.``"""
        if not self.is_comparison:
            return {"": self.load()}
        return {f"models.{member.name}.": member.config for member in load_comparison(self.path).members}

    def hub_ids(self) -> set[str]:
        """What it takes from the Hub, or from a folder in its place."""
        named = {config.model.pretrained for config in self.runs().values()}
        return {name for name in named if name is not None and name not in SHIPPED}

    def is_done(self, folder: Path, overrides: Sequence[str]) -> bool:
        """Whether a whole run folder was made by this file with these changes, wherever either lies."""
        if self.is_comparison:
            return is_compared(load_comparison(self.path, overrides), folder)
        config, done = self.load(overrides), saved_config(folder)
        if done is None or not RunFolder(folder).has(METRICS):
            return False
        beside = {"output_dir": None, "overwrite": False, "tracking": None}
        return done.model_copy(update=beside) == config.settled(done.setting).model_copy(update=beside)

    def script(self, model_type: str) -> Path:
        """The script that runs it."""
        name = model_class(model_type).script if model_type in families() else ForecastModel.script
        if self.is_comparison:
            name = "compare_models.py"
        if self.is_pretraining:
            name = "pretrain_ttm.py"
        return ROOT / "scripts" / name


def find_recipes(words: Sequence[str | Path], tiny: bool = False, book: Path = BOOK) -> list[Recipe]:
    """The recipes that files and folders name, each once, in the order of the words; no word stands for the whole book.

    With `tiny` the `tiny.yaml` of a folder is one too.
    """
    found: dict[Path, Recipe] = {}
    for word in words or [book]:
        path = Path(word)
        files = sorted(_in_folder(path, tiny)) if path.is_dir() else [path] if path.is_file() else []
        if not files:
            raise ConfigError(f"{word} is no recipe and no folder of recipes{_suggestion(path, book)}")
        for file in files:
            found.setdefault(file.resolve(), Recipe(file, _name(file, book)))
    return list(found.values())


@dataclass(frozen=True)
class MachinePaths:
    """Places on this machine; they never get into a table."""

    data: Mapping[str, str] = field(default_factory=dict)  # `data.source` -> file or folder
    weights: Mapping[str, str] = field(default_factory=dict)  # Hub id -> folder of the same weights

    def overrides(self, runs: Mapping[str, RunConfig]) -> list[str]:
        """What a recipe must be given here, as ``key=value``; `runs` as `Recipe.runs` returns them."""
        sources = {config.data.source for config in runs.values()}
        found = [f"data.path={self.data[source]}" for source in sorted(sources & set(self.data))]
        for begin, config in runs.items():
            if config.model.pretrained in self.weights:
                found.append(f"{begin}model.pretrained={self.weights[config.model.pretrained]}")
        return found

    def without_places(self, text: str) -> str:
        """The text with names in the place of paths."""
        names = {place: f"<{source}>" for source, place in self.data.items()}
        names |= {place: f"<{hub_id}>" for hub_id, place in self.weights.items()}
        for place in sorted(names, key=len, reverse=True):
            text = text.replace(place, names[place])
        return text


def read_machine_paths(file: Path, hub_ids: Callable[[], Collection[str]]) -> MachinePaths:
    """Read the YAML of ``data: {source: path}`` and ``weights: {hub id: folder}``; paths are relative to the file.

    An unknown name, or a path that is not there, is a `ConfigError`. `hub_ids` is asked only where the file names
    weights.
    """
    tree = resolve(read_yaml(file), file)
    sections = {"data": available_sources(), "weights": sorted(hub_ids()) if tree.get("weights") else []}
    found: dict[str, dict[str, str]] = {}
    for section, entries in tree.items():
        if section not in sections:
            raise ConfigError(f"{file}: unknown key {section}{_did_you_mean(str(section), sections)}")
        if not isinstance(entries, dict | None):
            raise ConfigError(f"{file}: {section} must hold names with their paths, not {entries!r}")
        for name, place in (entries or {}).items():
            told = f"{file}: {section}.{name}"
            if name not in sections[section]:
                raise ConfigError(f"{told}: no recipe asks for it{_did_you_mean(name, sections[section])}")
            if not isinstance(place, str):
                raise ConfigError(f"{told}: {place!r} is not a path")
            path = file.parent / place
            if not path.exists():
                raise ConfigError(f"{told}: {path} does not exist")
            found.setdefault(section, {})[name] = str(path.resolve())
    return MachinePaths(**found)


def _in_folder(folder: Path, tiny: bool) -> list[Path]:
    files = [path for path in folder.rglob("*.yaml") if _COMPOSED not in path.relative_to(folder.parent).parts]
    return [path for path in files if tiny or path.name != TINY]


def saved_config(folder: Path) -> RunConfig | None:
    """The configuration in a run folder; None without one, or if it is of another time."""
    try:
        return RunFolder(folder).config
    except (FolderError, ConfigError):
        return None


def _name(file: Path, book: Path) -> str:
    place = file.resolve()
    if place.is_relative_to(book.resolve()):
        place = place.relative_to(book.resolve())
    elif place.is_relative_to(Path.cwd()):
        place = place.relative_to(Path.cwd())
    else:
        place = Path(place.name)
    return place.with_suffix("").as_posix()


def _suggestion(path: Path, book: Path) -> str:
    known = [file.with_suffix("").relative_to(book).as_posix() for file in _in_folder(book, tiny=True)]
    wanted = path.with_suffix("").as_posix()
    wanted = wanted.rpartition(f"{book.name}/")[2] or wanted
    close = difflib.get_close_matches(wanted, known, n=1, cutoff=0.6)
    return f"; did you mean {book.name}/{close[0]}.yaml?" if close else "; recipes lie under recipes/"


def _did_you_mean(name: str, known: Collection[str]) -> str:
    close = difflib.get_close_matches(str(name), list(known), n=1)
    return f", did you mean {close[0]}?" if close else f" (choose from {', '.join(known)})"
