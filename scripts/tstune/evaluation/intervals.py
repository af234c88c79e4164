"""Quantiles for point forecasts: conformal prediction and its relatives, and their files."""

from __future__ import annotations

import json
import warnings
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
from safetensors.numpy import save_file

from tstune.config.schema import ForecastSection
from tstune.errors import CheckpointError, DataError
from tstune.evaluation.metrics import sort_quantiles
from tstune.evaluation.scored_windows import ScoredWindows, observed_like
from tstune.foreign_files import damage, read_object, read_tensors

_ROWS_AT_ONCE = 4096


_FLOOR = 0.1  # of the usual spread: a context that hardly moves does not promise a future without movement


class UncertaintyMethod(ABC):
    """Turns point forecasts, or quantiles of the network, into quantiles that hold what they promise.

    Quantile = forecast (or the network's quantile) + unit x offset of the step and level. Scores are signed,
    (truth - forecast) / unit, so that each side gets the width it needs: glucose rises further than it falls. With
    `scaled` the unit is the spread of the context. Series of people who swing and of people who hardly do can then
    share one calibration, and a calm calibration time serves a restless test time: on BrisT1D-Open the 80 % interval
    holds 76 to 80 % of each of 11 people's readings, in original units 62 to 94 %.

    Args:
        levels: ascending, between 0 and 1.
    """

    name: ClassVar[str]
    uses_native: ClassVar[bool] = False
    """True if it corrects quantiles of the network, False if it needs the point forecast only."""
    fitted: ClassVar[tuple[str, ...]] = ()
    """Attributes that were fitted."""
    options: ClassVar[tuple[str, ...]] = ()
    """Attributes that are arguments of the constructor, beside `levels`."""

    def __init__(self, levels: Sequence[float]) -> None:
        self.levels = tuple(float(level) for level in levels)

    @abstractmethod
    def fit(self, windows: ScoredWindows) -> UncertaintyMethod:
        """Learn from windows that no weight was fitted on; returns itself.

        Args:
            windows: [windows, steps, targets] with `spread`; and with native `quantiles` if it uses them.

        Raises:
            DataError: nothing was observed, or something is missing.
        """

    @abstractmethod
    def quantiles(self, point: np.ndarray, spread: np.ndarray, native: np.ndarray | None = None) -> np.ndarray:
        """Ascending quantiles in original units.

        Args:
            point: [windows, steps, targets] forecasts in original units.
            spread: [windows, targets] standard deviation of the readings in each context.
            native: [windows, steps, targets, levels] from the network, for methods that use them.

        Returns:
            [windows, steps, targets, levels] float32.
        """

    def backtest(self, windows: ScoredWindows) -> np.ndarray:
        """Quantiles of windows whose truth is there: [windows, steps, targets, levels] float32.

        At each window only readings from before its first forecast step may be used; most methods use none.
        """
        found = np.empty((*windows.forecast.shape, len(self.levels)), np.float32)
        for begin in range(0, len(found), _ROWS_AT_ONCE):
            part = slice(begin, begin + _ROWS_AT_ONCE)
            native = windows.quantiles[part] if self.uses_native else None
            found[part] = self.quantiles(windows.forecast[part], required_spread(windows)[part], native)
        return found

    def tensors(self) -> dict[str, np.ndarray]:
        """What was fitted, for a file."""
        return {name: getattr(self, name).astype(np.float32) for name in self.fitted}

    def restore(self, tensors: Mapping[str, np.ndarray]) -> None:
        """Inverse of `tensors`; KeyError if one is missing."""
        for name in self.fitted:
            setattr(self, name, tensors[name])

    def check(self, num_steps: int, num_targets: int) -> None:
        """Stop if what was restored gives no quantiles of such forecasts."""
        point, spread = np.zeros((1, num_steps, num_targets)), np.ones((1, num_targets))
        with damage(SETTINGS):
            found = self.quantiles(point, spread, np.zeros((*point.shape, len(self.levels))))
            ascending = sorted(set(self.levels)) == list(self.levels) and all(0 < level < 1 for level in self.levels)
            if found.shape != (*point.shape, len(self.levels)) or not np.isfinite(found).all() or not ascending:
                raise ValueError(f"{self.levels} are no levels of what {TENSORS} was fitted for")

    def settings(self) -> dict[str, object]:
        """Constructor arguments, for a file."""
        return {"levels": list(self.levels)} | {name: getattr(self, name) for name in self.options}


