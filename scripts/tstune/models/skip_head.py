"""What a network's normalisation takes away, carried past it: the last readings, when they were taken, how they lie."""

from __future__ import annotations

import math

import torch
from torch import nn

from tstune.data.windows import Batch

DAY = 86_400
WIDTH, DROPOUT = 128, 0.3
"""Chosen on the validation windows of BrisT1D-Open, one hour ahead."""


class SkipHead(nn.Module):
    """Adds to every step of a forecast what the last readings say about it; a new one adds nothing.

    A Tiny Time Mixer scales a window by its mean and deviation over the whole context and cuts it into patches: where
    the last reading lies, which readings are real and which were interpolated, how old the last one is and the time of
    the day get lost, and the first steps of a forecast suffer most. This head reads just those, beside the forecast
    itself, with two residual blocks.

    Args:
        steps: last readings that are read one by one.
        prediction_length: steps of the network's forecast.
        with_quantiles: it also stretches the distances of the quantiles from the forecast.
    """

    def __init__(self, steps: int, prediction_length: int, with_quantiles: bool = False) -> None:
        super().__init__()
        self.steps, self.prediction_length = steps, prediction_length
        num_features = 2 * steps + 4 + 4 + prediction_length  # readings and masks, place and spread, hour, forecast
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
        return {"recent": torch.cat(features, dim=1).transpose(1, 2), "last": last}

    def forward(
        self, read: Batch, point: torch.Tensor, scale: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """[batch, steps, targets] to add to the forecast, and the factor of its quantiles' distances from it.

        Args:
            read: what `read` gave.
            point: [batch, steps, targets] the network's forecast, in scaled units as all is here.
            scale: [batch, 1, targets] deviation of the context.
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
