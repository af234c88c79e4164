"""What chronos-forecasting computes with Chronos T5 from the same weights and windows: tokens, paths, losses, files."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from building import Make, four_windows
from chronos import BaseChronosPipeline, ChronosPipeline
from safetensors.torch import load_file, save_file
from support import tiny_weights

from tstune.errors import CheckpointError
from tstune.models import chronos_t5
from tstune.models.chronos_t5 import ChronosT5Forecaster, Draws, sample_paths
from tstune.models.registry import load_model

Batch = dict[str, torch.Tensor]
NATIVE = tiny_weights.NATIVE
TWO = {"target_columns": ["load", "dose"]}
MANY = 1500


@pytest.fixture
def make(make_any: Make) -> Make:
    """A built model and windows of it."""

    return lambda pretrained=None, **sections: make_any("chronos_t5", pretrained, **sections)


def series(batch: Batch, part: str = "past") -> torch.Tensor:
    """[batch * channels, steps] as the library takes them."""
    values, observed = batch[f"{part}_values"], batch[f"{part}_observed_mask"]
    return torch.where(observed, values, torch.nan).transpose(1, 2).flatten(0, 1)


def values(model: ChronosT5Forecaster, batch: Batch) -> torch.Tensor:
    """[batch, steps, targets, levels]."""
    with torch.inference_mode():
        return model._values(batch)


# Forecasts


@pytest.mark.parametrize(
    ("chronos", "changes"),
    [
        ({}, {}),
        ({"top_k": 5, "temperature": 0.7}, {}),
        ({"top_k": 0, "top_p": 0.6}, {}),
        ({"use_eos_token": False}, {"tie_word_embeddings": False}),  # which means: logits are not scaled
    ],
    ids=["plain", "top_k", "top_p", "unscaled"],
)
def test_every_token_is_drawn_from_the_library_s_distribution(
    chronos: dict, changes: dict, tmp_path: Path, make: Make
) -> None:
    """The scores its `generate` would draw from, given the tokens of our paths, hold these tokens at our numbers."""
    model, data = make(tiny_weights.write_chronos_t5(tmp_path / "drawn", chronos=chronos, **changes))
    pipeline = ChronosPipeline.from_pretrained(tmp_path / "drawn")
    input_ids, mask, _ = pipeline.tokenizer.context_input_transform(series(four_windows(data, gaps=True)))
    paths = sample_paths(model.network, input_ids, mask, NATIVE, Draws(8, seed=7), model.module._warp)
    assert paths.shape == (4, 8, NATIVE)
    settings, again = pipeline.model.config, Draws(8, seed=7)
    for step in range(NATIVE):
        before = paths[:, :, :step].flatten(0, 1)
        before = torch.cat([torch.zeros(len(before), 1, dtype=torch.long), before], dim=1)
        scores = pipeline.inner_model.generate(
            input_ids.repeat_interleave(8, dim=0),
            attention_mask=mask.repeat_interleave(8, dim=0),
            decoder_input_ids=before,
            do_sample=True,
            max_new_tokens=1,
            min_new_tokens=1,
            eos_token_id=1,
            temperature=settings.temperature,
            top_k=settings.top_k,
            top_p=settings.top_p,
            output_scores=True,
            return_dict_in_generate=True,
        ).scores[0]
        probabilities = scores.double().softmax(dim=-1)
        drawn = paths[:, :, step].flatten()[:, None]
        upper = probabilities.cumsum(dim=-1).gather(1, drawn)[:, 0]
        lower = upper - probabilities.gather(1, drawn)[:, 0]
        points = again.next_step().repeat(4)
        assert (lower - 1e-5 <= points).all()
        assert (points <= upper + 1e-5).all()
        assert (probabilities > 0).sum(dim=1).max() <= (settings.top_k or tiny_weights.TOKENS)


def test_forecasts_are_the_pipeline_s_in_distribution(folder: Path, make: Make) -> None:
    model, data = make(model={"num_samples": MANY}, data=TWO)
    batch = four_windows(data, gaps=True)
    torch.manual_seed(0)
    pipeline = ChronosPipeline.from_pretrained(folder / "chronos_t5")
    with torch.inference_mode():
        theirs = pipeline.predict(series(batch), NATIVE, num_samples=MANY)
        ours = model.module.sample(batch, NATIVE, Draws(MANY, seed=7)).permute(0, 2, 3, 1).flatten(0, 1)
    assert ours.shape == theirs.shape == (8, MANY, NATIVE)
    centers, scale = pipeline.tokenizer.centers, pipeline.tokenizer.context_input_transform(series(batch))[2]
    width = centers[1] - centers[0]
    bins = ((torch.stack([ours, theirs]) / scale[:, None, None] - centers[0]) / width).round().long()
    shares = F.one_hot(bins, len(centers)).double().mean(dim=2).cumsum(dim=-1)  # [2, series, steps, bins]
    distance = (shares[0] - shares[1]).abs()
    # Kolmogorov-Smirnov of two samples: 64 comparisons, each beyond this with a probability of one in a million
    assert distance.max() < 2.7 * (2 / MANY) ** 0.5
    quantiles = values(model, batch)
    expected = theirs.quantile(torch.tensor(model.module.levels), dim=1).permute(1, 2, 0).view(4, 2, NATIVE, 9)
    difference = (quantiles.transpose(1, 2) - expected).abs() / (scale * width).view(4, 2, 1, 1)
    assert difference.mean() < 1
    assert torch.equal(quantiles[..., 4], model.forecast(batch)), "the forecast is the median"


def test_long_forecasts_append_the_median_as_the_pipeline_does(folder: Path, make: Make) -> None:
    """With the one most likely token there is nothing to draw, and both must agree exactly."""
    sure = tiny_weights.write_chronos_t5(folder / "sure", chronos={"top_k": 1})
    model, data = make(sure, model={"prediction_length": 2 * NATIVE + 3}, data=TWO)
    batch = four_windows(data, gaps=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = ChronosPipeline.from_pretrained(sure).predict(series(batch), 2 * NATIVE + 3)[:, 0]
    found = values(model, batch)
    assert found.shape == (4, 19, 2, 9)
    for level in range(9):
        assert torch.allclose(found[..., level].transpose(1, 2).flatten(0, 1), expected, rtol=1e-6)


def test_the_paths_of_a_step_lie_evenly_and_do_not_depend_on_the_global_generator() -> None:
    draws, again = Draws(50, seed=3), Draws(50, seed=3)
    steps = []
    for _ in range(40):
        points = draws.next_step()
        torch.manual_seed(len(steps))
        assert torch.equal(points, again.next_step())
        assert sorted((points * 50).floor().int().tolist()) == list(range(50))
        steps.append(points)
    assert torch.corrcoef(torch.stack(steps)).fill_diagonal_(0).abs().mean() < 0.2, "the steps know nothing of another"
    assert not torch.equal(steps[0], Draws(50, seed=4).next_step())


def test_forecasts_depend_on_the_seed_and_the_number_of_paths(make: Make) -> None:
    model, data = make()
    batch = four_windows(data)
    plain = values(model, batch)
    for changes in ({"seed": 8}, {"model": {"num_samples": 9}}):
        other, _ = make(**changes)
        assert not torch.equal(values(other, batch), plain)


def test_paths_are_decoded_in_parts(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    model, data = make()
    batch = data.test.__getitems__(range(7))
    whole = values(model, batch)
    per_path = 2 * 4 * (32 + 1 + 8) * 1 * 2 * 8  # keys and values, float32, steps, layers, heads, width
    monkeypatch.setattr(chronos_t5, "CACHE_BYTES", 3 * tiny_weights.PATHS * per_path)
    assert model._windows_at_once() == 3
    assert torch.allclose(values(model, batch), whole, rtol=1e-5)


def test_any_level_is_a_quantile_of_the_paths(make: Make) -> None:
    asked = [0.02, 0.5, 0.97]
    model, data = make(model={"num_samples": 100}, forecast={"quantiles": asked, "method": "quantile_head"})
    batch = four_windows(data)
    assert model.native_levels == tuple(asked)
    with torch.inference_mode():
        paths = model.module.sample(batch, NATIVE, Draws(100, model.config.seed))
        found = model.native_quantiles(batch)
        assert torch.allclose(model.forecast(batch), paths.quantile(0.5, dim=-1))
    assert torch.allclose(found, paths.quantile(torch.tensor(asked), dim=-1).movedim(0, -1))


# Losses


@pytest.mark.parametrize("steps", [5, NATIVE])
def test_the_loss_is_the_library_s_without_the_token_of_the_end(steps: int, folder: Path, make: Make) -> None:
    model, data = make(model={"prediction_length": steps}, data=TWO)
    batch = four_windows(data, gaps=True)
    batch["future_observed_mask"][0, 2, 1] = False
    batch["future_observed_mask"][3, :, 0] = False
    with torch.inference_mode():
        totals, weights = model.window_losses(model.module, batch)
    pipeline = ChronosPipeline.from_pretrained(folder / "chronos_t5")
    pipeline.inner_model.eval()
    input_ids, mask, scale = pipeline.tokenizer.context_input_transform(series(batch))
    future = F.pad(series(batch, "future"), (0, NATIVE - steps), value=torch.nan)
    labels, observed = pipeline.tokenizer.label_input_transform(future, scale)
    observed[:, -1] = False  # the end
    labels[~observed] = -100
    with torch.inference_mode():
        expected = pipeline.inner_model(input_ids=input_ids, attention_mask=mask, labels=labels).loss
    assert weights.tolist() == model.window_weights(batch).tolist() == [2 * steps - 1, 2 * steps, 2 * steps, steps]
    assert (totals.sum() / weights.sum()).item() == pytest.approx(expected.item(), rel=1e-5)


def test_only_what_was_observed_weighs(make: Make) -> None:
    model, data = make(data=TWO)
    batch = four_windows(data)
    batch["future_observed_mask"][0, 3:, 1] = False
    batch["future_observed_mask"][2] = False
    batch["past_observed_mask"][3, :, 0] = False  # no reading, no scale
    batch["past_values"][1, :, 1] = 4.0  # flat, but with a scale
    spoilt = batch | {"future_values": torch.where(batch["future_observed_mask"], batch["future_values"], 1e9)}
    with torch.inference_mode():
        totals, weights = model.window_losses(model.module, batch)
        again, _ = model.window_losses(model.module, spoilt)
        single = [
            model.window_losses(model.module, {key: value[row, None] for key, value in batch.items()})[0]
            for row in range(4)
        ]
    assert weights.tolist() == model.window_weights(batch).tolist() == [11, 16, 0, 8]
    assert torch.equal(totals, again)
    assert totals[2] == 0
    assert torch.allclose(torch.cat(single), totals, rtol=1e-5)


# Files


def test_the_library_loads_a_tuned_adapter(make: Make, tmp_path: Path) -> None:
    """Merged; whole networks are compared tensor by tensor in the conformance suite."""
    given = tiny_weights.write_chronos_t5(tmp_path / "given", chronos={"top_k": 1})
    model, data = make(given, tuning={"mode": "lora"}, training={"max_steps": 2, "eval_every_steps": 2})
    model.fit(data, output_dir=tmp_path / "run")
    batch = four_windows(data)
    pipeline = BaseChronosPipeline.from_pretrained(tmp_path / "run" / "model")
    assert type(pipeline) is ChronosPipeline
    expected = pipeline.predict(series(batch), NATIVE)[:, 0]  # with top_k=1 there is nothing to draw
    assert torch.allclose(values(model, batch)[:, :, 0, 4], expected, rtol=1e-6)


def test_an_output_layer_of_its_own_keeps_it(make: Make, tmp_path: Path) -> None:
    """Published checkpoints share it with the embedding; the library also loads one that does not."""
    given = tiny_weights.write_chronos_t5(tmp_path / "given")
    stored = load_file(given / "model.safetensors")
    stored["lm_head.weight"] = torch.randn(tiny_weights.TOKENS, 16)
    save_file(stored, given / "model.safetensors", metadata={"format": "pt"})
    model, data = make(given, tuning={"mode": "head"})
    assert model.get_model_info()["trainable"] == 2 * tiny_weights.TOKENS * 16
    model.save(tmp_path / "run")
    saved = load_file(tmp_path / "run" / "model" / "model.safetensors")
    assert all(torch.equal(saved[key], tensor) for key, tensor in stored.items())
    assert torch.equal(values(load_model(tmp_path / "run"), four_windows(data)), values(model, four_windows(data)))


# Refusals


def test_refusals_name_the_key_and_the_fix(tmp_path: Path, make: Make) -> None:
    short = tiny_weights.write_chronos_t5(tmp_path / "short", chronos={"context_length": 16})
    with pytest.raises(CheckpointError, match=r"reads at most 16 steps, the run asks for 32; set model\.context_leng"):
        make(short)
    strange = tiny_weights.write_chronos_t5(tmp_path / "strange", chronos={"tokenizer_class": "NoSuchBins"})
    with pytest.raises(CheckpointError, match=r"makes no tokenizer: .*NoSuchBins"):
        make(strange)
    config = json.loads((short / "config.json").read_text())
    for settings, said in ((None, "without chronos_config, not a Chronos T5"), ({}, "makes no tokenizer: .*missing")):
        (short / "config.json").write_text(json.dumps(config | {"chronos_config": settings}))
        with pytest.raises(CheckpointError, match=said) as error:
            make(short)
        assert "\n" not in str(error.value)
