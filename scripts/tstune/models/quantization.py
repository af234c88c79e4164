"""Keep frozen linear layers in 8 or 4 bits, with bitsandbytes."""

from __future__ import annotations

from dataclasses import dataclass

import bitsandbytes as bnb
import torch
from torch import nn

_BLOCK = 64  # values that share a scale in 4-bit; a narrower layer cannot be packed


@dataclass(frozen=True)
class QuantizationReport:
    """What quantisation did to the size of a model."""

    num_layers: int  # linear layers that were packed
    num_kept: int  # linear layers left in full precision, too narrow to pack
    # size of all parameters
    bytes_before: int
    bytes_after: int

    def __str__(self) -> str:
        saved = self.bytes_before - self.bytes_after
        line = (
            f"{self.num_layers} linear layers packed, {self.num_kept} too narrow: "
            f"{self.bytes_before / 1e6:.2f} MB of weights are {self.bytes_after / 1e6:.2f} MB"
        )
        if saved < 50e6:
            line += f"; {saved / 1e6:.1f} MB less is little beside activations and the Python process itself"
        return line


class Linear8bit(bnb.nn.Linear8bitLt):
    """8-bit linear layer for inputs of any rank: bitsandbytes' CPU kernel takes matrices only."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[..., in] -> [..., out]."""
        flat = super().forward(x.reshape(-1, x.shape[-1]).contiguous())
        return flat.view(*x.shape[:-1], flat.shape[-1])


def quantize_linear_layers(module: nn.Module, kind: str) -> QuantizationReport:
    """Replace linear layers in place by ``int8`` (LLM.int8) or ``nf4`` (4-bit normal float) ones, always the same."""
    before = _num_bytes(module)
    linear = [(name, layer) for name, layer in module.named_modules() if type(layer) is nn.Linear]
    wide = [(name, layer) for name, layer in linear if layer.in_features % _BLOCK == 0]
    for name, layer in wide:
        parent, _, leaf = name.rpartition(".")
        setattr(module.get_submodule(parent), leaf, _packed(layer, kind))
    return QuantizationReport(len(wide), len(linear) - len(wide), before, _num_bytes(module))


def _packed(layer: nn.Linear, kind: str) -> nn.Module:
    bias = layer.bias is not None
    if kind == "int8":
        packed = Linear8bit(layer.in_features, layer.out_features, bias=bias, has_fp16_weights=False, threshold=0.0)
        packed.weight = bnb.nn.Int8Params(layer.weight.data.clone(), requires_grad=False, has_fp16_weights=False)
    else:
        packed = bnb.nn.Linear4bit(
            layer.in_features, layer.out_features, bias=bias, compute_dtype=torch.float32, quant_type="nf4"
        )
        packed.weight = bnb.nn.Params4bit(layer.weight.data.clone(), requires_grad=False, quant_type="nf4")
        # The CPU fast path repacks weights in place at the first forward pass, which breaks saving and gradients.
        packed.support_avx512bf16_for_cpu = False
    if bias:
        packed.bias = nn.Parameter(layer.bias.data.clone(), requires_grad=False)
    return packed.to(layer.weight.device)


def _num_bytes(module: nn.Module) -> int:
    total = 0
    for parameter in module.parameters():
        total += parameter.numel() * parameter.element_size()
        state = getattr(parameter, "quant_state", None)
        for scale in (getattr(state, "absmax", None), getattr(parameter, "SCB", None)):
            total += 0 if scale is None else scale.numel() * scale.element_size()
    return total
