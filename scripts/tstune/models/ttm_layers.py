"""Layers of ours in a TTM: a head past its normalisation, and mixers that do the same in less time on a CPU."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd.function import once_differentiable

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

    def solution(self, shown: Iterable[tuple[torch.Tensor, ...]], alpha: float, share: float) -> Batch:
        """Its tensors as `share` of the ridge regression of what forecasts lack, with `alpha` on squared weights.

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
        found = share * torch.linalg.solve(gram, cross).float()
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
"""Fewer values than this, about 85 series of TTM-r2, are forecast faster by fewer and larger steps."""


class FastMixer(nn.Module):
    """A mixer block of TTM on the CPU; with adapters, quantised or partitioned weights it is as in the library.

    granite-tsfm turns [patches, width] into [width, patches], so that `nn.Linear` mixes the patches, and turns it back,
    for each window alone. Here the patches lie outermost in memory: mixing them is one product from the left for all
    windows, mixing features one from the right, and nothing is turned. The results differ in the last bits only.
    """

    over_patches: bool

    def forward(self, hidden_state: torch.Tensor) -> torch.Tensor:
        """[batch, channels, patches, width] -> the same shape."""
        if not self._applies():
            return super().forward(hidden_state)
        # a graph is to hold plain operators, for any number of windows
        if torch.compiler.is_compiling() or (not torch.is_grad_enabled() and hidden_state.numel() < _SMALL):
            return self._in_order(hidden_state) if self.over_patches else super().forward(hidden_state)
        values = hidden_state.permute(2, 0, 1, 3).contiguous()
        rows = (len(values), -1) if self.over_patches else (-1, values.shape[3])
        mlp = self.mlp
        masks = [self._mask(values, *pair) for pair in ((mlp.dropout1, mlp.fc1), (mlp.dropout2, mlp.fc2))]
        weights = [parameter for layer in self._layers() for parameter in (layer.weight, layer.bias)]
        inputs = self.over_patches, *masks, values.view(rows), self.norm(values).reshape(rows), *weights
        mixed = _GatedMixing.apply(*inputs) if torch.is_grad_enabled() else _mix_and_gate(None, *inputs)
        return mixed.view(values.shape).permute(1, 2, 0, 3)

    def _layers(self) -> list[nn.Module]:
        return [self.mlp.fc1, self.mlp.fc2, *([self.gating_block.attn_layer] if self.gated_attn else [])]

    def _mask(self, values: torch.Tensor, dropout: nn.Dropout, layer: nn.Linear) -> torch.Tensor | None:
        """The mask that dropout draws behind a layer, in the order of our rows; `values` has the patches outermost."""
        if not dropout.training or not dropout.p:
            return None
        patches, batch, channels, width = values.shape
        inner = (layer.out_features, width) if self.over_patches else (patches, layer.out_features)
        mask = dropout_mask((batch * channels, *inner), dropout.p, values.dtype, outermost=1)
        return mask.view(inner[0], -1) if self.over_patches else mask.view(-1, inner[1])

    def _in_order(self, hidden_state: torch.Tensor) -> torch.Tensor:
        """The same on windows as they lie; takes fewer steps."""
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
        return not getattr(self, "self_attn", False) and can_be_read(*self._layers())


class FastPatchMixer(FastMixer):
    """Before a `PatchMixerBlock`."""

    over_patches = True


class FastFeatureMixer(FastMixer):
    """Before a `FeatureMixerBlock`."""

    over_patches = False


