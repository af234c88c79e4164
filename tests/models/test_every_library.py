"""What holds for the network of every library: gradients, adapters, packed weights, files that lack something."""

from __future__ import annotations

import json
import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import bitsandbytes as bnb
import pytest
import torch
from building import Make, four_windows, train_losses
from families import (
    FLOWSTATE,
    FLOWSTATE_HEAD,
    FRACAST,
    FRACAST_HEAD,
    PATCHTST_FM,
    PATCHTST_FM_HEAD,
    TIMESFM_BACKBONE,
    TIMESFM_HEAD,
)
from safetensors.torch import load_file, save_file
from support import tiny, tiny_weights

from tstune.errors import CheckpointError, MissingDependencyError
from tstune.models.registry import load_model, model_class
from tstune.training.optim import build_optimizer


@dataclass(frozen=True)
class Facts:
    """What differs between families; all else is the same test.

    Attributes:
        package: what pip installs, and the module whose absence says so.
        adapted: ending of a layer's name -> how many of them `lora.target_modules=auto` adapts.
        starts: beginnings of tensor names that a checkpoint cannot lack.
        sizes: learning-rate factor -> values that learn with it, at 0.1 for the backbone, 0.3 decoder, 2 head.
        wide: sizes that are wide enough to be packed.
        rates: probabilities of dropout at `model.dropout=0.37`; None where the library keeps it elsewhere.
        has_halves: the frozen half can run once.
        model: keys of the `model` section that the tests of training want.
    """

    package: tuple[str, str]
    adapted: dict[str, int]
    starts: tuple[str, str]
    sizes: dict[float, int]
    wide: dict[str, int]
    rates: set[float] | None = field(default_factory=lambda: {0.37})
    has_halves: bool = True
    model: dict[str, float] = field(default_factory=dict)


CHRONOS = ("chronos-forecasting>=2.3.2,<3", "chronos")
GRANITE = ("granite-tsfm>=0.3.11,<0.4", "tsfm_public")
TRANSFORMERS = ("transformers>=5.23,<6", "transformers")
WIDE_T5 = {"d_model": 64, "d_ff": 64, "num_layers": 1, "initializer_factor": 0.2}
FACTS = {
    "chronos_bolt": Facts(
        CHRONOS,
        {"q": 4, "k": 4, "v": 4, "o": 4, "output_layer": 1},
        ("output_patch_embedding.", "encoder.block.0."),
        {0.1: 5616, 0.3: 3200, 2.0: 4144},
        WIDE_T5,
    ),
    "chronos2": Facts(
        CHRONOS,
        {"q": 4, "k": 4, "v": 4, "o": 4, "output_layer": 1},
        ("output_patch_embedding.", "encoder.block.0."),
        {0.1: 7440, 2.0: 2344},
        WIDE_T5,
    ),
    "chronos_t5": Facts(
        CHRONOS,
        {"q": 4, "k": 4, "v": 4, "o": 4},
        ("shared.", "encoder.block.0."),
        {0.1: 4240, 0.3: 3200, 2.0: 1024},
        WIDE_T5,
        has_halves=False,
    ),
    "timesfm": Facts(
        TRANSFORMERS,
        {"q_proj": 2, "k_proj": 2, "v_proj": 2, "o_proj": 2, "fc1": 2, "fc2": 2, "output_layer": 2},
        ("output_projection_quantiles.", "model.layers.0."),
        {0.1: TIMESFM_BACKBONE, 2.0: TIMESFM_HEAD},
        {"hidden_size": 64, "head_dim": 32, "intermediate_size": 64, "num_hidden_layers": 1},
        rates=None,
    ),
    "flowstate": Facts(
        GRANITE,
        {"out": 2, "lin": 1},
        ("model.decoder.", "model.encoder.layers.0."),
        {0.1: FLOWSTATE - FLOWSTATE_HEAD, 2.0: FLOWSTATE_HEAD},
        {"embedding_feature_dim": 64},
        rates=None,
    ),
    "patchtst_fm": Facts(
        GRANITE,
        {"qkv": 2, "proj": 2, "layer2": 1},
        ("backbone.out_layer.", "backbone.blocks.0."),
        {0.1: PATCHTST_FM - PATCHTST_FM_HEAD, 2.0: PATCHTST_FM_HEAD},
        {"d_model": 64},
        has_halves=False,
    ),
    "fracast": Facts(
        ("fracast>=0.1,<0.2", "fracast"),
        {"pw": 2, "up": 3, "down": 3, "out_proj": 2},
        ("head.", "core."),
        {0.1: FRACAST - FRACAST_HEAD, 2.0: FRACAST_HEAD},
        {"d_model": 64},
        rates=None,
        has_halves=False,
    ),
    "patchtst": Facts(
        TRANSFORMERS,
        {"q_proj": 2, "k_proj": 2, "v_proj": 2, "out_proj": 2, "projection": 1},
        ("head.", "model.encoder.layers.0."),
        {0.1: 4592, 2.0: 520},
        {"d_model": 64, "ffn_dim": 64},
        {0.37, 0.0},
        model={"head_dropout": 0.0},
    ),
    "patchtsmixer": Facts(
        TRANSFORMERS,
        {"fc1": 4, "fc2": 4, "attn_layer": 4, "base_forecast_block": 1},
        ("head.", "model.encoder.mlp_mixer_encoder.mixers.0."),
        {0.1: 3152, 2.0: 520},
        {"d_model": 64},
        {0.37, 0.0},
        model={"head_dropout": 0.0},
    ),
}
every = pytest.mark.parametrize("name", FACTS)
TWO = {"target_columns": ["load", "dose"]}


