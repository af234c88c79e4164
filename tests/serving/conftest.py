"""Two tiny models, trained once: one that reads its target only, one with every kind of column and quantiles."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from serving_stock import ROLES, rich_series, train
from support import tiny

from tstune.serving import ServingLimits
from tstune.serving.app import create_app
from tstune.serving.service import ForecastService, open_model


@pytest.fixture(scope="session")
def plain_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(tmp_path_factory.mktemp("plain"), tiny.series()[["item_id", "timestamp", "load"]])


@pytest.fixture(scope="session")
def rich_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    forecast = {"quantiles": [0.1, 0.5, 0.9]}
    return train(tmp_path_factory.mktemp("rich"), rich_series(), data=ROLES, tuning={"mode": "full"}, forecast=forecast)


@pytest.fixture(scope="session")
def plain(plain_run: Path) -> tuple:
    return open_model(str(plain_run))


@pytest.fixture(scope="session")
def rich(rich_run: Path) -> tuple:
    return open_model(str(rich_run))


@pytest.fixture
def start() -> Iterator[Callable[..., TestClient]]:
    """Start the application of a model in this process; limits are keywords of `ServingLimits`."""
    with ExitStack() as stack:

        def start(served: tuple, **limits: float) -> TestClient:
            service = ForecastService(*served, ServingLimits(**limits))
            stack.callback(service.close)
            return TestClient(create_app(service), raise_server_exceptions=False)

        yield start
