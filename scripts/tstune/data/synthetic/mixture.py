"""A batch of series from all families, and what happens to them: jumps, spikes, cuts, rounding, another rate."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, fields

import numpy as np

from tstune.data.synthetic.components import (
    Generator,
    chosen_kind,
    drawn_by_kind,
    happens,
    log_uniform,
    normal,
    seasonal_series,
    standardised,
    stochastic_series,
    uniform,
)
from tstune.data.synthetic.families import (
    gaussian_process_series,
    glucose_series,
    intermittent_series,
    trend_series,
    waveform_series,
)
from tstune.errors import ConfigError

MAKERS: dict[str, Callable[[Generator, int, int], np.ndarray]] = {
    "seasonal": seasonal_series,
    "gaussian_process": gaussian_process_series,
    "stochastic": stochastic_series,
    "glucose": glucose_series,
    "trend": trend_series,
    "intermittent": intermittent_series,
    "waveform": waveform_series,
}
FAMILIES = tuple(MAKERS)
"""Families in the order of a batch's `item`."""


@dataclass(frozen=True)
class SeriesRecipe:
    """Shares of the families and chances of what happens to a series afterwards."""

    # seasonal, gaussian_process, stochastic, glucose, trend, intermittent, waveform: weights of the families, relative
    # to their sum
    seasonal: float = 0.45
    gaussian_process: float = 0.15
    stochastic: float = 0.10
    glucose: float = 0.10
    trend: float = 0.10
    intermittent: float = 0.05
    waveform: float = 0.05
    mix: float = 0.20  # chance that a series is combined with another one of the batch
    # shift, regime, spikes: chance of a level shift, a change of regime, outliers
    shift: float = 0.06
    regime: float = 0.03
    spikes: float = 0.06
    # squash, censor, quantise: chance of a bent scale, a floor or ceiling, a coarse resolution
    squash: float = 0.12
    censor: float = 0.06
    quantise: float = 0.06
    resample: float = 0.10  # chance of another sampling rate
    # reverse, flip: chance of reversal in time and of the opposite sign
    reverse: float = 0.05
    flip: float = 0.25
    missing: float = 0.04  # chance of stretches that are missing and masked
    interpolated: float = 0.04  # chance of gaps that are filled with straight lines in the context
    clip: float = 8.0  # largest magnitude of a future value, in standard deviations of the context

    def __post_init__(self) -> None:
        for name, value in self.to_dict().items():
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not value >= 0:
                raise ConfigError(f"series recipe: {name}={value!r} must be a number of at least 0")
            if name not in (*FAMILIES, "clip") and value > 1:
                raise ConfigError(f"series recipe: {name}={value!r} is a chance; give at most 1")
        if not 0 < sum(self.weights) < float("inf"):
            raise ConfigError(f"series recipe: give a finite weight above 0 to one of {', '.join(FAMILIES)}")
        if self.clip < 1:
            raise ConfigError(f"series recipe: clip={self.clip!r} must be at least 1 standard deviation")

    @property
    def weights(self) -> list[float]:
        """Weights in the order of `FAMILIES`."""
        return [getattr(self, name) for name in FAMILIES]

    def to_dict(self) -> dict[str, float]:
        """All values by name, for a file."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, float]) -> SeriesRecipe:
        """Inverse of `to_dict`; what is left out keeps its default."""
        known = [field.name for field in fields(cls)]
        if unknown := [name for name in values if name not in known]:
            raise ConfigError(f"series recipe: unknown key {unknown[0]!r}; known: {', '.join(known)}")
        return cls(**values)


def shift_level(random: Generator, series: np.ndarray) -> np.ndarray:
    """One or two jumps or ramps to another level; `series` [n, length] of unit variance."""
    n, length = series.shape
    time = np.arange(length, dtype=np.float32)[None]
    for chance in (1.0, 0.4):
        size = np.where(random.random((n, 1)) < chance, uniform(random, 0.4, 3, n, 1) * _sign(random, n), 0)
        ramp = np.where(random.random((n, 1)) < 0.7, np.float32(1), log_uniform(random, 2, 100, n, 1))
        series = series + size * np.clip((time - random.integers(0, length, (n, 1))) / ramp, 0, 1)
    return series


def add_spikes(random: Generator, series: np.ndarray) -> np.ndarray:
    """Short outliers, at random times or every so often; `series` [n, length] of unit variance."""
    n, length = series.shape
    rate = log_uniform(random, 1 / length, 0.02, n, 1)
    at_random = random.random((n, length), dtype=np.float32) < rate
    every = random.integers(10, 200, (n, 1))
    regular = (np.arange(length) + random.integers(0, 200, (n, 1))) % every == 0
    spiked = np.where(random.random((n, 1)) < 0.75, at_random, regular)
    height = uniform(random, 1, 7, n, 1) * np.exp(0.4 * normal(random, n, length)) * _sign(random, n)
    height = np.where(random.random((n, 1)) < 0.3, height * np.sign(normal(random, n, length)), height)
    lasting = uniform(random, 0, 0.7, n, 1)
    spikes = np.where(spiked, height, 0).astype(np.float32)
    tail = spikes.copy()
    for _ in range(3):
        tail[:, 1:] = tail[:, :-1] * lasting
        tail[:, 0] = 0
        spikes += tail
    return series + spikes


def change_regime(random: Generator, series: np.ndarray, others: np.ndarray) -> np.ndarray:
    """From a random step between 1/8 and 5/8 of the length on, another series goes on at the level reached."""
    n, length = series.shape
    at = random.integers(length // 8, length * 5 // 8, (n, 1))
    jump = np.take_along_axis(series - others, at, axis=1)
    return np.where(np.arange(length) < at, series, others + jump * uniform(random, 0, 1, n, 1))


def _sign(random: Generator, n: int) -> np.ndarray:
    return np.where(random.random((n, 1)) < 0.5, np.float32(-1), np.float32(1))


def squash(random: Generator, series: np.ndarray) -> np.ndarray:
    """A bounded or skewed scale: logistic, exponential, soft floor; `series` [n, length] of unit variance."""
    n = len(series)
    kind = chosen_kind(random, n, [0.3, 0.5, 0.2])[:, None]
    steep = uniform(random, 0.5, 2.5, n, 1)
    moved = np.clip(steep * (series - uniform(random, -1, 1, n, 1)), -30, 30)
    exponential = np.exp(np.clip(uniform(random, 0.2, 0.9, n, 1) * series, -8, 5))
    return np.select([kind == 0, kind == 1], [1 / (1 + np.exp(-moved)), exponential], np.log1p(np.exp(moved)))


def censor(random: Generator, series: np.ndarray) -> np.ndarray:
    """Cut off below a random quantile, above one, or both."""
    n, length = series.shape
    kind = chosen_kind(random, n, [0.45, 0.35, 0.2])[:, None]
    ordered = np.sort(series, axis=1)
    low = np.take_along_axis(ordered, (uniform(random, 0.02, 0.5, n, 1) * length).astype(np.int64), axis=1)
    high = np.take_along_axis(ordered, (uniform(random, 0.6, 0.98, n, 1) * length).astype(np.int64), axis=1)
    low, high = np.where(kind == 1, -np.inf, low), np.where(kind == 0, np.inf, high)
    return np.clip(series, low.astype(np.float32), high.astype(np.float32))


def quantise(random: Generator, series: np.ndarray) -> np.ndarray:
    """Rounded to a resolution of 0.03 to 0.5 standard deviations."""
    resolution = log_uniform(random, 0.03, 0.5, len(series), 1)
    return np.round(series / resolution) * resolution


def mix(random: Generator, series: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Convex combination with another series; both of unit variance."""
    share = uniform(random, 0.05, 0.5, len(series), 1)
    return (1 - share) * series + share * others


