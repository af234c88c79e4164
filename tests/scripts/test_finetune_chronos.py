"""scripts/finetune_chronos.py: the run of finetune_ttm.py for its two families, and a clear line for others."""

from __future__ import annotations

from pathlib import Path

import pytest
from support import tiny, tiny_weights

import finetune_chronos
import finetune_ttm


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A series, a checkpoint of each family, and a recipe for Chronos-Bolt."""
    folder = tmp_path_factory.mktemp("chronos")
    csv = tiny.write_series(folder / "series.csv", rows=300)
    checkpoints = {name: tiny_weights.WRITERS[name](folder / name) for name in ("chronos_bolt", "chronos2")}
    quiet = {"baselines": ["persistence"], "num_plots": 0, "report": False}
    model = {"type": "chronos_bolt"}
    values = tiny.recipe(csv, folder / "run", checkpoints["chronos_bolt"], model=model, evaluation=quiet)
    tiny.write_recipe(folder / "recipe.yaml", tiny.merged(values, {"tuning": {"mode": "lora"}}))
    return folder


def test_a_recipe_runs(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = f"output_dir={tmp_path / 'run'}"
    assert finetune_chronos.main(["--config", str(folder / "recipe.yaml"), output]) == 0
    assert capsys.readouterr().out.strip().endswith(f"run folder: {tmp_path / 'run'}")
    assert set(tiny.read_json(tmp_path / "run" / "metrics.json")["test"]) >= {"zero_shot", "fine_tuned", "persistence"}
    assert (tmp_path / "run" / "adapter" / "adapter_model.safetensors").is_file()


def test_finetune_ttm_takes_every_family(folder: Path, tmp_path: Path) -> None:
    chronos2 = ["model.type=chronos2", f"model.pretrained={folder / 'chronos2'}", "tuning.mode=zero_shot"]
    arguments = ["--config", str(folder / "recipe.yaml"), f"output_dir={tmp_path / 'run'}", *chronos2]
    assert finetune_ttm.main(arguments) == 0
    assert tiny.read_json(tmp_path / "run" / "model" / "config.json")["architectures"] == ["Chronos2Model"]


def test_another_family_is_one_line(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--config", str(folder / "recipe.yaml"), "model.type=ttm", f"output_dir={tmp_path / 'run'}"]
    assert finetune_chronos.main(arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: model.type=ttm: this script tunes chronos_bolt, chronos2, chronos_t5; set model.ty")
    assert not (tmp_path / "run").exists()
