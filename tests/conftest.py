"""Fixtures that all tests share: tiny data, tiny models, the optional shared folder."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # tests need no network
os.environ["OMP_NUM_THREADS"] = "1"  # of torch here and in what is started: more threads only wait for each other

ROOT = Path(__file__).resolve().parent.parent
SHARED = ROOT.parent / "shared"


# These take longest: begun first, no worker of pytest-xdist is left with one when the others are done.
LONGEST = (
    "notebooks",
    "launch",
    "tracking",
    "models/test_conformance",
    "runs",
    "seeds",
    "recipes",
    "scripts",
    "models",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what takes longest, file by file."""

    def place(item: pytest.Item) -> int:
        name = item.path.relative_to(ROOT / "tests").as_posix()
        return next((number for number, begin in enumerate(LONGEST) if name.startswith(begin)), len(LONGEST))

    items.sort(key=place)


def _leave_what_is_there_to_the_libraries() -> None:
    gc.collect()
    gc.freeze()


def pytest_collection_finish() -> None:
    """Leave the objects of the libraries alone: training collects garbage, 0.3 s each time with a million of them."""
    _leave_what_is_there_to_the_libraries()


@pytest.fixture(scope="module", autouse=True)
def libraries_loaded_by_now() -> Iterator[None]:
    """The same for those that the tests of a file loaded."""
    yield
    _leave_what_is_there_to_the_libraries()


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with real data and weights; the test is skipped where it is absent."""
    if not SHARED.is_dir():
        pytest.skip("../shared is absent: real data and weights are not part of the repository")
    return SHARED