def resample(random: Generator, series: np.ndarray) -> np.ndarray:
    """Each series, or a stretch of it, at a lower rate: interpolated, held, or averaged over several steps."""
    n, length = series.shape
    kind = chosen_kind(random, n, [0.45, 0.2, 0.35])[:, None]
    factor = log_uniform(random, 1.5, 12, n, 1)
    slower = np.ones((n, length), bool)
    partly = random.random(n) < 0.3
    start, stop = np.sort(random.integers(0, length, (2, n, 1)), axis=0)
    steps = np.arange(length)[None]
    slower[partly] = ((steps >= start) & (steps < stop))[partly]

    position = np.cumsum(np.where(slower, 1 / factor, 1), axis=1, dtype=np.float64) - 1
    position = np.clip(position, 0, length - 1)
    index = position.astype(np.int64)
    left = np.take_along_axis(series, index, axis=1)
    right = np.take_along_axis(series, np.minimum(index + 1, length - 1), axis=1)
    fraction = (position - index).astype(np.float32)
    stretched = left + np.where(kind == 1, 0, fraction) * (right - left)

    width = np.round(factor).astype(np.int64)
    total = np.cumsum(np.pad(series, ((0, 0), (1, 0))), axis=1, dtype=np.float64)
    first = np.maximum(steps + 1 - width, 0)
    mean = (total[:, 1:] - np.take_along_axis(total, first, axis=1)) / (steps + 1 - first)
    return np.where(kind == 2, np.where(slower, mean, series), stretched).astype(np.float32)


