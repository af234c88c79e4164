"""Masked losses, one number per window: their sum over any set of windows is the loss of that set."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F


def window_losses(
    forecast: torch.Tensor,
    target: torch.Tensor,
    observed: torch.Tensor,
    loss: str,
    huber_delta: float = 1.0,
    step_decay: float = 0.0,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Sum the loss of each window over its observed targets.

    Args:
        forecast, target: [batch, steps, targets] in scaled units.
        observed: same shape, bool; where it is False neither value matters.
        loss: ``mse``, ``mae`` or ``huber``.
        huber_delta: where Huber turns linear.
        step_decay: how fast steps lose weight, see `step_weights`.

    Returns:
        [batch] total and [batch] number of observed targets; total.sum() / count.sum() is the mean loss.
    """
    # Unobserved targets take the forecast's place, so that they cost nothing and give no gradient.
    target = torch.where(observed, target, forecast.detach())
    if loss == "mse":
        each = F.mse_loss(forecast, target, reduction="none")
    elif loss == "mae":
        each = F.l1_loss(forecast, target, reduction="none")
    else:
        each = F.huber_loss(forecast, target, reduction="none", delta=huber_delta)
    if step_decay:
        each = each * step_weights(each, step_decay)
    return each.sum(dim=(1, 2)), observed.sum(dim=(1, 2)).to(each.dtype)


def quantile_window_losses(
    quantiles: torch.Tensor,
    target: torch.Tensor,
    observed: torch.Tensor,
    levels: Sequence[float],
    step_decay: float = 0.0,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Sum twice the mean pinball loss over levels of each window over its observed targets.

    Twice the mean is the CRPS of the quantiles (Berrisch & Ziel 2023) and, for the median alone, the absolute error.

    Args:
        quantiles: [batch, steps, targets, levels] in scaled units.
        target: [batch, steps, targets] in scaled units.
        observed: same shape, bool; where it is False no value matters.
        levels: one per quantile, between 0 and 1.
        step_decay: as of `window_losses`.

    Returns:
        [batch] total and [batch] number of observed targets, as `window_losses`.
    """
    taus = torch.as_tensor(levels, dtype=quantiles.dtype, device=quantiles.device)
    error = torch.where(observed, target, 0.0)[..., None] - quantiles
    pinball = torch.maximum(taus * error, (taus - 1) * error).mean(dim=-1)
    each = torch.where(observed, 2 * pinball, 0.0)  # no gradient reaches what was not observed
    if step_decay:
        each = each * step_weights(each, step_decay)
    return each.sum(dim=(1, 2)), observed.sum(dim=(1, 2)).to(each.dtype)


def step_weights(like: torch.Tensor, decay: float) -> torch.Tensor:
    """[steps, 1] weights h ** -decay of steps h = 1, 2, …, 1 on average, for losses [batch, steps, targets]."""
    weights = torch.arange(1, like.shape[1] + 1, dtype=like.dtype, device=like.device) ** -decay
    return (weights / weights.mean())[:, None]
