"""Models judged on the end of their contexts only: what baselines say, and that dropping in training helps."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.linear_model import Ridge as RidgeRegression
from support import tiny

from tstune import TTMConfig, TTMForecaster
from tstune.config.validation import validate
from tstune.data.frame import table_from_frame
from tstune.data.prepared import PreparedData, prepare_data
from tstune.errors import ConfigError
from tstune.models.registry import model_class

VISIBLE = 10


@pytest.fixture(scope="module")
def data() -> PreparedData:
    config = validate(tiny.recipe("unused", "unused"), "test")
    table = table_from_frame(tiny.series(), config.data, "series")
    return prepare_data(config.data, tiny.CONTEXT, tiny.PREDICTION, table).judged_on(VISIBLE)


def trained(name: str, data: PreparedData, **evaluation: object) -> object:
    sections = {"model": {"context_length": tiny.CONTEXT, "prediction_length": tiny.PREDICTION}}
    model = model_class(name)(validate(sections | {"evaluation": evaluation}, "test"))
    model.build(data.preprocessor)
    model.train_on(data.as_judged(), None)
    return model


def test_baselines_say_what_the_shown_steps_say(data: PreparedData):
    batch = data.test.__getitems__([0, 5, 9])
    shown = batch["past_values"][:, -VISIBLE:]
    same = {name: trained(name, data).forecast(batch) for name in ("persistence", "context_mean", "seasonal_naive")}
    assert torch.equal(same["persistence"], shown[:, -1:].expand(-1, tiny.PREDICTION, -1))
    torch.testing.assert_close(same["context_mean"][:, 0], shown.mean(dim=1))
    # a day is 24 steps: the forecast repeats the last 24, of which the first 14 are hidden
    assert torch.equal(same["seasonal_naive"], shown[:, -1:].expand(-1, tiny.PREDICTION, -1))
    weekly = trained("seasonal_naive", data, seasonality=12).forecast(batch)
    expected = torch.cat([shown[:, -1:], shown[:, -1:], shown[:, :6]], dim=1)
    assert torch.equal(weekly, expected)


@pytest.mark.parametrize("name", ["persistence", "context_mean", "seasonal_naive"])
def test_without_any_reading_they_say_the_training_mean(name: str, data: PreparedData):
    batch = data.test.__getitems__([0])
    batch["past_observed_mask"] = torch.zeros_like(batch["past_observed_mask"])
    forecast = trained(name, data).forecast(batch)
    torch.testing.assert_close(forecast, torch.full_like(forecast, float(data.preprocessor.scaler.mean[0])))


def test_ridge_is_fitted_on_as_many_steps(data: PreparedData):
    train = data.train.__getitems__(range(len(data.train)))
    past, future = (train[name][..., 0].double().numpy() for name in ("past_values", "future_values"))
    assert train["past_observed_mask"].all(), "training windows themselves are whole"
    scaler = data.preprocessor.scaler
    scale = lambda values: (values - scaler.mean[0]) / scaler.std[0]  # noqa: E731
    regression = RidgeRegression(alpha=1.0).fit(scale(past[:, -VISIBLE:]), scale(future))
    batch = data.test.__getitems__(range(len(data.test)))
    expected = regression.predict(scale(batch["past_values"][:, -VISIBLE:, 0].double().numpy()))
    forecast = trained("ridge", data).forecast(batch)[..., 0].numpy()
    np.testing.assert_allclose(forecast, expected * scaler.std[0] + scaler.mean[0], atol=1e-3)


def waves() -> pd.DataFrame:
    """Sines of many amplitudes about zero, so that a short piece says how the wave goes on."""
    random, tables = np.random.default_rng(0), []
    for number in range(6):
        hours = np.arange(300)
        values = (1 + number) * np.sin(2 * np.pi * hours / (14 + number)) + random.normal(0, 0.05, 300)
        stamps = pd.date_range("2024-01-01", periods=300, freq="h")
        tables.append(pd.DataFrame({"item_id": f"s{number}", "timestamp": stamps, "load": values}))
    return pd.concat(tables, ignore_index=True)


def test_dropping_makes_a_model_that_can_do_with_less():
    """The same model, trained with and without, judged on a quarter of its context."""
    values = tiny.recipe("unused", "unused", model={"d_model": 16}, training={"max_steps": 120, "eval_every_steps": 60})
    quiet = {"baselines": [], "num_plots": 0, "context_steps": 8, "horizons": []}
    frame, rmse = waves(), {}
    for share in (0.0, 0.7):
        sections = {"evaluation": quiet, "training": {"context_dropping": share}, "data": {"path": None}}
        model = TTMForecaster(validate(tiny.merged(values, sections), "test"))
        rmse[share] = model.fit(frame)["metrics"]["fine_tuned"]["rmse"]
    assert rmse[0.7] < 0.9 * rmse[0.0]


def test_what_cannot_be_is_refused_before_training():
    lengths = {"context_length": 32, "prediction_length": 8, "item_id_column": "item_id"}
    with pytest.raises(ConfigError, match=r"evaluation\.context_steps=33 is 33 steps of h"):
        TTMForecaster(TTMConfig(**lengths, context_steps=33)).prepare(tiny.series())
    config = TTMConfig(**lengths, context_dropping=0.5)
    with pytest.raises(ConfigError, match=r"context_dropping=0\.5 needs the shortest history"):
        TTMForecaster(config).prepare(tiny.series())
