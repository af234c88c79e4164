"""Names of runs and of what they log: they become paths, so they may not lead anywhere else."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from tstune.errors import TrackingError

_RUN_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,127}")


def check_run_id(run_id: str) -> str:
    """Return the id.

    Raises:
        TrackingError: not letters, digits, ``.``, ``_`` and ``-``, at most 128 of them.
    """
    if not _RUN_ID.fullmatch(run_id):
        raise TrackingError(
            f"tracking: run id {run_id!r} is not usable; use up to 128 letters, digits, '.', '_' and '-', "
            "beginning with a letter or digit"
        )
    return run_id


def check_relative(name: str) -> str:
    """Return the name of a logged thing as a clean relative path.

    Raises:
        TrackingError: it is empty or leads out of the run's folder.
    """
    path = PurePosixPath(name)
    if not path.parts or path.is_absolute() or ".." in path.parts or "\0" in name:
        raise TrackingError(
            f"tracking: the name {name!r} leads out of the run's folder; use one such as plots/loss.png"
        )
    return str(path)


def inside(folder: Path, name: str, what: str) -> Path:
    """Place of `name` below a folder.

    Raises:
        TrackingError: it is the folder itself, or outside it.
    """
    target = folder / name
    if not name or "\0" in name or folder.resolve() not in target.resolve().parents:
        raise TrackingError(f"tracking: {what} {name!r} leads out of {folder}; use a plain name")
    return target


def run_name_of(config: Mapping[str, object], given: str | None, run_id: str) -> str:
    """Name people read: the given one, else that of the run's output folder, else the run id."""
    output_dir = config.get("output_dir")
    return given or (Path(output_dir).name if isinstance(output_dir, str) else "") or run_id