def required_spread(windows: ScoredWindows) -> np.ndarray:
    """[windows, targets] spread of the contexts."""
    if windows.spread is None:
        raise DataError("uncertainty: the windows carry no spread of their contexts; see uncertainty.with_evidence")
    return windows.spread


_ROUNDING = 1e-9  # sums of weights that should be equal differ in the last digits


def conformal_quantiles(scores: np.ndarray, levels: Sequence[float], weights: np.ndarray | None = None) -> np.ndarray:
    """Quantiles of signed scores, moved outwards so far that an exchangeable next score is covered.

    Above the median it is the smallest score with at least `level` of the weight at or below it, where the score to
    come weighs 1 and may be infinite (Lei et al. 2018, doi:10.1080/01621459.2017.1307116; with weights Barber et al.
    2023, doi:10.1214/23-AOS2276). Below the median it is the mirror image, at the median
    the mean of both. Where there are too few scores for a level the outermost is taken.

    Args:
        scores: [windows, ...], NaN where nothing was observed.
        levels: between 0 and 1.
        weights: [windows] between 0 and 1; None weighs all by 1.

    Returns:
        [..., levels]; NaN where there is no score at all.
    """
    order = np.argsort(scores, axis=0)  # NaN come last
    ranked = np.take_along_axis(scores, order, axis=0)
    known = ~np.isnan(ranked)
    weights = np.ones(len(scores)) if weights is None else np.asarray(weights, dtype=np.float64)
    weight = np.where(known, weights[order], 0.0)
    below, above = weight.cumsum(axis=0), weight[::-1].cumsum(axis=0)[::-1]
    total, last = weight.sum(axis=0) + 1.0, np.maximum(known.sum(axis=0) - 1, 0)
    quantiles = []
    for level in levels:
        rank = (below < level * total - _ROUNDING).sum(axis=0)
        mirrored = (above >= (1 - level) * total - _ROUNDING).sum(axis=0) - 1
        upper, lower = (np.take_along_axis(ranked, np.clip(at, 0, last)[None], 0)[0] for at in (rank, mirrored))
        quantiles.append(upper if level > 0.5 else lower if level < 0.5 else (upper + lower) / 2)
    return np.stack(quantiles, axis=-1)


def scores_needed(level: float) -> int:
    """Fewest scores whose outermost is not beyond a level: 9 for 0.1 and 0.9, 39 for 0.025."""
    return int(np.ceil(1 / min(level, 1 - level) - _ROUNDING)) - 1


def over_steps(offsets: np.ndarray) -> np.ndarray:
    """Offsets of steps that were never observed (a 15-minute sensor on a 5-minute grid) from those beside them."""
    steps = np.arange(len(offsets))
    flat = offsets.reshape(len(offsets), -1).astype(np.float32)  # as in the file, so that a loaded method is the same
    for column in flat.T:
        known = ~np.isnan(column)
        column[:] = np.interp(steps, steps[known], column[known])
    return flat.reshape(offsets.shape)


