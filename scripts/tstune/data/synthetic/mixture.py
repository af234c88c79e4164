"""A batch of series from all families, each with its own accidents."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from tstune.data.synthetic import augment, sampling, shifts
from tstune.data.synthetic.draws import Generator, chosen_kind, happens, standardised
from tstune.data.synthetic.gaussian_process import gaussian_process_series
from tstune.data.synthetic.glucose import glucose_series
from tstune.data.synthetic.intermittent import intermittent_series
from tstune.data.synthetic.noise import stochastic_series
from tstune.data.synthetic.recipe import FAMILIES, SeriesRecipe
from tstune.data.synthetic.seasonal import seasonal_series
from tstune.data.synthetic.trends import trend_series
from tstune.data.synthetic.waveforms import waveform_series

MAKERS: dict[str, Callable[[Generator, int, int], np.ndarray]] = {
    "seasonal": seasonal_series,
    "gaussian_process": gaussian_process_series,
    "stochastic": stochastic_series,
    "glucose": glucose_series,
    "trend": trend_series,
    "intermittent": intermittent_series,
    "waveform": waveform_series,
}


def draw_series(random: Generator, n: int, length: int, recipe: SeriesRecipe) -> tuple[np.ndarray, np.ndarray]:
    """[n, length] series of unit variance (constant ones are 0) and [n] index of their family in `FAMILIES`."""
    family = chosen_kind(random, n, recipe.weights)
    series = np.empty((n, length), np.float32)
    for number, name in enumerate(FAMILIES):
        rows = np.flatnonzero(family == number)
        if rows.size:
            series[rows] = MAKERS[name](random, rows.size, length)
    series = standardised(series)

    order = random.permutation(n)
    rows = happens(random, n, recipe.mix)
    mixed = augment.mix(random, series[rows], series[order[rows]])
    rows_of_regime = happens(random, n, recipe.regime)
    changed = shifts.change_regime(random, series[rows_of_regime], series[order[rows_of_regime]])
    series[rows] = mixed
    series[rows_of_regime] = changed

    for chance, change in (
        (recipe.resample, sampling.resample),
        (recipe.shift, shifts.shift_level),
        (recipe.squash, augment.squash),
        (recipe.spikes, shifts.add_spikes),
        (recipe.censor, augment.censor),
        (recipe.quantise, augment.quantise),
    ):
        rows = happens(random, n, chance)
        if rows.size:
            series[rows] = change(random, standardised(series[rows]))
    rows = happens(random, n, recipe.reverse)
    series[rows] = series[rows, ::-1]
    rows = happens(random, n, recipe.flip)
    series[rows] *= -1
    return standardised(series), family
