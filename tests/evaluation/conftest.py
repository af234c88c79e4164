"""A forecaster on a tiny series that forecasts quantiles, and runs of it made once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from planted_errors import LEVELS
from support import tiny

from tstune.config.validation import validate
from tstune.models.ttm import TTMForecaster

Make = Callable[..., TTMForecaster]


@pytest.fixture(scope="session")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Made once: series.csv and checkpoint/."""
    folder = tmp_path_factory.mktemp("quantiles")
    tiny.write_series(folder / "series.csv")
    tiny.write_checkpoint(folder / "checkpoint", dropout=0.0, head_dropout=0.0)
    return folder


@pytest.fixture(scope="session")
def make(desk: Path) -> Make:
    """Forecaster with a quantile head; sections change the recipe, `pretrained` the checkpoint (None: scratch)."""

    def make(pretrained: Path | None = desk / "checkpoint", **sections: object) -> TTMForecaster:
        ours = {
            "evaluation": {"baselines": [], "num_plots": 0, "report": False},
            "forecast": {"quantiles": list(LEVELS), "method": "quantile_head"},
        }
        values = tiny.recipe(desk / "series.csv", Path("unused"), pretrained, **tiny.merged(ours, sections))
        return TTMForecaster(validate(values, "test"))

    return make


@pytest.fixture(scope="session")
def head_run(make: Make, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a run with a quantile head, with a checkpoint half-way."""
    folder = tmp_path_factory.mktemp("runs") / "head"
    training = {"max_steps": 40, "eval_every_steps": 20, "checkpoint_every_steps": 20, "learning_rate": 0.02}
    make(training=training).fit(output_dir=folder)
    return folder
