"""Dropout with cheap random bits on the CPU.

`torch.nn.Dropout` draws one random number per value with a slow serial generator, which is almost half of
the time of training a TTM head on a CPU. Sixteen random bits per value are enough, so one 64-bit draw of
NumPy's fastest generator serves four values. It is seeded from torch's generator at every call: the same
torch seed gives the same masks, and resuming needs nothing new. The drop probability is rounded to a
multiple of 1/65536.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

_LEVELS = 1 << 16


class FastDropout(nn.Dropout):
    """Drop-in for `nn.Dropout`; on other devices than the CPU it is `nn.Dropout`."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Same shape as the input."""
        if not self.training or self.p == 0.0:
            return input
        if input.device.type != "cpu":
            return super().forward(input)
        return input * dropout_mask(input, self.p)


def dropout_mask(like: torch.Tensor, p: float) -> torch.Tensor:
    """Zeros with probability `p`, else 1 / (1 - p), in the shape and type of `like`."""
    threshold = min(round(p * _LEVELS), _LEVELS - 1)
    seed = int(torch.randint(2**62, ()))
    generator = np.random.Generator(np.random.SFC64(seed))
    draws = generator.integers(-(2**63), 2**63 - 1, size=(like.numel() + 3) // 4, dtype=np.int64, endpoint=True)
    uniform = torch.from_numpy(draws).view(torch.int16)[: like.numel()].view(like.shape)  # -32768 … 32767
    mask = torch.ge(uniform, threshold - _LEVELS // 2, out=torch.empty(like.shape, dtype=like.dtype))
    return mask.mul_(_LEVELS / (_LEVELS - threshold))


def use_fast_dropout(module: nn.Module) -> int:
    """Replace every `nn.Dropout` in place; returns how many."""
    replaced = 0
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is nn.Dropout:
                setattr(parent, name, FastDropout(child.p).train(child.training))
                replaced += 1
    return replaced
