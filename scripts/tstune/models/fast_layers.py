"""Layers of TTM that do the same in less time on a CPU: dropout with cheap random bits, a mixer without transposes."""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

_LEVELS = 1 << 16


class FastDropout(nn.Dropout):
    """Drop-in for `nn.Dropout` with cheap random bits; on other devices than the CPU it is `nn.Dropout`.

    `torch.nn.Dropout` draws one random number per value with a slow serial generator, which is almost half of the time
    of training a TTM head on a CPU. Sixteen random bits per value are enough, so one 64-bit draw of NumPy's fastest
    generator serves four values. It is seeded from torch's generator at every call: the same torch seed gives the same
    masks, and resuming needs nothing new. The drop probability is rounded to a multiple of 1/65536.
    """

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


class FastPatchMixer(nn.Module):
    """A `PatchMixerBlock` of TTM on the CPU; with adapters, quantised or partitioned weights it is as in the library.

    granite-tsfm turns [patches, width] into [width, patches], so that `nn.Linear` mixes the patches, and turns it back.
    The copies cost as much as the products, and a softmax over a last axis of 8 patches does not use the vector unit: a
    fifth of a forward pass. Multiplying from the left, W @ x, needs neither. The results differ in the last bits only.
    """

    def forward(self, hidden_state: torch.Tensor) -> torch.Tensor:
        """[batch, channels, patches, width] -> the same shape."""
        if not self._applies(hidden_state):
            return super().forward(hidden_state)
        mlp = self.mlp
        mixed = self.norm(hidden_state).flatten(0, 1)
        mixed = mlp.dropout1(F.gelu(_mix(mlp.fc1, mixed)))
        mixed = mlp.dropout2(_mix(mlp.fc2, mixed))
        if self.gated_attn:
            mixed = mixed * torch.softmax(_mix(self.gating_block.attn_layer, mixed), dim=-2)
        return mixed.view_as(hidden_state) + hidden_state

    def _applies(self, hidden_state: torch.Tensor) -> bool:
        layers = [self.mlp.fc1, self.mlp.fc2]
        if self.gated_attn:
            gate = self.gating_block
            if gate.mode != "softmax" or gate.use_reg_context:
                return False
            layers.append(gate.attn_layer)
        return (
            hidden_state.device.type == "cpu"
            and not self.self_attn
            and not torch.is_autocast_enabled("cpu")
            # DeepSpeed gives an id to weights that are there only while their own layer runs
            and all(type(layer) is nn.Linear and not hasattr(layer.weight, "ds_id") for layer in layers)
        )


def use_fast_patch_mixer(module: nn.Module) -> int:
    """Turn every patch mixer of a TTM into the fast one, in place; returns how many."""
    from tsfm_public.models.tinytimemixer.modeling_tinytimemixer import PatchMixerBlock

    blocks = [block for block in module.modules() if type(block) is PatchMixerBlock]
    for block in blocks:
        block.__class__ = _fast(PatchMixerBlock)
    return len(blocks)


@cache
def _fast(block_class: type[nn.Module]) -> type[nn.Module]:
    """The library's class with our forward before its own; made late, so that the library is imported late."""
    return type("FastPatchMixerBlock", (FastPatchMixer, block_class), {})


def _mix(layer: nn.Linear, values: torch.Tensor) -> torch.Tensor:
    """[n, in, width] -> [n, out, width]."""
    weight = layer.weight.expand(values.shape[0], -1, -1)
    return torch.baddbmm(layer.bias[:, None], weight, values)
