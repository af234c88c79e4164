"""Fixtures that all tests share: tiny data, tiny models, the optional shared folder."""

from __future__ import annotations

import gc
import os
from pathlib import Path

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # tests need no network
os.environ.setdefault("OMP_NUM_THREADS", "1")  # tiny models: more threads only wait for each other

ROOT = Path(__file__).resolve().parent.parent
SHARED = ROOT.parent / "shared"


def pytest_collection_finish() -> None:
    """Leave the objects of the libraries alone: training collects garbage, 0.3 s each time with a million of them."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with real data and weights; the test is skipped where it is absent."""
    if not SHARED.is_dir():
        pytest.skip("../shared is absent: real data and weights are not part of the repository")
    return SHARED
