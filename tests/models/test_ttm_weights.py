"""Which parameters there are, which are fresh, which stay as they were and which learn."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from building import built, plain
from safetensors import safe_open
from safetensors.torch import load_file
from support import tiny

from tstune.errors import ConfigError
from tstune.models.ttm import SCRATCH_DEFAULTS, TTMSection

# TTM-r2 512-96: backbone, decoder and head
BACKBONE, DECODER, HEAD_SIZE = 515_584, 191_296, 98_400
TTM_R2 = {"context_length": 512, "prediction_length": 96} | dict.fromkeys(SCRATCH_DEFAULTS)


def part_sizes(model) -> dict[str, int]:
    sizes = {"backbone": 0, "decoder": 0, "head": 0}
    for name, parameter in model.module.named_parameters():
        (part,) = set(sizes) & set(name.split("."))
        sizes[part] += parameter.numel()
    return sizes


def test_from_scratch_is_ttm_r2_by_default(make) -> None:
    model = built(make(None, model=TTM_R2, tuning={"mode": "from_scratch"}))
    info = model.get_model_info()
    assert (info["total"], info["trainable"]) == (805_280, 805_280)
    assert part_sizes(model) == {"backbone": BACKBONE, "decoder": DECODER, "head": HEAD_SIZE}


def test_a_context_as_long_as_a_patch_is_cut_in_several(make) -> None:
    sizes = dict.fromkeys(SCRATCH_DEFAULTS) | {"context_length": 64}
    config = built(make(None, model=sizes)).network.config
    assert (config.patch_length, config.num_patches) == (16, 4)
    with pytest.raises(ConfigError, match=r"=64 is not several times model\.patch_length=64; leave"):
        built(make(None, model=sizes | {"patch_length": 64}))


def test_architecture_of_the_real_weights(make, shared: Path) -> None:
    model = built(make(None, model=TTM_R2, tuning={"mode": "from_scratch"}))
    ours = {name.removeprefix("network."): list(tensor.shape) for name, tensor in model.module.state_dict().items()}
    with safe_open(shared / "weights" / "ttm-r2-512-96" / "model.safetensors", "pt") as real:
        theirs = {name: real.get_slice(name).get_shape() for name in real.keys()}  # noqa: SIM118
    mixers = {name for name in theirs if ".channel_feature_mixer." in name}
    assert ours == {name: shape for name, shape in theirs.items() if name not in mixers}
    assert len(mixers) == 16, "that checkpoint mixes 31 channels in its two decoder layers"


def test_every_architecture_key_reaches_the_network(make) -> None:
    other = {
        "patch_length": 4,
        "d_model": 32,
        "num_layers": 2,
        "expansion_factor": 3,
        "adaptive_patching_levels": 0,
        "gated_attn": False,
        "self_attn": True,
        "use_positional_encoding": True,
        "decoder_num_layers": 2,
        "decoder_d_model": 8,
        "dropout": 0.25,
        "head_dropout": 0.35,
    }
    assert set(other) == set(SCRATCH_DEFAULTS) <= set(TTMSection.model_fields)
    config = built(make(None, model=other)).network.config
    assert {name: getattr(config, name) for name in other} == other
    assert (config.context_length, config.prediction_length, config.patch_stride) == (32, 8, 4)


def test_dropout_of_a_checkpoint(make) -> None:
    kept = built(make()).network.config
    assert (kept.dropout, kept.head_dropout) == (0.1, 0.1)
    changed = built(make(model={"head_dropout": 0.7})).network.config
    assert (changed.dropout, changed.head_dropout) == (0.1, 0.7)


HEAD = {"head.base_forecast_block.bias", "head.base_forecast_block.weight"}
MIXER = "decoder.decoder_block.mixers.0.channel_feature_mixer"
CHANNEL_MIXER = {
    f"{MIXER}.{layer}.{kind}"
    for layer in ("gating_block.attn_layer", "mlp.fc1", "mlp.fc2", "norm.norm")
    for kind in ("weight", "bias")
}


def test_longer_forecast(make, heard: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    model = make(model={"prediction_length": 12})
    results = model.fit(output_dir=tmp_path / "run")
    assert plain(results["parameters"]["fresh_tensors"]) == HEAD
    assert f"{len(HEAD)} tensors are not in the checkpoint and start random" in heard.messages
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


def test_inputs_do_not_take_the_untuned_model_off_the_scoreboard(make, heard: pytest.LogCaptureFixture) -> None:
    results = make(data={"conditional_columns": ["dose"]}).fit()
    alone = make().fit()
    assert list(results["metrics"]) == ["zero_shot", "fine_tuned", "average"]
    assert results["metrics"]["zero_shot"] == alone["metrics"]["zero_shot"], "it reads the target alone"
    assert results["verdict"].against("zero_shot") is not None
    assert f"{len(CHANNEL_MIXER)} tensors are not in the checkpoint and start random (for dose)" in heard.messages
    assert "zero_shot forecasts load without dose" in heard.messages


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


SETTINGS = {"model": {"dropout": 0.5, "head_dropout": 0.5}, "training": {"max_steps": 4}}


def part_of(name: str) -> str:
    (part,) = {"backbone", "decoder", "head"} & set(name.split("."))
    return part


def changed_parts(before: dict, after: dict) -> dict[str, int]:
    """Part -> tensors that are not bit for bit the same."""
    assert before.keys() == after.keys()
    changes = dict.fromkeys(("backbone", "decoder", "head"), 0)
    for name in before:
        changes[part_of(name)] += not torch.equal(before[name], after[name])
    return changes


@pytest.mark.parametrize("mode", ["decoder", "full", "zero_shot"])
def test_what_changes(mode: str, make, stock: Path, tmp_path: Path) -> None:
    untouched = tiny.snapshot(stock)
    make(tuning={"mode": mode}, **SETTINGS).fit(output_dir=tmp_path / "run")
    assert tiny.snapshot(stock) == untouched, "fit leaves the original checkpoint and the data alone"
    before = load_file(stock / "checkpoint" / "model.safetensors")
    changes = changed_parts(before, load_file(tmp_path / "run" / "model" / "model.safetensors"))
    assert changes["backbone"] == (34 if mode == "full" else 0)
    assert (changes["decoder"], changes["head"]) == ((0, 0) if mode == "zero_shot" else (18, 2))


@pytest.mark.parametrize("mode", ["decoder", "full"])
def test_dropout_is_off_where_nothing_learns(mode: str, make) -> None:
    flags: dict[int, set[bool]] = {}

    def note(module: torch.nn.Module, _: tuple) -> None:
        if torch.is_grad_enabled() and not torch.is_inference_mode_enabled():
            flags.setdefault(id(module), set()).add(module.training)

    model = make(tuning={"mode": mode}, **SETTINGS)
    hook = torch.nn.modules.module.register_module_forward_pre_hook(note)
    try:
        model.fit()
    finally:
        hook.remove()
    seen: dict[str, set[bool]] = {"backbone": set(), "decoder": set(), "head": set()}
    for name, module in model.module.named_modules():
        parts = seen.keys() & set(name.split("."))
        if parts and any(True for _ in module.parameters()):
            seen[parts.pop()] |= flags.get(id(module), set())
    assert seen["decoder"] == seen["head"] == {True}
    if mode == "full":
        assert seen["backbone"] == {True}
    else:
        assert seen["backbone"] <= {False}, "in eval mode, or its stored features were used"


def test_the_model_ends_in_eval_mode(make) -> None:
    model = make(**SETTINGS)
    model.fit()
    assert not any(module.training for module in model.module.modules())


def test_the_best_weights_are_kept(make, tmp_path: Path, stock: Path) -> None:
    """A learning rate that only harms: the weights training started from are the best and come back."""
    model = make(training={"learning_rate": 50.0, "max_steps": 4, "eval_every_steps": 1, "scheduler": "constant"})
    result = model.fit(output_dir=tmp_path / "run")["training"]
    losses = {row["step"]: row["validation_loss"] for row in result.history if "validation_loss" in row}
    assert list(losses) == [0, 1, 2, 3, 4]
    assert result.best_step == min(losses, key=losses.get) == 0
    before = load_file(stock / "checkpoint" / "model.safetensors")
    after = load_file(tmp_path / "run" / "model" / "model.safetensors")
    assert changed_parts(before, after) == {"backbone": 0, "decoder": 0, "head": 0}


def test_early_stopping_counts_validations(make) -> None:
    training = {"learning_rate": 50.0, "max_steps": 12, "eval_every_steps": 1, "early_stopping_patience": 2}
    result = make(training=training | {"scheduler": "constant"}).fit()["training"]
    assert result.stopped_early
    assert (result.best_step, result.num_steps) == (0, 2)