class OffsetMethod(UncertaintyMethod):
    """Forecast, or the network's quantile, plus unit x offset of the step and level."""

    scaled: ClassVar[bool] = True
    fitted: ClassVar[tuple[str, ...]] = ("offsets", "floor")
    offsets: np.ndarray
    floor: np.ndarray

    def fit(self, windows: ScoredWindows) -> UncertaintyMethod:
        """See `UncertaintyMethod.fit`."""
        base = _given(windows.quantiles) if self.uses_native else windows.forecast[..., None]
        spread = required_spread(windows)
        self.floor = _FLOOR * np.median(spread, axis=0)
        self.floor = np.where(self.floor > 0, self.floor, 1.0)
        observed = observed_like(windows.observed, windows.truth)
        if not observed.any(axis=(0, 1)).all():
            raise DataError("uncertainty: a target was not observed once in the windows to calibrate on")
        truth = np.where(observed, windows.truth, np.nan)[..., None]
        self.offsets = over_steps(self._offsets((truth - base) / self._unit(spread), windows))
        return self

    @abstractmethod
    def _offsets(self, scores: np.ndarray, windows: ScoredWindows) -> np.ndarray:
        """[steps, targets, levels], NaN where nothing was observed; scores [windows, steps, targets, 1 or levels]."""

    def quantiles(self, point: np.ndarray, spread: np.ndarray, native: np.ndarray | None = None) -> np.ndarray:
        """See `UncertaintyMethod.quantiles`."""
        base = native if self.uses_native else point[..., None]
        return sort_quantiles(base + self._unit(spread) * self.offsets).astype(np.float32)

    def _unit(self, spread: np.ndarray) -> np.ndarray:
        """[windows, 1, targets, 1] what scores are measured in."""
        unit = np.maximum(spread, self.floor) if self.scaled else np.ones_like(spread)
        return unit[:, None, :, None]


class Residual(OffsetMethod):
    """Empirical quantiles of errors in original units, the same for every context."""

    name: ClassVar[str] = "residual"
    scaled: ClassVar[bool] = False

    def _offsets(self, scores: np.ndarray, windows: ScoredWindows) -> np.ndarray:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # a step without a reading has no quantile
            return np.moveaxis(np.nanquantile(scores[..., 0], self.levels, axis=0), 0, -1)


# Why not a library: granite-tsfm's conformal tools take no masks, one series or one object per series, and keep every
# score in a JSON file; MAPIE 1.6 and crepes 0.9 are for one output at a time without masks, and are saved as pickles.
# The tests hold our quantiles against granite-tsfm's.


class SplitConformal(OffsetMethod):
    """All validation windows count alike; covers at least what it promises if test windows are like them."""

    name: ClassVar[str] = "split_conformal"

    def _offsets(self, scores: np.ndarray, windows: ScoredWindows) -> np.ndarray:
        return conformal_quantiles(scores[..., 0], self.levels)


class WeightedConformal(OffsetMethod):
    """Weights halve with age, so that the loss of coverage under drift is bounded by what the weights still see.

    Barber, Candès, Ramdas & Tibshirani 2023, doi:10.1214/23-AOS2276.

    Args:
        half_life: age at which a score weighs half, as a share of the time its item was calibrated on.
    """

    name: ClassVar[str] = "weighted_conformal"
    options: ClassVar[tuple[str, ...]] = ("half_life",)

    def __init__(self, levels: Sequence[float], half_life: float = 1.0) -> None:
        super().__init__(levels)
        self.half_life = half_life

    def _offsets(self, scores: np.ndarray, windows: ScoredWindows) -> np.ndarray:
        weights = 0.5 ** (relative_age(windows.item, windows.timestamps[:, 0]) / self.half_life)
        return conformal_quantiles(scores[..., 0], self.levels, weights)


def relative_age(item: np.ndarray, origin: np.ndarray) -> np.ndarray:
    """[windows] time to the item's last window over the time from its first to its last; 0 for a window alone."""
    origin = origin.astype("datetime64[s]").astype(np.float64)
    which = np.unique(item, return_inverse=True)[1]
    first, last = np.full(which.max() + 1, np.inf), np.full(which.max() + 1, -np.inf)
    np.minimum.at(first, which, origin)
    np.maximum.at(last, which, origin)
    span = (last - first)[which]
    return (last[which] - origin) / np.where(span > 0, span, 1.0)


