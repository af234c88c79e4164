"""Two processes score models as one does."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from support import tiny

import eval_forecast
import finetune_ttm

MODELS = ("run", "checkpoint", "ridge", "lightgbm")
RunRanks = Callable[..., list[subprocess.CompletedProcess]]


@pytest.mark.slow
def test_two_processes_score_as_one(
    run_ranks: RunRanks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    desk = tiny.write_desk(tmp_path, evaluation={"batch_size": 10, "baselines": ["ridge"], "num_plots": 0})
    monkeypatch.chdir(desk)
    assert finetune_ttm.main(["--config", "recipe.yaml", f"output_dir={desk / 'run'}"]) == 0
    models = [word for name in MODELS for word in ("--model", str(desk / name) if (desk / name).exists() else name)]
    arguments = ["--config", str(desk / "recipe.yaml"), *models]
    capsys.readouterr()
    assert eval_forecast.main([*arguments, "--output", str(desk / "one")]) == 0
    alone = capsys.readouterr().out
    ranks = run_ranks("scripts/eval_forecast.py", *arguments, "--output", desk / "two", num_ranks=2)
    assert [rank.returncode for rank in ranks] == [0, 0], ranks[0].stderr
    assert ranks[0].stdout == alone.replace(f"{desk / 'one'}", f"{desk / 'two'}")
    assert ranks[1].stdout == "", "one process speaks"
    found, expected = (tiny.read_json(desk / name / "metrics.json")["test"] for name in ("two", "one"))
    assert list(found) == list(MODELS)
    for name, metrics in expected.items():
        assert found[name] == pytest.approx(metrics, rel=1e-6)
    tables = [pd.read_parquet(desk / name / "windows.parquet") for name in ("two", "one")]
    pd.testing.assert_frame_equal(*tables, rtol=1e-5)
