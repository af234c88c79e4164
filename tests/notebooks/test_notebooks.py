"""Every notebook runs from top to bottom, offline and in time, and is stored without outputs."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

import nbformat
import pytest
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient

FOLDER = Path(__file__).resolve().parents[2] / "notebooks"
NOTEBOOKS = sorted(path.name for path in FOLDER.rglob("*.ipynb") if ".ipynb_checkpoints" not in path.parts)
MAX_SECONDS = 90


def test_the_notebooks_are_found():
    assert NOTEBOOKS == ["01_quickstart.ipynb"]


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_stored_without_outputs(name):
    notebook = nbformat.read(FOLDER / name, as_version=4)
    nbformat.validate(notebook)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert len(cells) > 0
    assert [cell.id for cell in cells if cell.outputs or cell.execution_count is not None] == []


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_runs_from_top_to_bottom(name, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    before = _listing()
    notebook = nbformat.read(FOLDER / name, as_version=4)
    drawn = [cell.id for cell in notebook.cells if cell.cell_type == "code" and "plt.show()" in cell.source]
    notebook.cells.append(nbformat.v4.new_code_cell("print(sys.executable)", id="interpreter"))

    begin = time.perf_counter()
    kernel = AsyncKernelManager(kernel_name="python3", kernel_spec_manager=_this_interpreter(tmp_path))
    NotebookClient(notebook, km=kernel, timeout=MAX_SECONDS, resources={"metadata": {"path": str(FOLDER)}}).execute()
    seconds = time.perf_counter() - begin

    cells = {cell.id: cell for cell in notebook.cells if cell.cell_type == "code"}
    assert all(cell.execution_count for cell in cells.values())
    assert cells["interpreter"].outputs[0].text.strip() == sys.executable
    assert seconds < MAX_SECONDS
    with_picture = [id for id, cell in cells.items() if any("image/png" in o.get("data", {}) for o in cell.outputs)]
    assert with_picture == drawn
    assert len(drawn) >= 2
    assert _listing() == before, "a notebook leaves nothing in the repository"


def _this_interpreter(tmp_path: Path) -> KernelSpecManager:
    """A kernel of the interpreter that runs the tests, whatever kernels the user has installed."""
    spec = tmp_path / "kernels" / "python3"
    spec.mkdir(parents=True)
    command = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    (spec / "kernel.json").write_text(json.dumps({"argv": command, "display_name": "tests", "language": "python"}))
    return KernelSpecManager(kernel_dirs=[str(spec.parent)], ensure_native_kernel=False)


def _listing() -> list[str]:
    return sorted(os.listdir(FOLDER))