GRID = np.linspace(0.0025, 0.9975, 400)
"""Levels whose offsets are kept: the adapted level picks one, so the scores themselves need not be."""


class AdaptiveConformal(OffsetMethod):
    """Each item, step and level has a level of its own that moves with every reading, so coverage returns under drift.

    After a reading y, level += rate x (nominal - [y <= quantile]): too many readings below the 0.9 quantile lower it,
    too few raise it (Gibbs & Candès 2021, arXiv:2106.00170, for each quantile by itself). Only `backtest` adapts: a
    single forecast has no later readings to learn from and gets what split conformal gives.

    Args:
        rate: how far one reading moves the level.
    """

    name: ClassVar[str] = "adaptive_conformal"
    fitted: ClassVar[tuple[str, ...]] = (*OffsetMethod.fitted, "table")
    options: ClassVar[tuple[str, ...]] = ("rate",)
    table: np.ndarray

    def __init__(self, levels: Sequence[float], rate: float = 0.01) -> None:
        super().__init__(levels)
        self.rate = rate

    def _offsets(self, scores: np.ndarray, windows: ScoredWindows) -> np.ndarray:
        found = conformal_quantiles(scores[..., 0], [*GRID, *self.levels])
        found = np.sort(found[..., : len(GRID)], axis=-1), found[..., len(GRID) :]
        self.table = over_steps(found[0])
        return found[1]

    def backtest(self, windows: ScoredWindows) -> np.ndarray:
        """Quantiles in order of time; see `UncertaintyMethod.backtest`.

        A reading moves the levels from the first window of its item on that begins after it: what a window forecast
        eight hours ahead is not held against the next one before those hours have passed.
        """
        if windows.item is None or windows.timestamps is None:
            raise DataError("uncertainty: adaptive_conformal needs the item and the time of every window")
        found = np.empty((*windows.forecast.shape, len(self.levels)), np.float32)
        for item in np.unique(windows.item):
            mine = np.flatnonzero(windows.item == item)
            mine = mine[np.argsort(windows.timestamps[mine, 0], kind="stable")]
            found[mine] = self._follow(windows.select(mine))
        return found

    def _follow(self, windows: ScoredWindows) -> np.ndarray:
        """Quantiles of one item's windows, which are in order of time."""
        nominal = np.asarray(self.levels)
        adapted = np.broadcast_to(nominal, (*windows.forecast.shape[1:], len(nominal))).copy()
        observed = observed_like(windows.observed, windows.truth)
        unit = self._unit(required_spread(windows))
        found = np.empty((*windows.forecast.shape, len(nominal)), np.float32)
        steps = np.arange(windows.forecast.shape[1])
        next_known = np.zeros(len(steps), dtype=np.int64)  # window whose reading at this step is the next to be known
        for number, origin in enumerate(windows.timestamps[:, 0]):
            while True:
                is_past = windows.timestamps[np.minimum(next_known, number), steps] < origin
                due = steps[(next_known < number) & is_past]
                if not len(due):
                    break
                which = next_known[due]
                below = windows.truth[which, due, :, None] <= found[which, due]
                move = np.where(observed[which, due, :, None], self.rate * (nominal - below), 0.0)
                adapted[due] += move
                next_known[due] += 1
            offsets = np.where(adapted == nominal, self.offsets, self._looked_up(adapted))
            found[number] = sort_quantiles(windows.forecast[number][..., None] + unit[number] * offsets)
        return found

    def _looked_up(self, levels: np.ndarray) -> np.ndarray:
        """[steps, targets, levels] offsets of adapted levels, linear between those of the grid.

        A level beyond 0 and 1 asks for more than the largest error of the calibration. In theory that is an infinite
        interval; here it grows by the range of the errors per level, which is enough for the coverage to come back.
        """
        inside = np.clip(levels, GRID[0], GRID[-1])
        place = (inside - GRID[0]) / (GRID[1] - GRID[0])
        lower = np.clip(place.astype(np.int64), 0, len(GRID) - 2)
        left, right = (np.take_along_axis(self.table, index, axis=-1) for index in (lower, lower + 1))
        reach = self.table[..., -1:] - self.table[..., :1]
        return left + (place - lower) * (right - left) + (levels - inside) * reach


