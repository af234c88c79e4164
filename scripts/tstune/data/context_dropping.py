"""Which training contexts lose their oldest part, and how much of it: a function of the seed and the window alone."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tstune.config.schema import RunConfig
from tstune.data.frequency import to_steps
from tstune.errors import ConfigError

_KEY = "training.context_dropping_range"


@dataclass(frozen=True)
class ContextDropping:
    """The same window loses the same steps in every epoch, on every rank and after a resume.

    Attributes:
        share: of the windows that lose anything.
        shortest, longest: steps that are left, drawn evenly on a logarithmic scale.
        seed: of the draw.
    """

    share: float
    shortest: int
    longest: int
    seed: int

    def kept_steps(self, starts: np.ndarray, context_length: int) -> np.ndarray:
        """[B] steps that are left of the contexts of the windows that begin at these rows."""
        low, high = np.log(self.shortest), np.log(self.longest + 1)
        steps = np.floor(np.exp(low + (high - low) * self._uniform(starts, 1))).astype(np.int64)
        steps = np.clip(steps, self.shortest, self.longest)  # exp(log(n)) may fall a hair below n
        return np.where(self._uniform(starts, 0) < self.share, steps, context_length)

    def _uniform(self, starts: np.ndarray, draw: int) -> np.ndarray:
        """[B] numbers in [0, 1) that look random, by the finaliser of SplitMix64."""
        key = np.uint64((self.seed * 2 + draw) * 0x9E3779B97F4A7C15 % 2**64)
        mixed = np.asarray(starts).astype(np.int64).view(np.uint64) * np.uint64(0xD1B54A32D192ED03) + key
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        mixed ^= mixed >> np.uint64(31)
        return (mixed >> np.uint64(11)) / float(2**53)


def context_dropping(config: RunConfig, frequency: str) -> ContextDropping | None:
    """What the configuration asks for; None for nothing.

    Raises:
        ConfigError: the range is not said, or is none.
    """
    training, length = config.training, config.model.context_length
    if training.context_dropping == 0:
        if training.context_dropping_range is not None:
            raise ConfigError(f"{_KEY} says how much to drop, but training.context_dropping=0 drops nothing")
        return None
    shortest = config.data.min_context or config.evaluation.context_steps
    bounds = training.context_dropping_range or (shortest, length)
    if bounds[0] is None:
        raise ConfigError(
            f"training.context_dropping={training.context_dropping:g} needs the shortest history that is left: set "
            f"data.min_context, evaluation.context_steps or {_KEY}"
        )
    low, high = (to_steps(bound, frequency, _KEY) for bound in bounds)
    if not 1 <= low <= high <= length:
        raise ConfigError(
            f"{_KEY}: {bounds[0]} to {bounds[1]} is {low} to {high} steps; it must grow, from 1 to "
            f"model.context_length={length}"
        )
    return ContextDropping(training.context_dropping, low, high, config.seed)
