"""How sure a difference between forecasts is: paired bootstrap over blocks of days and over items."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtrit

DRAWS = 2000
LEVEL = 0.95
ROUNDING = 1e-4
"""Relative differences below this are rounding: the same weights in another kernel or on another number of ranks."""
MIN_ITEMS = 5
"""With fewer, how items differ cannot be estimated; they are taken as they are (Gelman & Hill 2007, 12.9)."""

_DAY = np.timedelta64(1, "D")
_CHUNK = 2_000_000  # group numbers drawn at once, which bounds the memory
_LARGEST_LOG = 50.0  # of a ratio of RMSEs; beyond it there is nothing to tell
_TINY = np.finfo(np.float64).tiny


MIN_BLOCKS = 5
"""With fewer blocks of days of fewer items there is no interval, and so no verdict."""


@dataclass(frozen=True)
class Blocks:
    """Which windows belong together because their errors are not independent."""

    item: np.ndarray  # [windows] item of each window
    block: np.ndarray  # [windows] block of days each window begins in; items share the blocks
    days: int  # calendar days per block

    @classmethod
    def by_day(cls, item: np.ndarray, origin: np.ndarray, path: np.timedelta64) -> Blocks:
        """Group windows by item and by blocks of calendar days.

        Windows of neighbouring hours share most of their targets, and days that follow each other resemble each
        other, so whole blocks of days are drawn (Carlstein 1986; Künsch 1989). A block lasts at least as long as the
        forecast: windows that share a target then lie in one block or in two that touch. With blocks of just that
        length, what touches would still leave a third of the variance unseen, so it is twice that where five blocks
        are left. Dependence that outlasts the forecast asks for blocks that grow with the cube root of the number of
        days (Hall, Horowitz & Jing 1995); they do where ten are left.

        Args:
            item: [windows] item of each window.
            origin: [windows] datetime64, time of the first forecast step.
            path: time the forecast covers.
        """
        day = origin.astype("datetime64[D]").astype(np.int64)
        num_days = len(np.unique(day))
        length = max(1, math.ceil(2 * path / _DAY), min(math.ceil(num_days ** (1 / 3)), num_days // 10))
        if num_days < 5 * length:
            length = max(1, math.ceil(path / _DAY), num_days // 5)
        first = day.min() if len(day) else 0
        return cls(item, (day - first) // length, length)

    @property
    def num_items(self) -> int:
        """Items that have a window."""
        return len(np.unique(self.item))

    @property
    def num_blocks(self) -> int:
        """Blocks of days that have a window."""
        return len(np.unique(self.block))

    @property
    def speaks_of_other_items(self) -> bool:
        """True if there are enough items to speak of others like them; else of other days of these items."""
        return self.num_items >= MIN_ITEMS


@dataclass(frozen=True)
class Interval:
    """Relative difference of two RMSEs with its 95 % interval."""

    change: float  # RMSE over the RMSE of the reference, minus 1; -0.05 is 5 % lower
    # low, high: bounds; None if there are too few blocks for any
    low: float | None
    high: float | None

    @property
    def clear_sign(self) -> int:
        """-1 if the RMSE is clearly lower, 1 if it is clearly higher, 0 if the interval holds 0 or there is none."""
        if self.high is not None and self.high < -ROUNDING:
            return -1
        return 1 if self.low is not None and self.low > ROUNDING else 0


def relative_rmse(
    judged: np.ndarray,
    references: np.ndarray,
    blocks: Blocks,
    draws: int = DRAWS,
    seed: int = 0,
    min_blocks: int = MIN_BLOCKS,
) -> list[Interval]:
    """Relative RMSE difference of one model against others on the same windows.

    The bootstrap is paired: every draw keeps the same windows for all models, so what makes a day or an item hard for
    all of them cancels. Its standard error is taken on the logarithm of the ratio, which is symmetric, and the
    interval is Student's t with the effective number of groups, less one, as degrees of freedom: a group with large
    errors outweighs others, so there are effectively fewer (Carter, Schnepel & Steigerwald 2017).

    Two things are drawn. Items, each with all its windows: their spread holds the noise of their days already, so
    days are not drawn again within them (Davison & Hinkley 1997, 3.8). And blocks of days, each with all items, which
    tells how much items have in common on a day (weather, holidays).

    - From `MIN_ITEMS` items on, the interval speaks of other items on other days: the variances are added, less that
      of a draw of single item-blocks, which both contain (two-way clustering; Cameron, Gelbach & Miller 2011).
    - With fewer, it speaks of other days of these items, but is never narrower than the spread between them tells.

    Args:
        judged: [windows] sum of squared errors of the model, or [windows, models] one column for each reference.
        references: [windows, models] the same of the others, over the same targets.
        min_blocks: with fewer blocks of fewer items than `MIN_ITEMS` their spread says next to nothing: no interval.
    """
    enough = blocks.speaks_of_other_items or blocks.num_blocks >= min_blocks
    squares = np.column_stack([judged, references]).astype(np.float64)
    ours = squares.shape[1] - references.shape[1]  # columns of the judged model, the first ones
    ratio = _log_ratio(squares.sum(axis=0)[None], squares, ours)[0]
    variance, freedom = _variance(squares, ours, blocks, draws, np.random.default_rng(seed))
    freedom = freedom if enough else np.zeros_like(freedom)
    return [student_interval(*one) for one in zip(ratio, np.sqrt(variance), freedom, strict=True)]


def student_interval(log_ratio: float, deviation: float, freedom: float) -> Interval:
    """From the logarithm of a ratio of RMSEs and its standard error; without degrees of freedom there is none."""
    if freedom <= 0:
        return Interval(math.expm1(log_ratio), None, None)
    half = stdtrit(freedom, (1 + LEVEL) / 2) * deviation if deviation > 0 else 0.0
    low, high = (math.expm1(np.clip(log_ratio + side * half, -_LARGEST_LOG, _LARGEST_LOG)) for side in (-1, 1))
    return Interval(math.expm1(log_ratio), low, high)


def rmse_band(
    square: np.ndarray, count: np.ndarray, blocks: Blocks, draws: int = 1000, seed: int = 0
) -> tuple[np.ndarray, np.ndarray] | None:
    """95 % interval of the RMSE at each step: percentiles over draws of items, or with few items of blocks of days.

    Args:
        square: [windows, steps] sums of squared errors.
        count: [windows, steps] observed targets.

    Returns:
        [steps] lower and [steps] upper bound; None with fewer than `MIN_ITEMS` groups.
    """
    group = np.unique(blocks.item if blocks.speaks_of_other_items else blocks.block, return_inverse=True)[1]
    num = int(group.max(initial=-1)) + 1
    if num < MIN_ITEMS:
        return None
    squares, counts = (np.zeros((num, square.shape[1])) for _ in range(2))
    np.add.at(squares, group, square)
    np.add.at(counts, group, count)
    drawn = np.random.default_rng(seed).multinomial(num, np.full(num, 1 / num), size=draws)
    with np.errstate(invalid="ignore", divide="ignore"):
        rmse = np.sqrt((drawn @ squares) / (drawn @ counts))
    tail = 100 * (1 - LEVEL) / 2
    return tuple(np.nanpercentile(rmse, [tail, 100 - tail], axis=0))


def _variance(
    squares: np.ndarray, ours: int, blocks: Blocks, draws: int, random: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """([models], [models]) variance of the log ratio to each reference, and its degrees of freedom; 0 if unknown."""
    _, block = np.unique(blocks.block, return_inverse=True)
    _, item = np.unique(blocks.item, return_inverse=True)
    by_block, block_freedom = _bootstrap(squares, ours, block, draws, random)
    if blocks.num_items < 2:
        return by_block, block_freedom
    by_item, item_freedom = _bootstrap(squares, ours, item, draws, random)
    if not blocks.speaks_of_other_items:
        return np.maximum(by_block, by_item), block_freedom
    by_cell, _ = _bootstrap(squares, ours, item * blocks.num_blocks + block, draws, random)
    shared = np.maximum(by_block - by_cell, 0.0)
    total = by_item + shared
    # degrees of freedom of a sum of variances (Satterthwaite 1946)
    parts = by_item**2 / np.maximum(item_freedom, _TINY) + shared**2 / np.maximum(block_freedom, _TINY)
    return total, np.divide(total**2, parts, out=item_freedom, where=(parts > 0) & (item_freedom > 0))


def _bootstrap(
    squares: np.ndarray, ours: int, group: np.ndarray, draws: int, random: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Variance of the log ratios when groups of windows are drawn with replacement, and its degrees of freedom."""
    models = squares.shape[1]
    names, group = np.unique(group, return_inverse=True)
    num = len(names)
    if num < 2:
        return np.zeros(models - ours), np.zeros(models - ours)
    sums = np.stack([np.bincount(group, weights=squares[:, model]) for model in range(models)], axis=1)
    chunk = max(1, _CHUNK // num)
    ratios = []
    for begin in range(0, draws, chunk):
        rows = min(draws - begin, chunk)
        drawn = random.integers(num, size=(rows, num)) + num * np.arange(rows)[:, None]
        counts = np.bincount(drawn.ravel(), minlength=rows * num).reshape(rows, num)
        ratios.append(_log_ratio(counts @ sums, squares, ours))
    # drawing n of n groups understates the variance by (n - 1) / n
    variance = np.concatenate(ratios).var(axis=0, ddof=1) * num / (num - 1)
    return variance, effective_number(sums[:, :ours] + sums[:, ours:]) - 1


def effective_number(sums: np.ndarray) -> np.ndarray:
    """[groups, models] sums -> [models] number of equal groups that would spread as much."""
    total, squared = sums.sum(axis=0) ** 2, (sums**2).sum(axis=0)
    return np.divide(total, squared, out=np.full(sums.shape[1], float(len(sums))), where=squared > 0)


def _log_ratio(totals: np.ndarray, squares: np.ndarray, ours: int) -> np.ndarray:
    """[draws, ours + models] squared errors -> [draws, models] logarithm of our RMSE over each other's."""
    floor = max(1e-12 * squares.sum(axis=0).max(initial=0.0), _TINY)  # a forecast without error has no logarithm
    logs = 0.5 * np.log(np.maximum(totals, floor))
    return logs[:, :ours] - logs[:, ours:]
