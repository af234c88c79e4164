"""AutoETS and AutoTheta of statsforecast as baselines: what they forecast, gaps, seasons, and how many windows."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from support import tiny

from tstune.config.validation import validate
from tstune.errors import ConfigError, MissingDependencyError
from tstune.models import baselines
from tstune.models.baselines import bridged
from tstune.models.registry import model_class

NAMES = ("auto_ets", "auto_theta")


@pytest.fixture(scope="module")
def csv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_series(tmp_path_factory.mktemp("stock") / "series.csv", rows=500)


def baseline(name: str, csv: Path, **sections: object):
    model = model_class(name)(validate(tiny.recipe(csv, Path("unused"), **sections), "test"))
    data = model.prepare()
    model.build(data.preprocessor)
    return model, data


@pytest.mark.parametrize("name", NAMES)
def test_it_is_the_forecast_of_the_library(name: str, csv: Path) -> None:
    from statsforecast.models import AutoETS, AutoTheta  # seconds, and all workers collect this file

    model, data = baseline(name, csv, model={"context_length": 72})
    batch = data.test.__getitems__([0, 7])
    library = (AutoETS if name == "auto_ets" else AutoTheta)(season_length=24)
    for window in range(2):
        series = batch["past_values"][window, :, 0].double().numpy()
        expected = library.forecast(y=series, h=tiny.PREDICTION)["mean"]
        assert model.forecast(batch)[window, :, 0].numpy() == pytest.approx(expected, rel=1e-5)
    if name == "auto_ets":  # Theta's own test does not find a season in three days
        truth, last = batch["future_values"][..., 0], batch["past_values"][:, -1:, 0]
        assert (model.forecast(batch)[..., 0] - truth).abs().mean() < (last - truth).abs().mean()


def test_a_long_season_is_left_out_of_ets_only(csv: Path) -> None:
    seasons = {"evaluation": {"seasonality": 30}, "model": {"context_length": 72}}
    assert [baseline(name, csv, **seasons)[0].seasonality for name in NAMES] == [1, 30]


def test_gaps_are_bridged_and_what_lies_before_is_left_out() -> None:
    values = np.array([9.0, 1.0, 9.0, 3.0, 9.0])
    observed = np.array([False, True, False, True, False])
    assert bridged(values, observed).tolist() == [1, 2, 3, 3]
    assert bridged(values, np.zeros(5, bool)).tolist() == []


@pytest.mark.parametrize("name", NAMES)
def test_too_few_or_equal_readings_go_on_as_the_last_one(name: str, csv: Path) -> None:
    model, data = baseline(name, csv)
    batch = {key: value.clone() for key, value in data.test.__getitems__([0, 1, 2]).items()}
    batch["past_observed_mask"][0, :-5] = False
    batch["past_observed_mask"][1] = False
    batch["past_values"][2] = 7.5
    found = model.forecast(batch)[..., 0]
    assert torch.equal(found[0], batch["past_values"][0, -1, 0].expand(tiny.PREDICTION))
    assert found[1].numpy() == pytest.approx(model.preprocessor.scaler.mean[0], rel=1e-5)
    assert (found[2] == 7.5).all()


def test_too_many_windows_leave_it_out_with_a_line(
    csv: Path, monkeypatch: pytest.MonkeyPatch, heard: pytest.LogCaptureFixture
) -> None:
    quiet = {"baselines": ["persistence", "auto_theta"], "num_plots": 0, "report": False}
    values = tiny.recipe(csv, Path("unused"), evaluation=quiet, training={"max_steps": 1})
    model = model_class("ttm")(validate(values, "test"))
    number = len(model.prepare().test)
    monkeypatch.setattr(baselines, "MAX_SERIES", 20)
    assert list(model.fit()["metrics"]) == ["fine_tuned", "persistence"]
    (line,) = [record.getMessage() for record in heard.records if "auto_theta left out" in record.getMessage()]
    stride = int(line.rpartition("=")[2].split()[0])
    assert f"at most 20 test windows, and there are {number}" in line
    values["data"]["test_stride"] = stride
    again = model_class("ttm")(validate(values, "test"))
    assert len(again.prepare().test) <= 20
    metrics = again.fit()["metrics"]
    assert list(metrics) == ["fine_tuned", "persistence", "auto_theta"]
    assert metrics["auto_theta"]["rmse"] != metrics["persistence"]["rmse"]
    values["model"] = {"type": "auto_theta", "context_length": tiny.CONTEXT, "prediction_length": tiny.PREDICTION}
    values["tuning"] = {}
    del values["data"]["test_stride"]
    with pytest.raises(ConfigError, match=r"model\.type=auto_theta: it is fitted to each window anew, to at most 20 "):
        model_class("auto_theta")(validate(values, "test")).fit()


@pytest.mark.parametrize("name", NAMES)
def test_a_missing_package_is_named_with_its_pip_line(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "statsforecast", None)
    monkeypatch.setitem(sys.modules, "statsforecast.models", None)
    with pytest.raises(MissingDependencyError, match=f"{name} needs a package: pip install 'statsforecast"):
        model_class(name).require_packages()
