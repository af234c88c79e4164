"""A real trained model, from its run folder through a registry to a forecast."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from registry_runs import METRIC, refusal
from support import tiny

import finetune_ttm
import predict_forecast
from tstune.errors import RegistryError
from tstune.registry import ModelRegistry, load_saved_model, open_registry


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with series.csv and run/, which holds a model, its adapter and one adapter per item."""
    folder = tmp_path_factory.mktemp("trained")
    csv = tiny.write_series(folder / "series.csv")
    values = tiny.recipe(
        *(csv, folder / "run", tiny.write_checkpoint(folder / "checkpoint")),
        tuning={"mode": "lora", "per_item": True, "per_item_epochs": 1},
        evaluation={"baselines": []},
    )
    assert finetune_ttm.main(["--config", str(tiny.write_recipe(folder / "recipe.yaml", values))]) == 0
    return folder


def forecast(trained: Path, model: str, output: Path, *options: str) -> str:
    """Text of the CSV that predict_forecast.py writes."""
    arguments = ["--model", model, "--input", str(trained / "series.csv"), "--output", str(output), *options]
    assert predict_forecast.main(arguments) == 0
    return output.read_text()


def test_the_same_forecast(
    registry: ModelRegistry, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    shutil.copytree(trained / "run", run)
    direct = forecast(trained, str(run), tmp_path / "direct.csv")
    version = registry.register(run, "cgm")
    shutil.rmtree(run)  # from here on the registry has the only copy
    registry.set_alias("cgm:1", "champion")
    assert version.flat_metrics()[METRIC] > 0
    assert {file.path.partition("/")[0] for file in version.files} >= {"model", "adapter", "adapters", "history.jsonl"}

    place = ("--registry", registry.location)
    assert forecast(trained, "registry:cgm@champion", tmp_path / "1.csv", *place) == direct
    monkeypatch.setenv("TSTUNE_REGISTRY", registry.location)
    assert forecast(trained, "registry:cgm:1", tmp_path / "2.csv") == direct
    model = open_registry().load("cgm@champion")
    table = model.predict(trained / "series.csv")
    again = load_saved_model(trained / "run").predict(trained / "series.csv")
    np.testing.assert_array_equal(table["load"].to_numpy(), again["load"].to_numpy())
    with pytest.raises(RegistryError) as caught:
        load_saved_model("registry:cgm:3")
    refusal(caught.value, f"no {'cgm'}:3")


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ("registry:cgm@champion", ("no registry in", "--registry or TSTUNE_REGISTRY")),
        ("registry:cgm", ("'cgm' names no version", "name@alias")),
        ("registry:", ("names no version",)),
        ("registry:../x:1", ("model name '../x'",)),
    ],
)
def test_models_that_are_not_there(
    model: str, words: tuple[str, ...], trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--model", model, "--input", str(trained / "series.csv"), "--output", str(tmp_path / "out.csv")]
    assert predict_forecast.main([*arguments, "--registry", str(tmp_path / "nowhere")]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1
    assert [word for word in words if word not in captured.err] == [], captured.err
    assert list(tmp_path.iterdir()) == []
