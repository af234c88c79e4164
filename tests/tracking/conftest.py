"""Trackers write into tmp_path, and speak to one MLflow server that all tests of a process share."""

from __future__ import annotations

import logging

import pytest
from mortal_server import Server
from support import tiny

SECRET_NAMES = (
    "WANDB_API_KEY",
    "MLFLOW_TRACKING_USERNAME",
    "MLFLOW_TRACKING_PASSWORD",
    "MLFLOW_TRACKING_TOKEN",
    "MLFLOW_TRACKING_URI",
    "WANDB_MODE",
)


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch):
    """Whatever the developer uses, these tests do not."""
    for name in SECRET_NAMES:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(autouse=True)
def heard(caplog):
    """What our logger says."""
    logger = logging.getLogger("tstune")
    logger.addHandler(caplog.handler)
    logger.setLevel(logging.DEBUG)
    yield caplog
    logger.handlers.clear()


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    """A real server; a test that stops it starts it again."""
    server = Server(tmp_path_factory.mktemp("mlflow"))
    yield server
    server.stop()


@pytest.fixture(scope="session")
def mlflow_uri(server):
    return server.uri


@pytest.fixture(scope="session")
def desk(tmp_path_factory):
    """series.csv, checkpoint/ and recipe.yaml."""
    return tiny.write_desk(tmp_path_factory.mktemp("desk"))


@pytest.fixture(scope="session")
def run_folder(desk, tmp_path_factory):
    """A finished run with plots, made without trackers."""
    import finetune_ttm

    folder = tmp_path_factory.mktemp("finished") / "run"
    settings = ["training.max_steps=2", "evaluation.num_plots=1", "evaluation.baselines=[persistence]"]
    assert finetune_ttm.main(["--config", str(desk / "recipe.yaml"), f"output_dir={folder}", *settings]) == 0
    return folder
