"""TTM's patch mixer without its transposes, for the CPU.

granite-tsfm turns [patches, width] into [width, patches], so that `nn.Linear` mixes the patches, and turns it
back. The copies cost as much as the products, and a softmax over a last axis of 8 patches does not use the
vector unit: a fifth of a forward pass. Multiplying from the left, W @ x, needs neither. The results differ in
the last bits only.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn
from tsfm_public.models.tinytimemixer.modeling_tinytimemixer import PatchMixerBlock

from tstune.runtime.sharding import is_partitioned


class FastPatchMixer(PatchMixerBlock):
    """Drop-in for `PatchMixerBlock`; with adapters, quantised or partitioned weights it is that class."""

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
            # a partitioned weight is there only while its own layer runs
            and all(type(layer) is nn.Linear and not is_partitioned(layer.weight) for layer in layers)
        )


def use_fast_patch_mixer(module: nn.Module) -> int:
    """Turn every patch mixer of a TTM into the fast one, in place; returns how many."""
    blocks = [block for block in module.modules() if type(block) is PatchMixerBlock]
    for block in blocks:
        block.__class__ = FastPatchMixer
    return len(blocks)


def _mix(layer: nn.Linear, values: torch.Tensor) -> torch.Tensor:
    """[n, in, width] -> [n, out, width]."""
    weight = layer.weight.expand(values.shape[0], -1, -1)
    return torch.baddbmm(layer.bias[:, None], weight, values)