def values(model: object, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    with torch.inference_mode():
        return model._values(batch)


@pytest.mark.parametrize("mode", ["full", "lora"])
@every
def test_every_learning_parameter_gets_a_gradient(name: str, mode: str, make_any: Make) -> None:
    """Else DDP would wait for it."""
    model, data = make_any(name, tuning={"mode": mode})
    model.window_losses(model.module, four_windows(data))[0].sum().backward()
    learning = {key: value for key, value in model.module.named_parameters() if value.requires_grad}
    assert learning
    assert [key for key, value in learning.items() if value.grad is None] == []


@every
def test_only_what_was_observed_weighs(name: str, make_any: Make) -> None:
    model, data = make_any(name, data=TWO)
    batch = four_windows(data)
    batch["future_observed_mask"][0, 3:, 1] = False
    batch["future_observed_mask"][2] = False
    spoilt = batch | {"future_values": torch.where(batch["future_observed_mask"], batch["future_values"], 1e9)}
    with torch.inference_mode():
        totals, weights = model.window_losses(model.module, batch)
        again, _ = model.window_losses(model.module, spoilt)
    assert weights.tolist() == model.window_weights(batch).tolist() == [11, 16, 0, 16]
    assert torch.equal(totals, again)
    assert totals[2] == 0


@every
def test_a_flat_or_empty_context_weighs_nothing_where_it_is_the_scale(name: str, make_any: Make) -> None:
    """One such window would outweigh all others; a family with a scaler, or with readings as scale, minds it less."""
    model, data = make_any(name, data=TWO)
    batch = four_windows(data)
    batch["past_values"][0, :, 0] = 7.3
    batch["past_observed_mask"][1, :, 1] = False
    batch["future_observed_mask"][2, 3:] = False
    totals, weights = model.window_losses(model.module, batch)
    expected = {"chronos_t5": [16, 8, 6, 16], "patchtst": [16, 16, 6, 16], "patchtsmixer": [16, 16, 6, 16]}
    assert weights.tolist() == model.window_weights(batch).tolist() == expected.get(name, [8, 8, 6, 16])
    assert torch.isfinite(totals).all()
    totals.sum().backward()
    learning = [value for value in model.module.parameters() if value.requires_grad]
    assert all(torch.isfinite(value.grad).all() for value in learning)


@pytest.mark.parametrize("name", [name for name, facts in FACTS.items() if not facts.has_halves])
def test_where_there_is_no_frozen_half_none_is_stored(name: str, make_any: Make) -> None:
    model, _ = make_any(name, tuning={"mode": "head"})
    assert model.frozen_encoder() is None


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[] if name in ("chronos_bolt", "patchtst") else pytest.mark.slow)
        for name, facts in FACTS.items()
        if facts.has_halves
    ],
)
def test_stored_features_train_the_same_head(name: str, make_any: Make) -> None:
    facts, losses = FACTS[name], []
    for cache in ("on", "off"):
        training = {"max_steps": 6, "cache_frozen_features": cache, "eval_every_steps": 6}
        model, data = make_any(name, tuning={"mode": "head"}, training=training, model=facts.model)
        losses.append(train_losses(model.fit(data)["training"].history))
    assert len(losses[0]) == 6
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


@every
def test_learning_rates_by_part(name: str, make_any: Make) -> None:
    factors = {"backbone_lr_factor": 0.1, "decoder_lr_factor": 0.3, "head_lr_factor": 2.0}
    if "decoder" not in set(model_class(name).parts.values()):
        del factors["decoder_lr_factor"]
    model, _ = make_any(name, training=factors)
    sizes: Counter[float] = Counter()
    for group in build_optimizer(model.module, model.config.training, 0.01, model.parts).param_groups:
        sizes[group["lr_factor"]] += sum(value.numel() for value in group["params"])
    assert sizes == FACTS[name].sizes


@every
def test_automatic_adapters_are_where_they_are_said_to_be(name: str, make_any: Make) -> None:
    model, _ = make_any(name, tuning={"mode": "lora"})
    adapted = [key for key, part in model.network.named_modules() if hasattr(part, "lora_A")]
    assert Counter(key.rpartition(".")[2] for key in adapted) == FACTS[name].adapted
    assert not any("input" in key.rpartition("base_model.")[2].split(".")[0] for key in adapted)


