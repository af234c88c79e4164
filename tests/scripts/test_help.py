"""`--help` of every script answers at once, and without the heavy libraries."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

import finetune_ttm

SCRIPTS = sorted(Path(finetune_ttm.__file__).parent.glob("*.py"))
HEAVY = ("torch", "accelerate", "transformers", "tsfm_public", "pandas", "matplotlib")


def test_every_script_is_covered() -> None:
    assert {"finetune_ttm.py", "predict_forecast.py"} <= {script.name for script in SCRIPTS}


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_help_is_quick(script: Path) -> None:
    seconds = []
    for _ in range(3):
        begin = time.perf_counter()
        done = subprocess.run([sys.executable, script, "--help"], capture_output=True, text=True, check=False)
        seconds.append(time.perf_counter() - begin)
        assert done.returncode == 0
        assert done.stderr == ""
        assert done.stdout.startswith("usage: ")
        assert f"python scripts/{script.name}" in done.stdout, "the help holds the command that runs it"
    assert min(seconds) <= 1.5


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_help_imports_nothing_heavy(script: Path) -> None:
    command = [sys.executable, "-X", "importtime", script, "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    imported = {line.rsplit("|", 1)[-1].strip() for line in done.stderr.splitlines() if "|" in line}
    assert "argparse" in imported, "the list of imports was read"
    assert imported.isdisjoint(HEAVY)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_a_missing_argument_exits_with_2(script: Path) -> None:
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert re.search(r"error: (the following arguments are|one of the arguments .+ is) required", done.stderr)
    assert done.stdout == ""
