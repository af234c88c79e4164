"""The quantile head: what it adds, where it starts, that it learns, and that runs with it go on and come back."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from planted_errors import LEVELS
from safetensors.torch import load_file
from support import tiny

from tstune.errors import ConfigError
from tstune.models.ttm import TTMForecaster
from tstune.training.losses import quantile_window_losses, window_losses

QUANTILES = list(LEVELS)

# Convolution of 3 and bias, norm 2, 1 -> 8 and bias, decoder width 4 -> 8 and bias, 8 -> 7 levels and bias.
NEW = 4 + 2 + 16 + 40 + 63
TOTAL = 2_796 + NEW


def built(model: TTMForecaster) -> tuple[TTMForecaster, object]:
    data = model.prepare()
    torch.manual_seed(0)
    model.build(data.preprocessor)
    return model, data


def losses_of(folder) -> list[float]:
    rows = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
    return [row["validation_loss"] for row in rows if "validation_loss" in row]


@pytest.mark.parametrize(
    ("mode", "trainable"), [("head", 136 + NEW), ("decoder", 412 + NEW), ("full", TOTAL), ("from_scratch", TOTAL)]
)
def test_parameters(mode, trainable, make):
    model, _ = built(make(tuning={"mode": mode}))
    info = model.get_model_info()
    assert (info["total"], info["trainable"]) == (TOTAL, trainable)
    if mode != "from_scratch":
        assert {name.split(".")[0] for name in info["fresh_tensors"]} == {"multi_quantile_head_block"}


def test_a_new_head_starts_at_the_pretrained_forecast(make, desk):
    model, data = built(make())
    plain, _ = built(make(forecast={"quantiles": [], "method": "split_conformal"}))
    batch = data.test.__getitems__(range(20))
    assert torch.allclose(model.forecast(batch), plain.forecast(batch), atol=1e-5)
    assert model.starts_from_weights()
    quantiles = model.native_quantiles(batch)
    assert quantiles.shape == (20, tiny.PREDICTION, 1, 7)
    assert torch.equal(quantiles[..., 3], model.forecast(batch))
    half = (quantiles[..., 5] - quantiles[..., 3]).flatten(1)
    spread = batch["past_values"][..., 0].std(dim=1, correction=0)
    assert torch.allclose(half, 1.2816 * spread[:, None].expand_as(half), rtol=1e-3), "0.9 of a normal distribution"
    assert (quantiles.diff(dim=-1) > 0).all()


def test_pinball_loss_by_hand():
    quantiles = torch.tensor([[[[1.0, 4.0]], [[2.0, 2.0]]]])  # [1 window, 2 steps, 1 target, 2 levels]
    target = torch.tensor([[[3.0], [torch.nan]]])
    observed = torch.tensor([[[True], [False]]])
    total, count = quantile_window_losses(quantiles.requires_grad_(), target, observed, [0.1, 0.9])
    assert total.tolist() == [pytest.approx(0.1 * 2 + 0.1 * 1)]  # twice the mean over two levels
    assert count.tolist() == [1]
    (gradient,) = torch.autograd.grad(total.sum(), quantiles)
    assert gradient[0, :, 0].tolist() == [[pytest.approx(-0.1), pytest.approx(0.1)], [0, 0]]
    median, _ = quantile_window_losses(quantiles[..., :1], target, observed, [0.5])
    assert median == window_losses(quantiles[..., 0], target, observed, "mae")[0]


def test_pinball_falls(head_run):
    history = losses_of(head_run)
    assert len(history) == 3
    assert history[2] < 0.6 * history[0]


def test_granite_reads_the_saved_network(head_run, make):
    from tsfm_public import TinyTimeMixerForPrediction

    ours = TTMForecaster.load(head_run)
    theirs = TinyTimeMixerForPrediction.from_pretrained(head_run / "model").eval()
    batch = make().prepare().test.__getitems__(range(8))
    mean, std = ours.module.mean[0], ours.module.std[0]
    with torch.no_grad():
        output = theirs((batch["past_values"] - mean) / std).quantile_outputs
        quantiles = ours.native_quantiles(batch)
    assert theirs.config.quantile_levels == QUANTILES
    assert torch.allclose(output.permute(0, 2, 3, 1) * std + mean, quantiles, atol=1e-4)


def test_stored_features_change_nothing(make):
    histories = []
    for cache in ("on", "off"):
        result = make(training={"cache_frozen_features": cache, "num_epochs": 3}).fit()
        histories.append([row for row in result["training"].history if "train_loss" in row])
    assert [row["train_loss"] for row in histories[0]] == pytest.approx(
        [row["train_loss"] for row in histories[1]], abs=1e-6
    )


def test_a_run_goes_on_bit_by_bit(make, head_run, tmp_path):
    settings = json.loads((head_run / "checkpoints" / "step-00000020" / "run.json").read_text())
    assert settings["forecast.quantiles"] == QUANTILES
    training = {"max_steps": 40, "eval_every_steps": 20, "checkpoint_every_steps": 20, "learning_rate": 0.02}
    checkpoint = head_run / "checkpoints" / "step-00000020"
    result = make(training=training).fit(output_dir=tmp_path / "on", resume_from_checkpoint=checkpoint)
    assert result["training"].resumed_from == 20
    one, other = (load_file(folder / "model/model.safetensors") for folder in (head_run, tmp_path / "on"))
    assert all(torch.equal(one[name], other[name]) for name in one)
    with pytest.raises(ValueError, match=r"forecast\.quantiles"):
        make(training=training, forecast={"quantiles": [0.1, 0.5, 0.9]}).fit(
            output_dir=tmp_path / "other", resume_from_checkpoint=checkpoint
        )


def test_a_tuned_head_is_tuned_further(make, head_run):
    model, _ = built(make(head_run / "model", tuning={"mode": "head"}))
    info = model.get_model_info()
    assert info["fresh_tensors"] == []
    assert info["trainable"] == 136 + NEW
    zero_shot, data = built(make(head_run / "model", tuning={"mode": "zero_shot"}))
    batch = data.test.__getitems__(range(5))
    with torch.inference_mode():
        assert torch.equal(zero_shot.native_quantiles(batch), TTMForecaster.load(head_run).native_quantiles(batch))


def test_lora_trains_the_new_head_in_full(make, tmp_path):
    model = make(tuning={"mode": "lora"}, lora={"rank": 2}, training={"max_steps": 4})
    result = model.fit(output_dir=tmp_path / "lora")
    assert result["parameters"]["trainable"] > NEW
    loaded = TTMForecaster.load(tmp_path / "lora")
    batch = model.prepare().test.__getitems__(range(4))
    with torch.inference_mode():
        assert torch.allclose(loaded.native_quantiles(batch), model.native_quantiles(batch), atol=1e-5)
    assert any("multi_quantile_head_block" in name for name in model.adapter.state)


def test_covariates_and_several_targets(make):
    columns = {"target_columns": ["load", "dose"], "conditional_columns": ["plan"]}
    model, data = built(make(data=columns))
    batch = data.test.__getitems__(range(6))
    quantiles = model.native_quantiles(batch)
    assert quantiles.shape == (6, tiny.PREDICTION, 2, 7)
    assert torch.equal(model.forecast(batch), quantiles[..., 3])
    totals, counts = model.window_losses(model.module, batch)
    assert torch.isfinite(totals).all()
    assert counts.tolist() == [2 * tiny.PREDICTION] * 6


@pytest.mark.parametrize(
    ("sections", "complaint"),
    [
        ({"forecast": {"quantiles": [0.1, 0.9]}}, "needs 0.5 in the middle of forecast.quantiles"),
        ({"forecast": {"quantiles": [0.1, 0.2, 0.5]}}, "needs 0.5 in the middle"),
        ({"tuning": {"per_item": True}}, "tuning.per_item=true"),
        ({"model": {"prediction_length": 1}, "evaluation": {"horizons": []}}, "prediction_length of 2 or more"),
        ({"forecast": {"quantiles": [0.5, 0.1, 0.9]}}, "must grow"),
        ({"forecast": {"quantiles": [0.5, 1.0]}}, "less than 1"),
        ({"forecast": {"method": "crystal_ball"}}, "forecast.method"),
    ],
)
def test_what_the_head_cannot_do_is_refused(sections, complaint, make):
    with pytest.raises(ConfigError, match=complaint):
        make(**sections)


def test_zero_shot_needs_a_head_in_the_checkpoint(make):
    with pytest.raises(ConfigError, match="would be random: multi_quantile_head_block"):
        built(make(tuning={"mode": "zero_shot"}))


def test_levels_of_a_run_without_quantiles(make):
    model, data = built(make(forecast={"quantiles": [], "method": "quantile_head"}))
    assert (model.native_levels, model.quantile_levels) == ((), ())
    with pytest.raises(ConfigError, match="points only"):
        model.forecast_quantiles(data.test.__getitems__([0]))
    assert np.array_equal(built(make())[0].quantile_levels, QUANTILES)
