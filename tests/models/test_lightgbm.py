"""LightGBM on lags: features by hand, forecasts from the context alone, and the same after saving."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from support import tiny

from tstune.config.validation import validate
from tstune.data.prepared import PreparedData, prepare_data
from tstune.errors import CheckpointError, ConfigError, MissingDependencyError
from tstune.models.baselines import ContextMean, Persistence, Ridge
from tstune.models.lightgbm_lags import CHANGES, LAGS, SPANS, LightGBM, lag_features, modelled_steps
from tstune.models.registry import load_model
from tstune.runs.judging import build_baselines, check_baselines
from tstune.runtime.distributed import DistributedManager

CONTEXT, PREDICTION = 32, 4


def config_for(csv: Path, prediction: int = PREDICTION, seed: int = 7, **data: object):
    sections = {
        "model": {"context_length": CONTEXT, "prediction_length": prediction},
        "data": data,
        "evaluation": {"horizons": [], "baselines": ["persistence", "lightgbm"]},
        "seed": seed,
    }
    return validate(tiny.recipe(csv, Path("unused"), None, **sections), "test")


def prepared(config) -> PreparedData:
    return prepare_data(config.data, config.model.context_length, config.model.prediction_length)


def trained(config, data: PreparedData) -> LightGBM:
    model = LightGBM(config)
    model.build(data.preprocessor)
    model.train_on(data)
    return model


def fitted(csv: Path, **options: object) -> tuple[LightGBM, PreparedData]:
    config = config_for(csv, **options)
    data = prepared(config)
    return trained(config, data), data


@pytest.fixture(scope="module")
def csv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_series(tmp_path_factory.mktemp("series") / "series.csv")


@pytest.fixture(scope="module")
def run(csv: Path) -> tuple[LightGBM, PreparedData]:
    """One trained model for all tests that only read it."""
    return fitted(csv)


class TestFeatures:
    past = np.array([[1.0, 2.0, 4.0, 7.0, 11.0]], np.float32)

    def test_by_hand(self) -> None:
        (row,) = lag_features(self.past, np.array([6 * 3600]))
        lags, changes, steps = [11, 7, 4, 2, 1], [4, 7, 9], [3, 2, 1]
        last_three = [22 / 3, np.std([4, 7, 11]), 4, 11]
        whole = [5, np.std([1, 2, 4, 7, 11]), 1, 11]
        hour = [1, 0]  # six o'clock is a quarter of the circle
        np.testing.assert_allclose(row, [*lags, *changes, *steps, *last_three, *whole, *hour], atol=1e-6)

    def test_what_is_missing_stays_missing_and_counts_nowhere(self) -> None:
        past = self.past.copy()
        past[0, 3] = np.nan
        (row,) = lag_features(past, None)
        assert np.isnan(row[[1, 5, 8]]).all(), "the lag and the two differences that need it"
        np.testing.assert_allclose(row[11:15], [7.5, 3.5, 4, 11])
        assert np.isnan(row[-2:]).all(), "no clock, no hour"

    def test_nothing_at_all(self) -> None:
        with np.errstate(all="raise", invalid="warn"):
            assert np.isnan(lag_features(np.full((2, 8), np.nan, np.float32), None)).all()

    @pytest.mark.parametrize("length", [4, 13, 96, 512])
    def test_as_many_as_the_context_reaches(self, length: int) -> None:
        expected = sum(lag < length for lag in LAGS) + sum(back < length for back in CHANGES)
        expected += min(5, length - 2) + 4 * (1 + sum(span < length for span in SPANS)) + 2
        assert lag_features(np.zeros((3, length), np.float32), np.zeros(3)).shape == (3, expected)


def test_which_steps_have_boosters() -> None:
    assert modelled_steps(1) == [1]
    assert modelled_steps(12) == list(range(1, 13))
    assert modelled_steps(96) == [*range(1, 25), 32, 40, 48, 56, 64, 72, 80, 88, 96]
    assert modelled_steps(30) == [*range(1, 25), 30]


def test_lines_between_the_boosters(csv: Path) -> None:
    model, data = fitted(csv, prediction=36)
    assert model.steps == [*range(1, 25), 32, 36]
    batch = data.test.__getitems__([0, 5])
    forecast = model.forecast(batch)[..., 0]
    assert forecast.shape == (2, 36)
    np.testing.assert_allclose(forecast[:, 27], forecast[:, [23, 31]].mean(axis=1), rtol=1e-6)
    np.testing.assert_allclose(forecast[:, 32], 0.75 * forecast[:, 31] + 0.25 * forecast[:, 35], rtol=1e-6)
    features, last, _ = model._features(batch, 0)
    for step in (1, 24, 32, 36):
        expected = last + model.boosters[0][model.steps.index(step)].predict(features)
        np.testing.assert_allclose(forecast[:, step - 1], expected, rtol=1e-6)


def test_it_beats_persistence_and_ridge_knows_no_more_than_a_line(run, csv: Path) -> None:
    model, data = run
    rmse = {"lightgbm": model.evaluate(data)["rmse"]}
    for cls in (Persistence, Ridge):
        other = cls(model.config)
        other.build(data.preprocessor)
        other.train_on(data)
        rmse[cls.model_type] = other.evaluate(data)["rmse"]
    assert rmse["lightgbm"] < 0.6 * rmse["persistence"]
    assert rmse["lightgbm"] < 1.3 * rmse["ridge"], "a noisy sine is what a line does best"


def test_save_and_load(run, tmp_path: Path) -> None:
    model, _ = run
    model.save(tmp_path / "saved")
    files = sorted(path.name for path in (tmp_path / "saved/model").iterdir())
    assert files == ["config.json", *(f"target-0-step-{step:04d}.txt" for step in range(1, PREDICTION + 1))]
    broken = tmp_path / "saved/model/target-0-step-0002.txt"
    broken.write_text("no trees", encoding="utf-8")
    (tmp_path / "saved/checksums.json").unlink()
    with pytest.raises(CheckpointError, match=r"step-0002\.txt is no LightGBM model"):
        load_model(tmp_path / "saved")
    broken.unlink()
    with pytest.raises(CheckpointError, match=r"step-0002\.txt is missing"):
        load_model(tmp_path / "saved")


def test_the_same_seed_gives_the_same_trees(run, csv: Path) -> None:
    model, data = run
    again, other = trained(model.config, data), trained(config_for(csv, seed=8), data)
    texts = [[b.model_to_string() for b in m.boosters[0]] for m in (model, again, other)]
    assert texts[0] == texts[1]
    assert texts[0] != texts[2]


def test_one_set_of_boosters_per_target(run, csv: Path) -> None:
    both, data = fitted(csv, target_columns=["load", "dose"])
    assert len(both.boosters) == 2
    alone, of_load = run
    forecast = both.forecast(data.test.__getitems__([0, 7]))
    assert forecast.shape == (2, PREDICTION, 2)
    assert torch.equal(forecast[..., 0], alone.forecast(of_load.test.__getitems__([0, 7]))[..., 0])
    assert not torch.equal(forecast[..., 1], forecast[..., 0])


def test_the_hour_of_day_is_read(tmp_path: Path) -> None:
    stamps = pd.date_range("2024-01-01", periods=1200, freq="h")
    noise = np.random.default_rng(0).normal(0, 1, len(stamps))
    rise = np.where(stamps.hour == 18, 30.0, 0.0)  # the context before does not show it coming: one value in 24
    pd.DataFrame({"item_id": "a", "timestamp": stamps, "load": noise + rise}).to_csv(tmp_path / "s.csv", index=False)
    model, data = fitted(tmp_path / "s.csv", prediction=1)
    batch = data.test.__getitems__(range(24))
    hour = torch.remainder(batch["origin"], 86_400) // 3600
    assert sorted(hour.tolist()) == list(range(24))
    (at_18,) = torch.nonzero(hour == 18)
    forecast = model.forecast(batch)[:, 0, 0]
    assert forecast.argmax() == at_18
    shifted = model.forecast(batch | {"origin": batch["origin"] + 12 * 3600})[:, 0, 0]
    assert shifted[at_18] < forecast[at_18] - 5


def test_only_observed_targets_are_learned_and_rows_are_bounded(csv: Path, tmp_path: Path) -> None:
    table = tiny.series()
    table.loc[table.index % 10 == 3, "load"] = np.nan
    table.to_csv(tmp_path / "gaps.csv", index=False)
    config = config_for(tmp_path / "gaps.csv", max_gap="3h")
    data = prepared(config)
    model = LightGBM(config)
    model.build(data.preprocessor)
    model.steps = modelled_steps(PREDICTION)
    features, changes = model._rows(data.train, 10**6, 0)
    assert len(features) == len(changes) == len(data.train)
    real = data.train.__getitems__(range(len(data.train)))["future_observed_mask"][..., 0].numpy()
    assert (~real).sum() > 0
    np.testing.assert_array_equal(np.isnan(changes), ~real)
    assert len(model._rows(data.train, 50, 0)[0]) == 50


def test_a_step_without_any_target_is_an_error(csv: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = config_for(csv)
    data = prepared(config)
    model = LightGBM(config)
    model.build(data.preprocessor)
    as_they_are = type(data.train).__getitems__

    def third_step_unobserved(windows, indices):
        batch = as_they_are(windows, indices)
        batch["future_observed_mask"][:, 2] = False
        return batch

    monkeypatch.setattr(type(data.train), "__getitems__", third_step_unobserved)
    with pytest.raises(ConfigError, match=r"no observed value of 'load' at step 3 of the train windows"):
        model.train_on(data)


def test_it_is_a_baseline_of_a_run(csv: Path) -> None:
    config = config_for(csv)
    data = prepared(config)
    manager = DistributedManager(config.distributed, None)
    baselines = dict(build_baselines(ContextMean(config), data, manager))
    assert list(baselines) == ["persistence", "lightgbm"]
    assert np.isfinite(baselines["lightgbm"].evaluate(data)["rmse"])


def test_without_the_package(run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lightgbm", None)
    model, data = run
    with pytest.raises(MissingDependencyError, match=r"pip install 'lightgbm>=4\.5,<5'"):
        LightGBM(model.config).train_on(data)
    with pytest.raises(MissingDependencyError, match="lightgbm"):
        check_baselines(model.config)  # before anything is trained
    requirements = (Path(__file__).parents[2] / "requirements.txt").read_text(encoding="utf-8")
    assert "lightgbm>=4.5,<5" in requirements
