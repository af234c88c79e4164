"""What a run can be repeated with: versions, hardware, one seed for all generators."""

from __future__ import annotations

import ctypes
import importlib.metadata
import platform
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def set_seed(seed: int) -> None:
    """Seed all generators; the same seed on every rank, so that fresh weights agree."""
    from accelerate.utils import set_seed as accelerate_set_seed

    accelerate_set_seed(seed)


_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h


@cache
def keep_freed_memory() -> bool:
    """Let glibc keep what tensors of up to 32 MB gave back, 256 MB at most, rather than return it and ask anew.

    Otherwise each step of a training zeroes its pages once more, a tenth of its time. True where it could be asked for.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # other C libraries have none
    return mallopt is not None and mallopt(_MMAP_THRESHOLD, 32 << 20) == mallopt(_TRIM_THRESHOLD, 256 << 20) == 1


_PACKAGES = ("torch", "accelerate", "transformers", "granite-tsfm", "peft", "datasets", "numpy", "pandas", "pydantic")


def describe_environment(device: torch.device, num_processes: int) -> dict:
    """Return versions, git commit, device and process count as JSON values."""
    import torch

    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: _version(name) for name in _PACKAGES},
        "sbom": loaded_packages(),
        "git_commit": code_commit(),
        "command": " ".join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "device": str(device),
        "device_name": torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or "cpu",
        "num_processes": num_processes,
        "num_threads": torch.get_num_threads(),
    }


def loaded_packages() -> dict[str, str]:
    """Name -> version of every installed package that this process has loaded code of: its bill of materials."""
    loaded = {name.partition(".")[0] for name in sys.modules}
    described = [_name_and_version(package) for package, modules in _installed() if not modules.isdisjoint(loaded)]
    found = dict(reversed(described))  # the first one found is the one in use
    return {name: found[name] for name in sorted(found, key=str.lower)}


@cache
def _installed() -> list[tuple[importlib.metadata.Distribution, frozenset[str]]]:
    """Every installed package and the modules it lists; `packages_distributions` would look at every single file."""
    found = []
    for package in importlib.metadata.distributions():
        listed = package.read_text("top_level.txt") or package.read_text("RECORD") or ""
        paths = (line.partition(",")[0] for line in listed.splitlines())
        found.append((package, frozenset(path.partition("/")[0].partition(".")[0] for path in paths)))
    return found


@cache
def _name_and_version(package: importlib.metadata.Distribution) -> tuple[str, str]:
    """Parsed once: a hundred packages take longer than a short run trains."""
    about = package.metadata
    return about["Name"], about["Version"]


@cache
def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def code_commit() -> str | None:
    """Commit of the code that runs; None outside a repository."""
    return git("rev-parse", "--verify", "--quiet", "HEAD", folder=Path(__file__).parent)


def git(*words: str, folder: Path | None = None) -> str | None:
    """What git says in a folder (None: the current one); None where there is no git, no repository, or it says no."""
    try:
        answer = subprocess.run(["git", *words], cwd=folder, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip()
