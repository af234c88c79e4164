"""Two real processes compute what one computes: 2 x 16 windows a step must equal 1 x 32."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from support import tiny

import eval_forecast
import finetune_ttm

Launch = Callable[..., subprocess.CompletedProcess]

# No dropout: its random numbers are drawn per rank. 402 training windows; 82 test windows in uneven batches.
SETTINGS = {
    "model": {"dropout": 0.0, "head_dropout": 0.0},
    "training": {"max_steps": None, "num_epochs": 1, "eval_every_steps": None},
    "evaluation": {"batch_size": 10, "num_plots": 0},
}


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_desk(tmp_path_factory.mktemp("desk"), **SETTINGS)


@pytest.fixture(scope="module")
def one(desk: Path) -> Path:
    """One process, 32 windows a step."""
    arguments = [f"output_dir={desk / 'one'}", "training.per_device_batch_size=32"]
    assert finetune_ttm.main(["--config", str(desk / "recipe.yaml"), *arguments]) == 0
    return desk / "one"


@pytest.fixture(scope="module")
def launched(desk: Path, launch: Launch) -> subprocess.CompletedProcess:
    arguments = [f"output_dir={desk / 'two'}", "training.per_device_batch_size=16"]
    asked = ["distributed.enabled=true", "distributed.strategy=ddp", "distributed.world_size=2"]
    done = launch(
        "ddp", "scripts/finetune_ttm.py", "--config", desk / "recipe.yaml", *arguments, *asked, num_processes=2
    )
    assert done.returncode == 0, done.stderr
    return done


@pytest.fixture(scope="module")
def two(desk: Path, launched: subprocess.CompletedProcess) -> Path:
    """Two processes, 16 windows each."""
    return desk / "two"


def scores(run: Path) -> dict[str, dict[str, float]]:
    return tiny.read_json(run / "metrics.json")["test"]


def rows(run: Path, key: str) -> list[dict]:
    history = [json.loads(line) for line in (run / "history.jsonl").read_text().splitlines()]
    return [row for row in history if key in row]


def test_two_processes_trained(one: Path, two: Path) -> None:
    alone, together = (tiny.read_json(run / "environment.json") for run in (one, two))
    assert (alone["num_processes"], together["num_processes"]) == (1, 2)
    assert alone["parameters"] == together["parameters"]


def test_two_processes_take_half_the_steps(one: Path, two: Path) -> None:
    batches_of_16 = -(-402 // 16)
    assert tiny.read_json(two / "environment.json")["training"]["num_steps"] == batches_of_16 / 2 == 13
    assert [row["step"] for row in rows(two, "train_loss")] == list(range(1, 14))
    assert tiny.read_json(one / "environment.json")["training"]["num_steps"] == 13


def test_untrained_scores_are_those_of_one_process(one: Path, two: Path) -> None:
    alone, together = scores(one), scores(two)
    assert list(alone) == list(together)
    names = [name for name in alone if name not in ("fine_tuned", "average")]
    assert names == ["zero_shot", "persistence", "seasonal_naive", "context_mean", "ridge"]
    for name in names:
        assert together[name]["num_windows"] == 82
        assert together[name] == pytest.approx(alone[name], rel=1e-6), name


def test_the_verdict_is_that_of_one_process(one: Path, two: Path) -> None:
    alone, together = (tiny.read_json(run / "verdict.json") for run in (one, two))
    rows = {name: found.pop("comparisons") for name, found in (("one", alone), ("two", together))}
    sentences = alone.pop("sentence"), together.pop("sentence")
    assert alone == together
    assert all(sentence.startswith(("Fine-tuning", "No verdict")) for sentence in sentences)
    assert len(rows["one"]) == 6
    for row, other in zip(rows["one"], rows["two"], strict=True):  # fine_tuned differs by one filled-up batch
        numbers = ("change", "low", "high")
        assert [row.pop(name) for name in numbers] == pytest.approx([other.pop(name) for name in numbers], abs=2e-3)
        steps = [[at["label"] for at in one.pop("lead_times")] for one in (row, other)]
        assert steps == [["1h", "8h"]] * 2
        assert row == other


def test_the_same_global_batches_give_the_same_losses(one: Path, two: Path) -> None:
    alone, together = rows(one, "train_loss"), rows(two, "train_loss")
    # the 13th and last batch is short: one process has 18 windows, two fill up to 32 so that ranks stay equal
    for step in range(12):
        assert together[step]["train_loss"] == pytest.approx(alone[step]["train_loss"], rel=1e-5), step + 1
        assert together[step]["grad_norm"] == pytest.approx(alone[step]["grad_norm"], rel=1e-4), step + 1
        assert together[step]["learning_rate"] == alone[step]["learning_rate"], step + 1


def test_validation_counts_every_window_once(one: Path, two: Path) -> None:
    alone, together = rows(one, "validation_loss"), rows(two, "validation_loss")
    assert [row["step"] for row in alone] == [row["step"] for row in together] == [0, 13]
    assert together[0]["validation_loss"] == pytest.approx(alone[0]["validation_loss"], rel=1e-6)
    assert together[1]["validation_loss"] == pytest.approx(alone[1]["validation_loss"], rel=1e-3)


def test_one_rank_speaks(launched: subprocess.CompletedProcess, desk: Path) -> None:
    assert launched.stdout.count("Best by RMSE") == 1
    assert launched.stdout.count(f"run folder: {desk / 'two'}") == 1
    assert launched.stderr.count("2 process(es), strategy ddp, device cpu") == 1
    assert launched.stderr.count("412 trainable") == 1


def test_one_rank_writes(one: Path, two: Path, desk: Path) -> None:
    assert sorted(path.name for path in desk.iterdir()) == ["checkpoint", "one", "recipe.yaml", "series.csv", "two"]
    files = [sorted(str(path.relative_to(run)) for path in run.rglob("*")) for run in (one, two)]
    assert files[0] == files[1]


@pytest.mark.slow
def test_four_processes_asked_for_and_two_started(desk: Path, launch: Launch) -> None:
    before = tiny.snapshot(desk)
    asked = [f"output_dir={desk / 'four'}", "distributed.world_size=4"]
    done = launch("ddp", "scripts/finetune_ttm.py", "--config", desk / "recipe.yaml", *asked, num_processes=2)
    assert done.returncode != 0
    (error,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert error == (
        "error: distributed.world_size=4 but 2 process(es) are running; "
        "start with: accelerate launch --num_processes 4 --config_file accelerate_configs/ddp.yaml …"
    )
    assert 'finetune_ttm.py", line' not in done.stderr, "no traceback of ours; the launcher's own is not ours"
    assert tiny.snapshot(desk) == before


# Judged on two ranks

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
