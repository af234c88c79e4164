"""An empty registry in a folder for every test."""

from __future__ import annotations

from pathlib import Path

import pytest

from tstune.registry import ModelRegistry


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the developer uses, these tests do not."""
    monkeypatch.delenv("TSTUNE_REGISTRY", raising=False)


@pytest.fixture
def registry(tmp_path: Path) -> ModelRegistry:
    """An empty registry in a folder."""
    return ModelRegistry(tmp_path / "registry", timeout=120)
