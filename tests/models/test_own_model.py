"""Your own class by its dotted path: the example of recipes/README.md, and what is said where it cannot be used."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from support import tiny

from tstune.config.flat import ModelConfig
from tstune.config.managers import HydraConfigManager, SimpleConfigManager
from tstune.config.validation import validate
from tstune.errors import ConfigError
from tstune.models.registry import available_models, load_model, model_class

ROOT = Path(__file__).resolve().parents[2]
OTHERS = '''
from tstune.models.baselines import Baseline, Ridge
from tstune.models.ttm import TTMForecaster


class Drift(Baseline):
    """The last reading and the mean slope of the context."""

    def forecast(self, batch):
        past, observed = self._target_context(batch)
        slope = (past[:, -1:] - past[:, :1]) / (past.shape[1] - 1)
        return self._last_reading(past, observed) + slope * (1 + self.steps(past))

    def steps(self, past):
        return past.new_tensor(range(self._num_steps))[None, :, None]


class Strong(Ridge):
    alpha = 10.0


class Named(Ridge):
    model_type = "others_of_mine:Named"


class Bolder(TTMForecaster):
    model_type = "others_of_mine:Bolder"

    def forecast(self, batch):
        return super().forecast(batch) + 1


class Half(Baseline):
    pass


def function():
    return None
'''


def script(name: str):
    spec = importlib.util.spec_from_file_location(f"own_{name}", ROOT / "scripts" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def blocks(language: str) -> list[str]:
    text = (ROOT / "recipes/README.md").read_text(encoding="utf-8").partition("## Add your own model")[2]
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory):
    """mlp.py as the README shows it, on the path as PYTHONPATH would put it there."""
    folder = tmp_path_factory.mktemp("mine")
    (folder / "mlp.py").write_text(blocks("python")[0], encoding="utf-8")
    (folder / "others_of_mine.py").write_text(OTHERS, encoding="utf-8")
    (folder / "broken_of_mine.py").write_text("import no_such_package_at_all\n", encoding="utf-8")
    tiny.write_series(folder / "series.csv", rows=300)
    sys.path.insert(0, str(folder))
    yield folder
    sys.path.remove(str(folder))
    for name in ("mlp", "others_of_mine"):
        sys.modules.pop(name, None)


def recipe(place: Path, output: Path, **sections: object) -> dict:
    """The YAML of the README with the tiny lengths and data."""
    values = tiny.recipe(place / "series.csv", output)
    values |= yaml.safe_load(blocks("yaml")[0])
    lengths = {"context_length": tiny.CONTEXT, "prediction_length": tiny.PREDICTION}
    training = {"max_steps": 60, "eval_every_steps": 20}
    return tiny.merged(tiny.merged(values, {"model": lengths, "training": training}), sections)


@pytest.fixture(scope="module")
def run(place: Path) -> Path:
    """The run folder of the README's model, tuned from the shell; two baselines are the user's own."""
    names = ["persistence", "others_of_mine:Drift", "others_of_mine:Named"]
    values = recipe(place, place / "run", evaluation={"baselines": names})
    path = tiny.write_recipe(place / "recipe.yaml", values)
    assert script("finetune_ttm").main(["--config", str(path), "model.options.width=16"]) == 0
    return place / "run"


def test_the_example_is_short():
    assert len(blocks("python")) == 1
    assert 40 <= len(blocks("python")[0].splitlines()) <= 60


def test_the_example_learns(run: Path):
    metrics = tiny.read_json(run / "metrics.json")["test"]
    assert list(metrics) == ["fine_tuned", "persistence", "others_of_mine:Drift", "others_of_mine:Named"]
    assert metrics["fine_tuned"]["rmse"] < 0.6 * metrics["persistence"]["rmse"]
    assert metrics["others_of_mine:Drift"]["rmse"] != metrics["persistence"]["rmse"]
    parameters = tiny.read_json(run / "environment.json")["parameters"]
    assert parameters["trainable"] == 16 * tiny.CONTEXT + 16 + tiny.PREDICTION * 16 + tiny.PREDICTION
    assert "mlp:MLP" in (run / "report.md").read_text(encoding="utf-8")
    assert "from mlp import MLP" in (run / "README.md").read_text(encoding="utf-8")


def test_it_is_loaded_by_its_path_and_is_the_same(run: Path, place: Path):
    first, second = load_model(run), load_model(run)
    assert type(first).__name__ == "MLP"
    assert first.config.model.options == {"width": 16}
    assert tiny.read_json(run / "preprocessor.json")["model_type"] == first.model_type == "mlp:MLP"
    second.save(place / "again")
    batch = first.prepare().test.__getitems__([0, 5])
    with torch.inference_mode():
        assert torch.equal(load_model(place / "again").forecast(batch), first.forecast(batch))


def test_it_forecasts_and_is_judged_from_the_shell(run: Path, place: Path):
    output = place / "forecast.csv"
    arguments = ["--model", str(run), "--input", str(place / "series.csv"), "--output", str(output)]
    assert script("predict_forecast").main(arguments) == 0
    table = pd.read_csv(output)
    assert len(table) == 2 * tiny.PREDICTION
    assert np.isfinite(table["load"]).all()
    found = load_model(run).evaluate()
    assert found["rmse"] == pytest.approx(tiny.read_json(run / "metrics.json")["test"]["fine_tuned"]["rmse"], rel=1e-5)


def test_it_begins_from_the_weights_of_a_run(run: Path, place: Path):
    values = recipe(place, place / "tuned", model={"pretrained": str(run / "model"), "options": {"width": 16}})
    values["data"]["split"]["allow_overlap"] = True
    values |= {"tuning": {"mode": "head"}, "evaluation": {"baselines": [], "num_plots": 0, "report": False}}
    results = model_class("mlp:MLP")(validate(values, "test")).fit()
    assert list(results["metrics"]) == ["zero_shot", "fine_tuned", "average"]
    assert results["parameters"]["trainable"] == tiny.PREDICTION * 16 + tiny.PREDICTION
    zero_shot = results["metrics"]["zero_shot"]["rmse"]
    assert zero_shot == pytest.approx(tiny.read_json(run / "metrics.json")["test"]["fine_tuned"]["rmse"], rel=1e-5)


def test_a_model_in_closed_form_is_a_run_too(place: Path):
    values = recipe(place, place / "closed", model={"type": "others_of_mine:Named", "options": {}})
    values["evaluation"] = {"baselines": ["persistence"], "num_plots": 1}
    results = model_class("others_of_mine:Named")(validate(values, "test")).fit(output_dir=place / "closed")
    assert list(results["metrics"]) == ["fine_tuned", "persistence"]
    assert (results["kept"], results["training"]) == ("fine_tuned", None)
    assert "fitted in closed form" in (place / "closed/README.md").read_text(encoding="utf-8")
    assert type(load_model(place / "closed")).__name__ == "Named"


def test_a_class_that_extends_a_family_reads_its_keys(place: Path):
    """It crashed with an AttributeError: the section of an own class has none of TTM's keys."""
    checkpoint = str(tiny.write_checkpoint(place / "ttm"))
    section = {"type": "others_of_mine:Bolder", "pretrained": checkpoint, "options": {"head_dropout": 0.25}}
    values = recipe(place, place / "bolder", model=section, tuning={"mode": "head"}, training={"max_steps": 3})
    values["evaluation"] = {"baselines": [], "report": False, "num_plots": 0}
    values["model"]["options"].pop("width", None)
    model = model_class("others_of_mine:Bolder")(validate(values, "test"))
    model.fit(output_dir=place / "bolder")
    assert model.network.config.head_dropout == 0.25
    loaded = load_model(place / "bolder")
    assert (type(loaded).__name__, loaded.config) == ("Bolder", model.config)
    batch = loaded.prepare().test.__getitems__([0])
    with torch.inference_mode():
        plain = super(type(loaded), loaded).forecast(batch)
        assert torch.equal(loaded.forecast(batch), plain + 1)
    values["model"]["options"] = {"head_dropuot": 1}
    with pytest.raises(ConfigError, match=r"Bolder: 1 problem: model\.head_dropuot: unknown key, did you mean"):
        model_class("others_of_mine:Bolder")(validate(values, "test"))


