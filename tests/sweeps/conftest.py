"""A desk for each test, and a log that it can read."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from sweep_desk import Desk, desk_in


@pytest.fixture(autouse=True)
def log_to_the_captured_stream() -> Iterator[None]:
    """The log handler keeps the stderr of its first use, and pytest gives every test another one."""
    logging.getLogger("tstune").handlers.clear()
    yield
    logging.getLogger("tstune").handlers.clear()


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Desk]:
    """A desk in the current folder."""
    monkeypatch.chdir(tmp_path)
    with desk_in(tmp_path) as desk:
        yield desk
