"""One registry in a folder, one on a real MLflow server; both pass the same tests."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow_server import running_mlflow_server

from tstune.registry import LocalModelRegistry, ModelRegistry, open_registry
from tstune.registry.mlflow_registry import DEFAULTS


@pytest.fixture(scope="session")
def server_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the MLflow server keeps."""
    return tmp_path_factory.mktemp("mlflow")


@pytest.fixture(scope="session")
def server(server_folder: Path) -> Iterator[str]:
    """Address of a real server."""
    with running_mlflow_server(server_folder) as uri:
        yield uri


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """The MLflow backend sets defaults of the process; they end with the test."""
    monkeypatch.delenv("TSTUNE_REGISTRY", raising=False)
    for name, value in DEFAULTS.items():
        monkeypatch.setenv(name, value)


@pytest.fixture(params=["local", "mlflow"])
def registry(request: pytest.FixtureRequest, tmp_path: Path) -> ModelRegistry:
    """An empty registry in a folder, or one on the server that all tests share."""
    if request.param == "local":
        return LocalModelRegistry(tmp_path / "registry", timeout=20)
    return open_registry(f"mlflow+{request.getfixturevalue('server')}")


@pytest.fixture
def local(tmp_path: Path) -> LocalModelRegistry:
    """An empty registry in a folder."""
    return LocalModelRegistry(tmp_path / "registry", timeout=20)


@pytest.fixture
def name() -> str:
    """Name of a model that no other test uses."""
    return f"model-{secrets.token_hex(4)}"
