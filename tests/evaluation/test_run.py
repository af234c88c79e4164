"""A run with quantiles: what it writes, that every method is judged on the same windows, and what it forecasts."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from planted_errors import LEVELS
from support import tiny

from tstune.evaluation.backtest import Backtest
from tstune.evaluation.metrics import interval_coverage
from tstune.evaluation.uncertainty import dependent_windows, judge_uncertainty, with_evidence
from tstune.models.registry import load_model
from tstune.models.ttm import TTMForecaster
from tstune.runtime.distributed import DistributedManager
from tstune.training import loop as training_loop

QUANTILES = list(LEVELS)
POINT = ["residual", "split_conformal", "weighted_conformal", "adaptive_conformal"]
HEAD = ["quantile_head", "quantile_head_conformal"]
FILES = {"uncertainty.json", "uncertainty.safetensors"}


@pytest.fixture(scope="module")
def split_run(make, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "split"
    sections = {"forecast": {"method": "split_conformal"}, "evaluation": {"metrics": ["wql", "coverage"]}}
    return folder, make(**sections).fit(output_dir=folder)


@pytest.fixture(scope="module")
def recorded(split_run, head_run):
    return {
        name: tiny.read_json(folder / "evaluation.json")["uncertainty"]
        for name, folder in (("split", split_run[0]), ("head", head_run))
    }


def test_the_record_is_the_agreed_one(recorded):
    split, head = recorded["split"], recorded["head"]
    assert set(split) == {
        "method", "levels", "calibration", "methods", "coverage_by_step", "pit", "reliability"
    }  # fmt: skip
    assert (split["method"], head["method"]) == ("split_conformal", "quantile_head_conformal")
    assert list(split["methods"]) == POINT
    assert list(head["methods"]) == POINT + HEAD
    assert split["levels"] == QUANTILES
    assert split["calibration"] == {"part": "later validation", "num_windows": 42}
    assert len(split["coverage_by_step"]["values"]) == tiny.PREDICTION
    assert sum(split["pit"]["share"]) == pytest.approx(1)
    assert len(split["pit"]["share"]) == len(split["pit"]["expected"]) == len(QUANTILES) + 1
    assert split["reliability"]["levels"] == QUANTILES
    for name, row in (split["methods"] | head["methods"]).items():
        assert [one["nominal"] for one in row["intervals"]] == [0.5, 0.8, 0.95]
        assert row["crossing"] == 0, name
        assert row["crps"] == pytest.approx(2 * row["pinball"])
        widths = [one["width"] for one in row["intervals"]]
        assert widths == sorted(widths)
        assert {one["num_readings"] for one in row["intervals"]} == {82 * tiny.PREDICTION}


def test_the_rows_are_those_of_the_windows(make, head_run, recorded):
    """The configured method, once more by hand from the saved run."""
    model = TTMForecaster.load(head_run)
    data = model.prepare()
    manager = DistributedManager(model.config.distributed)
    parts = {
        part: with_evidence(
            Backtest(data, model.config.evaluation, manager, part).score(model).windows, data.windows[part], model
        )
        for part in ("calibration", "test")
    }
    test = parts["test"]
    quantiles = model.uncertainty.backtest(test)
    share = interval_coverage(
        test.truth, quantiles[..., 1], quantiles[..., 5], test.observed, 0.8, dependent_windows(test)
    )
    row = recorded["head"]["methods"]["quantile_head_conformal"]["intervals"][1]
    assert vars(share) == pytest.approx(row, rel=1e-5)
    judged = judge_uncertainty(model, model.config.forecast, data, parts["calibration"], test)
    assert judged.quantiles == pytest.approx(quantiles, rel=1e-6)
    calibration = replace(parts["calibration"], truth=parts["calibration"].truth + 100)
    elsewhere = judge_uncertainty(model, model.config.forecast, data, calibration, test)
    coverage = {name: row["intervals"][1]["coverage"] for name, row in elsewhere.report["methods"].items()}
    assert coverage["split_conformal"] == coverage["quantile_head_conformal"] == 0.0, "calibrated on these windows only"
    raw = judged.report["methods"]["quantile_head"]["intervals"][1]["coverage"]
    assert coverage["quantile_head"] == raw, "the raw head has no calibration"


def test_fault_16_the_windows_that_calibrate_chose_nothing(make, split_run, monkeypatch):
    whole, data = make(tuning={"mode": "zero_shot"}).prepare(), make().prepare()
    assert list(whole.windows) == ["train", "validation", "test"], "an untuned model chose nothing"
    assert make().prepare(data) is data, "cut once"
    starts = {part: windows.starts(range(len(windows))) for part, windows in data.windows.items()}
    halves = np.concatenate([starts["validation"], starts["calibration"]])
    assert np.isin(halves, whole.validation.starts(range(82))).all()
    items = {part: data.panel.segment_item[data.windows[part].segment_of(starts[part])] for part in starts}
    for item in (0, 1):
        chose, calibrates = (starts[part][items[part] == item] for part in ("validation", "calibration"))
        assert (len(chose), len(calibrates)) == (21 - tiny.PREDICTION, 21)
        assert chose.max() + tiny.PREDICTION <= calibrates.min(), "nothing is forecast in both"
    seen, load = [], training_loop.window_loader
    note = lambda windows, size: seen.append(len(windows)) or load(windows, size)  # noqa: E731
    monkeypatch.setattr(training_loop, "window_loader", note)
    make(training={"max_steps": 1}).fit()
    assert seen == [len(data.validation)], "the loop chose by the earlier half"
    text = f"the earlier {len(data.validation)} chose the weights, the later {len(data.calibration)} calibrated"
    assert text in (split_run[0] / "README.md").read_text()


def test_metrics_of_the_quantiles_join_the_scoreboard(split_run, recorded):
    metrics = tiny.read_json(split_run[0] / "metrics.json")["test"]
    assert metrics["fine_tuned"]["wql"] == recorded["split"]["methods"]["split_conformal"]["wql"]
    assert metrics["fine_tuned"]["coverage_80"] == pytest.approx(
        recorded["split"]["methods"]["split_conformal"]["intervals"][1]["coverage"]
    )
    assert "wql" not in metrics["zero_shot"]
    assert load_model(split_run[0]).evaluate() == pytest.approx(metrics["fine_tuned"], rel=1e-5)


def test_the_folder_holds_the_method_and_says_so(split_run, make, tmp_path):
    folder, _ = split_run
    assert {path.name for path in folder.iterdir()} >= FILES
    readme = (folder / "README.md").read_text()
    assert all(f"| `{name}` |" in readme for name in FILES)
    off = tmp_path / "off"
    make(forecast={"quantiles": []}, training={"max_steps": 2}).fit(output_dir=off)
    assert not FILES & {path.name for path in off.iterdir()}
    assert "uncertainty" not in (off / "README.md").read_text()
    assert tiny.read_json(off / "evaluation.json")["uncertainty"] is None
    assert list(TTMForecaster.load(off).predict(tiny.series()).columns) == ["item_id", "timestamp", "load"]


@pytest.mark.parametrize("which", ["split", "head"])
def test_forecasts_have_a_column_per_level(which, split_run, head_run):
    folder = split_run[0] if which == "split" else head_run
    model = TTMForecaster.load(folder)
    found = model.predict(tiny.series())
    names = [f"load_q{level:g}" for level in QUANTILES]
    assert list(found.columns) == ["item_id", "timestamp", "load", *names]
    assert len(found) == 2 * tiny.PREDICTION
    assert (np.diff(found[names], axis=1) >= 0).all()
    assert np.isfinite(found[names].to_numpy()).all()
    again = TTMForecaster.load(folder)
    again.save(folder.parent / f"{which}-again")
    pd.testing.assert_frame_equal(TTMForecaster.load(folder.parent / f"{which}-again").predict(tiny.series()), found)


def test_the_method_in_memory_is_the_saved_one(make, tmp_path):
    model = make(forecast={"method": "adaptive_conformal"}, training={"max_steps": 3})
    model.fit(output_dir=tmp_path / "run")
    before = model.predict(tiny.series())
    after = TTMForecaster.load(tmp_path / "run").predict(tiny.series())
    pd.testing.assert_frame_equal(before, after)


def test_too_few_windows_are_said(make, caplog, monkeypatch):
    monkeypatch.setattr("tstune.evaluation.uncertainty.logger.propagate", True)
    levels = {"quantiles": [0.001, 0.5, 0.999], "method": "split_conformal"}
    make(forecast=levels, training={"max_steps": 1}).fit()
    assert "0.001, 0.999 need 999 validation windows, a step has 42" in caplog.text


def test_quantiles_of_adapted_items_are_around_their_forecast(make, tmp_path):
    model = make(
        forecast={"method": "residual"},
        tuning={"mode": "head", "per_item": True, "per_item_epochs": 1, "per_item_learning_rate": 0.02},
        lora={"rank": 2},
    )
    model.fit(output_dir=tmp_path / "run")
    found = model.predict(tiny.series())
    assert model.item_adapters.adapters
    offsets = (found["load_q0.9"] - found["load"]).to_numpy().reshape(2, -1)
    assert offsets[0] == pytest.approx(offsets[1], abs=1e-4), "the same errors are added to both items"
