"""Columns known in the past only and columns known in the future, from training to a saved forecast."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from support import tiny

from tstune.errors import DataError
from tstune.models.ttm import TTMForecaster

ROLES = {"conditional_columns": ["dose"], "control_columns": ["plan"]}
LOAD, DOSE, PLAN = 0, 1, 2


@pytest.fixture
def trained(make, tmp_path: Path) -> TTMForecaster:
    model = make(data=ROLES, tuning={"mode": "full"})
    model.fit(output_dir=tmp_path / "run")
    return model


@pytest.fixture
def future() -> pd.DataFrame:
    """The plan for the eight hours after the series."""
    stamps = pd.date_range("2024-01-17 16:00", periods=tiny.PREDICTION, freq="h")
    plan = [0.0, 1.0, 0.0, 0.0, 1.0, 1.0, 0.0, 0.0]
    return pd.concat([pd.DataFrame({"item_id": item, "timestamp": stamps, "plan": plan}) for item in tiny.ITEMS])


def forecast_after(model: TTMForecaster, change: Callable[[dict], None]) -> tuple[torch.Tensor, torch.Tensor]:
    """Forecast of a batch of test windows before and after a change to it."""
    windows = model.prepare().test
    with torch.inference_mode():
        before = model.forecast(windows.__getitems__([0, 10, 50]))
        batch = windows.__getitems__([0, 10, 50])
        change(batch)
        return before, model.forecast(batch)


def test_train_save_load_predict(trained: TTMForecaster, future: pd.DataFrame, tmp_path: Path) -> None:
    forecast = trained.predict(tiny.series(), future=future)
    assert list(forecast.columns) == ["item_id", "timestamp", "load"], "only the target is forecast"
    assert len(forecast) == 16
    loaded = TTMForecaster.load(tmp_path / "run")
    pd.testing.assert_frame_equal(loaded.predict(tiny.series(), future=future), forecast, check_exact=True)
    shuffled = future.sample(frac=1.0, random_state=0)[["plan", "timestamp", "item_id"]]
    pd.testing.assert_frame_equal(loaded.predict(tiny.series(), future=shuffled), forecast, check_exact=True)


def test_the_plan_matters_at_every_step(trained: TTMForecaster, future: pd.DataFrame) -> None:
    without = trained.predict(tiny.series(), future=future.assign(plan=0.0))
    assert not np.allclose(trained.predict(tiny.series(), future=future)["load"], without["load"], atol=1e-4)


@pytest.mark.parametrize(("steps", "channel"), [(range(8), LOAD), ([0], LOAD), ([7], LOAD), (range(8), DOSE)])
def test_no_target_and_no_conditional_leaks(steps, channel: int, trained: TTMForecaster) -> None:
    def change(batch: dict) -> None:
        batch["future_values"][:, steps, channel] += 1000.0
        batch["future_observed_mask"][:, steps, channel] = False

    before, after = forecast_after(trained, change)
    assert torch.equal(before, after)


@pytest.mark.parametrize(
    ("part", "channel"), [("future_values", PLAN), ("past_values", PLAN), ("past_values", DOSE), ("past_values", LOAD)]
)
def test_what_may_be_known_is_used(part: str, channel: int, trained: TTMForecaster) -> None:
    def change(batch: dict) -> None:
        batch[part][:, ::2, channel] += 1.0

    before, after = forecast_after(trained, change)
    assert not torch.allclose(before, after, atol=1e-4)


def test_a_masked_value_is_not_read(trained: TTMForecaster) -> None:
    def mask(batch: dict) -> None:
        batch["past_observed_mask"][:, 5:9, DOSE] = False

    def mask_and_spoil(batch: dict) -> None:
        mask(batch)
        batch["past_values"][:, 5:9, DOSE] = 1e6

    untouched, masked = forecast_after(trained, mask)
    _, spoilt = forecast_after(trained, mask_and_spoil)
    assert torch.equal(masked, spoilt)
    assert not torch.equal(masked, untouched)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda future: None, r"known-future column\(s\) plan"),
        (lambda future: future.groupby("item_id").head(7), "series 'a' needs plan at every step from 2024-01-17 16"),
        (lambda future: future[future["item_id"] == "a"], "series 'b' needs plan"),
        (lambda future: future.rename(columns={"plan": "plans"}), "no column 'plan'"),
    ],
    ids=["none", "a step short", "of one series only", "without its column"],
)
def test_a_future_that_lacks_something(change, said: str, trained: TTMForecaster, future: pd.DataFrame) -> None:
    with pytest.raises(DataError, match=said):
        trained.predict(tiny.series(), future=change(future))


def test_future_on_the_shell(trained: TTMForecaster, future: pd.DataFrame, tmp_path: Path) -> None:
    import predict_forecast

    tiny.write_series(tmp_path / "series.csv")
    future.to_csv(tmp_path / "future.csv", index=False)
    paths = {name: str(tmp_path / name) for name in ("run", "series.csv", "future.csv", "forecast.csv")}
    arguments = ["--model", paths["run"], "--input", paths["series.csv"], "--output", paths["forecast.csv"]]
    assert predict_forecast.main(arguments) == 2
    assert not (tmp_path / "forecast.csv").exists()
    assert predict_forecast.main([*arguments, "--future", paths["future.csv"]]) == 0
    direct = trained.predict(tiny.series(), future=future)
    written = pd.read_csv(tmp_path / "forecast.csv")["load"].to_numpy(np.float32)
    np.testing.assert_array_equal(written, direct["load"].to_numpy())
