"""oneDNN products: the same values and gradients as torch's linear layer, and plain layers where it cannot help."""

from __future__ import annotations

import pytest
import tiny
import torch
from torch import nn
from tsfm_public import TinyTimeMixerForPrediction

from tstune.models.fast_linear import FastLinear, FastMLP, use_fast_linear


@pytest.mark.parametrize("shape", [(5, 12), (3, 4, 12), (2, 3, 4, 12)])
@pytest.mark.parametrize("bias", [True, False])
def test_values_and_gradients_are_those_of_linear(shape, bias):
    torch.manual_seed(0)
    plain = nn.Linear(12, 7, bias=bias).double().float()
    fast = nn.Linear(12, 7, bias=bias)
    fast.load_state_dict(plain.state_dict())
    assert use_fast_linear(fast) == 1
    assert type(fast) is FastLinear
    results = []
    for layer in (plain, fast):
        values = torch.linspace(-1, 1, torch.Size(shape).numel()).view(shape).requires_grad_()
        output = layer(values)
        (output**2).sum().backward()
        results.append([output.detach(), values.grad, *(parameter.grad for parameter in layer.parameters())])
    assert len(results[0]) == (4 if bias else 3)
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


def test_a_transposed_input_is_read_right():
    torch.manual_seed(0)
    layer = nn.Linear(6, 5)
    values = torch.randn(4, 6, 9).transpose(1, 2)
    expected = layer(values)
    use_fast_linear(layer)
    with torch.no_grad():
        torch.testing.assert_close(layer(values), expected.detach(), rtol=1e-5, atol=1e-6)


def test_a_whole_ttm_agrees_and_keeps_its_tensor_names(tmp_path):
    folder = tiny.write_checkpoint(tmp_path / "ttm")
    plain, fast = (TinyTimeMixerForPrediction.from_pretrained(folder).eval() for _ in range(2))
    blocks = sum(type(module).__name__ == "TinyTimeMixerMLP" for module in fast.modules())
    linear = sum(type(module) is nn.Linear for module in fast.modules())
    assert use_fast_linear(fast) == blocks + linear > 10
    assert sum(type(module) is FastMLP for module in fast.modules()) == blocks
    assert list(fast.state_dict()) == list(plain.state_dict())
    context = torch.randn(6, tiny.CONTEXT, 1)
    with torch.no_grad():
        one, other = (model(past_values=context).prediction_outputs for model in (plain, fast))
    torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


def test_other_types_and_autocast_use_torchs_own(monkeypatch):
    layer = nn.Linear(4, 3)
    use_fast_linear(layer)

    def forbidden(*_: object) -> None:
        raise AssertionError("oneDNN must not be used here")

    monkeypatch.setattr("tstune.models.fast_linear._product", forbidden)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert layer(torch.ones(2, 4)).dtype == torch.bfloat16
    assert layer(torch.ones(0, 4)).shape == (0, 3)
    assert layer.double()(torch.ones(2, 4, dtype=torch.float64)).dtype == torch.float64
