"""Lengths and channels the checkpoint was not made for: what is random is said exactly."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from building import built, plain
from safetensors.torch import load_file
from support import tiny

HEAD = {"head.base_forecast_block.bias", "head.base_forecast_block.weight"}
MIXER = "decoder.decoder_block.mixers.0.channel_feature_mixer"
CHANNEL_MIXER = {
    f"{MIXER}.{layer}.{kind}"
    for layer in ("gating_block.attn_layer", "mlp.fc1", "mlp.fc2", "norm.norm")
    for kind in ("weight", "bias")
}


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    """Our log lines; they do not propagate to the root logger."""
    logger = logging.getLogger("tstune")
    logger.addHandler(caplog.handler)
    caplog.set_level(logging.INFO, logger="tstune")
    yield caplog
    logger.removeHandler(caplog.handler)


def test_longer_forecast(make, log: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    model = make(model={"prediction_length": 12})
    results = model.fit(output_dir=tmp_path / "run")
    assert plain(results["parameters"]["fresh_tensors"]) == HEAD
    (line,) = [record.getMessage() for record in log.records if "randomly initialised" in record.getMessage()]
    assert plain(line.rsplit(": ", 1)[1].split(", ")) == HEAD
    assert list(results["metrics"]) == ["fine_tuned"], "a random head has no zero-shot score"
    grown = 4 * 4 * (12 - 8) + (12 - 8)  # from 4 patches of width 4 to 12 steps instead of 8, with bias
    assert (results["parameters"]["trainable"], results["parameters"]["total"]) == (412 + grown, 2_796 + grown)
    forecast = type(model).load(tmp_path / "run").predict(tiny.series())
    assert len(forecast) == 2 * 12


def test_shorter_forecast_is_the_beginning_of_the_long_one(make, tmp_path: Path) -> None:
    long, short = built(make()), built(make(model={"prediction_length": 3}))
    assert short.fresh == []
    assert short.network.config.prediction_filter_length == 3
    assert short.get_model_info()["total"] == 2_796
    frame = tiny.series()
    long_forecast = long.predict(frame).groupby("item_id").head(3).reset_index(drop=True)
    short_forecast = short.predict(frame)
    assert short_forecast[["item_id", "timestamp"]].equals(long_forecast[["item_id", "timestamp"]])
    np.testing.assert_allclose(short_forecast["load"], long_forecast["load"], rtol=1e-6)
    short.save(tmp_path / "short")
    again = type(short).load(tmp_path / "short").predict(frame)
    np.testing.assert_allclose(again["load"], short_forecast["load"], rtol=1e-6)


def test_shorter_forecast_trains(make) -> None:
    results = make(model={"prediction_length": 3}, evaluation={"horizons": ["1h"]}).fit()
    assert list(results["metrics"]) == ["zero_shot", "fine_tuned", "average"]
    assert results["training"].num_steps == 6


def test_conditional_column(make) -> None:
    model = built(make(data={"conditional_columns": ["dose"]}))
    assert plain(model.fresh) == CHANNEL_MIXER
    assert model.network.config.decoder_mode == "mix_channel"
    assert model.network.config.prediction_channel_indices == [0]


def test_conditional_column_without_mixing(make) -> None:
    model = built(make(model={"decoder_mode": "common_channel"}, data={"conditional_columns": ["dose"]}))
    assert model.fresh == []
    assert model.get_model_info()["total"] == 2_796


def test_control_column(make) -> None:
    model = built(make(data={"control_columns": ["plan"]}))
    fresh = plain(model.fresh)
    assert fresh >= CHANNEL_MIXER
    assert {name.rsplit(".", 1)[0].split(".")[1] for name in fresh - CHANNEL_MIXER} == {"fcm_block"}
    assert len(fresh) == 46
    assert model.network.config.exogenous_channel_indices == [1]


@pytest.mark.parametrize("mode", ["decoder", "full"])
def test_what_is_fresh_learns(mode: str, make) -> None:
    model = built(make(tuning={"mode": mode}, data={"control_columns": ["plan"], "conditional_columns": ["dose"]}))
    learning = plain(name for name, parameter in model.module.named_parameters() if parameter.requires_grad)
    assert len(model.fresh) == 46
    assert plain(model.fresh) <= learning


def test_what_is_there_is_loaded(make, stock: Path) -> None:
    checkpoint = load_file(stock / "checkpoint" / "model.safetensors")
    model = built(make(model={"prediction_length": 12}, data={"conditional_columns": ["dose"]}))
    state = {name.removeprefix("network."): tensor for name, tensor in model.module.state_dict().items()}
    assert plain(model.fresh) == HEAD | CHANNEL_MIXER
    assert set(state) - plain(model.fresh) == set(checkpoint) - HEAD
    assert all(torch.equal(state[name], checkpoint[name]) for name in set(checkpoint) - HEAD)
    assert model.get_model_info()["fresh_tensors"] == model.fresh
