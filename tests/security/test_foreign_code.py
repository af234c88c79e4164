"""Loading a folder runs nothing that the folder names, until somebody says so."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file
from support import tiny

import compare_runs
import eval_forecast
import export_model
import finetune_ttm
import manage_registry
import predict_forecast
import publish_model
import replay_tracking
import write_report
from tstune import TTMForecaster
from tstune.errors import EXIT_OK, EXIT_USER_ERROR, CheckpointError, ConfigError
from tstune.models.registry import load_model
from tstune.serving.service import open_model

PLANTED = """
from pathlib import Path

Path(__file__).with_suffix(".ran").touch()

from tstune.data.sources.csv import load
from tstune.models.baselines import Persistence
from tstune.tracking.interfaces import ExperimentTracker


def metric(windows):
    return 1.0


class Drift(Persistence):
    model_type = "{name}:Drift"
"""
KEYS = {
    "data.source": "{}:load",
    "evaluation.metrics": ["{}:metric"],
    "evaluation.baselines": ["{}:Drift"],
    "training.callbacks": ["{}:Nothing"],
    "tracking.trackers": ["{}:Nothing"],
}


class Planted:
    """A module on the path that notes that it was imported."""

    def __init__(self, folder: Path, name: str) -> None:
        self.name, self._folder = name, folder
        (folder / f"{name}.py").write_text(PLANTED.replace("{name}", name))

    @property
    def ran(self) -> bool:
        assert (self._folder / f"{self.name}.ran").exists() == (self.name in sys.modules)
        return self.name in sys.modules

    def into_config(self, run: Path, *keys: str) -> None:
        values = yaml.safe_load((run / "config.yaml").read_text())
        for key in keys:
            section, _, leaf = key.partition(".")
            text = json.dumps(KEYS[key]).replace("{}", self.name)
            values[section][leaf] = json.loads(text)
        head = (run / "config.yaml").read_text().splitlines()[0]
        (run / "config.yaml").write_text(f"{head}\n{yaml.safe_dump(values)}")

    def into_preprocessor(self, run: Path) -> None:
        values = json.loads((run / "preprocessor.json").read_text()) | {"model_type": f"{self.name}:Drift"}
        (run / "preprocessor.json").write_text(json.dumps(values))


@pytest.fixture
def planted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Planted:
    """A module of another name in every test."""
    place = tmp_path / "on_the_path"
    place.mkdir()
    monkeypatch.syspath_prepend(place)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TSTUNE_REGISTRY", str(tmp_path / "registry"))
    return Planted(place, f"planted_{abs(hash(request.node.name))}")


def registered(run: Path, *more: str) -> int:
    return manage_registry.main(["register", str(run), "--name", "cgm", *more])


def predicted(model: str | Path, stock: Path, *more: str) -> int:
    output = ["--output", "forecast.csv", "--overwrite"]
    return predict_forecast.main(["--model", str(model), "--input", str(stock / "input.csv"), *output, *more])


def evaluated(model: str | Path, stock: Path, *more: str) -> int:
    return eval_forecast.main(["--model", str(model), "--config", str(stock / "recipe.yaml"), *more])


def served(model: str | Path, *_: object) -> int:
    open_model(str(model))
    return EXIT_OK


def archived(run: Path, *_: object) -> int:
    """Registered, exported, imported under another name, loaded from there."""
    assert registered(run) == EXIT_OK
    assert manage_registry.main(["export", "cgm:1", "--to", "cgm.tar.gz"]) == EXIT_OK
    assert manage_registry.main(["import", "cgm.tar.gz", "--name", "other"]) == EXIT_OK
    return EXIT_OK


PATHS: dict[str, Callable[[Path, Path], int]] = {
    "predict": predicted,
    "evaluate": evaluated,
    "serve": served,
    "export": lambda run, _: export_model.main([str(run), "--format", "onnx", "--output", "model.onnx"]),
    "publish": lambda run, _: publish_model.main([str(run), "--to-folder", "published", "--dry-run"]),
    "register, export and import an archive": archived,
    "compare": lambda run, stock: compare_runs.main([str(run), str(stock / "run")]),
    "report": lambda run, _: write_report.main([str(run)]),
    "load": lambda run, _: load_model(run) and EXIT_OK,
}


QUICK = [path for path in PATHS if path != "export"]  # that loads the model as they do, and takes twenty seconds


@pytest.mark.parametrize("path", QUICK)
def test_fault_19_nothing_that_a_configuration_names_is_imported(path: str, planted: Planted, run: Path, stock: Path):
    planted.into_config(run, *KEYS)
    assert PATHS[path](run, stock) == EXIT_OK  # none of them needs any of it
    assert not planted.ran


@pytest.mark.parametrize("path", ["predict", "evaluate", "export", "register, export and import an archive"])
def test_fault_19_a_class_of_a_model_is_not_imported(path: str, planted: Planted, run: Path, stock: Path, capsys):
    planted.into_preprocessor(run)
    code = PATHS[path](run, stock)
    if path.startswith("register"):  # which copies files and loads nothing
        assert code == EXIT_OK
        code = predicted("registry:other:1", stock)
    assert code == EXIT_USER_ERROR
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith(f"error: model {planted.name}:Drift is code that ")
    assert f"if you trust the module {planted.name}, give --trust-code (in Python: trust_code=True)" in error
    assert not planted.ran


def test_fault_19_a_server_does_not_import_it_either(planted: Planted, run: Path):
    planted.into_preprocessor(run)
    with pytest.raises(ConfigError, match=f"trust the module {planted.name}"):
        open_model(str(run))
    assert not planted.ran


@pytest.mark.parametrize("key", ["data.source", "evaluation.metrics", "evaluation.baselines"])
def test_fault_19_a_scoreboard_is_rebuilt_with_trust_only(key: str, planted: Planted, run: Path, capsys):
    planted.into_config(run, key)
    assert eval_forecast.main(["--run", str(run)]) == EXIT_USER_ERROR
    assert f"if you trust the module {planted.name}, give --trust-code" in capsys.readouterr().err
    assert not planted.ran
    eval_forecast.main(["--run", str(run), "--trust-code"])
    assert planted.ran


def test_fault_19_what_is_used_later_needs_trust_too(planted: Planted, run: Path):
    planted.into_config(run, "data.source")
    model = TTMForecaster.load(run)
    with pytest.raises(ConfigError, match=f"data.source: {planted.name}:load is code that .*config.yaml names"):
        model.evaluate()
    assert not planted.ran
    assert TTMForecaster.load(run, trust_code=True).evaluate()["rmse"] > 0
    assert planted.ran


def test_fault_19_what_the_user_names_is_the_users(planted: Planted, run: Path, stock: Path):
    """A folder that names it first takes nothing away from the recipe that names it too."""
    planted.into_config(run, "data.source")
    load_model(run)
    own = [f"data.source={planted.name}:load", "training.max_steps=1", "evaluation.report=false"]
    assert finetune_ttm.main(["--config", str(stock / "recipe.yaml"), "output_dir=mine", *own]) == EXIT_OK
    assert planted.ran
    assert eval_forecast.main(["--run", "mine"]) == EXIT_OK


def test_fault_19_a_backlog_builds_no_class_of_its_own(planted: Planted, tmp_path: Path, capsys):
    header = {"tracker": f"{planted.name}:Tracker", "settings": {}, "experiment": "e", "run_id": "r", "config": {}}
    (tmp_path / "1-own.jsonl").write_text(json.dumps(header) + "\n")
    assert replay_tracking.main(["1-own.jsonl"]) == EXIT_USER_ERROR
    assert f"if you trust the module {planted.name}, give --trust-code" in capsys.readouterr().err
    assert not planted.ran
    assert replay_tracking.main(["1-own.jsonl", "--trust-code"]) == EXIT_USER_ERROR  # it has no such class
    assert planted.ran


def replaced(weights: Path, **values: object) -> None:
    path = weights / "config.json"
    path.write_text(json.dumps(tiny.read_json(path) | values))


def pickled(weights: Path) -> None:
    torch.save(load_file(weights / "model.safetensors"), weights / "pytorch_model.bin")
    (weights / "model.safetensors").unlink()


def from_elsewhere(weights: Path) -> None:
    (weights / "model.safetensors").rename(weights.parent / "away.safetensors")
    places = dict.fromkeys(load_file(weights.parent / "away.safetensors"), "../away.safetensors")
    (weights / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))


LEADING: dict[str, tuple[Callable[[Path], object], str]] = {
    "a kernel of the Hub": (lambda w: replaced(w, attn_implementation="owner/kernel"), "loads code of others"),
    "kernels by part": (lambda w: replaced(w, _attn_implementation={"": "owner/kernel"}), "loads code of others"),
    "a package": (lambda w: replaced(w, quantization_config={"quant_method": "gptq"}), "loads code of others"),
    "a pickle": (pickled, "no file named model.safetensors"),
    "tensors of another folder": (from_elsewhere, "away.safetensors is not in this folder"),
    "an adapter": (lambda w: (w / "adapter_config.json").write_text("{}"), "an adapter beside whole weights"),
    "a wide network": (lambda w: replaced(w, d_model=1_600_000), "asks for a network of more than [0-9,]+ numbers"),
    "many levels": (lambda w: replaced(w, adaptive_patching_levels=10**9), "adaptive_patching_levels in its"),
    "a network without end": (lambda w: replaced(w, num_layers=10**8), "num_layers in its config.json is 100000000"),
}


@pytest.mark.parametrize("lead", LEADING)
def test_fault_19_weights_lead_nowhere(lead: str, run: Path):
    """Neither to code, nor to files beside their own, nor to a network that takes hours to make."""
    plant, words = LEADING[lead]
    plant(run / "model")
    with pytest.raises(CheckpointError, match=words):
        load_model(run)


def test_fault_19_a_backlog_calls_what_logs_only(tmp_path: Path, capsys):
    header = {"tracker": "file", "settings": {}, "experiment": "e", "run_id": "r", "config": {}}
    call = {"method": "settings", "keywords": {}}
    (tmp_path / "1-file.jsonl").write_text(f"{json.dumps(header)}\n{json.dumps(call)}\n")
    assert replay_tracking.main([str(tmp_path / "1-file.jsonl")]) == EXIT_USER_ERROR
    assert "1-file.jsonl is not a backlog of a tracker: " in capsys.readouterr().err


def test_fault_20_a_saved_configuration_is_not_interpolated(
    run: Path, stock: Path, monkeypatch, tmp_path: Path, capsys
):
    """Nor in what is made of it: a registry, a publication, a report, an error."""
    secret = "swordfish-in-the-environment"
    monkeypatch.setenv("PLANTED_SECRET", secret)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TSTUNE_REGISTRY", str(tmp_path / "registry"))
    text = (run / "config.yaml").read_text()
    column = "price_${oc.env:PLANTED_SECRET}"
    (run / "config.yaml").write_text(text.replace("unit: null", f'unit: "{column}"'))
    assert yaml.safe_load((run / "config.yaml").read_text())["data"]["unit"] == column
    assert load_model(run).config.data.unit == column
    for path in QUICK:
        assert PATHS[path](run, stock) == EXIT_OK
    load_model(run).save(tmp_path / "again")
    (run / "config.yaml").write_text(text.replace("tuning:\n", 'tuning:\n  mode2: "${oc.env:PLANTED_SECRET}"\n'))
    assert predicted(run, stock) == EXIT_USER_ERROR
    said = capsys.readouterr()
    assert "tuning.mode2" in said.err
    assert secret not in said.out + said.err
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(written) > 40
    assert [path for path in written if secret.encode() in path.read_bytes()] == []


def test_fault_18_a_column_may_be_called_like_an_interpolation(tmp_path: Path, stock: Path):
    values = tiny.recipe(tmp_path / "series.csv", tmp_path / "run", stock / "checkpoint")
    values = tiny.merged(values, {"training": {"max_steps": 1}, "evaluation": {"report": False}})
    tiny.series().rename(columns={"load": "price_${x}"}).to_csv(tmp_path / "series.csv", index=False)
    recipe = tiny.write_recipe(tmp_path / "recipe.yaml", values)
    column = r"data.target_columns=['price_\${x}']"
    assert finetune_ttm.main(["--config", str(recipe), column]) == EXIT_OK
    forecast = load_model(tmp_path / "run").predict(tmp_path / "series.csv")
    assert "price_${x}" in forecast.columns
