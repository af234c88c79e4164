"""PatchTST and PatchTSMixer beside transformers: forecasts, losses, files, from scratch, what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from building import Make, four_windows
from safetensors.torch import load_file
from support import tiny, tiny_weights
from transformers import PatchTSMixerForPrediction, PatchTSTForPrediction, PreTrainedModel

from tstune.data.prepared import PreparedData
from tstune.errors import CheckpointError, ConfigError
from tstune.models.base import BaseTimeSeriesFoundationModel as Model
from tstune.models.registry import load_model

Batch = dict[str, torch.Tensor]
LIBRARY = {"patchtst": PatchTSTForPrediction, "patchtsmixer": PatchTSMixerForPrediction}
MASKS = {"patchtst": "past_observed_mask", "patchtsmixer": "observed_mask"}
BODIES = {"patchtst": "model.encoder.layers.0.", "patchtsmixer": "model.encoder.mlp_mixer_encoder.mixers.0."}
TWO = {"target_columns": ["load", "dose"]}
DOSE = {"conditional_columns": ["dose"]}
SMALL = {
    "patchtst": {"patch_length": 8, "d_model": 16, "num_layers": 1, "num_heads": 2, "ffn_dim": 16},
    "patchtsmixer": {"patch_length": 8, "d_model": 16, "num_layers": 1, "expansion_factor": 2},
}
both = pytest.mark.parametrize("name", LIBRARY)


@pytest.fixture
def make(make_any: Make) -> Make:
    """A built model and windows of it; `pretrained` is another checkpoint, `scratch` none."""

    def make(name: str, pretrained: Path | None = None, scratch: bool = False, **sections: object) -> tuple:
        base = {"model": {"pretrained": None} | SMALL[name], "tuning": {"mode": "from_scratch"}} if scratch else {}
        return make_any(name, pretrained, **tiny.merged(base, sections))

    return make


def forecast(model: Model, batch: Batch) -> torch.Tensor:
    with torch.inference_mode():
        return model.forecast(batch)


def scaled(data: PreparedData, values: torch.Tensor) -> torch.Tensor:
    scaler = data.preprocessor.scaler
    return ((values - torch.tensor(scaler.mean)) / torch.tensor(scaler.std)).float()


def by_the_library(network: PreTrainedModel, name: str, data: PreparedData, batch: Batch, **options: object) -> object:
    """The library's own forward pass over windows in scaled units, as its examples prepare them."""
    observed = batch["past_observed_mask"]
    past = scaled(data, batch["past_values"])
    # it reads what is under a mask; its mean is the value that says least
    seen = torch.where(observed, past, torch.nan)
    past = torch.where(observed, past, seen.nanmean(dim=1, keepdim=True))
    with torch.inference_mode():
        return network.eval()(past_values=past, **{MASKS[name]: observed}, **options)


def library_for(folder: Path, name: str, **changes: object) -> PreTrainedModel:
    return LIBRARY[name].from_pretrained(folder, **changes)


# Forecasts


@pytest.mark.parametrize("steps", [5, tiny.PREDICTION])
@pytest.mark.parametrize("gaps", [False, True])
@both
def test_forecasts_are_those_of_the_library(name: str, gaps: bool, steps: int, folder: Path, make: Make) -> None:
    """A shorter forecast is the beginning of the checkpoint's."""
    sections = {"model": {"prediction_length": steps}, "evaluation": {"horizons": ["2h"]}}
    model, data = make(name, **sections, data=TWO)
    batch = four_windows(data, gaps)
    network = library_for(folder / name, name, num_input_channels=2)
    expected = by_the_library(network, name, data, batch).prediction_outputs
    scaler = data.preprocessor.scaler
    expected = expected[:, :steps] * torch.tensor(scaler.std) + torch.tensor(scaler.mean)
    found = forecast(model, batch)
    assert found.shape == (4, steps, 2)
    assert torch.allclose(found, expected.float(), rtol=1e-5, atol=1e-5 * expected.abs().max().item())


@both
def test_without_a_scaler_it_is_the_library_on_the_readings(name: str, folder: Path, make: Make) -> None:
    model, data = make(name, data={"scaling": "none"})
    batch = four_windows(data)
    network = library_for(folder / name, name, num_input_channels=1).eval()
    with torch.inference_mode():
        expected = network(past_values=batch["past_values"]).prediction_outputs
    assert torch.allclose(forecast(model, batch), expected, rtol=1e-5)


