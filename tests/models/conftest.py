"""A tiny series and a tiny checkpoint, made once, and a forecaster on them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from support import tiny

from tstune.config.validation import validate
from tstune.models.ttm import TTMForecaster

Make = Callable[..., TTMForecaster]


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


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
