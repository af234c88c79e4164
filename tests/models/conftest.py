"""A tiny series and a tiny checkpoint, made once, and a forecaster on them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from building import built_on_windows
from support import tiny, tiny_weights

from tstune.config.validation import validate
from tstune.models.ttm import TTMForecaster
from tstune.runtime.logs import logger, setup_logging

Make = Callable[..., TTMForecaster]


@pytest.fixture(scope="session")
def stock(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Made once: series.csv and checkpoint/."""
    folder = tmp_path_factory.mktemp("stock")
    tiny.write_series(folder / "series.csv")
    tiny.write_checkpoint(folder / "checkpoint")
    return folder


@pytest.fixture
def make(stock: Path) -> Make:
    """Forecaster on the tiny series; sections change the recipe, `pretrained` the checkpoint (None: scratch)."""

    def make(pretrained: Path | None = stock / "checkpoint", **sections: object) -> TTMForecaster:
        quiet = {"baselines": [], "num_plots": 0}
        values = tiny.recipe(stock / "series.csv", Path("unused"), pretrained, evaluation=quiet)
        return TTMForecaster(validate(tiny.merged(values, sections), "test"))

    return make


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Made once: series.csv, long.csv and a tiny checkpoint of every family."""
    folder = tmp_path_factory.mktemp("shelf")
    tiny.write_series(folder / "series.csv", rows=300)
    tiny.write_series(folder / "long.csv", rows=600)
    for name, write in tiny_weights.WRITERS.items():
        write(folder / name)
    return folder


@pytest.fixture
def make_any(folder: Path) -> Callable[..., tuple]:
    """A built model of a family, on its tiny checkpoint or another one, and windows of it."""

    def make_any(name: str, pretrained: Path | None = None, **sections: object) -> tuple:
        lengths = {"context_length": tiny.CONTEXT, "prediction_length": tiny.PREDICTION} | sections.get("model", {})
        if lengths["context_length"] + lengths["prediction_length"] > 60:
            sections = tiny.merged({"data": {"path": str(folder / "long.csv")}}, sections)
        return built_on_windows(name, folder, pretrained or folder / name, **sections)

    return make_any


@pytest.fixture
def heard(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    """Our messages, which do not propagate once a run has set up its logging."""
    setup_logging()
    logger.addHandler(caplog.handler)
    yield caplog
    logger.removeHandler(caplog.handler)
