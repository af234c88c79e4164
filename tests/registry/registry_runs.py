"""Run folders without a training: complete, valid, small."""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path

import yaml
from support.forks import Fork

import manage_registry
from tstune.errors import RegistryError
from tstune.registry import ModelRegistry

SCRIPT = Path(manage_registry.__file__)
METRIC = "test/fine_tuned/rmse"
FILES = [
    "README.md",
    "config.yaml",
    "environment.json",
    "history.jsonl",
    "manifest.json",
    "metrics.json",
    "model/config.json",
    "model/model.safetensors",
    "preprocessor.json",
]
"""What of a run that `write_run` writes is stored."""


def write_run(
    folder: Path, rmse: float | None = 2.0, learning_rate: float = 1e-3, data: str = "abc", weights: bytes = b"weights"
) -> Path:
    """Everything `finetune.py` leaves, with plots and checkpoints."""
    for name in ("model", "plots", "checkpoints/step-5"):
        (folder / name).mkdir(parents=True)
    config = {"data": {"source": "cgm_sample"}, "training": {"learning_rate": learning_rate}}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    manifest = {"source": "cgm_sample", "files": [{"path": "x.csv", "sha256": data}], "windows": {"test": 5}}
    for name, content in {
        "preprocessor.json": {"model_type": "ttm"},
        "manifest.json": manifest,
        "metrics.json": {"test": {"fine_tuned": {"rmse": rmse, "mae": 1.5}, "persistence": {"rmse": 4.0}}},
        "environment.json": {"python": "3.11"},
        "model/config.json": {"d_model": 16},
    }.items():
        (folder / name).write_text(json.dumps(content))
    (folder / "README.md").write_text("# A run\n")
    (folder / "history.jsonl").write_text('{"step": 1}\n')
    (folder / "model" / "model.safetensors").write_bytes(weights)
    (folder / "plots" / "loss.png").write_bytes(b"png")
    (folder / "checkpoints" / "step-5" / "state.bin").write_bytes(b"large")
    return folder


def with_large_file(run: Path, megabytes: int) -> Path:
    """A run that takes its time to be read: weights that are all zeros, and no space on the disk."""
    with (run / "model" / "model.safetensors").open("wb") as stream:
        stream.truncate(megabytes << 20)
    return run


def stored(folder: Path) -> dict[str, bytes]:
    """Content of every file of a run that a registry keeps."""
    return {path: (folder / path).read_bytes() for path in FILES}


def content(folder: Path) -> dict[str, bytes]:
    """Content of every file under a folder."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def start(registry: str | Path, *arguments: str | Path, **environment: str) -> Fork:
    """Start manage_registry.py."""
    return Fork([sys.executable, SCRIPT, *arguments, "--registry", registry], env=os.environ | environment)


def finish(process: Fork) -> str:
    """What it printed, if it went well."""
    out, err = process.communicate(timeout=600)
    assert process.returncode == 0, err
    return out


def assert_intact(registry: ModelRegistry, name: str, numbers: list[int]) -> None:
    """Exactly these versions are there, and every file of them has its checksum."""
    assert [version.version for version in registry.versions(name)] == numbers
    for number in numbers:
        assert len(registry.verify(f"{name}:{number}").files) >= len(FILES)


def refusal(error: RegistryError, *words: str) -> str:
    """The message, one line that holds the words."""
    message = str(error)
    assert "\n" not in message
    assert [word for word in words if word not in message] == [], message
    assert not re.search(r"\bNone\b", message)
    return message
