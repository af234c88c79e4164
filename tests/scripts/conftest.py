"""A folder to work in: a tiny series, a tiny checkpoint and the recipe that joins them."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import tiny


@pytest.fixture(scope="session")
def stock(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Made once: series.csv and checkpoint/."""
    folder = tmp_path_factory.mktemp("stock")
    tiny.write_series(folder / "series.csv")
    tiny.write_checkpoint(folder / "checkpoint")
    return folder


@pytest.fixture
def workspace(stock: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Current folder with a copy of the stock and recipe.yaml, which writes to run/."""
    shutil.copytree(stock, tmp_path, dirs_exist_ok=True)
    values = tiny.recipe(tmp_path / "series.csv", tmp_path / "run", tmp_path / "checkpoint")
    tiny.write_recipe(tmp_path / "recipe.yaml", values)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(autouse=True)
def log_to_the_captured_stream() -> Iterator[None]:
    """The log handler keeps the stderr of its first use, and pytest gives every test another one."""
    logging.getLogger("tstune").handlers.clear()
    yield
    logging.getLogger("tstune").handlers.clear()
