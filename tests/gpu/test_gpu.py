"""Every strategy on real GPUs against one process; skipped by name where there is no GPU, or only one.

The runs are those of tests/launch, which rehearses them on CPU processes; here NCCL, CUDA and GPU memory are real.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from launched import ROOT, free_port
from support import tiny

from tstune import TTMForecaster

NUM_GPUS = torch.cuda.device_count() if torch.cuda.is_available() else 0

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(NUM_GPUS < 1, reason="needs a CUDA GPU")]
two_gpus = pytest.mark.skipif(NUM_GPUS < 2, reason="needs 2 CUDA GPUs")

STRATEGIES = {
    "ddp": "ddp",
    "fsdp2": "fsdp",
    "deepspeed_zero1": "deepspeed (ZeRO-1)",
    "deepspeed_zero2": "deepspeed (ZeRO-2)",
    "deepspeed_zero3": "deepspeed (ZeRO-3)",
    "deepspeed_zero3_offload": "deepspeed (ZeRO-3)",
}
SEVERAL = [pytest.param(name, marks=two_gpus) for name in STRATEGIES]
ALL = ["single_gpu", *SEVERAL]

STEPS = 12  # 402 training windows: 12 whole batches of 32 in an epoch
# No dropout, its random numbers are drawn per rank; no TF32 and no bf16, they round differently than a CPU.
SETTINGS = {
    "model": {"dropout": 0.0, "head_dropout": 0.0},
    "tuning": {"mode": "full"},
    "training": {"max_steps": STEPS, "eval_every_steps": 6, "mixed_precision": "no", "tf32": False},
}

CHANNELS, CONTEXT, AHEAD = 64, 512, 96
CHANNEL_WINDOW = 2**20  # bytes that TTM-r2's architecture keeps for the backward pass, per channel and window


def launch(config: str, recipe: Path, *overrides: str) -> str:
    """Train on one GPU, or on two with a strategy; what the run wrote to stderr."""
    port = free_port()
    command = [Path(sys.executable).parent / "accelerate", "launch"]
    command += ["--config_file", f"accelerate_configs/{config}.yaml", "--main_process_port", port]
    command += ["--num_processes", num_processes(config), "scripts/finetune_ttm.py", "--config", recipe, *overrides]
    done = subprocess.run(
        list(map(str, command)),
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    return done.stderr


def num_processes(config: str) -> int:
    return 2 if config in STRATEGIES else 1


def losses(run: Path, key: str = "train_loss") -> list[float]:
    rows = [json.loads(line) for line in (run / "history.jsonl").read_text(encoding="utf-8").splitlines()]
    return [row[key] for row in rows if key in row]


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_desk(tmp_path_factory.mktemp("desk"), **SETTINGS)


@pytest.fixture(scope="module")
def trained(desk: Path) -> Callable[..., Path]:
    """(accelerate config, overrides) -> run folder; the same run is started once. 32 windows a step in each."""

    @cache
    def trained(config: str, *overrides: str) -> Path:
        run = desk / re.sub(r"[^\w-]+", "-", "-".join([config, *(word.rpartition("/")[2] for word in overrides)]))
        batch = f"training.per_device_batch_size={32 // num_processes(config)}"
        log = launch(config, desk / "recipe.yaml", f"output_dir={run}", batch, *overrides)
        (run / "log").write_text(log, encoding="utf-8")
        return run

    return trained


@pytest.mark.parametrize("config", ALL)
def test_it_runs_on_gpus_as_asked(config: str, trained: Callable[..., Path]):
    run, number = trained(config), num_processes(config)
    environment, log = tiny.read_json(run / "environment.json"), (run / "log").read_text(encoding="utf-8")
    assert (environment["hardware"]["type"], environment["num_processes"]) == ("cuda", number)
    assert environment["hardware"]["visible_gpus"] >= number
    assert environment["peak_memory_mb"]["device"] > 0
    assert f"{number} process(es), strategy {STRATEGIES.get(config, 'none')}, device cuda" in log  # cuda or cuda:0
    assert "REHEARSAL" not in log


def test_one_gpu_agrees_with_the_cpu(trained: Callable[..., Path]):
    assert_alike(trained("single_gpu"), trained("cpu"))


@pytest.mark.parametrize("config", SEVERAL)
def test_two_gpus_have_the_losses_of_one(config: str, trained: Callable[..., Path]):
    assert_alike(trained(config), trained("single_gpu"))


@pytest.mark.parametrize("config", ALL)
def test_the_model_reloads_on_the_cpu_and_predicts(config: str, trained: Callable[..., Path]):
    forecasts = [TTMForecaster.load(trained(name)).predict(tiny.series()) for name in (config, "cpu")]
    for forecast in forecasts:
        assert len(forecast) == len(tiny.ITEMS) * tiny.PREDICTION
        assert np.isfinite(forecast["load"]).all()
    np.testing.assert_allclose(forecasts[0]["load"], forecasts[1]["load"], rtol=1e-2)


@pytest.mark.parametrize("config", ALL)
def test_bf16_mixed_precision_runs(config: str, trained: Callable[..., Path]):
    run = trained(config, "training.mixed_precision=bf16")
    assert "precision bf16" in (run / "log").read_text(encoding="utf-8")
    assert losses(run) == pytest.approx(losses(trained(config)), rel=0.05)
    assert losses(run) != losses(trained(config))


@pytest.mark.parametrize("config", ALL)
def test_a_resumed_run_has_the_losses_of_the_whole_one(config: str, trained: Callable[..., Path]):
    """Dropout on: the random numbers of each GPU must go on too. Step 5 is in the middle of everything."""
    dropout = ("model.dropout=0.2", "model.head_dropout=0.2")
    whole = trained(config, *dropout, "training.checkpoint_every_steps=5", "training.keep_checkpoints=9")
    checkpoint = whole / "checkpoints" / "step-00000005"
    resumed = trained(config, *dropout, f"training.resume_from_checkpoint={checkpoint}")
    assert tiny.read_json(resumed / "environment.json")["training"]["resumed_from"] == 5
    assert f"resumed from step 5 of {STEPS}" in (resumed / "log").read_text(encoding="utf-8")
    for key in ("train_loss", "validation_loss"):
        assert losses(resumed, key) == pytest.approx(losses(whole, key), rel=1e-6), key


def test_a_batch_that_does_not_fit_is_taken_in_parts(tmp_path: Path):
    memory = torch.cuda.get_device_properties(0).total_memory
    num_windows = windows_that_need(4 * memory)
    recipe = write_wide_recipe(tmp_path, num_windows)
    size = "training.per_device_batch_size"
    log = launch(
        "single_gpu",
        recipe,
        f"output_dir={tmp_path / 'parts'}",
        f"{size}={num_windows}",
        "training.auto_batch_size=true",
    )
    (found,) = re.findall(
        r"out of memory with (\d+) windows at once: each step takes them in (\d+) parts of (\d+)", log
    )
    whole, parts, part = map(int, found)
    assert whole == num_windows
    assert parts == -(-num_windows // part) > 1
    assert tiny.read_json(tmp_path / "parts/environment.json")["peak_memory_mb"]["device"] < memory / 2**20
    assert_same_as_accumulated(tmp_path, recipe, num_windows)


def assert_alike(run: Path, other: Path) -> None:
    for key, number in (("train_loss", STEPS), ("validation_loss", 3)):  # steps 0, 6 and 12
        assert len(losses(run, key)) == number
        assert losses(run, key) == pytest.approx(losses(other, key), rel=1e-3), key


def windows_that_need(memory: int) -> int:
    """How many windows of `write_wide_recipe` fill so many bytes; a multiple of 16."""
    return max(1, memory // (16 * CHANNELS * CHANNEL_WINDOW)) * 16


def write_wide_recipe(folder: Path, num_windows: int) -> Path:
    """Two steps, each on all training windows of a generated table with many channels."""
    window = CONTEXT + AHEAD
    borders = np.cumsum([num_windows + window - 1, window, window])
    values = np.random.default_rng(0).normal(size=(borders[-1], CHANNELS)).astype("float32")
    table = pd.DataFrame(values.round(2), columns=[f"channel{number}" for number in range(CHANNELS)])
    table.insert(0, "timestamp", pd.date_range("2000-01-01", periods=len(table), freq="h"))
    table.to_csv(folder / "wide.csv", index=False)
    recipe = {
        "model": {"context_length": CONTEXT, "prediction_length": AHEAD, "dropout": 0.0, "head_dropout": 0.0},
        "data": {"source": "csv", "path": str(folder / "wide.csv"), "split": {"borders": borders.tolist()}},
        "tuning": {"mode": "from_scratch"},
        "training": {"num_epochs": 2, "log_every_steps": 1, "mixed_precision": "no", "tf32": False},
        "evaluation": {"baselines": [], "num_plots": 0},
    }
    return tiny.write_recipe(folder / "wide.yaml", recipe)


def assert_same_as_accumulated(folder: Path, recipe: Path, num_windows: int) -> None:
    """The run in `folder/parts` has the losses of one with sixteen small batches to a step."""
    small = [f"training.per_device_batch_size={num_windows // 16}", "training.gradient_accumulation_steps=16"]
    launch("single_gpu", recipe, f"output_dir={folder / 'accumulated'}", *small)
    assert len(losses(folder / "parts")) == 2
    assert losses(folder / "parts") == pytest.approx(losses(folder / "accumulated"), rel=1e-3)
