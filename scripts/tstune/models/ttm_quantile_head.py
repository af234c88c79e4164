"""The multi-quantile head of granite-tsfm: its options, and where a new one starts."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from scipy.special import ndtri
from tsfm_public import TinyTimeMixerForPrediction

from tstune.config.schema import ForecastSection

QUANTILE_HEAD = "multi_quantile_head_block"
"""Name of the part in granite-tsfm's network; it lies behind `head`, whose forecast it takes as the centre."""


def head_levels(section: ForecastSection) -> tuple[float, ...]:
    """Levels the network's own head is to forecast; empty if quantiles come from elsewhere."""
    return tuple(section.quantiles) if section.method == "quantile_head" else ()


def head_options(levels: Sequence[float]) -> dict:
    """Constructor arguments of a TTM with these levels; nothing without levels."""
    if not levels:
        return {}
    # Without the decoder's state the head sees the shape of the point forecast only, not how sure the context is.
    return {"multi_quantile_head": True, "quantile_levels": list(levels), "mq_use_decoder_pool": True}


@torch.no_grad()
def start_at_the_forecast(ttm: TinyTimeMixerForPrediction) -> None:
    """Let a new head start with the pretrained forecast as median, and the spread of the context around it.

    Random widths are several times too wide, and softplus lets them shrink slowly.
    """
    head = getattr(ttm, QUANTILE_HEAD)
    normal = torch.from_numpy(ndtri(head.quantile_list)).float()
    gaps, middle = normal.diff(), head.median_index
    outward = torch.cat([gaps[:middle].flip(0), gaps[middle:]])  # as the head's channels: down from the median, then up
    head.pw2.weight.zero_()
    head.pw2.bias[0] = 0.0
    head.pw2.bias[1:] = torch.log(torch.expm1(outward))  # inverse of softplus
