"""Every combination once, in the order in which a nested loop would take them."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial

from tstune.errors import ConfigError
from tstune.sweeps.attempts import position
from tstune.sweeps.space import Choice, Dimension, Range, Value


def grid(space: Sequence[Dimension]) -> list[dict[str, Value]]:
    """All points; the last key changes fastest.

    Raises:
        ConfigError: a dimension without an end.
    """
    for dimension in space:
        if dimension.values is None:
            raise ConfigError(
                f"{dimension.key}: {dimension} has no end of values; give range() or choice(), "
                "or take --sampler tpe or random"
            )
    keys = [dimension.key for dimension in space]
    return [dict(zip(keys, values, strict=True)) for values in itertools.product(*(d.values for d in space))]


class GridSampler(BaseSampler):
    """Takes the points of the grid in order.

    Optuna's own sampler may give one point to two jobs. Here a trial's place among the points of the study, which no
    two jobs share, is its place in the grid.
    """

    def __init__(self, space: Sequence[Dimension]) -> None:
        self._points = grid(space)
        self._space: dict[str, Choice | Range] = {dimension.key: dimension for dimension in space}

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Nothing is drawn together."""
        return {}

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, object]:
        """Nothing is drawn together."""
        return {}

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> object:
        """The value of this trial's point."""
        point = self._points[position(study, trial.number)]
        return self._space[param_name].stored(point[param_name])
