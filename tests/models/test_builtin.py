"""The weights that ship with the project: whole, small, chosen by length, and worth starting from."""

from __future__ import annotations

import json
import re

import pytest
from launched import ROOT
from safetensors.numpy import load_file

from tstune.config.managers import SimpleConfigManager
from tstune.data.defaults import ASSETS
from tstune.errors import CheckpointError
from tstune.models.ttm import TTMForecaster, builtin_folder

SHIPPED = {"ttm-512-96-synthetic": (512, 96, 805_280), "ttm-96-24-synthetic": (96, 24, 297_432)}
QUIET = ["evaluation.num_plots=0", "evaluation.horizons=[]", "tuning.mode=zero_shot"]


def card(name: str) -> str:
    return (ASSETS / name / "README.md").read_text(encoding="utf-8")


def test_what_ships():
    assert sorted(path.name for path in ASSETS.iterdir()) == sorted(SHIPPED)
    for name in SHIPPED:
        files = {path.name for path in (ASSETS / name).iterdir()}
        assert files == {"README.md", "config.json", "model.safetensors"}


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
    ("lengths", "name"),
    [((512, 96), "512-96"), ((512, 24), "512-96"), ((96, 24), "96-24"), ((96, 6), "96-24")],
)
def test_the_context_chooses_and_a_shorter_forecast_is_cut(lengths, name):
    assert builtin_folder(*lengths) == ASSETS / f"ttm-{name}-synthetic"


@pytest.mark.parametrize("lengths", [(144, 24), (512, 192), (96, 48)])
def test_other_lengths_are_refused_with_a_list(lengths):
    with pytest.raises(CheckpointError, match=re.escape("context_length=96, up to 24 steps; context_length=512")):
        builtin_folder(*lengths)


@pytest.fixture(scope="module")
def glucose():
    config = SimpleConfigManager().load_config(
        ROOT / "recipes/ttm/cgm_sample/zero_shot.yaml", ["model.pretrained=builtin", *QUIET]
    )
    return TTMForecaster(config).fit()["metrics"]


def test_untuned_it_beats_the_simple_forecasts_on_real_glucose(glucose):
    rmse = {name: values["rmse"] for name, values in glucose.items()}
    assert glucose["zero_shot"]["num_windows"] == 367
    assert rmse["zero_shot"] < min(rmse["context_mean"], rmse["persistence"], rmse["seasonal_naive"])


def test_the_card_states_what_is_measured(glucose):
    (row,) = [line for line in card("ttm-512-96-synthetic").splitlines() if line.startswith("| cgm_sample |")]
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells[1] == "367"
    assert float(cells[3]) == pytest.approx(glucose["zero_shot"]["rmse"], abs=0.02)


def test_the_demo_tunes_it_below_ridge(tmp_path):
    config = SimpleConfigManager().load_config(ROOT / "recipes/ttm/cgm_sample/demo.yaml", ["evaluation.num_plots=0"])
    results = TTMForecaster(config).fit(output_dir=tmp_path / "demo")
    rmse = {name: values["rmse"] for name, values in results["metrics"].items()}
    assert rmse["fine_tuned"] <= 59.5
    assert rmse["fine_tuned"] < min(rmse["ridge"], rmse["zero_shot"])


def test_the_short_one_forecasts_two_hours_from_eight():
    config = SimpleConfigManager().load_config(
        ROOT / "recipes/ttm/cgm_sample/zero_shot.yaml",
        ["model.pretrained=builtin", "model.context_length=96", "model.prediction_length=24", *QUIET],
    )
    metrics = TTMForecaster(config).fit()["metrics"]
    assert metrics["zero_shot"]["rmse"] < min(metrics["persistence"]["rmse"], metrics["context_mean"]["rmse"])


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
