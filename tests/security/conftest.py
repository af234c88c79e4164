"""One finished run with checkpoints, made once; every test that damages it takes a copy."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from support import tiny

import finetune_ttm
from tstune.foreign_files import CHECKSUMS


@pytest.fixture(scope="session")
def stock(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A desk with series.csv, checkpoint/, recipe.yaml, a finished run in run/ and input.csv to forecast from."""
    desk = tiny.write_desk(tmp_path_factory.mktemp("stock"), training={"checkpoint_every_minutes": None})
    tiny.series(rows=60).to_csv(desk / "input.csv", index=False)
    settings = [f"output_dir={desk / 'run'}", "forecast.quantiles=[0.1,0.5,0.9]", "evaluation.report=false"]
    assert finetune_ttm.main(["--config", str(desk / "recipe.yaml"), *settings]) == 0
    return desk


@pytest.fixture
def run(stock: Path, tmp_path: Path) -> Path:
    """A copy of the finished run, as somebody with bad intentions would pass it on: without its checksums."""
    return Path(shutil.copytree(stock / "run", tmp_path / "run", ignore=shutil.ignore_patterns(CHECKSUMS)))
