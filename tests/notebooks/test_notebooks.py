"""Every notebook runs from top to bottom, offline and in time, and is stored without outputs."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from notebooks.forked_kernel import ForkedKernelManager

FOLDER = Path(__file__).resolve().parents[2] / "notebooks"
NOTEBOOKS = sorted(path.name for path in FOLDER.rglob("*.ipynb") if ".ipynb_checkpoints" not in path.parts)
# starts a sweep that starts runs, each of which imports all anew; searches for half a minute
SLOW = ("08_sweeps_tracking_registry.ipynb", "10_autotune.ipynb")
MAX_SECONDS = 900  # a notebook that hangs; the seconds of notebooks/README.md are for a quiet machine


def test_the_notebooks_are_found():
    assert NOTEBOOKS == [
        "01_quickstart.ipynb",
        "02_explore_glucose.ipynb",
        "03_zero_shot_and_baselines.ipynb",
        "04_tuning_modes_and_lora.ipynb",
        "05_evaluation.ipynb",
        "06_your_own_csv.ipynb",
        "07_scale_up.ipynb",
        "08_sweeps_tracking_registry.ipynb",
        "09_your_own_model.ipynb",
        "10_autotune.ipynb",
    ]


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_stored_without_outputs(name):
    notebook = nbformat.read(FOLDER / name, as_version=4)
    nbformat.validate(notebook)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert len(cells) > 0
    assert [cell.id for cell in cells if cell.outputs or cell.execution_count is not None] == []


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name in SLOW else []) for name in NOTEBOOKS]
)
def test_runs_from_top_to_bottom_in_a_few_steps(name, tmp_path, monkeypatch):
    """Every cell, the trainings cut to a few steps on few windows: what is drawn is of another quality only."""
    run(name, tmp_path, monkeypatch, shortened)


@pytest.mark.slow
@pytest.mark.parametrize("name", NOTEBOOKS)
def test_runs_from_top_to_bottom(name, tmp_path, monkeypatch):
    run(name, tmp_path, monkeypatch, source=lambda code: code)


def shortened(code: str) -> str:
    """Four steps at most, and a quarter of the windows that are only judged."""
    code = re.sub(r"""(max_steps"?[=:] ?)\d+""", r"\g<1>4", code)
    return re.sub(
        r"""((?:validation|test)_stride"?[=:] ?)(\d+)""", lambda found: f"{found[1]}{4 * int(found[2])}", code
    )


def run(name, tmp_path, monkeypatch, source):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setenv("MPLBACKEND", "module://matplotlib_inline.backend_inline")  # what a kernel sets before pyplot
    before = _listing()
    notebook = nbformat.read(FOLDER / name, as_version=4)
    for cell in notebook.cells:
        cell.source = source(cell.source)
    drawn = [cell.id for cell in notebook.cells if cell.cell_type == "code" and "plt.show()" in cell.source]
    notebook.cells.append(nbformat.v4.new_code_cell("print(sys.executable)", id="interpreter"))

    kernel = ForkedKernelManager()
    where = {"metadata": {"path": str(FOLDER)}}
    try:
        NotebookClient(notebook, km=kernel, timeout=MAX_SECONDS, resources=where).execute()
    finally:
        if kernel.process is not None:  # the client leaves a kernel that it was given alone
            kernel.process.kill()

    cells = {cell.id: cell for cell in notebook.cells if cell.cell_type == "code"}
    assert all(cell.execution_count for cell in cells.values())
    assert cells["interpreter"].outputs[0].text.strip() == sys.executable
    with_picture = [id for id, cell in cells.items() if any("image/png" in o.get("data", {}) for o in cell.outputs)]
    assert with_picture == drawn
    assert len(drawn) >= 2
    assert _listing() == before, "a notebook leaves nothing in the repository"


def _listing() -> list[str]:
    return sorted(os.listdir(FOLDER))
