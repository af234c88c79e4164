"""Which recipes there are, and which script runs one."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from omegaconf import OmegaConf

from tstune.config.schema import RunConfig
from tstune.config.simple_manager import SimpleConfigManager, read_yaml
from tstune.errors import ConfigError

ROOT = Path(__file__).resolve().parents[3]
BOOK = ROOT / "recipes"
TINY = "tiny.yaml"
"""Name of the recipes that are for smoke tests only."""

_COMPOSED = "hydra"  # pieces of recipes
_SCRIPTS = {
    "chronos_bolt": "finetune_chronos.py",
    "chronos2": "finetune_chronos.py",
    "timegpt": "finetune_timegpt.py",
}


@dataclass(frozen=True)
class Recipe:
    """One file of the book.

    Attributes:
        path: the file.
        name: its path in the book without the suffix, e.g. ``ttm/cgm_sample/lora``.
    """

    path: Path
    name: str

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
        """The validated run; of a comparison what its models share.

        Raises:
            ConfigError: with every problem found, in one message.
        """
        return SimpleConfigManager().load_config(self.path, overrides)

    def script(self, model_type: str) -> Path:
        """The script that runs it."""
        name = _SCRIPTS.get(model_type, "finetune_ttm.py")
        if self.is_pretraining:
            name = "pretrain_ttm.py"
        return ROOT / "scripts" / name

    @property
    def pretrained(self) -> str | None:
        """`model.pretrained` as the file has it."""
        found = OmegaConf.select(read_yaml(self.path), "model.pretrained")
        return None if found is None else str(found)


def find_recipes(words: Sequence[str | Path], tiny: bool = False) -> list[Recipe]:
    """The recipes that files and folders name, each once, in the order of the words.

    Args:
        words: files or folders; none stands for the whole book.
        tiny: take the `tiny.yaml` of a folder too.

    Raises:
        ConfigError: a word that names no recipe.
    """
    found: dict[Path, Recipe] = {}
    for word in words or [BOOK]:
        path = Path(word)
        files = sorted(_in_folder(path, tiny)) if path.is_dir() else [path] if path.is_file() else []
        if not files:
            raise ConfigError(f"{word} is no recipe and no folder of recipes{_suggestion(path)}")
        for file in files:
            found.setdefault(file.resolve(), Recipe(file, _name(file)))
    return list(found.values())


def _in_folder(folder: Path, tiny: bool) -> list[Path]:
    files = [path for path in folder.rglob("*.yaml") if _COMPOSED not in path.relative_to(folder.parent).parts]
    return [path for path in files if tiny or path.name != TINY]


def _name(file: Path) -> str:
    place = file.resolve()
    if place.is_relative_to(BOOK):
        place = place.relative_to(BOOK)
    elif place.is_relative_to(Path.cwd()):
        place = place.relative_to(Path.cwd())
    else:
        place = Path(place.name)
    return place.with_suffix("").as_posix()


def _suggestion(path: Path) -> str:
    known = {recipe.path: recipe.name for recipe in find_recipes([])} if BOOK.is_dir() else {}
    wanted = path.with_suffix("").as_posix().partition("recipes/")[2] or path.with_suffix("").as_posix()
    close = difflib.get_close_matches(wanted, known.values(), n=1, cutoff=0.6)
    return f"; did you mean recipes/{close[0]}.yaml?" if close else "; recipes lie under recipes/"
