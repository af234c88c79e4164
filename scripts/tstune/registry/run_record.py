"""Read a finished run folder: what of it is stored, and what is known about it."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from tstune.config.managers import load_saved_config
from tstune.errors import RegistryError
from tstune.foreign_files import read_object
from tstune.registry.files import disk_errors
from tstune.registry.versions import MANIFEST, ModelVersion, check_metrics, check_name, check_stored_path
from tstune.runtime.environment import git

NEEDED = ("config.yaml", "preprocessor.json", MANIFEST, "metrics.json", "model")
"""What makes a folder a finished run."""
NOT_STORED = ("checkpoints", "plots")
"""Folders of a run that a model does not need: the first are large, the second can be drawn again."""

_LONGEST_TEXT = 1000


def describe_run(
    folder: Path, name: str, description: str | None = None, tags: Mapping[str, str] | None = None
) -> ModelVersion:
    """What a registry records about a run folder, without number and files, which only storing gives.

    Raises:
        RegistryError: the folder is not a finished run, or a text is not allowed.
        ConfigError: its configuration is not valid.
    """
    check_name(name)
    with disk_errors(f"{folder} cannot be read"):
        for needed in NEEDED:
            if not (folder / needed).exists():
                raise RegistryError(f"{folder} is not a finished run: {needed} is missing; give a run's output_dir")
        read_object(folder / MANIFEST, RegistryError)
        metrics = folder / "metrics.json"
        commit = git("rev-parse", "--verify", "--quiet", "HEAD")
        changes = git("status", "--porcelain", "--untracked-files=no") if commit else None
        return ModelVersion(
            name=name,
            version=0,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            config=load_saved_config(folder / "config.yaml").model_dump(mode="json"),
            metrics=check_metrics(read_object(metrics, RegistryError), str(metrics)),
            run_id=_run_id(folder / "tracking.json"),
            git_commit=commit,
            git_dirty=None if changes is None else bool(changes),
            description=None if description is None else _check_text("description", description),
            tags={check_name(key, "tag"): _check_text(f"tag {key}", value) for key, value in (tags or {}).items()},
        )


def files_to_store(folder: Path) -> list[str]:
    """Relative paths of everything that is stored, sorted.

    Raises:
        RegistryError: a link or something that is no file: its content is not part of the folder.
    """
    paths = []
    with disk_errors(f"{folder} cannot be read"):
        for place, subfolders, names in os.walk(folder, onerror=_raise):
            if Path(place) == folder:
                subfolders[:] = [name for name in subfolders if name not in NOT_STORED]
            for name in [*subfolders, *names]:
                path = Path(place) / name
                kind = path.lstat().st_mode
                if stat.S_ISREG(kind):
                    paths.append(check_stored_path(path.relative_to(folder).as_posix(), str(folder)))
                elif not stat.S_ISDIR(kind):
                    what = "a link" if stat.S_ISLNK(kind) else "not a plain file"
                    raise RegistryError(f"{path} is {what}; a registered run holds plain files only")
    return sorted(paths)


def _run_id(path: Path) -> str | None:
    run_id = read_object(path, RegistryError).get("run_id") if path.exists() else None
    if not isinstance(run_id, str | None):
        raise RegistryError(f"{path} is damaged: run_id is {run_id!r}")
    return run_id


def _check_text(what: str, text: str) -> str:
    if len(text) > _LONGEST_TEXT:
        raise RegistryError(f"{what} has {len(text)} characters; at most {_LONGEST_TEXT} are kept")
    return text


def _raise(error: OSError) -> None:
    raise error
