"""The mixers without transposes: the same function, the same gradients, and out of the way where it must be."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from support import tiny
from tsfm_public import TinyTimeMixerForPrediction

from tstune.models.adapters import add_lora_adapters
from tstune.models.modules import use_fast_dropout
from tstune.models.ttm_layers import FastMixer, use_fast_mixers

BLOCKS = 6  # of patches and of features, in each of two backbone levels and in the decoder


def models(folder: Path, **options: object) -> tuple[torch.nn.Module, torch.nn.Module]:
    """The model of granite-tsfm and the same one with fast mixers."""
    plain = TinyTimeMixerForPrediction.from_pretrained(tiny.write_checkpoint(folder / "ttm", **options)).eval()
    fast = copy.deepcopy(plain)
    assert use_fast_mixers(fast) == BLOCKS
    assert use_fast_mixers(fast) == 0
    assert list(fast.state_dict()) == list(plain.state_dict())
    return plain, fast


@pytest.fixture
def pair(tmp_path) -> tuple[torch.nn.Module, torch.nn.Module]:
    return models(tmp_path)


def forecast(model: torch.nn.Module, context: torch.Tensor) -> torch.Tensor:
    return model(past_values=context, return_loss=False).prediction_outputs


@pytest.mark.parametrize(
    ("channels", "options"), [(1, {}), (3, {}), (3, {"gated_attn": False}), (3, {"norm_mlp": "BatchNorm"})]
)
@pytest.mark.parametrize("training", [False, True])
def test_forecasts_and_gradients_are_those_of_the_plain_mixer(tmp_path, monkeypatch, channels, options, training):
    pair = models(tmp_path, dropout=0.3, head_dropout=0.6, **options)
    if training:  # granite-tsfm drops out what it has turned: other values
        use_fast_mixers(pair[0])
    context = torch.randn(5, tiny.CONTEXT, channels, generator=torch.Generator().manual_seed(0))
    outputs = []
    for number, model in enumerate(pair):
        torch.manual_seed(1)  # the same values are dropped
        use_fast_dropout(model.train(training))
        with monkeypatch.context() as patch:
            patch.setattr(torch.compiler, "is_compiling", lambda plainly=training and not number: plainly)
            outputs.append(forecast(model, context))
    torch.testing.assert_close(outputs[1], outputs[0], rtol=1e-5, atol=1e-5)
    for output in outputs:
        output.square().mean().backward()
    compared = 0
    for (name, plain), fast in zip(pair[0].named_parameters(), pair[1].parameters(), strict=True):
        torch.testing.assert_close(fast.grad, plain.grad, rtol=1e-4, atol=1e-6, msg=name)
        compared += 1
    assert compared > 20


def test_only_what_learns_gets_a_gradient(pair):
    for model in pair:
        for name, parameter in model.named_parameters():
            parameter.requires_grad = name.endswith("fc1.bias") or "fc2.weight" in name
        forecast(model, torch.ones(2, tiny.CONTEXT, 1).cumsum(1)).square().mean().backward()
    for (name, plain), fast in zip(pair[0].named_parameters(), pair[1].parameters(), strict=True):
        assert (fast.grad is None) == (plain.grad is None)
        if plain.grad is not None:
            torch.testing.assert_close(fast.grad, plain.grad, rtol=1e-4, atol=1e-6, msg=name)


@pytest.mark.parametrize("windows", [1, 100])
def test_forecasts_of_large_and_small_batches(pair, windows):
    context = torch.randn(windows, tiny.CONTEXT, 3, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        outputs = [forecast(model, context) for model in pair]
        torch.testing.assert_close(outputs[1], outputs[0], rtol=1e-5, atol=1e-5)
        assert torch.equal(forecast(pair[1], context), outputs[1])


def test_the_fast_path_is_taken_and_left_for_adapters_and_partitioned_weights(pair, monkeypatch):
    fast = pair[1]
    taken = []
    mix = FastMixer._applies
    monkeypatch.setattr(FastMixer, "_applies", lambda self: taken.append(mix(self)) or taken[-1])
    context = torch.randn(2, tiny.CONTEXT, 1)
    expected = forecast(fast, context)
    assert taken == [True] * BLOCKS

    taken.clear()
    for block in fast.modules():
        if isinstance(block, FastMixer):
            block.mlp.fc1.weight.ds_id = 0  # DeepSpeed's mark of a partitioned weight
    torch.testing.assert_close(forecast(fast, context), expected, rtol=1e-5, atol=1e-5)
    assert taken == [False] * BLOCKS

    taken.clear()
    adapted = add_lora_adapters(pair[1], rank=2)
    torch.testing.assert_close(forecast(adapted, context), expected, rtol=1e-5, atol=1e-5)
    assert taken == [False] * BLOCKS


def test_another_gate_is_left_to_the_plain_mixer(tmp_path):
    plain, fast = models(tmp_path, gate_mode="sigmoid")
    context = torch.randn(2, tiny.CONTEXT, 1)
    assert torch.equal(forecast(fast, context), forecast(plain, context))
