"""LoRA end to end: train, save, load on the base, merge; the printed call of the design; fresh layers."""

from __future__ import annotations

import peft
import pytest
import torch
from support import tiny
from tsfm_public import TinyTimeMixerForPrediction

from tstune import DistributedConfig, LoRAConfig, TTMConfig, TTMForecaster
from tstune.errors import CheckpointError


@pytest.fixture(scope="module")
def batch():
    torch.manual_seed(3)
    return torch.randn(5, tiny.CONTEXT, 1)


@pytest.mark.parametrize("mode", ["lora", "dora"])
def test_adapter_reloads_on_its_base_and_merging_changes_nothing(mode, forecaster, checkpoint, tmp_path, batch):
    model = forecaster(tuning={"mode": mode}, lora={"rank": 4})
    model.fit(output_dir=tmp_path / "run")
    base = TinyTimeMixerForPrediction.from_pretrained(checkpoint).eval()
    merged = TinyTimeMixerForPrediction.from_pretrained(tmp_path / "run" / "model").eval()
    adapted = peft.PeftModel.from_pretrained(base, tmp_path / "run" / "adapter").eval()
    with torch.no_grad():
        from_adapter = adapted(past_values=batch).prediction_outputs
        from_merged = merged(past_values=batch).prediction_outputs
        with adapted.disable_adapter():
            from_base = adapted(past_values=batch).prediction_outputs
    assert (from_adapter - from_merged).abs().max() <= 1e-5
    assert (from_adapter - from_base).abs().max() > 1e-3  # the adapter did learn


def test_load_adapter_puts_it_on_a_base(forecaster, checkpoint, csv, tmp_path):
    tuned = forecaster(tuning={"mode": "lora"})
    tuned.fit(output_dir=tmp_path / "run")
    base = forecaster(tuning={"mode": "zero_shot"})
    base.build(base.prepare().preprocessor)
    before = base.predict(csv)["load"]
    base.load_adapter(tmp_path / "run" / "adapter")
    after = base.predict(csv)["load"]
    assert (after - TTMForecaster.load(tmp_path / "run").predict(csv)["load"]).abs().max() <= 1e-4
    assert (after - before).abs().max() > 1e-3


def test_damaged_and_foreign_adapters_are_refused(forecaster, wide_checkpoint, tmp_path):
    tuned = forecaster(tuning={"mode": "lora"})
    tuned.fit(output_dir=tmp_path / "run")
    other = forecaster(wide_checkpoint, tuning={"mode": "zero_shot"})
    other.build(other.prepare().preprocessor)
    with pytest.raises(CheckpointError, match="does not fit this base"):
        other.load_adapter(tmp_path / "run" / "adapter")
    weights = tmp_path / "run" / "adapter" / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    base = forecaster(tuning={"mode": "zero_shot"})
    base.build(base.prepare().preprocessor)
    with pytest.raises(CheckpointError, match="damaged"):
        base.load_adapter(tmp_path / "run" / "adapter")
    with pytest.raises(CheckpointError, match="not an adapter folder"):
        base.load_adapter(tmp_path)


def test_the_printed_call_of_the_design(checkpoint, csv, tmp_path):
    config = TTMConfig(
        model_path=str(checkpoint),
        context_length=tiny.CONTEXT,
        forecast_length=tiny.PREDICTION,
        batch_size=16,
        learning_rate=1e-2,
        early_stopping_patience=10,
        gradient_clip_val=1.0,
        fp16=False,
        max_steps=4,
        data_source="csv",
        data_path=str(csv),
        item_id_column="item_id",
        target_columns=["load"],
        baselines=["persistence"],
    )
    lora_config = LoRAConfig(enabled=True, rank=16, alpha=32)
    model = TTMForecaster(config, lora_config, DistributedConfig(enabled=False, strategy="ddp"))
    results = model.fit(train_data="csv", output_dir=tmp_path / "run", resume_from_checkpoint=None)
    assert model.config.tuning.mode == "lora"
    assert results["training"].num_steps == 4
    assert set(results["metrics"]) == {"zero_shot", "fine_tuned", "average", "persistence"}
    assert (tmp_path / "run" / "adapter" / "adapter_config.json").is_file()


def test_the_base_weights_stay_as_they_are(forecaster, checkpoint):
    model = forecaster(tuning={"mode": "lora"})
    data = model.prepare()
    model.build(data.preprocessor)
    original = TinyTimeMixerForPrediction.from_pretrained(checkpoint).state_dict()
    from tstune.runtime.distributed import DistributedManager

    model.config = model.config.model_copy(
        update={"lora": model.config.lora.model_copy(update={"enabled": False})}  # keeps the adapter unmerged
    )
    model.train_on(data, DistributedManager())
    base = {
        name.removeprefix("base_model.model.").replace(".base_layer", ""): value
        for name, value in model.network.state_dict().items()
        if "lora_" not in name
    }
    assert set(base) == set(original)
    assert all(torch.equal(base[name], original[name]) for name in original)


def test_fresh_layers_are_trained_in_full_and_saved_with_the_adapter(forecaster, tmp_path):
    model = forecaster(tuning={"mode": "lora"}, model={"prediction_length": 12})
    model.fit(output_dir=tmp_path / "run")
    assert model.fresh == ["head.base_forecast_block.bias", "head.base_forecast_block.weight"]
    saved = peft.LoraConfig.from_pretrained(str(tmp_path / "run" / "adapter"))
    assert list(saved.modules_to_save) == ["head.base_forecast_block"]
    assert not any("base_forecast_block" in name for name in saved.target_modules)
    reloaded = TTMForecaster.load(tmp_path / "run")
    assert reloaded.network.head.base_forecast_block.out_features == 12


def test_fresh_channel_mixing_layers_join_by_themselves(forecaster):
    model = forecaster(tuning={"mode": "lora"}, data={"conditional_columns": ["dose"], "target_columns": ["load"]})
    model.build(model.prepare().preprocessor)
    mixing = {name.rpartition(".")[0] for name in model.fresh}
    assert mixing
    assert all("channel_feature_mixer" in name for name in mixing)
    assert set(model.network.peft_config["default"].modules_to_save) == mixing
    learning = {name for name, value in model.network.named_parameters() if value.requires_grad}
    for name in mixing:
        assert any(name in other and "modules_to_save" in other for other in learning)