@both
def test_small_units_are_not_taken_for_a_flat_line(name: str, folder: Path, make: Make, tmp_path: Path) -> None:
    """The library's smallest deviation, 0.003, is large beside readings of some millionths."""
    table = tiny.series(rows=300)
    table["load"] = table["load"] * 1e-6
    table.to_csv(tmp_path / "small.csv", index=False)
    (plain, data), (small, small_data) = make(name), make(name, data={"path": str(tmp_path / "small.csv")})
    found, expected = forecast(small, four_windows(small_data)) * 1e6, forecast(plain, four_windows(data))
    assert torch.allclose(found, expected, rtol=1e-3)


@both
def test_the_loss_is_the_library_s(name: str, folder: Path, make: Make) -> None:
    model, data = make(name, data=TWO)
    batch = four_windows(data, gaps=True)
    with torch.inference_mode():
        totals, weights = model.window_losses(model.module, batch)
    network = library_for(folder / name, name, num_input_channels=2)
    theirs = by_the_library(network, name, data, batch, future_values=scaled(data, batch["future_values"])).loss
    assert weights.tolist() == model.window_weights(batch).tolist() == [16] * 4
    assert (totals.sum() / weights.sum()).item() == pytest.approx(theirs.item(), rel=1e-5)


@pytest.mark.parametrize(("loss", "options"), [("mae", {}), ("huber", {"huber_delta": 0.1})])
@both
def test_other_losses_of_the_configuration(name: str, loss: str, options: dict, make: Make) -> None:
    model, data = make(name, training={"loss": loss} | options)
    batch = four_windows(data)
    with torch.inference_mode():
        totals, weights = model.window_losses(model.module, batch)
    error = (scaled(data, forecast(model, batch)) - scaled(data, batch["future_values"])).abs()
    each = error if loss == "mae" else torch.where(error < 0.1, error.square() / 2, 0.1 * (error - 0.05))
    assert (totals / weights).tolist() == pytest.approx(each.mean(dim=(1, 2)).tolist(), rel=1e-4)


# Past-only columns, where channels are mixed


@pytest.fixture
def mixing(folder: Path, make: Make, tmp_path: Path) -> tuple[Model, PreparedData]:
    path = tiny_weights.write_patchtsmixer(tmp_path / "mix", mode="mix_channel", num_input_channels=2)
    return make("patchtsmixer", path, data=DOSE)


def test_a_past_column_is_read_by_the_forecast_of_the_target(
    mixing: tuple[Model, PreparedData], tmp_path: Path
) -> None:
    model, data = mixing
    batch = four_windows(data, gaps=True)
    network = library_for(tmp_path / "mix", "patchtsmixer")
    expected = by_the_library(network, "patchtsmixer", data, batch).prediction_outputs[..., :1]
    found = forecast(model, batch)
    assert found.shape == (4, tiny.PREDICTION, 1)
    assert torch.allclose(scaled_target(data, found), expected, atol=1e-5)
    other = {key: value.clone() for key, value in batch.items()}
    other["past_values"][:, ::2, 1] += 1
    assert not torch.allclose(forecast(model, other), found, atol=1e-3)


def scaled_target(data: PreparedData, values: torch.Tensor) -> torch.Tensor:
    scaler = data.preprocessor.scaler
    return ((values - scaler.mean[0]) / scaler.std[0]).float()


def test_a_model_that_mixes_is_saved_with_its_columns(mixing: tuple[Model, PreparedData], tmp_path: Path) -> None:
    model, data = mixing
    model.save(tmp_path / "run")
    batch = four_windows(data)
    assert torch.equal(forecast(load_model(tmp_path / "run"), batch), forecast(model, batch))
    network = library_for(tmp_path / "run" / "model", "patchtsmixer")
    theirs = by_the_library(network, "patchtsmixer", data, batch).prediction_outputs
    assert theirs.shape == (4, tiny.PREDICTION, 1), "the library forecasts the target alone"
    assert torch.allclose(scaled_target(data, forecast(model, batch)), theirs, atol=1e-5)


@pytest.mark.parametrize(("columns", "mode"), [(DOSE, "mix_channel"), ({}, "common_channel")])
def test_from_scratch_channels_mix_if_there_is_something_to_mix(columns: dict, mode: str, make: Make) -> None:
    model, _ = make("patchtsmixer", scratch=True, data=columns)
    assert model.network.config.mode == mode
    assert model.network.config.num_input_channels == 1 + len(columns)


