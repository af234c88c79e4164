"""How much the readings of a context vary: the natural unit of its forecast errors."""

from __future__ import annotations

import torch

from tstune.data.windows import Batch


def context_spread(batch: Batch, num_targets: int) -> torch.Tensor:
    """[batch, targets] standard deviation of the usable readings in each context; 0 where there is none.

    Args:
        batch: windows with `past_values` and `past_observed_mask`, see `WindowDataset`.
        num_targets: the first channels are the targets.
    """
    past, usable = (batch[name][..., :num_targets] for name in ("past_values", "past_observed_mask"))
    past = torch.where(usable, past, 0.0).double()
    count = usable.sum(dim=1).clamp_min(1)
    mean = past.sum(dim=1) / count
    deviation = torch.where(usable, past - mean[:, None], 0.0)
    return (deviation.square().sum(dim=1) / count).sqrt().float()