def test_a_baseline_of_your_own_is_scored_from_the_shell(run: Path, place: Path):
    output, config = place / "comparison", str(run / "config.yaml")
    models = ["--model", str(run), "--model", "others_of_mine:Drift"]
    assert script("eval_forecast").main([*models, "--config", config, "--output", str(output)]) == 0
    found, recorded = (tiny.read_json(folder / "metrics.json")["test"] for folder in (output, run))
    name = "others_of_mine:Drift"
    assert found[name]["rmse"] == pytest.approx(recorded[name]["rmse"], rel=1e-5)
    assert found["run"]["rmse"] == pytest.approx(recorded["fine_tuned"]["rmse"], rel=1e-5)


def test_hydra_reads_the_same(place: Path):
    values = recipe(place, place / "unused")
    path = tiny.write_recipe(place / "both.yaml", values)
    override = ["model.options.width=32"]
    simple, hydra = (one().load_config(path, override) for one in (SimpleConfigManager, HydraConfigManager))
    assert simple == hydra
    assert simple.model.options == {"width": 32}


def test_flat_keywords_name_it_too():
    config = ModelConfig(model_type="mlp:MLP", options={"width": 3})
    assert (config.run_config.model.type, config.options) == ("mlp:MLP", {"width": 3})
    assert "options={'width': 3}" in repr(config)


