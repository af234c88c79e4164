"""Cut a panel into train, validation and test by time and by item, and list the windows of each part."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass
from typing import Self

import numpy as np

from tstune.config.schema import SplitSection
from tstune.config.section import end_of
from tstune.data.frequency import fixed_step, parse_frequency, to_steps
from tstune.data.panel import INTERPOLATED, Panel, item_rows, position_of, time_of
from tstune.domains import published_split
from tstune.errors import ConfigError, DataError, did_you_mean

PARTS = ("train", "validation", "test")
ALL_PARTS = (True, True, True)


@dataclass(frozen=True)
class WindowRanges:
    """Windows as ranges of start rows, one range per segment, so that memory does not grow with windows."""

    first: np.ndarray  # [ranges] panel row at which the first window of the range starts
    count: np.ndarray  # [ranges] number of windows in the range
    stride: int

    @property
    def num_windows(self) -> int:
        """Windows in all ranges."""
        return int(self.count.sum())


class WindowIndex:
    """Which windows of a panel there are, and which of them take part; `WindowDataset` fetches their readings.

    Args:
        chosen: windows that take part (few-shot), as indices into the ranges; None: all.
        min_context: steps of a context that must be there; None: all, nothing is padded.
    """

    def __init__(
        self,
        panel: Panel,
        ranges: WindowRanges,
        context_length: int,
        prediction_length: int,
        chosen: np.ndarray | None = None,
        min_context: int | None = None,
    ) -> None:
        self.panel = panel
        self.ranges = ranges
        self.chosen = chosen
        self.padding = 0 if min_context is None else max(context_length - min_context, 0)
        self.context_length = context_length
        self.prediction_length = prediction_length
        self._range_end = np.cumsum(ranges.count)

    def __len__(self) -> int:
        return self.ranges.num_windows if self.chosen is None else len(self.chosen)

    def of_item(self, item: int) -> Self:
        """The windows of one item, an index into `panel.item_ids`."""
        mine = self.panel.segment_item[self.segment_of(self.ranges.first)] == item
        ranges = WindowRanges(self.ranges.first[mine], self.ranges.count[mine], self.ranges.stride)
        chosen = None
        if self.chosen is not None:  # number the item's windows anew
            offset = np.cumsum(self.ranges.count) - self.ranges.count
            numbers = [np.arange(n) + o for n, o in zip(ranges.count, offset[mine], strict=True)]
            chosen = np.flatnonzero(np.isin(np.concatenate(numbers), self.chosen)) if numbers else np.zeros(0, np.int64)
        windows = self.only(chosen)
        windows.ranges, windows._range_end = ranges, np.cumsum(ranges.count)
        return windows

    def only(self, chosen: np.ndarray | None) -> Self:
        """The same with other windows taking part, as indices into the ranges; None: all."""
        windows = copy(self)
        windows.chosen = chosen
        return windows

    def segment_of(self, starts: np.ndarray) -> np.ndarray:
        """[B] segment of the windows that begin at these rows; a padded one begins before its segment."""
        rows = starts + self.context_length - 1 if self.padding else starts
        return np.searchsorted(self.panel.segment_start, rows, side="right") - 1

    def starts(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """[B] panel row of the first step of each window."""
        indices = np.asarray(indices, dtype=np.int64)
        if self.chosen is not None:
            indices = self.chosen[indices]
        which = np.searchsorted(self._range_end, indices, side="right")
        within = indices - (self._range_end[which] - self.ranges.count[which])
        return self.ranges.first[which] + within * self.ranges.stride

    def by_item(self) -> np.ndarray:
        """[items] windows of each item."""
        ranges, items = self.ranges, len(self.panel.item_ids)
        if self.chosen is None:
            owner, count = self.panel.segment_item[self.segment_of(ranges.first)], ranges.count
            return np.bincount(owner, weights=count, minlength=items).astype(int)
        rows = self.starts(np.arange(len(self)))
        return np.bincount(self.panel.segment_item[self.segment_of(rows)], minlength=items)


@dataclass(frozen=True)
class Split:
    """Where each part of each item begins and ends."""

    borders: np.ndarray  # [items, 3] steps from the item's first row to the end of train, validation, test
    mode: str  # ``strict`` or ``deployment``, see `SplitSection`
    begins: np.ndarray  # [items, 3] the same to the beginning of each part
    takes_part: np.ndarray  # [items, 3] which parts an item was given
    purge: int = 0

    def bounds(self, part: str) -> tuple[np.ndarray, np.ndarray]:
        """([items], [items]) first step and end of a part."""
        return self.begins[:, PARTS.index(part)], self.borders[:, PARTS.index(part)]

    def has(self, part: str) -> bool:
        """True if any item was given this part."""
        return bool(self.takes_part[:, PARTS.index(part)].any())

    @property
    def fitted_on(self) -> str:
        """The part that scales are taken from: train, or what there is where nothing lies in it."""
        begin, end = self.bounds("train")
        return "train" if (end > begin).any() else "test"

    @property
    def held_out(self) -> np.ndarray:
        """[items] True where nothing of the item may be trained on."""
        return ~self.takes_part[:, 0]


def split_panel(panel: Panel, config: SplitSection, standard_borders: tuple[int, int, int] | None) -> Split:
    """Say which steps of which items belong to train, validation and test.

    Raises:
        ConfigError: `standard` borders for a source that has none, or a purge that is no number of steps.
        DataError: borders beyond the end of the series, items that are not there.
    """
    takes_part = parts_of_items(panel.item_ids, config)
    purge = to_steps(config.purge, panel.frequency, "data.split.purge")
    if config.by in ("item", "none"):
        begins = np.zeros(takes_part.shape, np.int64)
        ends = np.repeat(panel.item_length[:, None], 3, axis=1).astype(np.int64)
    else:
        ends = _place_borders(panel, config, standard_borders)
        begins = np.pad(ends[:, :2], ((0, 0), (1, 0)))
        ends[:, :2] = np.maximum(ends[:, :2] - purge, begins[:, :2])
    for index in range(len(PARTS)):  # a part that an item has not been given is empty, and lies in order
        absent = ~takes_part[:, index]
        before = ends[absent, index - 1] if index else 0
        begins[absent, index] = ends[absent, index] = before
    return Split(ends, config.mode, begins, takes_part, purge)


def last_steps(panel: Panel, test: int, validation: int, window: tuple[int, int]) -> Split:
    """The last steps of every series are the test, those before them validate, the rest trains.

    A part in which no series has room for a window (steps of context, of forecast) is left empty.
    """
    ends = np.maximum(panel.item_length[:, None] - np.array([test + validation, test, 0]), 0).astype(np.int64)
    has_room = (ends >= sum(window)).any(axis=0) & [True, validation >= window[1], True]
    return Split(ends, "deployment", np.pad(ends[:, :2], ((0, 0), (1, 0))), np.tile(has_room, (len(ends), 1)))


def own_days(panel: Panel, chosen: np.ndarray, first: int, own: int) -> Split:
    """Chosen items, [items] bool, are the test from step `first` on; of the `own` steps before, a quarter validates.

    What lies before those steps is in no part, and the other items are in none.
    """
    test = np.where(chosen, np.minimum(first, panel.item_length), 0)
    borders = np.maximum(np.stack([test - own, test - own // 4, test], axis=1), 0).astype(np.int64)
    ends = np.column_stack([borders[:, 1:], np.where(chosen, panel.item_length, 0)])
    return Split(ends, "deployment", borders, chosen[:, None] & np.array([own > 0, own > 0, True]))


def window_ranges(
    panel: Panel,
    split: Split,
    part: str,
    context_length: int,
    prediction_length: int,
    stride: int,
    fraction: float = 1.0,
    fraction_from: str = "first",
    padding: int = 0,
) -> WindowRanges:
    """List the windows of one part; none crosses a segment, no target leaves its part.

    Args:
        panel, split, part: what to cut, where, and which piece.
        fraction: share of each item's target steps that may be used. On ETTh1 5 % are 311 windows, as published.
        padding: steps of a context that may lie before the segment, where it is padded.
    """
    length = context_length + prediction_length
    begin, end = split.bounds(part)
    if fraction < 1:
        span = context_length + np.floor(np.maximum(end - begin - context_length, 0) * fraction).astype(np.int64)
        begin, end = (begin, begin + span) if fraction_from == "first" else (end - span, end)
    begin, end = begin[panel.segment_item], end[panel.segment_item]
    segment_first = panel.segment_position
    segment_end = segment_first + panel.segment_length
    lookback = context_length if split.mode == "deployment" and part != "train" else 0
    padded = np.maximum(segment_first - padding, begin - context_length)  # its targets do not begin before the part
    first = np.where(begin - lookback > segment_first, begin - lookback, padded)
    last = np.minimum(end, segment_end) - length
    count = np.maximum(0, (last - first) // stride + 1)
    kept = count > 0
    rows = panel.segment_start[:-1] + first - segment_first
    return WindowRanges(rows[kept], count[kept], stride)


def parts_of_items(item_ids: tuple[str, ...], config: SplitSection) -> np.ndarray:
    """[items, 3] True where an item takes part in train, validation, test."""
    takes_part = np.tile(ALL_PARTS, (len(item_ids), 1))
    if config.preset is not None:
        return _published(item_ids, config.preset)
    if config.by == "none":
        return np.tile((False, False, True), (len(item_ids), 1))
    if config.by == "time":
        return takes_part
    validation, test = _held_out(item_ids, config)
    takes_part[validation] = (False, True, False)
    takes_part[test] = (False, False, True)
    if config.by == "item":
        takes_part[~(validation | test)] = (True, False, False)
    for part, found in zip(("train", "validation", "test"), takes_part.any(axis=0), strict=True):
        if not found:
            raise DataError(
                f"data.split.by={config.by} leaves no series for {part}: the data has {len(item_ids)}, "
                f"{int(validation.sum())} held out to validate and {int(test.sum())} to test; hold out fewer, "
                "or split by time"
            )
    return takes_part


def _published(item_ids: tuple[str, ...], preset: str) -> np.ndarray:
    parts = {"seen": ALL_PARTS, "train_only": (True, True, False), "unseen": (False, False, True)}
    split = published_split(preset)
    roles = [split.role(item_id) for item_id in item_ids]
    if not any(roles):
        raise DataError(
            f"data.split.preset={preset}: no series is one of its participants; the series are {some_names(item_ids)}"
        )
    return np.array([parts.get(role, (False, False, False)) for role in roles])


def _held_out(item_ids: tuple[str, ...], config: SplitSection) -> tuple[np.ndarray, np.ndarray]:
    """([items], [items]) True where an item is held out to validate, to test."""
    order = np.random.default_rng(config.seed).permutation(sorted(item_ids))  # whatever order the files came in
    if config.folds is not None:
        if config.folds > len(item_ids):
            raise DataError(f"data.split.folds={config.folds} but the data has {len(item_ids)} series; lower it")
        groups = np.array_split(order, config.folds)
        test = set(groups[config.fold])
        validation = set(groups[(config.fold + 1) % config.folds]) if config.by == "item" else set()
    else:
        named = _named(config.validation_items, order, "data.split.validation_items")
        test = _named(config.test_items, order, "data.split.test_items")
        test = test or _drawn(config.test_items or config.test, order, besides=named)
        # by both, the items seen in training validate too, so none is held out for it unless asked for
        share = config.validation_items or (config.validation if config.by == "item" else 0.0)
        validation = named or _drawn(share, order, besides=test)
    return np.isin(item_ids, list(validation)), np.isin(item_ids, list(test))


def _named(items: float | list[str] | None, known: np.ndarray, key: str) -> set[str]:
    """Items given by name; empty where a share is asked for."""
    if not isinstance(items, list):
        return set()
    if missing := [item for item in items if item not in set(known)]:
        hint = did_you_mean(missing[0], known.tolist())
        raise DataError(f"{key}: no series {missing[0]!r}; {hint}the series are {some_names(sorted(known))}")
    return set(items)


def _drawn(share: float, order: np.ndarray, besides: set[str]) -> set[str]:
    """The first of the drawn order: a share of all items, at least one if the share is above 0."""
    count = max(1, round(share * len(order))) if share else 0
    return set([item for item in order.tolist() if item not in besides][:count])


def some_names(names: Sequence[str]) -> str:
    """The first dozen, and how many there are."""
    return ", ".join(names[:12]) + (f", … ({len(names)} in all)" if len(names) > 12 else "")


def _place_borders(panel: Panel, config: SplitSection, standard_borders: tuple[int, int, int] | None) -> np.ndarray:
    """[items, 3] steps from each item's first row to the end of train, validation and test."""
    moments = published_split(config.preset).borders_at if config.preset else config.borders_at
    if moments is not None:
        return _at_moments(panel, moments, "data.split.preset" if config.preset else "data.split.borders_at")
    borders = standard_borders if config.borders == "standard" else config.borders
    if config.borders == "standard" and borders is None:
        raise ConfigError("data.split.borders=standard: this source has no published borders; give three numbers")
    if borders is None:
        # rounding first keeps 0.7 * 90 = 62.999… from moving a border by one step
        ends = np.cumsum([config.train, config.validation, config.test])
        return np.floor(np.round(panel.item_length[:, None] * ends[None, :], 6)).astype(np.int64)
    short = np.flatnonzero(panel.item_length < borders[2])
    if short.size:
        item = int(short[0])
        raise DataError(
            f"data.split.borders end at step {borders[2]} but series {panel.item_ids[item]!r} "
            f"has {panel.item_length[item]} steps"
        )
    return np.tile(np.asarray(borders, dtype=np.int64), (len(panel.item_ids), 1))


