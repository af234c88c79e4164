"""A fitted method in a run folder: `uncertainty.json` says what it is, `uncertainty.safetensors` holds its numbers."""

from __future__ import annotations

import json
from pathlib import Path

from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from tstune.errors import CheckpointError
from tstune.uncertainty.interface import UncertaintyMethod
from tstune.uncertainty.methods import METHODS

SETTINGS, TENSORS = "uncertainty.json", "uncertainty.safetensors"


def save_method(method: UncertaintyMethod, folder: Path) -> None:
    """Write both files."""
    text = json.dumps({"method": method.name} | method.settings(), indent=2)
    (folder / SETTINGS).write_text(text + "\n", encoding="utf-8")
    save_file(method.tensors(), folder / TENSORS)


def load_method(folder: Path) -> UncertaintyMethod | None:
    """Read what `save_method` wrote; None if the folder has none.

    Raises:
        CheckpointError: a file is missing or damaged.
    """
    path = folder / SETTINGS
    if not path.is_file():
        return None
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
        method = METHODS[settings.pop("method")](**settings)
        method.restore(load_file(folder / TENSORS))
    except FileNotFoundError:
        raise CheckpointError(f"{folder / TENSORS} is missing; {SETTINGS} says there are intervals") from None
    except (ValueError, KeyError, TypeError, SafetensorError) as error:
        raise CheckpointError(f"{folder}: {SETTINGS} or {TENSORS} is damaged: {error}") from None
    return method