class QuantileHead(UncertaintyMethod):
    """The network's quantiles in ascending order, nothing else."""

    name: ClassVar[str] = "quantile_head"
    uses_native: ClassVar[bool] = True

    def fit(self, windows: ScoredWindows) -> UncertaintyMethod:
        """There is nothing to fit."""
        return self

    def quantiles(self, point: np.ndarray, spread: np.ndarray, native: np.ndarray | None = None) -> np.ndarray:
        """[windows, steps, targets, levels] float32; see `UncertaintyMethod.quantiles`."""
        return sort_quantiles(_given(native)).astype(np.float32)


class QuantileHeadConformal(OffsetMethod):
    """Each level's quantile moved so far that it held on the validation part, in units of the context's spread.

    Conformalised quantile regression, each side for itself (Romano, Patterson & Candès 2019, arXiv:1905.03222, Thm 2).
    The head says when a forecast is unsure; the offset of each step says by how much it was wrong in that.
    """

    name: ClassVar[str] = "quantile_head_conformal"
    uses_native: ClassVar[bool] = True

    def _offsets(self, scores: np.ndarray, windows: ScoredWindows) -> np.ndarray:
        own = [conformal_quantiles(scores[..., k], [level])[..., 0] for k, level in enumerate(self.levels)]
        return np.stack(own, axis=-1)


def _given(native: np.ndarray | None) -> np.ndarray:
    if native is None:
        raise DataError("uncertainty: this method corrects quantiles of the network, and the network gave none")
    return native


_METHODS = (Residual, SplitConformal, WeightedConformal, AdaptiveConformal, QuantileHead, QuantileHeadConformal)
METHODS: dict[str, type[UncertaintyMethod]] = {method.name: method for method in _METHODS}
"""Name -> class; the last two need quantiles of the network."""


def configured_name(section: ForecastSection) -> str:
    """Name of the method that the configuration asks for."""
    if section.method == "quantile_head" and section.conformalize_head:
        return QuantileHeadConformal.name
    return section.method


def make_method(name: str, section: ForecastSection) -> UncertaintyMethod:
    """A method that is not fitted yet, with the options of the configuration."""
    if name == WeightedConformal.name:
        return WeightedConformal(section.quantiles, section.half_life)
    if name == AdaptiveConformal.name:
        return AdaptiveConformal(section.quantiles, section.adaptation_rate)
    return METHODS[name](section.quantiles)


SETTINGS, TENSORS = "uncertainty.json", "uncertainty.safetensors"


def save_method(method: UncertaintyMethod, folder: Path) -> None:
    """Write both files."""
    text = json.dumps({"method": method.name} | method.settings(), indent=2)
    (folder / SETTINGS).write_text(text + "\n", encoding="utf-8")
    save_file(method.tensors(), folder / TENSORS)


def load_method(folder: Path) -> UncertaintyMethod | None:
    """Read what `save_method` wrote; None if the folder has none."""
    path = folder / SETTINGS
    if not path.is_file():
        return None
    settings = read_object(path, keys=["method"])
    if not (folder / TENSORS).is_file():
        raise CheckpointError(f"{folder / TENSORS} is missing; {SETTINGS} says there are intervals")
    tensors = read_tensors(folder / TENSORS, framework="numpy")
    with damage(path):
        method = METHODS[settings.pop("method")](**settings)
    with damage(folder / TENSORS):
        method.restore(tensors)
    return method
