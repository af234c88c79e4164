"""QLoRA on the CPU: an 8-bit or 4-bit base trains, saves, reloads and predicts the same."""

from __future__ import annotations

import re

import bitsandbytes as bnb
import pytest
from torch import nn

from tstune.models.ttm import TTMForecaster


@pytest.mark.parametrize(("kind", "layer"), [("int8", bnb.nn.Linear8bitLt), ("nf4", bnb.nn.Linear4bit)])
def test_quantised_base_trains_saves_and_reloads(kind, layer, forecaster, wide_checkpoint, csv, tmp_path):
    model = forecaster(
        wide_checkpoint,
        model={"quantization": kind},
        tuning={"mode": "lora"},
        training={"max_steps": 20, "eval_every_steps": 10},
    )
    results = model.fit(output_dir=tmp_path / "run")
    history = results["training"].history
    validation = [row["validation_loss"] for row in history if "validation_loss" in row]
    assert results["training"].best_step > 0
    assert validation[-1] < validation[0]
    packed = [module for module in model.network.modules() if isinstance(module, layer)]
    report = model.quantization_report
    assert report.num_layers > 0
    assert len({id(module.weight) for module in packed}) == report.num_layers
    assert report.bytes_after < report.bytes_before
    assert model.get_model_info()["trainable"] > 0
    reloaded = TTMForecaster.load(tmp_path / "run")
    assert reloaded.predict(csv)["load"].tolist() == model.predict(csv)["load"].tolist()


def test_narrow_layers_stay_in_full_precision_and_the_report_says_what_it_is_worth(forecaster, wide_checkpoint):
    model = forecaster(wide_checkpoint, model={"quantization": "nf4"}, tuning={"mode": "zero_shot"})
    model.build(model.prepare().preprocessor)
    plain = [module for module in model.network.modules() if type(module) is nn.Linear]
    assert len(plain) == model.quantization_report.num_kept > 0
    assert all(module.in_features % 64 for module in plain)
    assert re.search("MB of weights are .* is little beside", str(model.quantization_report))
