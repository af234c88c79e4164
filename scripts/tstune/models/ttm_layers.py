"""Layers of ours in a TTM: a head past its normalisation, and two that do the same in less time on a CPU."""

from __future__ import annotations

import math
from functools import cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from tstune.data.windows import Batch

DAY = 86_400
WIDTH, DROPOUT = 128, 0.3
CHANGES, CHANGES_BY = 12, 30.0  # how many a skip head reads, and their factor: a step is small beside the deviation
"""Chosen on the validation windows of BrisT1D-Open, one hour ahead."""


class SkipHead(nn.Module):
    """Adds to every step of a forecast what the last readings say about it; a new one adds nothing.

    A Tiny Time Mixer scales a window by its mean and deviation over the whole context and cuts it into patches: where
    the last reading lies, which readings are real and which were interpolated, how old the last one is and the time of
    the day get lost, and the first steps of a forecast suffer most. This head reads just those, the last `steps` one by
    one and the last `changes` from step to step, which do not depend on the spread of the window, beside the forecast
    itself, with two residual blocks. `with_quantiles` it also stretches their distances from the forecast.
    """

    def __init__(
        self, steps: int, prediction_length: int, with_quantiles: bool = False, changes: int = CHANGES
    ) -> None:
        super().__init__()
        self.steps, self.prediction_length, self.changes = steps, prediction_length, min(changes, steps - 1)
        num_features = 2 * steps + 4 + 4 + prediction_length  # readings and masks, place and spread, hour, forecast
        num_features += self.changes
        self.input = nn.Linear(num_features, WIDTH)
        self.blocks = nn.ModuleList(_Block() for _ in range(2))
        self.output = nn.Linear(WIDTH, prediction_length)
        self.quantile_stretch = nn.Linear(WIDTH, prediction_length) if with_quantiles else None
        self.start_at_nothing()

    @torch.no_grad()
    def start_at_nothing(self) -> None:
        """Fresh weights whose addition is 0."""
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.LayerNorm):
                module.reset_parameters()
        self.output.weight.zero_()
        self.output.bias.zero_()
        self.start_without_stretch()

    @torch.no_grad()
    def start_without_stretch(self) -> None:
        """Fresh weights that leave the distances of the quantiles as they are."""
        if self.quantile_stretch is not None:
            self.quantile_stretch.weight.zero_()
            self.quantile_stretch.bias.zero_()

    def read(self, batch: Batch, past: torch.Tensor, loc: torch.Tensor, scale: torch.Tensor) -> Batch:
        """What `forward` needs of a batch; nothing here learns.

        Args:
            batch: masks [batch, context, channels] of what is usable and what was really read, and `origin`.
            past: [batch, context, targets] in scaled units.
            loc, scale: [batch, 1, targets] mean and deviation of the context in scaled units.

        Returns:
            `recent` [batch, targets, features], and `last` [batch, 1, targets], the last reading.
        """
        targets, length = past.shape[2], past.shape[1]
        usable, read = (batch[name][..., :targets] for name in ("past_observed_mask", "past_read_mask"))
        rows = torch.arange(length, device=past.device)[None, :, None]
        newest = torch.where(usable, rows, 0).amax(dim=1, keepdim=True)
        last = past.gather(1, newest)
        age = length - 1 - torch.where(read, rows, 0).amax(dim=1, keepdim=True)
        if "origin" in batch:
            angle = (batch["origin"] % DAY).to(past.dtype) * (2 * math.pi / DAY)
            hour = torch.stack([angle.sin(), angle.cos(), (2 * angle).sin(), (2 * angle).cos()], dim=1)
        else:  # generated series have no clock
            hour = past.new_zeros(len(past), 4)
        features = [
            (past[:, -self.steps :] - last) / scale,
            read[:, -self.steps :].to(past.dtype),
            torch.log1p(age.to(past.dtype)),
            last,
            torch.log(scale + 0.05),
            (loc - last) / scale,
            hour[..., None].expand(-1, -1, targets),
        ]
        if self.changes:
            features.append(past[:, -self.changes - 1 :].diff(dim=1) * CHANGES_BY)
        return {"recent": torch.cat(features, dim=1).transpose(1, 2), "last": last}

    def forward(
        self, read: Batch, point: torch.Tensor, scale: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """[batch, steps, targets] to add to the forecast, and the factor of its quantiles' distances from it.

        `point` is the network's forecast, of that shape too, and `scale` [batch, 1, targets] the deviation of the
        context, in scaled units both.
        """
        forecast = ((point - read["last"]) / scale).transpose(1, 2)
        hidden = self.input(torch.cat([read["recent"], forecast], dim=-1))
        for block in self.blocks:
            hidden = hidden + block(hidden)
        change = self.output(hidden).transpose(1, 2) * scale
        return change, None if self.quantile_stretch is None else self.quantile_stretch(hidden).transpose(1, 2).exp()


class _Block(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(
            nn.LayerNorm(WIDTH),
            nn.Linear(WIDTH, 2 * WIDTH),
            nn.GELU(),
            nn.Dropout(DROPOUT),
            nn.Linear(2 * WIDTH, WIDTH),
        )


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
        if not self._applies():
            return super().forward(hidden_state)
        mlp = self.mlp
        mixed = self.norm(hidden_state).flatten(0, 1)
        mixed = mlp.dropout1(F.gelu(_mix(mlp.fc1, mixed)))
        mixed = mlp.dropout2(_mix(mlp.fc2, mixed))
        if self.gated_attn:
            mixed = mixed * torch.softmax(_mix(self.gating_block.attn_layer, mixed), dim=-2)
        return mixed.view_as(hidden_state) + hidden_state

    def _applies(self) -> bool:
        layers = [self.mlp.fc1, self.mlp.fc2]
        if self.gated_attn:
            gate = self.gating_block
            if gate.mode != "softmax" or gate.use_reg_context:
                return False
            layers.append(gate.attn_layer)
        return not self.self_attn and can_be_read(*layers)


def use_fast_patch_mixer(module: nn.Module) -> int:
    """Turn every patch mixer of a TTM into the fast one, in place; returns how many."""
    from tsfm_public.models.tinytimemixer.modeling_tinytimemixer import PatchMixerBlock

    return put_before(module, FastPatchMixer, PatchMixerBlock)


def put_before(module: nn.Module, ours: type[nn.Module], theirs: type[nn.Module]) -> int:
    """Put our forward before that of every layer of a library's class, in place; returns how many."""
    layers = [layer for layer in module.modules() if type(layer) is theirs]
    for layer in layers:
        layer.__class__ = _joined(ours, theirs)
    return len(layers)


@cache
def _joined(ours: type[nn.Module], theirs: type[nn.Module]) -> type[nn.Module]:
    """Made late, so that the library is imported late."""
    return type(ours.__name__, (ours, theirs), {})


def can_be_read(*layers: nn.Module) -> bool:
    """True if the weights of linear layers may be used without calling them: no adapter, whole, on a CPU, as they are.

    DeepSpeed gives an id to weights that are there only while their own layer runs.
    """
    whole = all(type(layer) is nn.Linear and not hasattr(layer.weight, "ds_id") for layer in layers)
    return whole and layers[0].weight.device.type == "cpu" and not torch.is_autocast_enabled("cpu")


def _mix(layer: nn.Linear, values: torch.Tensor) -> torch.Tensor:
    """[n, in, width] -> [n, out, width]."""
    weight = layer.weight.expand(values.shape[0], -1, -1)
    return torch.baddbmm(layer.bias[:, None], weight, values)
