"""The patch mixer without transposes: the same function, the same gradients, and out of the way where it must be."""

from __future__ import annotations

import copy

import pytest
import torch
from support import tiny
from tsfm_public import TinyTimeMixerForPrediction

from tstune.models.adapters import add_lora_adapters
from tstune.models.ttm_layers import FastPatchMixer, use_fast_patch_mixer

BLOCKS = 3  # one in each of two backbone levels, one in the decoder


@pytest.fixture
def pair(tmp_path) -> tuple[torch.nn.Module, torch.nn.Module]:
    """The model of granite-tsfm and the same one with fast patch mixers."""
    folder = tiny.write_checkpoint(tmp_path / "ttm")
    plain = TinyTimeMixerForPrediction.from_pretrained(folder).eval()
    fast = copy.deepcopy(plain)
    assert use_fast_patch_mixer(fast) == BLOCKS
    assert use_fast_patch_mixer(fast) == 0
    assert list(fast.state_dict()) == list(plain.state_dict())
    return plain, fast


def forecast(model: torch.nn.Module, context: torch.Tensor) -> torch.Tensor:
    return model(past_values=context, return_loss=False).prediction_outputs


@pytest.mark.parametrize("channels", [1, 3])
def test_forecasts_and_gradients_are_those_of_the_plain_mixer(pair, channels):
    context = torch.randn(5, tiny.CONTEXT, channels, generator=torch.Generator().manual_seed(0))
    outputs = [forecast(model, context) for model in pair]
    torch.testing.assert_close(outputs[1], outputs[0], rtol=1e-5, atol=1e-5)
    for output in outputs:
        output.square().mean().backward()
    compared = 0
    for (name, plain), fast in zip(pair[0].named_parameters(), pair[1].parameters(), strict=True):
        torch.testing.assert_close(fast.grad, plain.grad, rtol=1e-4, atol=1e-6, msg=name)
        compared += 1
    assert compared == len(pair[0].state_dict())


def test_the_fast_path_is_taken_and_left_for_adapters_and_partitioned_weights(pair, monkeypatch):
    fast = pair[1]
    taken = []
    mix = FastPatchMixer._applies
    monkeypatch.setattr(FastPatchMixer, "_applies", lambda self: taken.append(mix(self)) or taken[-1])
    context = torch.randn(2, tiny.CONTEXT, 1)
    expected = forecast(fast, context)
    assert taken == [True] * BLOCKS

    taken.clear()
    for block in fast.modules():
        if isinstance(block, FastPatchMixer):
            block.mlp.fc1.weight.ds_id = 0  # DeepSpeed's mark of a partitioned weight
    torch.testing.assert_close(forecast(fast, context), expected, rtol=1e-5, atol=1e-5)
    assert taken == [False] * BLOCKS

    taken.clear()
    adapted = add_lora_adapters(pair[1], rank=2)
    torch.testing.assert_close(forecast(adapted, context), expected, rtol=1e-5, atol=1e-5)
    assert taken == [False] * BLOCKS


def test_another_gate_is_left_to_the_plain_mixer(tmp_path):
    plain = TinyTimeMixerForPrediction.from_pretrained(tiny.write_checkpoint(tmp_path / "ttm", gate_mode="sigmoid"))
    fast = copy.deepcopy(plain.eval())
    assert use_fast_patch_mixer(fast) == BLOCKS
    context = torch.randn(2, tiny.CONTEXT, 1)
    assert torch.equal(forecast(fast, context), forecast(plain, context))
