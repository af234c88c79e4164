"""Linear layers through oneDNN on the CPU, forward and backward.

`torch.nn.Linear` in float32 calls MKL, which is about half as fast as oneDNN on processors that are not
Intel's, and it writes the bias into the output before the product. oneDNN generates code for the processor at
hand, adds the bias on the way and applies GELU too. The results differ in the last bits only.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn
from tsfm_public.models.tinytimemixer.modeling_tinytimemixer import TinyTimeMixerMLP


class FastLinear(nn.Linear):
    """`nn.Linear` on oneDNN where that is possible: float32, on the CPU, outside autocast."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """[..., in] -> [..., out]."""
        if not _supported(input, self.weight):
            return F.linear(input, self.weight, self.bias)
        if _needs_gradient(input, self.weight, self.bias):
            return _Linear.apply(input, self.weight, self.bias)
        return _product(input, self.weight, self.bias)


class FastMLP(TinyTimeMixerMLP):
    """TTM's two-layer block; without gradients the GELU is part of the first product."""

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Same shape as the input but for the last axis."""
        first = self.fc1
        fused = type(first) is FastLinear and not self.training and _supported(inputs, first.weight)
        if not fused or _needs_gradient(inputs, first.weight, first.bias):
            return super().forward(inputs)
        return self.fc2(_product(inputs, first.weight, first.bias, "gelu"))


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: torch.autograd.function.FunctionCtx, input: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
    ) -> torch.Tensor:
        ctx.save_for_backward(input, weight)
        return _product(input, weight, bias)

    @staticmethod
    def backward(
        ctx: torch.autograd.function.FunctionCtx, gradient: torch.Tensor
    ) -> tuple[torch.Tensor | None, torch.Tensor | None, torch.Tensor | None]:
        input, weight = ctx.saved_tensors
        for_input = for_weight = for_bias = None
        flat = gradient.reshape(-1, gradient.shape[-1])
        if ctx.needs_input_grad[0]:
            for_input = (flat @ weight).view(input.shape)
        if ctx.needs_input_grad[1]:
            rows = input.reshape(-1, input.shape[-1])
            for_weight = flat.t() @ rows
        if ctx.needs_input_grad[2]:
            for_bias = flat.sum(dim=0)
        return for_input, for_weight, for_bias


def use_fast_linear(module: nn.Module) -> int:
    """Turn every plain `nn.Linear` and TTM block of a network into the fast one, in place; returns how many."""
    if not torch.backends.mkldnn.is_available():
        return 0
    turned = 0
    for child in module.modules():
        fast = {nn.Linear: FastLinear, TinyTimeMixerMLP: FastMLP}.get(type(child))
        if fast is not None:
            child.__class__ = fast
            turned += 1
    return turned


def _product(
    input: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, activation: str = "none"
) -> torch.Tensor:
    # the operator reads strides as if they were contiguous
    return torch.ops.mkldnn._linear_pointwise(input.contiguous(), weight, bias, activation, [], "none")


def _supported(input: torch.Tensor, weight: torch.Tensor) -> bool:
    return (
        input.device.type == "cpu"
        and input.dtype == weight.dtype == torch.float32
        and input.numel() > 0
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
    )


def _needs_gradient(*tensors: torch.Tensor | None) -> bool:
    return torch.is_grad_enabled() and any(tensor is not None and tensor.requires_grad for tensor in tensors)
