"""What every family says when the weights it was given are not there or cannot be read."""

from __future__ import annotations

from pathlib import Path

from tstune.errors import CheckpointError


def require_config_file(name: str) -> None:
    """Stop if `name` is a folder without config.json; a Hub id passes.

    Raises:
        CheckpointError: naming the folder inside a run folder, if that is what was meant.
    """
    if Path(name).is_dir() and not (Path(name) / "config.json").is_file():
        inside = Path(name) / "model"
        hint = f"; did you mean {inside}?" if (inside / "config.json").is_file() else ""
        raise CheckpointError(f"model.pretrained={name}: the folder holds no config.json{hint}")


def not_found(name: str, error: Exception) -> str:
    """Why the config.json of a folder or Hub id could not be had."""
    if Path(name).is_dir():
        return f"model.pretrained={name}: its config.json cannot be read: {first_line(error)}"
    return (
        f"model.pretrained={name} is not a folder, and the Hub did not give it ({first_line(error)}); "
        "check the name and the network, or give the folder of a downloaded checkpoint"
    )


def first_line(error: Exception) -> str:
    """The error in at most 200 characters."""
    lines = str(error).splitlines()
    return lines[0][:200] if lines else type(error).__name__
