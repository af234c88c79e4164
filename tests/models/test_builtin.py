"""The weights that ship with the project: whole, small, chosen by length, and worth starting from."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import pandas as pd
import pytest
from launched import ROOT
from safetensors.numpy import load_file

from tstune.config.managers import SimpleConfigManager
from tstune.config.validation import validate
from tstune.data.defaults import ASSETS
from tstune.errors import CheckpointError, LeakError
from tstune.models.ttm import TTMForecaster, builtin_folder

SHIPPED = {
    "ttm-512-96-synthetic": (512, 96, 805_280),
    "ttm-96-24-synthetic": (96, 24, 297_432),
    "ttm-512-96-glucose": (512, 96, 990_835),
    "ttm-96-24-glucose": (96, 24, 453_147),
}
QUIET = ["evaluation.num_plots=0", "evaluation.horizons=[]", "tuning.mode=zero_shot"]


def card(name: str) -> str:
    return (ASSETS / name / "README.md").read_text(encoding="utf-8")


def test_what_ships():
    assert sorted(path.name for path in ASSETS.iterdir()) == sorted(SHIPPED)
    for name in SHIPPED:
        files = {path.name for path in (ASSETS / name).iterdir()}
        assert files - {"manifest.json"} == {"README.md", "config.json", "model.safetensors"}
        assert ("manifest.json" in files) == name.endswith("glucose"), "what it was trained on, for the leak check"


@pytest.mark.parametrize("name", sorted(SHIPPED))
def test_size_lengths_and_parameters(name):
    context, prediction, parameters = SHIPPED[name]
    weights = load_file(ASSETS / name / "model.safetensors")
    assert (ASSETS / name / "model.safetensors").stat().st_size <= 4_000_000
    assert sum(tensor.size for tensor in weights.values()) == parameters
    config = json.loads((ASSETS / name / "config.json").read_text())
    assert (config["context_length"], config["prediction_length"]) == (context, prediction)
    assert (config["dropout"], config["head_dropout"]) == (0.2, 0.2), "for those who tune it"
    assert f"{parameters:,}" in card(name)


@pytest.mark.parametrize(
    ("lengths", "name"), [((512, 96), "512-96"), ((512, 24), "512-96"), ((96, 24), "96-24"), ((96, 6), "96-24")]
)
def test_the_context_chooses_and_a_shorter_forecast_is_cut(lengths, name):
    assert builtin_folder(*lengths) == ASSETS / f"ttm-{name}-synthetic"


def test_two_sets_by_name():
    assert builtin_folder(512, 12, "builtin:glucose") == ASSETS / "ttm-512-96-glucose"
    assert builtin_folder(96, 24, "builtin:glucose") == ASSETS / "ttm-96-24-glucose"


@pytest.mark.parametrize("lengths", [(144, 24), (512, 192), (96, 48)])
def test_other_lengths_are_refused_with_a_list(lengths):
    with pytest.raises(CheckpointError, match=re.escape("context_length=96, up to 24 steps; context_length=512")):
        builtin_folder(*lengths)


def untuned(*overrides: str) -> dict[str, dict[str, float]]:
    config = SimpleConfigManager().load_config(ROOT / "recipes/ttm/cgm_sample/zero_shot.yaml", [*overrides, *QUIET])
    return TTMForecaster(config).fit()["metrics"]


@pytest.fixture(scope="module")
def glucose():
    return untuned("model.pretrained=builtin")


@pytest.fixture(scope="module")
def tuned_on_people():
    return untuned("model.pretrained=builtin:glucose", "evaluation.baselines=[ridge]")


def test_untuned_it_beats_the_simple_forecasts_on_real_glucose(glucose):
    rmse = {name: values["rmse"] for name, values in glucose.items()}
    assert glucose["zero_shot"]["num_windows"] == 367
    assert rmse["zero_shot"] < min(rmse["context_mean"], rmse["persistence"], rmse["seasonal_naive"])


def test_those_of_people_beat_ridge_and_the_general_ones_on_a_person_they_never_saw(glucose, tuned_on_people):
    rmse = tuned_on_people["zero_shot"]["rmse"]
    assert rmse < 0.97 * min(glucose["zero_shot"]["rmse"], tuned_on_people["ridge"]["rmse"])


def test_the_cards_state_what_is_measured(glucose, tuned_on_people):
    for name, column, found in (("synthetic", 3, glucose), ("glucose", 3, tuned_on_people)):
        (row,) = [line for line in card(f"ttm-512-96-{name}").splitlines() if line.startswith("| cgm_sample |")]
        cells = [cell.strip() for cell in row.strip("|").split("|")]
        assert cells[1] == "367"
        assert float(cells[column]) == pytest.approx(found["zero_shot"]["rmse"], abs=0.02)


def test_the_people_they_know_are_on_record():
    record = json.loads((ASSETS / "ttm-512-96-glucose/manifest.json").read_text())["trained_on"]
    people = {series["item_id"] for series in record["series"] if series.get("train")}
    assert len(people) == 91
    assert "91 people" in card("ttm-512-96-glucose")
    assert {name.partition("/")[0] for name in people} == {"azt1d", "bigideas", "hall_2018", "hupa-ucm", "t1d-uom"}
    assert not any(re.search("2301|2304|2307|brist", name.lower()) for name in people)


@pytest.mark.shared
def test_weights_are_not_judged_on_people_they_know(shared, tmp_path):
    table = pd.read_parquet(shared / "data/cohorts/azt1d.parquet")
    table[table["item_id"] == "AZT1D-Subject10"].assign(item_id="somebody").to_csv(tmp_path / "known.csv", index=False)
    values = {"source": "csv", "path": str(tmp_path / "known.csv"), "item_id_column": "item_id", "unit": "mg/dL"}
    values |= {"target_columns": ["glucose"], "frequency": "5min"}
    model = {"pretrained": "builtin:glucose", "context_length": 512, "prediction_length": 12}
    config = validate({"model": model, "data": values, "tuning": {"mode": "zero_shot"}}, origin="test")
    with pytest.raises(LeakError, match=r"model\.pretrained=builtin:glucose.*was trained on"):
        TTMForecaster(config).fit()


def test_the_demo_tunes_it_below_ridge(tmp_path):
    only_ridge = ["evaluation.num_plots=0", "evaluation.baselines=[ridge]", "evaluation.report=false"]
    config = SimpleConfigManager().load_config(ROOT / "recipes/ttm/cgm_sample/demo.yaml", only_ridge)
    results = TTMForecaster(config).fit(output_dir=tmp_path / "demo")
    rmse = {name: values["rmse"] for name, values in results["metrics"].items()}
    assert rmse["fine_tuned"] <= 57.5
    assert rmse["fine_tuned"] < rmse["ridge"]


def test_the_short_one_forecasts_two_hours_from_eight():
    baselines = "evaluation.baselines=[persistence,context_mean]"
    metrics = untuned("model.pretrained=builtin", "model.context_length=96", "model.prediction_length=24", baselines)
    assert metrics["zero_shot"]["rmse"] < min(metrics["persistence"]["rmse"], metrics["context_mean"]["rmse"])


@pytest.mark.slow
@pytest.mark.shared
def test_etth1_without_tuning(shared):
    path = shared / "data/ett/ETTh1.csv"
    config = SimpleConfigManager().load_config(
        ROOT / "recipes/ttm/etth1/zero_shot.yaml",
        ["model.pretrained=builtin", f"data.path={path}", "evaluation.baselines=[seasonal_naive]", *QUIET],
    )
    metrics = TTMForecaster(config).fit()["metrics"]
    assert metrics["zero_shot"]["num_windows"] == 2785
    assert metrics["zero_shot"]["mse_scaled"] <= 0.400
    assert metrics["zero_shot"]["mse_scaled"] < metrics["seasonal_naive"]["mse_scaled"]


def test_its_network_is_read_and_written_without_what_it_does_not_need(tmp_path):
    code = f"""
