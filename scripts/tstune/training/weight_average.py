"""Exponential moving average of the learning weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from tstune.runtime.sharding import learning_parameters, like


class WeightAverage:
    """Keeps average = decay * average + (1 - decay) * weight for every learning parameter.

    Early in training the decay is min(decay, (1 + n) / (10 + n)) after n updates, so that the random start is
    forgotten quickly.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self._decay = decay
        self.updates = 0
        learning = learning_parameters(module)
        self._names = [name for name, _ in learning]
        self._learning = [parameter for _, parameter in learning]
        self._average = [parameter.detach().clone() for parameter in self._learning]

    @torch.no_grad()
    def update(self) -> None:
        """Take in the weights as they are now."""
        self.updates += 1
        decay = min(self._decay, (1 + self.updates) / (10 + self.updates))
        torch._foreach_lerp_(self._average, [p.detach() for p in self._learning], 1.0 - decay)

    def named(self) -> list[tuple[str, torch.Tensor]]:
        """Names and averages."""
        return list(zip(self._names, self._average, strict=True))

    @torch.no_grad()
    def restore(self, averages: dict[str, torch.Tensor], updates: int) -> None:
        """Go on from the averages of a checkpoint."""
        self.updates = updates
        for name, average in self.named():
            average.copy_(like(averages[name], average))

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Swap the averages in, and the weights back afterwards."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        for parameter, average in zip(self._learning, self._average, strict=True):
            kept = parameter.detach().clone()
            parameter.copy_(average)
            average.copy_(kept)
