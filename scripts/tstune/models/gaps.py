"""Gaps of a series for networks that know no gap: a straight line between readings, the last one held."""

from __future__ import annotations

import torch


def bridged(series: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Bridge what is missing after the first reading.

    Args:
        series: [rows, steps] with NaN where nothing was read.

    Returns:
        [rows, steps] without NaN, zero before the first reading; and, of that shape, True there.
    """
    observed, length = ~series.isnan(), series.shape[1]
    steps = torch.arange(length, device=series.device).expand_as(series)
    before = torch.where(observed, steps, -1).cummax(dim=1).values
    after = torch.where(observed, steps, length).flip(1).cummin(dim=1).values.flip(1)
    readings = series.nan_to_num()
    low = readings.gather(1, before.clamp(min=0))
    high = torch.where(after < length, readings.gather(1, after.clamp(max=length - 1)), low)
    share = (steps - before) / (after - before).clamp(min=1)
    leading = before < 0
    return torch.where(leading, 0.0, low + (high - low) * share), leading