def missing_steps(random: Generator, n: int, length: int) -> np.ndarray:
    """[n, length] True where nothing was observed: one to four stretches, or single steps at random."""
    steps = np.arange(length)[None]
    missing = np.zeros((n, length), bool)
    for chance in (1.0, 0.5, 0.35, 0.2):
        start = uniform(random, -0.1, 1, n, 1) * length
        gap = np.where(random.random((n, 1)) < chance, log_uniform(random, 1, length / 4, n, 1), 0)
        missing |= (steps >= start) & (steps < start + gap)
    scattered = random.random((n, length), dtype=np.float32) < log_uniform(random, 0.005, 0.2, n, 1)
    return np.where(random.random((n, 1)) < 0.3, scattered, missing)


def interpolate(series: np.ndarray, missing: np.ndarray) -> np.ndarray:
    """A straight line over each gap; the nearest reading is held at the ends. A row without readings stays."""
    length = series.shape[1]
    steps = np.arange(length)
    before = np.maximum.accumulate(np.where(missing, -1, steps), axis=1)
    after = np.minimum.accumulate(np.where(missing, length, steps)[:, ::-1], axis=1)[:, ::-1]
    empty = missing.all(axis=1)
    left = np.where(before < 0, after, before)
    right = np.where(after >= length, before, after)
    left[empty] = right[empty] = steps
    low, high = np.take_along_axis(series, left, axis=1), np.take_along_axis(series, right, axis=1)
    share = (steps - left) / np.maximum(right - left, 1)
    return np.where(missing, low + share.astype(np.float32) * (high - low), series)


def draw_series(random: Generator, n: int, length: int, recipe: SeriesRecipe) -> tuple[np.ndarray, np.ndarray]:
    """[n, length] series of unit variance (constant ones are 0) and [n] index of their family in `FAMILIES`."""
    family = chosen_kind(random, n, recipe.weights)
    series = standardised(drawn_by_kind(random, family, MAKERS.values(), length, length))
    others = series[random.permutation(n)]
    rows = happens(random, n, recipe.mix)
    mixed = mix(random, series[rows], others[rows])
    rows_of_regime = happens(random, n, recipe.regime)
    changed = change_regime(random, series[rows_of_regime], others[rows_of_regime])
    series[rows] = mixed
    series[rows_of_regime] = changed

    for chance, change in (
        (recipe.resample, resample),
        (recipe.shift, shift_level),
        (recipe.squash, squash),
        (recipe.spikes, add_spikes),
        (recipe.censor, censor),
        (recipe.quantise, quantise),
    ):
        rows = happens(random, n, chance)
        if rows.size:
            series[rows] = change(random, standardised(series[rows]))
    rows = happens(random, n, recipe.reverse)
    series[rows] = series[rows, ::-1]
    rows = happens(random, n, recipe.flip)
    series[rows] *= -1
    return standardised(series), family
