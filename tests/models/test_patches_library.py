"""PatchTST and PatchTSMixer beside transformers: forecasts, losses, files, from scratch, what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import bitsandbytes as bnb
import pytest
import torch
from safetensors.torch import load_file, save_file
from support import tiny, tiny_weights
from transformers import PatchTSMixerForPrediction, PatchTSTForPrediction, PreTrainedModel

from tstune.config.validation import validate
from tstune.data.prepared import PreparedData
from tstune.errors import CheckpointError, ConfigError
from tstune.models.base import BaseTimeSeriesFoundationModel as Model
from tstune.models.registry import load_model, model_class
from tstune.training.optim import build_optimizer

Make = Callable[..., tuple[Model, PreparedData]]
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


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """series.csv and a checkpoint of each family."""
    folder = tmp_path_factory.mktemp("patches")
    tiny.write_series(folder / "series.csv", rows=300)
    for name in LIBRARY:
        tiny_weights.WRITERS[name](folder / name)
    return folder


@pytest.fixture
def make(folder: Path) -> Make:
    """A built model and windows of it; `pretrained` is another checkpoint, `scratch` none."""

    def make(name: str, pretrained: Path | None = None, scratch: bool = False, **sections: object) -> tuple:
        values = tiny.recipe(folder / "series.csv", folder / "unused", pretrained or folder / name)
        values["model"] |= {"type": name} | ({"pretrained": None} | SMALL[name] if scratch else {})
        values["tuning"] = {"mode": "from_scratch" if scratch else "full"}
        values["evaluation"] |= {"baselines": [], "num_plots": 0, "report": False}
        model = model_class(name)(validate(tiny.merged(values, sections), "test"))
        data = model.prepare()
        torch.manual_seed(0)
        model.build(data.preprocessor)
        return model, data

    return make


def windows(data: PreparedData, gaps: bool = False) -> Batch:
    """Four test windows; with gaps some readings are missing, before, inside and at the end."""
    batch = data.test.__getitems__([0, 5, 9, 14])
    if gaps:
        batch["past_observed_mask"][0, :6] = False
        batch["past_observed_mask"][1, 10:19] = False
        batch["past_observed_mask"][2, -2:, 0] = False
    return batch


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
    batch = windows(data, gaps)
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
    batch = windows(data)
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
    found, expected = forecast(small, windows(small_data)) * 1e6, forecast(plain, windows(data))
    assert torch.allclose(found, expected, rtol=1e-3)


@both
def test_the_loss_is_the_library_s(name: str, folder: Path, make: Make) -> None:
    model, data = make(name, data=TWO)
    batch = windows(data, gaps=True)
    with torch.inference_mode():
        totals, weights = model.window_losses(model.module, batch)
    network = library_for(folder / name, name, num_input_channels=2)
    theirs = by_the_library(network, name, data, batch, future_values=scaled(data, batch["future_values"])).loss
    assert weights.tolist() == model.window_weights(batch).tolist() == [16] * 4
    assert (totals.sum() / weights.sum()).item() == pytest.approx(theirs.item(), rel=1e-5)


@both
def test_only_what_was_observed_weighs(name: str, make: Make) -> None:
    model, data = make(name, data=TWO)
    batch = windows(data)
    batch["future_observed_mask"][0, 3:, 1] = False
    batch["future_observed_mask"][2] = False
    batch["past_values"][3] = 7.3  # a flat context is a window like any other: the scaler measures its loss
    spoilt = batch | {"future_values": torch.where(batch["future_observed_mask"], batch["future_values"], 1e9)}
    with torch.inference_mode():
        totals, weights = model.window_losses(model.module, batch)
        assert torch.equal(totals, model.window_losses(model.module, spoilt)[0])
    assert weights.tolist() == [11, 16, 0, 16]
    assert totals[2] == 0
    assert totals.isfinite().all()


@pytest.mark.parametrize(("loss", "options"), [("mae", {}), ("huber", {"huber_delta": 0.1})])
@both
def test_other_losses_of_the_configuration(name: str, loss: str, options: dict, make: Make) -> None:
    model, data = make(name, training={"loss": loss} | options)
    batch = windows(data)
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
    batch = windows(data, gaps=True)
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
    batch = windows(data)
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


@both
def test_learning_rates_by_part(name: str, make: Make) -> None:
    model, _ = make(name, training={"backbone_lr_factor": 0.1, "head_lr_factor": 2.0})
    groups = build_optimizer(model.module, model.config.training, 0.01, model.parts).param_groups
    sizes: dict[float, int] = {}
    for group in groups:
        sizes[group["lr_factor"]] = sizes.get(group["lr_factor"], 0) + sum(value.numel() for value in group["params"])
    assert sizes == {0.1: {"patchtst": 4592, "patchtsmixer": 3152}[name], 2.0: 520}


@both
def test_every_learning_weight_gets_a_gradient(name: str, make: Make) -> None:
    """Else DDP would wait for it."""
    model, data = make(name)
    model.window_losses(model.module, windows(data))[0].sum().backward()
    learning = [(key, value) for key, value in model.module.named_parameters() if value.requires_grad]
    assert [key for key, value in learning if value.grad is None] == []
    assert len(learning) > 30


@both
def test_stored_features_train_the_same_head(name: str, make: Make) -> None:
    losses = []
    for cache in ("on", "off"):
        training = {"max_steps": 6, "cache_frozen_features": cache, "eval_every_steps": 6}
        model, data = make(name, tuning={"mode": "head"}, training=training, model={"head_dropout": 0.0})
        history = model.fit(data)["training"].history
        losses.append([row["train_loss"] for row in history if "train_loss" in row])
    assert len(losses[0]) == 6
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


@both
def test_automatic_adapters_are_where_they_are_said_to_be(name: str, make: Make) -> None:
    model, _ = make(name, tuning={"mode": "lora"})
    adapted = [key for key, part in model.network.named_modules() if hasattr(part, "lora_A")]
    endings = {
        "patchtst": {"q_proj", "k_proj", "v_proj", "out_proj", "projection"},
        "patchtsmixer": {"fc1", "fc2", "attn_layer", "base_forecast_block"},
    }
    assert {key.rpartition(".")[2] for key in adapted} == endings[name]
    assert len(adapted) == {"patchtst": 9, "patchtsmixer": 13}[name]


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


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "layer"), [("int8", bnb.nn.Linear8bitLt), ("nf4", bnb.nn.Linear4bit)])
@both
def test_a_packed_base_trains_saves_and_reloads(name: str, kind: str, layer: type, make: Make, tmp_path: Path) -> None:
    wide = {"patchtst": {"ffn_dim": 64}, "patchtsmixer": {}}[name]
    path = tiny_weights.WRITERS[name](tmp_path / "wide", d_model=64, **wide)
    sections = {"model": {"quantization": kind}, "tuning": {"mode": "lora"}}
    model, data = make(name, path, **sections, training={"max_steps": 8, "eval_every_steps": 4})
    results = model.fit(data, output_dir=tmp_path / "run")
    assert results["training"].best_step > 0, "the loss fell"
    assert any(isinstance(part, layer) for part in model.network.modules())
    assert model.quantization_report.bytes_after < model.quantization_report.bytes_before
    batch = windows(data)
    assert torch.equal(forecast(load_model(tmp_path / "run"), batch), forecast(model, batch))


@pytest.mark.slow
@both
def test_one_adapter_per_item(name: str, make: Make, tmp_path: Path) -> None:
    tuning = {"mode": "head", "per_item": True, "per_item_epochs": 1, "per_item_learning_rate": 0.02}
    model, data = make(name, tuning=tuning, training={"max_steps": 2, "eval_every_steps": 2})
    results = model.fit(data, output_dir=tmp_path / "run")
    assert [row["item_id"] for row in results["per_item"] if row["kept"]]
    assert results["metrics"]["per_item"]["rmse"] < results["metrics"]["fine_tuned"]["rmse"]
    table = load_model(tmp_path / "run").predict(tiny.series(rows=300))
    assert table["load"].to_numpy() == pytest.approx(model.predict(tiny.series(rows=300))["load"].to_numpy(), rel=1e-4)


# From scratch


@both
def test_from_scratch_it_learns_is_saved_and_goes_back_to_the_library(name: str, make: Make, tmp_path: Path) -> None:
    model, data = make(name, scratch=True, training={"max_steps": 20, "eval_every_steps": 20}, data=TWO)
    assert not model.starts_from_weights()
    rows = model.fit(data, output_dir=tmp_path / "run")["training"].history
    losses = [row["train_loss"] for row in rows if "train_loss" in row]
    assert losses[-1] < 0.8 * losses[0]
    batch = windows(data)
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
def test_the_tiny_checkpoint_is_small(name: str, folder: Path) -> None:
    assert sum(path.stat().st_size for path in (folder / name).iterdir()) <= 150_000


@pytest.mark.parametrize("mode", ["lora", "full"])
@both
def test_the_library_loads_what_we_save(name: str, mode: str, folder: Path, make: Make, tmp_path: Path) -> None:
    model, data = make(name, tuning={"mode": mode}, training={"max_steps": 2, "eval_every_steps": 2})
    model.fit(data, output_dir=tmp_path / "run")
    batch = windows(data)
    network = library_for(tmp_path / "run" / "model", name)
    theirs = by_the_library(network, name, data, batch).prediction_outputs
    assert torch.allclose(scaled(data, forecast(model, batch)), theirs, atol=1e-5)
    old, new = (json.loads((path / "config.json").read_text()) for path in (folder / name, tmp_path / "run" / "model"))
    assert new == old | {"num_input_channels": 1}
    names = [set(load_file(path / "model.safetensors")) for path in (folder / name, tmp_path / "run" / "model")]
    assert names[0] == names[1]


@both
def test_the_dropout_of_the_configuration(name: str, make: Make) -> None:
    model, _ = make(name, model={"dropout": 0.37, "head_dropout": 0.61})
    rates = {part.p for part in model.network.modules() if isinstance(part, torch.nn.Dropout)}
    assert rates == {0.37, 0.61}


# Refusals


@both
def test_tensors_that_are_missing_are_not_made_up(name: str, tmp_path: Path, make: Make) -> None:
    for start in ("head.", BODIES[name]):
        folder = tiny_weights.WRITERS[name](tmp_path / start.strip("."))
        weights = load_file(folder / "model.safetensors")
        kept = {key: value for key, value in weights.items() if not key.startswith(start)}
        assert len(kept) < len(weights)
        save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
        with pytest.raises(CheckpointError, match=rf"{start}.* is missing; the folder mixes files"):
            make(name, folder)


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
