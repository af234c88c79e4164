"""Learning-rate range test (Smith 2017): raise the rate step by step and look where the loss keeps falling."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.utils.data import Dataset

from tstune.config.schema import TrainingSection
from tstune.data.windows import window_loader
from tstune.errors import TrainingError
from tstune.models.adapters import train_mode
from tstune.runtime.distributed import DistributedManager
from tstune.runtime.logs import logger
from tstune.runtime.sharding import learning_parameters
from tstune.training.optim import build_optimizer, running_statistics

if TYPE_CHECKING:
    from tstune.models.contract import ForecastModel

LOWEST, HIGHEST, NUM_STEPS = 1e-6, 1e-1, 100
_SMOOTHING = 0.9
_GIVE_UP = 4.0  # stop when the loss is this many times its lowest value


@dataclass(frozen=True)
class LearningRateCurve:
    """Rates that were tried, the smoothed loss at each, and the suggestion."""

    learning_rates: list[float]
    losses: list[float]
    suggestion: float


def find_learning_rate(
    model: ForecastModel, windows: Dataset, config: TrainingSection, manager: DistributedManager, seed: int
) -> LearningRateCurve:
    """Suggest a peak learning rate; weights and random state are left as they were.

    The suggestion lies in the middle of the longest fall of the smoothed loss (the "valley" rule): the steepest
    point, the older rule, follows noise when the model is pretrained and the curve almost flat. Every process makes
    the same test on the same windows, so all agree.

    Raises:
        TrainingError: the loss falls at no rate.
    """
    module = model.module
    changing = [*learning_parameters(module), *running_statistics(module)]
    before = [(value, value.detach().clone()) for _, value in changing]
    rates, losses = [], []
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        optimizer = build_optimizer(module, config, LOWEST, model.parts)
        loader = window_loader(windows, config.per_device_batch_size, True, seed)
        train_mode(module)
        step, average, lowest = 0, 0.0, math.inf
        while step < NUM_STEPS:
            loader.batch_sampler.set_epoch(step)
            for batch in loader:
                rate = LOWEST * (HIGHEST / LOWEST) ** (step / (NUM_STEPS - 1))
                for group in optimizer.param_groups:
                    group["lr"] = rate * group["lr_factor"]
                batch = {name: tensor.to(manager.device) for name, tensor in batch.items()}
                totals, weights = model.window_losses(module, batch)
                loss = totals.sum() / weights.sum().clamp_min(1)
                loss.backward()
                if config.max_grad_norm is not None:
                    torch.nn.utils.clip_grad_norm_(module.parameters(), config.max_grad_norm)
                optimizer.step()
                optimizer.zero_grad()
                step += 1
                average = _SMOOTHING * average + (1 - _SMOOTHING) * loss.item()
                smooth = average / (1 - _SMOOTHING**step)
                rates.append(rate)
                losses.append(smooth)
                lowest = min(lowest, smooth)
                if step >= NUM_STEPS or not smooth < _GIVE_UP * lowest:
                    step = NUM_STEPS
                    break
    with torch.no_grad():
        for value, old in before:
            value.copy_(old)
    curve = LearningRateCurve(rates, losses, _valley(rates, losses))
    logger.info("learning-rate finder: %.2e after %d steps", curve.suggestion, len(rates))
    return curve


def _valley(rates: list[float], losses: list[float]) -> float:
    """Middle of the longest falling stretch: the longest decreasing subsequence, so that noise does not end it."""
    usable = np.flatnonzero(np.isfinite(losses))
    usable = usable[min(10, len(usable) // 2) :]  # the first values are hardly smoothed
    values = np.asarray(losses)[usable]
    length, before = np.ones(len(values), int), np.full(len(values), -1)
    for end in range(len(values)):
        earlier = np.flatnonzero(values[:end] > values[end])
        if earlier.size:
            before[end] = earlier[length[earlier].argmax()]
            length[end] = length[before[end]] + 1
    last = int(length.argmax())
    first = last
    while before[first] >= 0:
        first = int(before[first])
    if length[last] < 5:
        raise TrainingError("training.learning_rate=auto: the loss falls at no learning rate; give one, e.g. 1e-4")
    return float(rates[usable[(first + last) // 2]])