def _mix_and_gate(ctx, left, mask1, mask2, x, n, w1, b1, w2, b2, wa=None, ba=None):  # noqa: ANN001, ANN202
    """Give x + y * softmax(A y), y = W2 gelu(W1 n), with masks behind gelu and W2; `ctx` keeps what gradients need.

    All values are [patches, series * width] and the weights multiply from the `left`, or [patches * series, width] and
    they multiply from the right. From the left a bias is one more column of its weights and meets a row of ones: added
    by itself it would cost as much as the product.
    """
    inner = n
    if left:
        inner, values = _room(len(n), n, left)
        values.copy_(n)
    before = None
    if ctx is mask1 is None and not left and n.dtype == torch.float32 and torch.backends.mkldnn.is_available():
        hidden = torch.ops.mkldnn._linear_pointwise(n, w1, b1, "gelu", [], "none")
    else:
        hidden, values = _room(len(w1), n, left)
        before = _product(w1, b1, inner, left, out=values if ctx is None else None)
        torch._C._nn.gelu(before, out=values)
        if mask1 is not None:
            values.mul_(mask1)
    outer, y = _room(len(w2), n, left)
    _product(w2, b2, hidden, left, out=y)
    if mask2 is not None:
        y.mul_(mask2)
    gate = None if wa is None else torch.softmax(_product(wa, ba, outer, left), dim=0 if left else 1)
    if ctx is not None:
        ctx.left = left
        ctx.save_for_backward(mask1, mask2, inner, before, hidden, outer, gate, w1, w2, wa)
    return x + y if gate is None else torch.addcmul(x, y, gate)


class _GatedMixing(torch.autograd.Function):
    """`_mix_and_gate` with its gradients written out, most of them in place."""

    forward = staticmethod(_mix_and_gate)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):  # noqa: ANN001, ANN205
        mask1, mask2, inner, before, hidden, outer, gate, w1, w2, wa = ctx.saved_tensors
        left, wanted = ctx.left, ctx.needs_input_grad
        grad, of_gate = grad.contiguous(), (None, None)
        change = grad if gate is None else grad * gate
        if gate is not None:
            of_logits = torch._softmax_backward_data(grad * outer[: len(gate)], gate, 0 if left else 1, grad.dtype)
            of_gate = _weight_gradients(of_logits, outer, left, *wanted[9:11])
            change.addmm_(wa.t(), of_logits) if left else change.addmm_(of_logits, wa)
        if mask2 is not None:
            change = change * mask2
        of_2 = _weight_gradients(change, hidden, left, *wanted[7:9])
        change = torch.mm(w2.t(), change) if left else torch.mm(change, w2)
        if mask1 is not None:
            change.mul_(mask1)
        change = torch.ops.aten.gelu_backward(change, before)
        of_1 = _weight_gradients(change, inner, left, *wanted[5:7])
        change = torch.mm(w1.t(), change) if left else torch.mm(change, w1)
        return None, None, None, grad, change, *of_1, *of_2, *of_gate


def _room(size: int, like: torch.Tensor, left: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Room for `size` outputs of a layer, whole and without the row of ones that it has at the left."""
    whole = like.new_empty(size + 1, like.shape[1]) if left else like.new_empty(len(like), size)
    if left:
        whole[-1] = 1
    return whole, whole[:-1] if left else whole


def _product(weight, bias, values, left, out=None):  # noqa: ANN001, ANN202
    if left:
        return torch.mm(torch.cat([weight, bias[:, None]], dim=1), values, out=out)
    return torch.addmm(bias, values, weight.t(), out=out)


def _weight_gradients(change, values, left, of_weight, of_bias):  # noqa: ANN001, ANN202
    if left and of_weight:
        both = torch.mm(change, values.t())
        return both[:, :-1], both[:, -1]
    weight = torch.mm(change.t(), values) if of_weight else None
    return weight, change.sum(dim=1 if left else 0) if of_bias else None


def use_fast_mixers(module: nn.Module) -> int:
    """Turn every mixer of patches or features in a TTM into the fast one, in place; returns how many."""
    from tsfm_public.models.tinytimemixer.modeling_tinytimemixer import FeatureMixerBlock, PatchMixerBlock

    return put_before(module, FastPatchMixer, PatchMixerBlock) + put_before(module, FastFeatureMixer, FeatureMixerBlock)


def _from_left(layer: nn.Linear, values: torch.Tensor) -> torch.Tensor:
    """[n, in, width] -> [n, out, width]."""
    return torch.baddbmm(layer.bias[:, None], layer.weight.expand(values.shape[0], -1, -1), values)
