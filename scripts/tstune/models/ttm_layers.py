"""Layers of ours in a TTM: a head past its normalisation, and mixers that do the same in less time on a CPU."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import nn

from tstune.data.windows import Batch
from tstune.models.modules import can_be_read, dropout_mask, put_before

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


class LinearSkip(nn.Module):
    """Adds to a forecast a linear map of the whole context and of that forecast; a new one adds nothing.

    Its tensors are buffers, solved in closed form and never trained: an optimizer that moves every weight by the
    learning rate moves the sum over some hundred readings, which are much alike, by far more. `maps` is 1 for all
    targets, or their number.
    """

    def __init__(self, maps: int, context_length: int, prediction_length: int) -> None:
        super().__init__()
        self.register_buffer("weight", torch.zeros(maps, context_length + prediction_length, prediction_length))
        self.register_buffer("bias", torch.zeros(maps, 1, prediction_length))

    def forward(self, past: torch.Tensor, point: torch.Tensor) -> torch.Tensor:
        """[batch, steps, targets] to add to the forecast `point`, of that shape; `past` [batch, context, targets]."""
        rows = torch.cat([past, point], dim=1).permute(2, 0, 1)
        return (rows @ self.weight + self.bias).permute(1, 2, 0)

    def solution(self, shown: Iterable[tuple[torch.Tensor, ...]], alpha: float) -> Batch:
        """Its tensors as the ridge regression of what forecasts lack, with `alpha` on squared weights.

        `shown` are batches of past, point and what the point lacks, [batch, steps, targets]. The sums are of double
        precision and on the CPU: they take the same memory for any number of windows, and give the same bits.
        """
        gram, cross = 0.0, 0.0
        for past, point, lack in shown:
            rows = F.pad(torch.cat([past, point], dim=1).permute(2, 0, 1), (0, 1), value=1.0)  # the bias is one more
            rows, lack = (values.cpu().double() for values in (rows, lack.permute(2, 0, 1)))
            if len(self.weight) == 1:
                rows, lack = (values.reshape(1, -1, values.shape[2]) for values in (rows, lack))
            gram, cross = gram + rows.mT @ rows, cross + rows.mT @ lack
        gram.diagonal(dim1=1, dim2=2)[:, :-1] += alpha
        found = torch.linalg.solve(gram, cross).float()
        found = F.pad(found, (0, self.weight.shape[2] - found.shape[2]))  # of steps that nobody asks for nothing
        return {"weight": found[:, :-1].contiguous(), "bias": found[:, -1:].contiguous()}


class _Block(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(
            nn.LayerNorm(WIDTH),
            nn.Linear(WIDTH, 2 * WIDTH),
            nn.GELU(),
            nn.Dropout(DROPOUT),
            nn.Linear(2 * WIDTH, WIDTH),
        )


_SMALL = 1 << 17
"""Fewer values than this, about 85 series of TTM-r2, are forecast in the order of the library: to the same digits."""


class FastMixer(nn.Module):
    """A mixer block of TTM on the CPU; with adapters, quantised or partitioned weights it is as in the library.

    granite-tsfm turns [patches, width] into [width, patches], so that `nn.Linear` mixes the patches, and turns it back,
    for each window alone. Here the patches lie outermost in memory: mixing them is one product from the left for all
    windows, mixing features one from the right, and nothing is turned. The results differ in the last bits only.
    """

    over_patches = True  # before a `PatchMixerBlock`

    def forward(self, hidden_state: torch.Tensor) -> torch.Tensor:
        """[batch, channels, patches, width] -> the same shape."""
        if not self._applies():
            return super().forward(hidden_state)
        # exported graphs run products in this order fast, and can quantise them
        if torch.compiler.is_compiling() or (not torch.is_grad_enabled() and hidden_state.numel() < _SMALL):
            return self._in_order(hidden_state) if self.over_patches else super().forward(hidden_state)
        values = hidden_state.permute(2, 0, 1, 3).contiguous()
        rows = (len(values), -1) if self.over_patches else (-1, values.shape[3])
        mlp = self.mlp
        mixed = F.gelu(self._product(mlp.fc1, self.norm(values).reshape(rows)))
        mixed = self._product(mlp.fc2, self._dropped(mixed, mlp.dropout1, mlp.fc1, values.shape))
        mixed = self._dropped(mixed, mlp.dropout2, mlp.fc2, values.shape)
        if self.gated_attn:
            gate = self._product(self.gating_block.attn_layer, mixed).softmax(dim=0 if self.over_patches else 1)
            mixed = torch.addcmul(values.view(rows), mixed, gate)
        else:
            mixed = mixed + values.view(rows)
        return mixed.view(values.shape).permute(1, 2, 0, 3)

    def _product(self, layer: nn.Linear, values: torch.Tensor) -> torch.Tensor:
        if self.over_patches:
            return torch.addmm(layer.bias[:, None], layer.weight, values)
        return torch.addmm(layer.bias, values, layer.weight.t())

    def _dropped(self, values: torch.Tensor, dropout: nn.Dropout, layer: nn.Linear, shape: torch.Size) -> torch.Tensor:
        """The values behind a layer with dropout, in place; `shape` is that of the block, the patches outermost."""
        if not dropout.training or not dropout.p:
            return values
        patches, batch, channels, width = shape
        inner = (layer.out_features, width) if self.over_patches else (patches, layer.out_features)
        mask = dropout_mask((batch * channels, *inner), dropout.p, values.dtype, outermost=1)
        return values.mul_(mask.view(values.shape))

    def _in_order(self, hidden_state: torch.Tensor) -> torch.Tensor:
        """Mixing of patches on windows as they lie."""
        mlp = self.mlp
        mixed = self.norm(hidden_state).flatten(0, 1)
        mixed = mlp.dropout1(F.gelu(_from_left(mlp.fc1, mixed)))
        mixed = mlp.dropout2(_from_left(mlp.fc2, mixed))
        if self.gated_attn:
            mixed = mixed * torch.softmax(_from_left(self.gating_block.attn_layer, mixed), dim=-2)
        return mixed.view_as(hidden_state) + hidden_state

    def _applies(self) -> bool:
        if self.gated_attn and (self.gating_block.mode != "softmax" or self.gating_block.use_reg_context):
            return False
        layers = [self.mlp.fc1, self.mlp.fc2, *([self.gating_block.attn_layer] if self.gated_attn else [])]
        return not getattr(self, "self_attn", False) and can_be_read(*layers)


class FastFeatureMixer(FastMixer):
    """Before a `FeatureMixerBlock`."""

    over_patches = False


def use_fast_mixers(module: nn.Module) -> int:
    """Turn every mixer of patches or features in a TTM into the fast one, in place; returns how many."""
    from tsfm_public.models.tinytimemixer.modeling_tinytimemixer import FeatureMixerBlock, PatchMixerBlock

    return put_before(module, FastMixer, PatchMixerBlock) + put_before(module, FastFeatureMixer, FeatureMixerBlock)


def _from_left(layer: nn.Linear, values: torch.Tensor) -> torch.Tensor:
    """[n, in, width] -> [n, out, width]."""
    return torch.baddbmm(layer.bias[:, None], layer.weight.expand(values.shape[0], -1, -1), values)
