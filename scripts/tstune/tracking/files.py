"""Copies of files and folders, and how to tell that they changed."""

from __future__ import annotations

import shutil
from pathlib import Path

from tstune.errors import TrackingError

State = dict[str, list[int]]
"""Relative path of each file -> its size and time of change in ns."""

MODEL_FILES = (
    "model",
    "adapter",
    "adapters",
    "preprocessor.json",
    "config.yaml",
    "uncertainty.json",
    "uncertainty.safetensors",
)
"""What `load_model` needs of a run folder."""


def copy(source: Path, target: Path) -> None:
    """Copy a file, or a folder with all it holds."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target, dirs_exist_ok=True)
    else:
        shutil.copy2(source, target)


def copy_model(run_folder: Path, target: Path) -> None:
    """Copy what `load_model` needs of a run folder.

    Raises:
        TrackingError: it holds no model.
    """
    if not (run_folder / "preprocessor.json").is_file():
        raise TrackingError(f"tracking: {run_folder} holds no model: preprocessor.json is missing")
    target.mkdir(parents=True, exist_ok=True)
    for name in MODEL_FILES:
        if (run_folder / name).exists():
            copy(run_folder / name, target / name)


def state_of(path: Path, names: tuple[str, ...] = ()) -> State | None:
    """State of a file or of all files in a folder, or only of those under some names in it; None if it is gone."""
    roots = [path / name for name in names] or [path]
    files = [file for root in roots for file in ([root] if root.is_file() else sorted(root.rglob("*")))]
    try:
        found = {str(file.relative_to(path)): file.stat() for file in files if file.is_file()}
    except OSError:
        return None
    return {name: [stat.st_size, stat.st_mtime_ns] for name, stat in found.items()} or None


def remove_empty(folder: Path, top: Path) -> None:
    """Remove a folder and those above it, up to and with `top`, as far as they hold nothing."""
    for place in (folder, *folder.parents):
        if not place.is_relative_to(top) or not place.is_dir() or any(place.iterdir()):
            break
        place.rmdir()
