"""What this machine has: where the data lies, and which weights of the Hub lie in a folder."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tstune.config.managers import read_yaml, resolve
from tstune.config.schema import RunConfig
from tstune.data.sources import available_sources
from tstune.errors import ConfigError


@dataclass(frozen=True)
class MachinePaths:
    """Places on this machine; they never get into a table.

    Attributes:
        data: `data.source` -> file or folder.
        weights: Hub id -> folder of the same weights.
    """

    data: Mapping[str, str] = field(default_factory=dict)
    weights: Mapping[str, str] = field(default_factory=dict)

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

    Args:
        file: the YAML.
        hub_ids: returns what the recipes take from the Hub; asked only where the file names weights.

    Raises:
        ConfigError: an unknown name, or a path that is not there.
    """
    tree = resolve(read_yaml(file), file)
    sections = {"data": available_sources(), "weights": sorted(hub_ids()) if tree.get("weights") else []}
    found: dict[str, dict[str, str]] = {}
    for section, entries in tree.items():
        if section not in sections:
            raise ConfigError(f"{file}: unknown key {section}{_suggestion(str(section), sections)}")
        if not isinstance(entries, dict | None):
            raise ConfigError(f"{file}: {section} must hold names with their paths, not {entries!r}")
        for name, place in (entries or {}).items():
            if name not in sections[section]:
                raise ConfigError(
                    f"{file}: {section}.{name}: no recipe asks for it{_suggestion(name, sections[section])}"
                )
            if not isinstance(place, str):
                raise ConfigError(f"{file}: {section}.{name}: {place!r} is not a path")
            path = file.parent / place
            if not path.exists():
                raise ConfigError(f"{file}: {section}.{name}: {path} does not exist")
            found.setdefault(section, {})[name] = str(path.resolve())
    return MachinePaths(**found)


def _suggestion(name: str, known: Collection[str]) -> str:
    close = difflib.get_close_matches(str(name), list(known), n=1)
    return f", did you mean {close[0]}?" if close else f" (choose from {', '.join(known)})"
