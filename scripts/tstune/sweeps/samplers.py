"""Which point comes next, and which trials are not worth finishing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.pruners import BasePruner, MedianPruner, NopPruner
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial

from tstune.sweeps.grid import GridSampler
from tstune.sweeps.space import Dimension

SamplerName = Literal["grid", "tpe", "random"]
PrunerName = Literal["median", "none"]


class SeededByTrial(BaseSampler):
    """A sampler with a seed for each trial, made from one seed and the trial's number.

    With one seed for the whole study every job, and every new start, would draw the same points again.

    Args:
        build: seed -> sampler.
        seed: of the study.
    """

    def __init__(self, build: Callable[[int], BaseSampler], seed: int) -> None:
        self._build, self._seed = build, seed
        self._sampler = build(seed)

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        """Seed."""
        seed = np.random.SeedSequence([self._seed, trial.number]).generate_state(1)[0]
        self._sampler = self._build(int(seed))
        self._sampler.before_trial(study, trial)

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Ask the sampler."""
        return self._sampler.infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, object]:
        """Ask the sampler."""
        return self._sampler.sample_relative(study, trial, search_space)

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> object:
        """Ask the sampler."""
        return self._sampler.sample_independent(study, trial, param_name, param_distribution)


def build_sampler(name: SamplerName, space: list[Dimension], seed: int, startup_trials: int) -> BaseSampler:
    """The sampler of a study.

    Args:
        startup_trials: finished trials before TPE draws by what it has learnt instead of at random.
    """
    if name == "grid":
        return GridSampler(space)
    if name == "random":
        return SeededByTrial(lambda seed: RandomSampler(seed=seed), seed)
    return SeededByTrial(lambda seed: TPESampler(seed=seed, n_startup_trials=startup_trials), seed)


def build_pruner(name: PrunerName, startup_trials: int, first_validation: int) -> BasePruner:
    """The pruner of a study.

    Args:
        startup_trials: finished trials before any is pruned.
        first_validation: validations every trial may take; the starting weights are number 0.
    """
    if name == "none":
        return NopPruner()
    return MedianPruner(n_startup_trials=startup_trials, n_warmup_steps=first_validation)
