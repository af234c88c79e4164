"""Every tuning mode trains exactly the parameters it should, counted on the architecture of TTM-r2."""

from __future__ import annotations

import pytest

from tstune.config.schema import RunConfig
from tstune.data.prepared import prepare_data
from tstune.errors import ConfigError
from tstune.models.adapters import LoRAManager, add_lora_adapters, find_targets
from tstune.models.ttm import TTMForecaster, TTMSection

TOTAL = 805_280
# mode -> (all parameters, trainable ones); adapters add parameters
COUNTS = {
    "zero_shot": (TOTAL, 0),
    "head": (TOTAL, 98_400),
    "decoder": (TOTAL, 289_696),
    "bias": (TOTAL, 6_496),
    "lora": (TOTAL + 75_520, 75_520),
    "dora": (TOTAL + 79_840, 79_840),
    "full": (TOTAL, TOTAL),
    "from_scratch": (TOTAL, TOTAL),
}


@pytest.fixture(scope="module")
def r2(r2_checkpoint):
    """A built model in the architecture of TTM-r2, by its tuning mode."""
    preprocessor = prepare_data(RunConfig().data, 512, 96).preprocessor

    def r2(mode):
        model = TTMForecaster(
            RunConfig(
                model=TTMSection(pretrained=str(r2_checkpoint), context_length=512, prediction_length=96),
                tuning={"mode": mode},
            )
        )
        model.build(preprocessor)
        return model

    return r2


@pytest.mark.parametrize("mode", COUNTS)
def test_mode_trains_exactly_these_parameters(mode, r2):
    model = r2(mode)
    info = model.get_model_info()
    assert (info["total"], info["trainable"]) == COUNTS[mode]
    assert info["total"] == sum(value.numel() for value in model.network.parameters()), "nothing counts twice"
    assert info["percentage"] == pytest.approx(100 * COUNTS[mode][1] / COUNTS[mode][0], abs=1e-3)


@pytest.mark.parametrize(
    ("targets", "cap_rank", "trainable"),
    [
        (["fc1", "fc2"], False, 50_688),
        (["fc1", "fc2", "attn_layer"], False, 67_584),
        ("auto", False, 76_544),
        ("auto", True, 75_520),
    ],
)
def test_lora_at_rank_8_has_the_published_counts(targets, cap_rank, trainable, r2):
    model = r2("full")
    adapted = add_lora_adapters(model.network, rank=8, target_modules=targets, cap_rank=cap_rank)
    counted = LoRAManager().get_lora_params_count(adapted)
    assert counted["trainable_parameters"] == trainable
    assert counted["total_parameters"] == TOTAL + trainable


def test_bias_mode_trains_biases_only(r2):
    model = r2("bias")
    learning = [name for name, value in model.network.named_parameters() if value.requires_grad]
    assert learning == [name for name, _ in model.network.named_parameters() if name.endswith(".bias")]
    assert len(learning) == 67


def test_targets_that_do_not_exist_are_an_error_that_lists_the_layers(forecaster):
    model = forecaster(tuning={"mode": "lora"}, lora={"target_modules": ["q_proj", "v_proj", "mixer"]})
    with pytest.raises(ConfigError) as error:
        model.build(model.prepare().preprocessor)
    message = str(error.value)
    for word in ("q_proj, v_proj, mixer", "fc1", "fc2", "attn_layer", "patcher", "base_forecast_block", "auto"):
        assert word in message


def test_auto_targets_exist_and_an_unknown_family_is_an_error(forecaster):
    model = forecaster(tuning={"mode": "full"})
    model.build(model.prepare().preprocessor)
    endings = {name.rpartition(".")[2] for name in find_targets(model.network, "auto", "ttm")}
    assert endings == set(TTMForecaster.lora_targets)
    with pytest.raises(ConfigError, match="not a_new_family"):
        find_targets(model.network, "auto", "a_new_family")


def test_layer_ranks_are_capped_at_half_the_smaller_side(r2):
    model = r2("lora")
    ranks = {
        name: (layer.r["default"], min(layer.base_layer.in_features, layer.base_layer.out_features))
        for name, layer in model.network.named_modules()
        if hasattr(layer, "lora_A") and hasattr(layer, "base_layer")
    }
    assert len(ranks) == 49  # 16 fc1, 16 fc2, 16 attn_layer, 1 head
    assert all(rank == max(1, min(8, side // 2)) for rank, side in ranks.values())
    assert {rank for rank, _ in ranks.values()} == {4, 8}


def test_modes_resolve_and_contradictions_stop():
    assert RunConfig().tuning.mode == "from_scratch"
    assert RunConfig(model={"pretrained": "x"}).tuning.mode == "full"
    assert RunConfig(model={"pretrained": "x"}, lora={"enabled": True}).tuning.mode == "lora"
    assert RunConfig(model={"pretrained": "x"}, lora={"enabled": True, "use_dora": True}).tuning.mode == "dora"
    assert RunConfig(model={"pretrained": "x"}, tuning={"mode": "dora"}).lora.use_dora is True
    with pytest.raises(ValueError, match=r"lora\.enabled=true but tuning\.mode=decoder"):
        RunConfig(model={"pretrained": "x"}, lora={"enabled": True}, tuning={"mode": "decoder"})
    with pytest.raises(ValueError, match=r"model\.quantization=nf4 freezes the base"):
        RunConfig(model={"pretrained": "x", "quantization": "nf4"}, tuning={"mode": "full"})
