"""Fixtures of the tuning tests: tiny data and checkpoints, and a way to run them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from support import tiny

from tstune.config.schema import RunConfig
from tstune.models.ttm import TTMForecaster


@pytest.fixture(scope="session")
def csv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two noisy series."""
    return tiny.write_series(tmp_path_factory.mktemp("data") / "series.csv")


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny TTM without dropout."""
    return tiny.write_checkpoint(tmp_path_factory.mktemp("tiny") / "ttm", dropout=0.0, head_dropout=0.0)


@pytest.fixture(scope="session")
def wide_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny TTM with layers wide enough to be packed into 8 and 4 bits."""
    folder = tmp_path_factory.mktemp("wide") / "ttm"
    wide = {"d_model": 64, "decoder_d_model": 64, "adaptive_patching_levels": 0, "dropout": 0.0, "head_dropout": 0.0}
    return tiny.write_checkpoint(folder, **wide)


@pytest.fixture(scope="session")
def r2_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights in the architecture of TTM-r2 512-96."""
    from tstune.data.table import Roles
    from tstune.models.ttm import TTMSection, build_from_scratch

    folder = tmp_path_factory.mktemp("r2") / "ttm"
    build_from_scratch(TTMSection(context_length=512, prediction_length=96), Roles(target=("value",))).save_pretrained(
        folder
    )
    return folder


@pytest.fixture
def forecaster(csv: Path, checkpoint: Path, tmp_path: Path) -> Callable[..., TTMForecaster]:
    """Make a `TTMForecaster` from sections merged over the tiny recipe."""

    def make(pretrained: Path | None = checkpoint, **sections: object) -> TTMForecaster:
        sections = {"evaluation": {"baselines": []}} | sections
        return TTMForecaster(RunConfig(**tiny.recipe(csv, tmp_path / "run", pretrained, **sections)))

    return make
