"""Pre-training: the tiny recipe lowers the loss by the factor it states, and a killed run goes on exactly."""

from __future__ import annotations

import json
import re
import signal
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from launched import ROOT
from safetensors.numpy import load_file
from support.forks import ACCELERATE, Fork, run

import pretrain_ttm
from tstune.data.synthetic import SeriesRecipe
from tstune.models.ttm import TTMForecaster

RECIPE = ROOT / "recipes/ttm/pretrain/tiny.yaml"
SHORT = ("training.max_steps=120", "training.checkpoint_every_steps=20", "training.eval_every_steps=40")


def stated_factor() -> float:
    """What the recipe's header says the loss falls to, as a share of that of the context's mean."""
    return float(re.search(r"to (0\.\d+) of", RECIPE.read_text())[1])


def pretrain(folder: Path, *settings: str) -> Path:
    """A run as the recipe's header starts it."""
    launch = [ACCELERATE, "launch", "--config_file", "accelerate_configs/cpu.yaml", "scripts/pretrain_ttm.py"]
    answer = run([*launch, "--config", RECIPE, f"output_dir={folder}", *settings], cwd=ROOT)
    assert answer.returncode == 0, answer.stderr
    return folder


def losses_in(folder: Path) -> tuple[dict[str, float], list[float]]:
    """Loss of each model at the end, and of the network on its way."""
    scores = json.loads((folder / "metrics.json").read_text())["validation"]
    rows = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
    return {name: row["loss"] for name, row in scores.items()}, [
        row["validation_loss"] for row in rows if "validation_loss" in row
    ]


def test_a_short_run_says_what_it_was_made_from_and_forecasts(tmp_path):
    folder = pretrain(tmp_path / "run", "training.max_steps=30", "training.eval_every_steps=10")
    losses, validations = losses_in(folder)
    assert set(losses) == {"pretrained", "context_mean", "persistence"}
    assert len(validations) == 3
    assert min(validations) == validations[-1] == losses["pretrained"]
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["source"] == "synthetic"
    assert manifest["seed"] == 42
    assert manifest["series"] == SeriesRecipe().to_dict()
    assert manifest["windows"] == {"train": 30 * 128, "validation": 1024}
    assert json.loads((folder / "environment.json").read_text())["training"]["num_steps"] == 30
    assert "context_mean" in (folder / "README.md").read_text()
    config = json.loads((folder / "model/config.json").read_text())
    assert (config["dropout"], config["head_dropout"]) == (0.2, 0.2), "what saved_dropout says"
    assert rmse_on_a_daily_wave(folder) < 20, "of a wave around 100"


@pytest.mark.slow
def test_the_loss_falls_by_the_stated_factor_and_the_weights_forecast(tmp_path):
    folder = pretrain(tmp_path / "run")
    losses, validations = losses_in(folder)
    assert losses["pretrained"] <= stated_factor() * losses["context_mean"]
    assert losses["pretrained"] < losses["persistence"]
    assert len(validations) == 6
    assert min(validations) == losses["pretrained"]
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["windows"] == {"train": 600 * 128, "validation": 1024}
    assert rmse_on_a_daily_wave(folder) < 5, "its own deviation is 7"


def rmse_on_a_daily_wave(folder: Path) -> float:
    wave = 100 + 10 * np.sin(2 * np.pi * np.arange(224) / 24)
    table = pd.DataFrame({"timestamp": pd.date_range("2024-01-01", periods=200, freq="h"), "value": wave[:200]})
    forecast = TTMForecaster.load(folder).predict(table)
    return float(np.sqrt(np.mean((forecast["value"].to_numpy() - wave[200:]) ** 2)))


def start(folder: Path) -> Fork:
    command = [sys.executable, "scripts/pretrain_ttm.py", "--config", RECIPE, *SHORT, f"output_dir={folder}"]
    return Fork(command, cwd=ROOT)


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_same_weights(tmp_path, capsys):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    process = start(killed)
    try:
        deadline = time.monotonic() + 600
        while not (tmp_path / "killed.checkpoints/step-00000040").is_dir():
            assert time.monotonic() < deadline, "no checkpoint came"
            assert process.poll() is None, "it ended before it was killed"
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    finally:
        process.kill()
        process.wait()
    assert not killed.exists()
    for folder, more in ((whole, ()), (killed, ("training.resume_from_checkpoint=auto",))):
        assert pretrain_ttm.main(["--config", str(RECIPE), *SHORT, f"output_dir={folder}", *more]) == 0
    capsys.readouterr()
    resumed = json.loads((killed / "environment.json").read_text())["training"]["resumed_from"]
    assert 40 <= resumed < 120
    ours, theirs = load_file(whole / "model/model.safetensors"), load_file(killed / "model/model.safetensors")
    assert list(ours) == list(theirs)
    assert all(np.array_equal(ours[name], theirs[name]) for name in ours)
    assert (whole / "history.jsonl").read_text() == (killed / "history.jsonl").read_text()


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("model.pretrained=somewhere", ("random weights", "model.pretrained")),
        ("tuning.mode=head", ("random weights", "tuning.mode")),
        ("training.max_steps=null", ("no end", "training.max_steps")),
        ("training.num_epochs=3", ("no end", "training.num_epochs=1")),
        ("data.source=ett", ("data:", "generates its own series")),
        ("pretraining.series.seasonal=-1", ("seasonal=-1.0", "at least 0")),
        ("pretraining.series.sesonal=1", ("sesonal", "known: seasonal")),
        ("pretraining.validation_windos=3", ("pretraining.validation_windos", "did you mean")),
    ],
)
def test_bad_settings_stop_with_one_line(override, words, tmp_path, capsys):
    code = pretrain_ttm.main(["--config", str(RECIPE), f"output_dir={tmp_path / 'run'}", override])
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert code == 2
    assert len(lines) == 1
    assert all(word in lines[0] for word in words), lines[0]
    assert list(tmp_path.iterdir()) == []