def test_it_is_no_family_of_ours():
    assert not [name for name in available_models() if ":" in name]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("nowhere_at_all:MLP", r"cannot be imported \(ModuleNotFoundError.*on PYTHONPATH"),
        ("broken_of_mine:MLP", "cannot be imported .*no_such_package_at_all"),
        ("others_of_mine:Missing", "others_of_mine has no Missing"),
        ("others_of_mine:function", "not a subclass of tstune.BaseTimeSeriesFoundationModel"),
        ("others_of_mine:Half", "does not define forecast$"),
        ("others_of_mine:Strong", "add to the class: model_type = 'others_of_mine:Strong'"),
    ],
)
def test_a_class_that_cannot_be_used_is_refused(name: str, words: str, place: Path):
    with pytest.raises(ConfigError, match=words) as error:
        model_class(name)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("section", "words"),
    [
        ({"type": "mlp:MLP", "optoins": {}}, r"model\.optoins: unknown key, did you mean model\.options\?"),
        ({"type": "mlp:"}, r"model\.type: string should match pattern"),
        ({"type": "mlp"}, r"model\.type: unknown model family; .*package\.module:Class \(got 'mlp'\)"),
        ({"type": 3}, r"model\.type: unknown model family"),
        ({"type": "ttm", "options": {}}, r"model\.options: unknown key"),
    ],
)
def test_a_wrong_section_is_refused_in_one_line(section: dict, words: str):
    with pytest.raises(ConfigError, match=words):
        validate({"model": section}, "test")


@pytest.mark.parametrize(
    ("sections", "words"),
    [
        ({"tuning": {"mode": "lora"}}, "tuning.mode=lora is for networks, and model.type=others_of_mine:Named"),
        ({"tuning": {"mode": None, "per_item": True}}, "tuning.per_item=true is for networks"),
        ({"evaluation": {"baselines": ["mlp:MLP"]}}, "evaluation.baselines: mlp:MLP is not a baseline"),
    ],
)
def test_what_needs_a_network_is_refused_without_one(sections: dict, words: str, place: Path):
    values = recipe(place, place / "unused", model={"type": "others_of_mine:Named", "options": {}}, **sections)
    with pytest.raises(ConfigError, match=words):
        model_class("others_of_mine:Named")(validate(values, "test")).fit()
