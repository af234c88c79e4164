"""What the design document of the base framework (000) prints, run as it is printed."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from support import tiny

import tstune
from tstune import (
    BaseTimeSeriesFoundationModel,
    DistributedConfig,
    DistributedManager,
    GPUManager,
    HydraConfigManager,
    LoRAConfig,
    LoRATrainer,
    ModelConfig,
    RunConfig,
    SimpleConfigManager,
    TstuneError,
    TTMConfig,
    TTMForecaster,
)

PRINTED_YAML = """\
# configs/models/ttm/fine_tune.yaml
model_type: ttm
model_path: "ibm-granite/granite-timeseries-ttm-r2"

architecture:
  context_length: 512
  forecast_length: 96
  freeze_backbone: false

training:
  learning_rate: 1e-4
  batch_size: 64
  num_epochs: 10
  early_stopping_patience: 5
  fp16: true

lora:
  enabled: true
  rank: 16
  alpha: 32
  target_modules: ["q_proj", "v_proj", "mixer"]

distributed:
  enabled: false
  strategy: "ddp"
"""


def printed_configs() -> tuple[TTMConfig, LoRAConfig, DistributedConfig]:
    """Lines 33 to 55."""
    config = TTMConfig(
        model_path="ibm-granite/granite-timeseries-ttm-r2",
        context_length=512,
        forecast_length=96,
        batch_size=64,
        learning_rate=1e-4,
        early_stopping_patience=10,
        gradient_clip_val=1.0,
        fp16=True,
    )
    lora_config = LoRAConfig(enabled=True, rank=16, alpha=32, target_modules=["q_proj", "v_proj", "mixer"])
    distributed_config = DistributedConfig(enabled=True, strategy="ddp", world_size=4)
    return config, lora_config, distributed_config


# The components


@pytest.mark.printed("000", 11, "`BaseTimeSeriesFoundationModel`")
@pytest.mark.printed("000", 12, "`ModelConfig`")
@pytest.mark.printed("000", 13, "`DistributedManager`")
@pytest.mark.printed("000", 14, "`LoRATrainer`")
@pytest.mark.printed("000", 15, "`GPUManager`")
def test_the_components_are_public():
    assert issubclass(TTMForecaster, BaseTimeSeriesFoundationModel)
    assert len(ModelConfig().to_dict()) >= 30
    manager = DistributedManager()
    assert (manager.num_processes, manager.strategy) == (1, "none")
    assert GPUManager(manager.device).report()["free_memory_mib"] > 0
    assert LoRATrainer is tstune.LoRAManager


# The configuration


@pytest.mark.printed("000", 33, "config = TTMConfig(")
@pytest.mark.printed("000", 44, "lora_config = LoRAConfig(")
@pytest.mark.printed("000", 51, "distributed_config = DistributedConfig(")
@pytest.mark.printed("000", 57, "model = TTMForecaster(config, lora_config, distributed_config)")
def test_the_printed_configuration_is_that_of_the_model():
    config, lora_config, distributed_config = printed_configs()
    model = TTMForecaster(config, lora_config, distributed_config)
    assert (model.config.lora, model.config.distributed) == (lora_config, distributed_config)
    assert model.config.tuning.mode == "lora"
    for name in ("model_path", "context_length", "forecast_length", "batch_size", "gradient_clip_val", "fp16"):
        assert getattr(model.config, name) == getattr(config, name)
    assert model.config.freeze_backbone is False


def test_a_run_configuration_answers_flat_names():
    config = RunConfig(data={"source": "ett"}, lora={"enabled": True, "rank": 4})
    assert (config.data_source, config.lora_rank, config.tuning_mode, config.seed) == ("ett", 4, "lora", 42)
    assert config.distributed == DistributedConfig(), "a section, not the keyword"
    with pytest.raises(AttributeError, match="RunConfig has no key 'lora_rnk'"):
        _ = config.lora_rnk


def test_more_processes_than_run_are_refused_unless_distributed_is_off():
    with pytest.raises(TstuneError, match=r"distributed\.world_size=4 but 1 process"):
        DistributedManager(printed_configs()[2])
    off = DistributedManager(DistributedConfig(enabled=False, strategy="ddp", world_size=4))
    assert (off.num_processes, off.strategy) == (1, "none")


@pytest.mark.printed("000", 163, "# configs/models/ttm/fine_tune.yaml")
@pytest.mark.printed("000", 164, "model_type: ttm")
@pytest.mark.printed("000", 165, 'model_path: "ibm-granite/granite-timeseries-ttm-r2"')
@pytest.mark.printed("000", 167, "architecture:")
@pytest.mark.printed("000", 172, "training:")
@pytest.mark.printed("000", 179, "lora:")
@pytest.mark.printed("000", 185, "distributed:")
def test_the_printed_yaml_is_a_recipe(tmp_path: Path):
    path = tmp_path / "configs/models/ttm/fine_tune.yaml"
    path.parent.mkdir(parents=True)
    path.write_text(PRINTED_YAML)
    simple, hydra = SimpleConfigManager().load_config(path), HydraConfigManager().load_config(path)
    keywords = {"learning_rate": 1e-4, "num_epochs": 10, "early_stopping_patience": 5, "fp16": True, "batch_size": 64}
    lengths = {"model_path": "ibm-granite/granite-timeseries-ttm-r2", "context_length": 512, "forecast_length": 96}
    lora = {
        "lora_enabled": True,
        "lora_rank": 16,
        "lora_alpha": 32,
        "lora_target_modules": ["q_proj", "v_proj", "mixer"],
    }
    expected = TTMConfig(**keywords, **lengths, **lora, distributed=False, distributed_strategy="ddp").run_config
    assert simple == hydra == expected
    changed = SimpleConfigManager().load_config(path, ["training.per_device_batch_size=8", "lora.rank=2"])
    assert (changed.batch_size, changed.lora_rank) == (8, 2)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"model_pth": "x"}, "unknown keyword 'model_pth', did you mean 'model_path'"),
        ({"architecture": {"contxt_length": 3}}, "unknown keyword 'contxt_length', did you mean 'context_length'"),
        ({"training": {"batch_sizes": 3}}, r"training\.batch_sizes: unknown key"),
        ({"training": {"batch_size": 4, "per_device_batch_size": 8}}, "per_device_batch_size is given twice"),
        ({"architecture": 3}, "unknown keyword 'architecture'"),
    ],
)
def test_a_mistake_in_the_printed_layout_is_one_line(change: dict, words: str, tmp_path: Path):
    path = tmp_path / "fine_tune.yaml"
    path.write_text(yaml.safe_dump(tiny.merged(yaml.safe_load(PRINTED_YAML), change)))
    with pytest.raises(TstuneError, match=words) as error:
        SimpleConfigManager().load_config(path)
    assert "\n" not in str(error.value)
