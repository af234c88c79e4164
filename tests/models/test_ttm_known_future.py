"""Static categories and numbers, features of the time and plans: learned where they matter, saved and forecast with."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from tstune import TTMConfig, TTMForecaster
from tstune.data.scaler import UNKNOWN
from tstune.errors import ConfigError

CONTEXT, PREDICTION, BLOCK = 16, 8, 30
ITEMS = {"a": ("up", 1.0), "b": ("down", -1.0), "c": ("up", 1.0), "d": ("down", -1.0)}
FIXED = {
    "pretrained": None, "context_length": CONTEXT, "prediction_length": PREDICTION, "patch_length": 4, "d_model": 16,
    "num_layers": 1, "adaptive_patching_levels": 0, "decoder_num_layers": 2, "decoder_d_model": 16, "dropout": 0.0,
    "head_dropout": 0.0, "split_borders": [40 * BLOCK, 45 * BLOCK, 60 * BLOCK], "item_id_column": "item_id",
    "target_columns": ["y"], "train_stride": BLOCK, "validation_stride": BLOCK, "test_stride": BLOCK, "num_epochs": 16,
    "per_device_batch_size": 32, "learning_rate": 2e-2, "eval_every_steps": 40, "baselines": [], "num_plots": 0,
    "seed": 1,
}  # fmt: skip

KINDS = {
    "category": {"static_categorical_columns": ["kind"]},
    "number": {"static_real_columns": ["slope"]},
    "hour": {"time_features": ["hour_of_day"]},
    "plan": {"control_columns": ["plan"]},
}


def toy(by: str, num_blocks: int = 60) -> pd.DataFrame:
    """Blocks of 16 steps of noise, then 8 steps that only `by` foretells, then noise; a window sees the noise."""
    random, tables = np.random.default_rng(0), []
    for item, (kind, slope) in ITEMS.items():
        stamps = pd.date_range("2024-01-01", periods=num_blocks * BLOCK, freq="h")
        plan = np.repeat(random.choice([-1.0, 1.0], num_blocks), BLOCK)
        told = {"category": slope, "number": slope, "plan": plan, "hour": np.cos(2 * np.pi * stamps.hour / 24) * 1.4}
        forecast = (np.arange(len(stamps)) % BLOCK >= CONTEXT) & (np.arange(len(stamps)) % BLOCK < CONTEXT + PREDICTION)
        values = random.normal(0, 1, len(stamps)) + np.where(forecast, 3 * told[by], 0)
        table = pd.DataFrame({"timestamp": stamps, "y": values, "plan": plan, "kind": kind, "slope": slope})
        tables.append(table.assign(item_id=item))
    return pd.concat(tables, ignore_index=True)


@pytest.mark.parametrize("by", ["category", "number", "hour", pytest.param("plan", marks=pytest.mark.slow)])
def test_what_foretells_the_target_is_learned(by: str):
    frame = toy(by)
    told, blind = (
        TTMForecaster(TTMConfig(**FIXED | options)).fit(frame)["metrics"]["fine_tuned"]["rmse"]
        for options in (KINDS[by], {"num_epochs": 4})
    )
    assert blind > 2.5, "noise says nothing"
    assert told < 0.6 * blind


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[TTMForecaster, Path]:
    """On everything that predict finds out by itself."""
    options = (
        KINDS["category"] | KINDS["number"] | KINDS["hour"] | {"num_epochs": 3, "eval_every_steps": 5, "min_context": 6}
    )
    model, folder = TTMForecaster(TTMConfig(**FIXED | options)), tmp_path_factory.mktemp("run") / "model"
    model.fit(toy("category", 60), output_dir=folder)
    return model, folder


def history(item: str = "a", steps: int = 40, **changes: object) -> pd.DataFrame:
    frame = toy("category")
    return frame[frame["item_id"] == item].head(steps).assign(**changes)


def test_saved_and_loaded(trained: tuple[TTMForecaster, Path]):
    model, folder = trained
    loaded = TTMForecaster.load(folder)
    assert loaded.preprocessor.to_dict() == model.preprocessor.to_dict()
    frame = pd.concat([history(), history("b", 35)])
    forecast = loaded.predict(frame)
    pd.testing.assert_frame_equal(forecast, model.predict(frame), check_exact=True)
    assert len(forecast) == 16
    assert np.isfinite(forecast["y"]).all()


@pytest.mark.parametrize(
    "change",
    [
        lambda frame: frame.assign(kind="down"),
        lambda frame: frame.assign(slope=-1.0),
        lambda frame: frame.assign(timestamp=frame["timestamp"] + pd.Timedelta("6h")),
    ],
    ids=["category", "number", "hour"],
)
def test_each_of_them_matters(change: Callable[[pd.DataFrame], pd.DataFrame], trained: tuple[TTMForecaster, Path]):
    model, _ = trained
    forecast, other = model.predict(history())["y"], model.predict(change(history()))["y"]
    assert not np.allclose(forecast, other, atol=1e-3)


def test_a_category_that_training_never_saw(trained: tuple[TTMForecaster, Path]):
    """It is the mean of those that it saw, whatever its name."""
    model, _ = trained
    (layer,) = model.network.decoder.decoder_cat_embedding_layer.embedding_layers
    torch.testing.assert_close(layer.weight[UNKNOWN], layer.weight[1:].mean(dim=0))
    assert not torch.equal(layer.weight[1], layer.weight[2])
    new, missing = (model.predict(history(kind=kind)) for kind in ("sideways", None))
    pd.testing.assert_frame_equal(new, missing, check_exact=True)
    assert not np.allclose(new["y"], model.predict(history())["y"], atol=1e-4)


def test_a_short_history_is_padded(trained: tuple[TTMForecaster, Path]):
    """Six steps forecast the same as sixteen of which the first ten are masked."""
    model, _ = trained
    short = model.predict(history().tail(6))
    batch = model.prepare(toy("category")).train.__getitems__([0])
    batch["past_values"], batch["past_observed_mask"] = torch.zeros(1, 16, 4), torch.zeros(1, 16, 4, dtype=torch.bool)
    panel = model.preprocessor.panel_of(model.preprocessor.read_frame(history(), "history"))
    batch["past_values"][0, 10:] = torch.from_numpy(panel.values[-6:])
    batch["past_observed_mask"][0, 10:] = True
    after = pd.date_range(history()["timestamp"].iloc[-1], periods=9, freq="h")[1:]
    angle = torch.from_numpy((2 * np.pi * after.hour / 24).to_numpy(np.float32))
    batch["future_values"] = torch.stack([torch.full((8,), 1e6), torch.ones(8), angle.sin(), angle.cos()], dim=-1)[None]
    batch["static"] = torch.tensor([[2]])
    with torch.inference_mode():
        np.testing.assert_allclose(short["y"], model.forecast(batch)[0, :, 0], atol=1e-5)


@pytest.mark.parametrize("mode", ["decoder", "head"])
def test_stored_features_change_nothing_with_categories(mode: str, trained: tuple[TTMForecaster, Path]):
    """Without known-future channels the frozen half runs once; with the decoder frozen it knows the category."""
    options = KINDS["category"] | {"num_epochs": 2, "tuning_mode": mode, "context_dropping": 0.5, "min_context": 6}
    losses = [
        TTMForecaster(TTMConfig(**FIXED | options, cache_frozen_features=cache)).fit(toy("category"))["training"]
        for cache in ("on", "off")
    ]
    assert losses[0].best_validation_loss == pytest.approx(losses[1].best_validation_loss, rel=1e-4)


def test_a_decoder_that_cannot_mix():
    config = TTMConfig(**FIXED, **KINDS["category"], decoder_mode="common_channel")
    with pytest.raises(ConfigError, match=r"cannot read 'kind' of data\.static_categorical_columns"):
        TTMForecaster(config).fit(toy("category"))