import sys
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace as Space
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from safetensors.torch import load_file
import tstune.runs.finetune
from tstune.models.ttm import TTMForecaster
network = TTMForecaster.architecture.network_class.from_pretrained({str(ASSETS / "ttm-96-24-synthetic")!r})
assert sum(one.numel() for one in network.parameters()) == 297_432
model = Space(network=network, config=Space(model=Space(quantization="none")))
TTMForecaster.save_weights(model, Path({str(tmp_path)!r}))
heavy = sys.modules.keys() & set("datasets peft sklearn deepspeed mlflow matplotlib lightgbm wandb tensorboard".split())
heavy |= sys.modules.keys() & set("bitsandbytes onnx chronos statsforecast optuna river requests fastapi".split())
heavy |= sys.modules.keys() & {{"scipy.optimize._minimize"}}
assert not heavy, heavy
assert find_spec("deepspeed"), "it is hidden only while the network is written"
read = load_file({str(ASSETS / "ttm-96-24-synthetic/model.safetensors")!r})
written = load_file("{tmp_path}/model/model.safetensors")
assert read.keys() == written.keys() and all((read[name] == written[name]).all() for name in read)
put_off = [sys.modules[name] for name in ("tsfm_public.toolkit", "transformers.models")]
optimize = sys.modules["scipy.optimize"]
with ThreadPoolExecutor(8) as threads:
    assert threads.submit(import_module, "scipy.optimize._lsap").result().linear_sum_assignment
    assert sys.modules["scipy.optimize"] is optimize, "a module of it comes alone"
    found = [threads.submit(getattr, optimize, "minimize") for _ in range(8)]
    assert len({{one.result() for one in found}}) == 1
assert sys.modules["scipy.optimize"] is not optimize
from tsfm_public.toolkit import TimeSeriesPreprocessor  # all of it is there for those who want it
import tsfm_public, transformers
assert "datasets" in sys.modules and TimeSeriesPreprocessor().freq is None
from transformers.models import bert
assert transformers.models.bert is bert and bert.BertConfig is transformers.BertConfig
for one, module in zip(put_off, ("hf_util", "auto")):
    package = sys.modules[one.__name__]
    assert package is not one
    assert getattr(one, module) is getattr(package, module) is sys.modules[one.__name__ + "." + module]
from transformers.loss import loss_for_object_detection, loss_rt_detr
for module in (loss_for_object_detection, loss_rt_detr):
    rows, columns = module.linear_sum_assignment([[1, 9], [0, 1]])
    assert rows.tolist() == columns.tolist() == [0, 1], "SciPy is asked when it is called"
assert sys.modules["scipy.optimize"].minimize
print("read")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT / "scripts")
    assert done.stdout.endswith("read\n"), done.stderr