def _at_moments(panel: Panel, moments: tuple[str, str, str | None], key: str) -> np.ndarray:
    ends = np.tile(panel.item_length[:, None], (1, 3)).astype(np.int64)
    for column, moment in enumerate(moments):
        if moment is None:
            continue
        end = np.datetime64(end_of(moment)).astype("datetime64[ns]")
        rows = rows_before(panel, end)
        if column == 0 and (rows - item_rows(panel)[:-1]).sum() in (0, panel.num_rows):
            begin, end = (time_of(panel, int(at)) for at in (panel.timestamps.argmin(), panel.timestamps.argmax()))
            where = "after" if (rows > item_rows(panel)[:-1]).any() else "before"
            raise DataError(f"{key}: train ends on {moment}, {where} every reading ({begin} to {end})")
        ends[:, column] = _steps_before(panel, rows, end)
    return ends


def rows_before(panel: Panel, end: np.datetime64) -> np.ndarray:
    """[items] first row of each item that is not before a moment; the row behind the item where it is over by then."""
    starts = item_rows(panel)
    within = [np.count_nonzero(panel.timestamps[a:b] < end) for a, b in itertools.pairwise(starts)]
    return starts[:-1] + np.array(within)


def _steps_before(panel: Panel, rows: np.ndarray, end: np.datetime64) -> np.ndarray:
    """[items] steps from the first row of each item to a moment, before which `rows` are the first ones behind."""
    steps, step = panel.item_length.astype(np.int64), fixed_step(parse_frequency(panel.frequency))
    goes_on = rows < item_rows(panel)[1:]  # a series that is over by then is left whole
    rows = rows[goes_on]
    # the row after a long gap lies later than the border, which is somewhere in that gap
    late = 0 if step is None else (panel.timestamps[rows] - end) // step.to_timedelta64()
    steps[goes_on] = np.maximum(position_of(panel, rows) - late, 0)
    return steps


def until(panel: Panel, split: Split, moment: np.datetime64) -> Split:
    """The parts moved on to a moment: as much validates as before, ends there, and nothing behind it is in any part.

    A line over a gap that ends behind the moment is drawn towards a reading that nobody knew, so it is left out too.
    """
    rows, first = rows_before(panel, moment), item_rows(panel)[:-1]
    ends = _steps_before(panel, rows, moment)
    for item in range(len(rows)):
        row = rows[item]
        while row > first[item] and (panel.status[row - 1] == INTERPOLATED).any():
            row -= 1
        if row > first[item]:
            ends[item] = min(ends[item], position_of(panel, np.array([row - 1]))[0] + 1)
    (begin, train_end), (from_step, to_step) = split.bounds("train"), split.bounds("validation")
    ends = np.maximum(ends, begin)
    validates = np.maximum(ends - (to_step - from_step), begin)
    train = np.where(train_end > begin, np.maximum(validates - split.purge, begin), begin)
    has = np.array([split.has("train"), split.has("validation"), False])
    borders, begins = np.stack([train, ends, ends], axis=1), np.stack([begin, validates, ends], axis=1)
    return Split(borders, split.mode, begins, np.tile(has, (len(ends), 1)), split.purge)