# Tuning


def test_batch_statistics_are_those_of_the_best_step(make: Make, tmp_path: Path) -> None:
    """They change with every batch and are no parameters; the best weights with the last statistics are no model."""
    training = {"max_steps": 9, "eval_every_steps": 3, "learning_rate": 0.3}  # grows worse
    model, data = make("patchtst", training=training | {"max_grad_norm": None})
    before = {key: value.clone() for key, value in model.network.state_dict().items() if "running_" in key}
    result = model.fit(data)["training"]
    assert result.best_step == 0
    after = model.network.state_dict()
    assert len(before) == 8
    assert all(torch.equal(after[key], value) for key, value in before.items())


def test_batch_statistics_learn_and_are_saved(make: Make, tmp_path: Path) -> None:
    model, data = make("patchtst", scratch=True, training={"max_steps": 12, "eval_every_steps": 12})
    result = model.fit(data, output_dir=tmp_path / "run")["training"]
    assert result.best_step == 12
    stored = load_file(tmp_path / "run" / "model" / "model.safetensors")
    key = "model.encoder.layers.0.norm_sublayer1.batchnorm.running_mean"
    assert stored[key].abs().max() > 0
    assert torch.equal(stored[key], model.network.state_dict()[key])


def test_frozen_layers_keep_their_batch_statistics(make: Make) -> None:
    model, data = make("patchtst", tuning={"mode": "lora"}, training={"max_steps": 4, "eval_every_steps": 4})
    before = {key: value.clone() for key, value in model.network.state_dict().items() if "running_" in key}
    model.fit(data)
    after = model.network.state_dict()
    assert all(torch.equal(after[key.removeprefix("base_model.model.")], value) for key, value in before.items())


# From scratch


@both
def test_from_scratch_it_learns_is_saved_and_goes_back_to_the_library(name: str, make: Make, tmp_path: Path) -> None:
    model, data = make(name, scratch=True, training={"max_steps": 20, "eval_every_steps": 20}, data=TWO)
    assert not model.starts_from_weights()
    rows = model.fit(data, output_dir=tmp_path / "run")["training"].history
    losses = [row["train_loss"] for row in rows if "train_loss" in row]
    assert losses[-1] < 0.8 * losses[0]
    batch = four_windows(data)
    assert torch.equal(forecast(load_model(tmp_path / "run"), batch), forecast(model, batch))
    theirs = by_the_library(library_for(tmp_path / "run" / "model", name), name, data, batch).prediction_outputs
    assert torch.allclose(scaled(data, forecast(model, batch)), theirs, atol=1e-4)


def published(name: str) -> dict[str, object]:
    """What granite-tsfm's examples on ETTh1 say, for one channel."""
    shared = {"context_length": 512, "prediction_length": 96, "scaling": "std", "loss": "mse", "num_input_channels": 1}
    return (
        shared
        | {
            "patchtst": {
                "patch_length": 12,
                "patch_stride": 12,
                "d_model": 128,
                "num_hidden_layers": 3,
                "num_attention_heads": 16,
                "ffn_dim": 512,
                "norm_type": "batchnorm",
                "pooling_type": None,
                "channel_attention": False,
                "pre_norm": True,
                "head_dropout": 0.2,
                "ff_dropout": 0.2,
                "path_dropout": 0.2,
            },
            "patchtsmixer": {
                "patch_length": 8,
                "patch_stride": 8,
                "d_model": 48,
                "num_layers": 3,
                "expansion_factor": 3,
                "gated_attn": True,
                "self_attn": False,
                "mode": "common_channel",
                "dropout": 0.5,
                "head_dropout": 0.7,
            },
        }[name]
    )


@both
def test_by_default_it_is_the_published_architecture(name: str, make: Make, tmp_path: Path) -> None:
    left_out = dict.fromkeys(SMALL[name])
    lengths = {"context_length": 512, "prediction_length": 96}
    path = tiny.write_series(tmp_path / "long.csv", rows=4000)
    model, _ = make(name, scratch=True, model=left_out | lengths, data={"path": str(path)})
    found = model.network.config.to_dict()
    assert {key: found[key] for key in published(name)} == published(name)


