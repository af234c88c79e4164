"""`--help` of every script answers at once, and without the heavy libraries."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

import finetune_ttm

SCRIPTS = sorted(Path(finetune_ttm.__file__).parent.glob("*.py"))
HEAVY = ("torch", "accelerate", "transformers", "tsfm_public", "pandas", "matplotlib")


def test_every_script_is_covered() -> None:
    assert {"finetune_ttm.py", "predict_forecast.py"} <= {script.name for script in SCRIPTS}


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_help_imports_little_and_nothing_heavy(script: Path) -> None:
    """What is imported decides how soon it answers, and is the same on every machine."""
    command = [sys.executable, "-X", "importtime", script, "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("usage: ")
    assert f"python scripts/{script.name}" in done.stdout, "the help holds the command that runs it"
    lines = done.stderr.splitlines()
    assert [line for line in lines if not line.startswith("import time:")] == []
    imported = {line.rsplit("|", 1)[-1].strip() for line in lines}
    assert "argparse" in imported, "the list of imports was read"
    assert imported.isdisjoint(HEAVY)
    assert len(imported) < 600, "torch alone is more than a thousand"


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_a_missing_argument_exits_with_2(script: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        importlib.import_module(script.stem).main([])
    assert left.value.code == 2
    said = capsys.readouterr()
    assert re.search(r"error: (the following arguments are|one of the arguments .+ is) required", said.err)
    assert said.out == ""


def test_a_script_ends_without_a_search_through_all_that_it_imported() -> None:
    """A forecast takes a sixth less so."""
    code = """
import gc
from tstune.errors import exits_cleanly
class Cycle:
    def __init__(self): self.itself = self
    def __del__(self): print("found")
main = exits_cleanly(lambda: 0 * bool(Cycle()))
print(main())
gc.collect()
Cycle()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=SCRIPTS[0].parent)
    assert (done.stdout, done.stderr) == ("0\nfound\n", ""), "found by collect() alone"