@every
def test_the_dropout_of_the_configuration(name: str, make_any: Make) -> None:
    facts = FACTS[name]
    if name in ("flowstate", "fracast"):  # they have none
        return
    model, _ = make_any(name, model={"dropout": 0.37} | facts.model)
    if facts.rates is None:
        found = {part.attention_dropout for part in model.network.modules() if hasattr(part, "attention_dropout")}
        assert found == {0.37}
    else:
        found = {part.p for part in model.network.modules() if isinstance(part, torch.nn.Dropout)}
        assert found - {0.0} == facts.rates - {0.0}


@pytest.mark.parametrize(("kind", "layer"), [("int8", bnb.nn.Linear8bitLt), ("nf4", bnb.nn.Linear4bit)])
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name == "chronos_bolt" else pytest.mark.slow) for name in FACTS]
)
def test_a_packed_base_trains_saves_and_reloads(
    name: str, kind: str, layer: type, make_any: Make, tmp_path: Path
) -> None:
    wide = tiny_weights.WRITERS[name](tmp_path / "wide", **FACTS[name].wide)
    sections = {"model": {"quantization": kind}, "tuning": {"mode": "lora"}}
    model, data = make_any(name, wide, **sections, training={"max_steps": 8, "eval_every_steps": 4})
    results = model.fit(data, output_dir=tmp_path / "run")
    assert results["training"].best_step > 0, "the loss fell"
    assert any(isinstance(part, layer) for part in model.network.modules())
    assert model.quantization_report.bytes_after < model.quantization_report.bytes_before
    batch = four_windows(data)
    assert torch.equal(values(load_model(tmp_path / "run"), batch), values(model, batch))


@pytest.mark.slow
@every
def test_one_adapter_per_item(name: str, make_any: Make, tmp_path: Path) -> None:
    mode = "lora" if name in ("chronos_t5", "timesfm") else "head"
    tuning = {"mode": mode, "per_item": True, "per_item_epochs": 1, "per_item_learning_rate": 0.02}
    model, data = make_any(name, tuning=tuning, training={"max_steps": 2, "eval_every_steps": 2})
    results = model.fit(data, output_dir=tmp_path / "run")
    assert [row["item_id"] for row in results["per_item"] if row["kept"]]
    if name not in ("flowstate", "patchtst_fm"):
        assert results["metrics"]["per_item"]["rmse"] < results["metrics"]["fine_tuned"]["rmse"]
    table = load_model(tmp_path / "run").predict(tiny.series(rows=300))
    assert table["load"].to_numpy() == pytest.approx(model.predict(tiny.series(rows=300))["load"].to_numpy(), rel=1e-4)


@pytest.mark.parametrize("mode", ["full", "from_scratch"])
@every
def test_what_is_saved_is_the_checkpoint_but_for_what_was_trained(
    name: str, mode: str, folder: Path, make_any: Make, tmp_path: Path
) -> None:
    model, _ = make_any(name, tuning={"mode": mode})
    model.save(tmp_path / "run")
    paths = (folder / name, tmp_path / "run" / "model")
    old, new = (json.loads((path / "config.json").read_text()) for path in paths)
    channels = {"num_input_channels": 1} if name in ("patchtst", "patchtsmixer") else {}
    assert new == old | channels
    stored, saved = (load_file(path / "model.safetensors") for path in paths)
    assert stored.keys() == saved.keys()
    assert all(torch.equal(saved[key], value) for key, value in stored.items()) is (mode == "full")
    assert model.starts_from_weights() is (mode == "full")
    assert sum(path.stat().st_size for path in paths[0].iterdir()) <= 150_000


@every
def test_tensors_that_are_missing_are_not_made_up(name: str, make_any: Make, tmp_path: Path) -> None:
    for start in FACTS[name].starts:
        checkpoint = tiny_weights.WRITERS[name](tmp_path / start.strip("."))
        weights = load_file(checkpoint / "model.safetensors")
        kept = {key: value for key, value in weights.items() if not key.startswith(start)}
        assert len(kept) < len(weights), (start, list(weights)[:9])
        save_file(kept, checkpoint / "model.safetensors", metadata={"format": "pt"})
        with pytest.raises(CheckpointError, match=r" is missing; the folder mixes files"):
            make_any(name, checkpoint)


@every
def test_without_its_package_there_is_one_line(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    package, module = FACTS[name].package
    if module == "transformers":  # it is always there, but perhaps older than the family
        library = sys.modules[module]
        config = model_class(name).architecture.config.partition(":")[2]
        monkeypatch.delattr(library, config, raising=False)
        monkeypatch.setitem(library._class_to_module, config, "no_such_module")
    else:
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingDependencyError, match=f"pip install '{package}'$"):
        model_class(name)()