@pytest.mark.parametrize(
    ("name", "key", "value", "said"),
    [
        ("patchtst", "patch_length", 32, r"patch_length=32 must be less than model\.context_length=32"),
        ("patchtsmixer", "patch_length", 40, r"patch_length=40 must be less than model\.context_length=32"),
        ("patchtst", "num_heads", 3, r"d_model=16 must be even and a multiple of model\.num_heads=3"),
        ("patchtst", "d_model", 17, r"d_model=17 must be even"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(name: str, key: str, value: int, said: str, make: Make) -> None:
    with pytest.raises(ConfigError, match=said):
        make(name, scratch=True, model={key: value})


@both
def test_random_weights_are_told_of(name: str, make: Make, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("WARNING", logger="tstune"):
        make(name, scratch=True, tuning={"mode": "head"})
    assert "tuning.mode=head starts from random weights" in caplog.text
    with pytest.raises(ConfigError, match=r"model\.quantization=int8 packs pretrained weights"):
        make(name, scratch=True, model={"quantization": "int8"}, tuning={"mode": "lora"})


# Files


@both
def test_the_library_loads_a_tuned_adapter(name: str, folder: Path, make: Make, tmp_path: Path) -> None:
    """Merged; whole networks are compared tensor by tensor in the conformance suite."""
    model, data = make(name, tuning={"mode": "lora"}, training={"max_steps": 2, "eval_every_steps": 2})
    model.fit(data, output_dir=tmp_path / "run")
    batch = four_windows(data)
    network = library_for(tmp_path / "run" / "model", name)
    theirs = by_the_library(network, name, data, batch).prediction_outputs
    assert torch.allclose(scaled(data, forecast(model, batch)), theirs, atol=1e-5)


# Refusals


@pytest.mark.parametrize(
    ("name", "config", "said"),
    [
        (None, {"context_length": 64}, r"has context_length 64, the run asks for 32; set model\.context_length=64"),
        (None, {"prediction_length": 4}, r"forecasts 4 steps, the run asks for 8; set model\.prediction_length=4"),
        (None, {"loss": "nll"}, "forecasts a distribution"),
        (None, {"scaling": "mean"}, "has scaling mean"),
        ("patchtst", {"share_projection": False, "num_input_channels": 1}, "share_projection false"),
        ("patchtst", {"share_embedding": False}, "embeds each of its 7 channels by itself .* the run has 1"),
        ("patchtsmixer", {"mode": "mix_channel"}, "mixes 7 channels, the run has 1"),
    ],
)
def test_checkpoints_that_do_not_suit_are_refused(
    name: str | None, config: dict, said: str, make: Make, tmp_path: Path
) -> None:
    for family in [name] if name else LIBRARY:
        folder = tiny_weights.WRITERS[family](tmp_path / family, **config)
        with pytest.raises(CheckpointError, match=said) as error:
            make(family, folder)
        assert str(folder) in str(error.value)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "key", "value", "said"),
    [
        ("patchtst", "num_heads", 4, r"has num_attention_heads 2, the run asks for 4; leave out model\.num_heads"),
        ("patchtst", "norm_type", "layernorm", "has norm_type batchnorm, the run asks for layernorm"),
        ("patchtsmixer", "expansion_factor", 3, "has expansion_factor 2, the run asks for 3"),
        ("patchtsmixer", "channel_mode", "mix_channel", "has mode common_channel, the run asks for mix_channel"),
    ],
)
def test_what_the_weights_fix_is_not_changed(name: str, key: str, value: object, said: str, make: Make) -> None:
    with pytest.raises(CheckpointError, match=said):
        make(name, model={key: value})


def test_what_agrees_with_the_weights_may_be_given(make: Make) -> None:
    given = {"patch_length": 8, "patch_stride": 8, "d_model": 16, "num_layers": 2, "num_heads": 2, "ffn_dim": 32}
    make("patchtst", model=given)
    make("patchtsmixer", model={"d_model": 16, "num_layers": 2, "channel_mode": "common_channel", "self_attn": False})


@both
def test_a_config_with_a_wrong_type_is_refused(name: str, tmp_path: Path, make: Make) -> None:
    path = tiny_weights.WRITERS[name](tmp_path / "odd") / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"d_model": "wide"}))
    with pytest.raises(CheckpointError, match=r"its config\.json cannot be read"):
        make(name, tmp_path / "odd")
