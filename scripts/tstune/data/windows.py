"""Windows of a panel, a whole batch per gather.

No window is copied ahead of time: the data set keeps the panel's flat arrays and the ranges of window
starts. `__getitems__` lets a standard `DataLoader` fetch a batch with one gather per array.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from copy import copy
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from tstune.config.schema import RunConfig
from tstune.data.frequency import to_steps
from tstune.data.panel import INTERPOLATED, MISSING, OBSERVED, Panel
from tstune.data.splits import WindowIndex, WindowRanges
from tstune.errors import ConfigError

_KEY = "training.context_dropping_range"


@dataclass(frozen=True)
class ContextDropping:
    """The same window loses the same steps in every epoch, on every rank and after a resume."""

    share: float  # of the windows that lose anything
    # shortest, longest: steps that are left, drawn evenly on a logarithmic scale
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
    """What the configuration asks for; None for nothing."""
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


Batch = dict[str, torch.Tensor]


class BatchedDataset(Dataset):
    """A data set that is made for batches (`__getitems__`), and gives a single one of its windows too."""

    def __getitem__(self, index: int) -> Batch:
        if not 0 <= index < len(self):
            raise IndexError(index)
        return {name: tensor[0] for name, tensor in self.__getitems__([index]).items()}


class WindowDataset(WindowIndex, BatchedDataset):
    """Context and target of every window, in original units.

    A batch of B windows is a dict of tensors:
        past_values [B, context, channels] float32 · past_observed_mask, same shape, bool: usable as input
        past_read_mask, same shape, bool: really observed, not interpolated
        future_values [B, prediction, channels] float32 · future_observed_mask, same shape, bool: really observed
        future_known_mask, same shape, bool: not missing; with control columns only
        item [B] int64: index into `panel.item_ids` · start [B] int64: panel row of the window's first step
        static [B, static categories] int64: codes of the item, if it has any
        origin [B] int64: time of the first forecast step, seconds since 1970 on the clock of the data

    Short gaps inside a context are interpolated. A gap that reaches the end of the context is not:
    a line through it would carry a future reading into the past, so the last reading is held instead.

    A context that would begin before its segment is padded there with masked zeros; `start` then lies before the
    segment, as if the history had begun earlier.

    Args:
        panel, ranges, context_length, prediction_length, chosen, min_context: as of `WindowIndex`.
        categories: [items, static categories] codes.
    """

    def __init__(
        self,
        panel: Panel,
        ranges: WindowRanges,
        context_length: int,
        prediction_length: int,
        chosen: np.ndarray | None = None,
        min_context: int | None = None,
        categories: np.ndarray | None = None,
    ) -> None:
        super().__init__(panel, ranges, context_length, prediction_length, chosen, min_context)
        self.categories = categories
        self.visible_steps: int | None = None
        self.dropping: ContextDropping | None = None
        self.prepared: Any = None  # the `PreparedData` that the windows are a part of
        flat = _shared(panel.values), _shared(panel.status)
        self._past = [_window_view(one, context_length) for one in flat]
        self._future = [_window_view(one, prediction_length) for one in flat]

    def showing(self, visible_steps: int | None) -> WindowDataset:
        """The same with all but the last so many steps of each context masked; None: the whole context."""
        windows = copy(self)
        windows.visible_steps = visible_steps
        return windows

    def with_dropping(self, dropping: ContextDropping | None) -> WindowDataset:
        """The same with the oldest part of some contexts masked, for training."""
        windows = copy(self)
        windows.dropping = dropping
        return windows

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        return self.gather(self.starts(indices))

    def without_past(self, indices: Sequence[int]) -> Batch:
        """The same batch without its context."""
        return self.gather(self.starts(indices), past=False)

    def gather(self, starts: np.ndarray, past: bool = True) -> Batch:
        """Fetch the windows that begin at the given panel rows, with or without their context."""
        rows = torch.from_numpy(starts)
        segment = self.segment_of(starts)
        item = self.panel.segment_item[segment].astype(np.int64, copy=False)
        values, status = self._windows_at(self._future, rows + self.context_length)
        batch = {
            "future_values": values,
            "future_observed_mask": _mask(values, status, OBSERVED),
            "item": torch.from_numpy(item),
            "start": rows,
            "origin": torch.from_numpy(seconds(self.panel.timestamps[starts + self.context_length])),
        }
        if self.categories is not None:
            batch["static"] = torch.from_numpy(self.categories[item])
        if self.panel.roles.control:
            batch["future_known_mask"] = _mask(values, status, INTERPOLATED)
        return batch | self._contexts(rows, starts, segment) if past else batch

    def _contexts(self, rows: torch.Tensor, starts: np.ndarray, segment: np.ndarray) -> Batch:
        if (starts < self.panel.segment_start[segment]).any():
            past, status = map(torch.from_numpy, padded_context(self.panel, starts, self.context_length))
        else:
            past, status = self._windows_at(self._past, rows)
        usable, read = _mask(past, status, INTERPOLATED), _mask(past, status, OBSERVED)
        if status is not None and (stale := (status[:, -1] == INTERPOLATED).any(dim=1)).any():
            past[stale] = self._held(past[stale], status[stale])
        if self.visible_steps is not None:
            hide_oldest(np.full(len(starts), self.context_length - self.visible_steps), past, usable, read)
        if self.dropping is not None:
            kept = self.dropping.kept_steps(starts, self.context_length)
            hide_oldest(self.context_length - kept, past, usable, read)
        return {"past_values": past, "past_observed_mask": usable, "past_read_mask": read}

    def _held(self, past: torch.Tensor, status: torch.Tensor) -> torch.Tensor:
        """The contexts with the last reading in place of the interpolated values at their end."""
        steps = torch.arange(self.context_length)[None, :, None]
        last = torch.where(status == OBSERVED, steps, -1).amax(dim=1, keepdim=True)
        open_ended = (steps > last) & (status == INTERPOLATED) & (last >= 0)
        return torch.where(open_ended, past.gather(1, last.clamp_min(0)), past)

    def _windows_at(self, views: list[torch.Tensor], rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Values and status of the windows that begin at these rows, [B, steps, channels]; no status without a gap."""
        shape = rows.shape[0], -1, self.panel.values.shape[1]
        values, status = views
        found = values.index_select(0, rows).view(shape)
        return found, None if self.panel.is_gapless else status.index_select(0, rows).view(shape)


def padded_context(panel: Panel, starts: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray]:
    """Values and status of `length` rows from each start; what lies before the segment they end in is 0, `MISSING`.

    Returns:
        [B, length, channels] float32 and uint8.
    """
    rows = starts[:, None] + np.arange(length)
    segment = np.searchsorted(panel.segment_start, rows[:, -1], side="right") - 1
    first = panel.segment_start[segment][:, None]
    inside = rows >= first
    rows = np.maximum(rows, first)
    values, status = panel.values[rows], panel.status[rows]
    if not inside.all():
        values[~inside], status[~inside] = 0, MISSING
    return values, status


def hide_oldest(hidden: np.ndarray, *contexts: torch.Tensor) -> None:
    """Set the first `hidden` [B] steps of values and masks [B, context, channels] to 0, in place."""
    gone = torch.arange(contexts[0].shape[1])[None, :] < torch.from_numpy(hidden)[:, None]
    for values in contexts:
        values[gone] = 0


class MirroredWindows(Dataset):
    """Every window twice: as it is, and upside down, `2 * centre - value`.

    What rises falls and the other way round, so a model tuned on one summer does not learn that values rise.

    Args:
        windows: of target channels only: a mirrored covariate would mean something else.
        centre: [channels] value that stays where it is.
    """

    def __init__(self, windows: WindowDataset, centre: np.ndarray) -> None:
        self.windows = windows
        self._twice = torch.from_numpy(2 * np.asarray(centre, dtype=np.float32))

    def __len__(self) -> int:
        return 2 * len(self.windows)

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        return self._turned(self.windows.__getitems__(self._original(indices)), indices)

    def without_past(self, indices: Sequence[int]) -> Batch:
        """The same batch without its context."""
        return self._turned(self.windows.without_past(self._original(indices)), indices)

    def _original(self, indices: Sequence[int]) -> list[int]:
        return [index % len(self.windows) for index in indices]

    def _turned(self, batch: Batch, indices: Sequence[int]) -> Batch:
        turned = torch.as_tensor(indices)[:, None, None] >= len(self.windows)
        for name in ("past_values", "future_values"):
            if name in batch:
                batch[name] = torch.where(turned, self._twice - batch[name], batch[name])
        return batch


def _mask(values: torch.Tensor, status: torch.Tensor | None, least: int) -> torch.Tensor:
    """Where the status is at least that; by NumPy, ten times faster than torch for bytes.

    Without a status that is everywhere, in memory that batches share until somebody writes into a mask: most of the
    time of a batch is the memory that it fills.
    """
    if status is None:
        return _everything(values.shape)._lazy_clone()
    return torch.from_numpy(status.numpy() >= np.uint8(least))


@lru_cache(maxsize=8)  # contexts and forecasts of whole and last batches
def _everything(shape: torch.Size) -> torch.Tensor:
    return torch.ones(shape, dtype=torch.bool)


def seconds(stamps: np.ndarray) -> np.ndarray:
    """datetime64 -> int64 seconds since 1970."""
    return stamps.astype("datetime64[s]").astype(np.int64)


def _shared(values: np.ndarray) -> torch.Tensor:
    """The same memory as a tensor; nothing here writes into it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")  # a mapped panel is not to be
        return torch.from_numpy(values)


def _window_view(flat: torch.Tensor, length: int) -> torch.Tensor:
    """[rows, channels] -> overlapping view [rows - length + 1, length * channels], no copy.

    A window is one contiguous stretch of memory, so gathering windows by row is a plain block copy.
    """
    rows, channels = flat.shape
    return flat.as_strided((max(rows - length + 1, 0), length * channels), (channels, 1))


class EpochBatchSampler(Sampler[list[int]]):
    """Batches of window indices; the order depends on the seed and the epoch only.

    Every rank draws the same order and takes its own part of each global batch, so ranks see disjoint windows and
    together the whole epoch. The last global batch is shared out as evenly as it goes; a rank that gets none of it
    is handed one window as `~index`, which `RankWindows` turns into a filler without weight.

    Args:
        batch_size: windows per batch and rank.
        rank, num_ranks: this process among those that train together.
    """

    def __init__(
        self, num_windows: int, batch_size: int, shuffle: bool, seed: int = 0, rank: int = 0, num_ranks: int = 1
    ) -> None:
        self.num_windows = num_windows
        self.batch_size = batch_size
        self.drop_last = False
        self.shuffle = shuffle
        self.seed = seed
        self.rank, self.num_ranks = rank, num_ranks
        self.epoch = self.first_batch = 0

    def set_epoch(self, epoch: int, first_batch: int = 0) -> None:
        """Choose the order of the next pass, and how many of its batches are left out because they are done."""
        self.epoch, self.first_batch = epoch, first_batch

    def __len__(self) -> int:
        """Batches of a whole pass, the same on every rank."""
        return -(-self.num_windows // (self.batch_size * self.num_ranks))

    def largest_share(self, batch: int) -> int:
        """Windows that the rank with the most of them gets in a batch of the epoch, counted from 0."""
        left = self.num_windows - batch * self.batch_size * self.num_ranks
        return min(self.batch_size, -(-left // self.num_ranks))

    def __iter__(self) -> Iterator[list[int]]:
        if self.shuffle:
            order = np.random.default_rng([self.seed, self.epoch]).permutation(self.num_windows)
        else:
            order = np.arange(self.num_windows)
        global_batch = self.batch_size * self.num_ranks
        for begin in range(self.first_batch * global_batch, self.num_windows, global_batch):
            share, extra = divmod(min(global_batch, self.num_windows - begin), self.num_ranks)
            first = begin + self.rank * share + min(self.rank, extra)
            mine = order[first : first + share + (self.rank < extra)]
            yield mine.tolist() if len(mine) else [~int(order[begin])]


class RankWindows(Dataset):
    """Windows for the training batches of one rank: a batch `[~index]` becomes a filler that weighs nothing."""

    def __init__(self, windows: Dataset) -> None:
        self.windows = windows

    def __len__(self) -> int:
        return len(self.windows)

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        if indices[0] >= 0:
            return self.windows.__getitems__(indices)
        return without_weight(self.windows.__getitems__([~indices[0]]))


def without_weight(batch: Batch) -> Batch:
    """The batch as a filler: it passes through the network and counts nowhere."""
    return batch | {"future_observed_mask": torch.zeros_like(batch["future_observed_mask"])}


def evaluation_batch_size(configured: int | str, num_channels: int, device: torch.device) -> int:
    """Windows per forward pass: as configured, or for ``auto`` by the number of series in the batch.

    On a CPU 256 channels at once keep a layer's values in the cache (measured: twice as many are slower);
    a GPU wants thousands.
    """
    if configured != "auto":
        return configured
    per_pass = 256 if device.type == "cpu" else 4096
    return max(16, per_pass // num_channels)


def window_loader(
    windows: WindowDataset, batch_size: int, shuffle: bool = False, seed: int = 0, num_workers: int = 0
) -> DataLoader:
    """Standard `DataLoader` over windows; `loader.batch_sampler.set_epoch` picks the order."""
    return _loader(windows, EpochBatchSampler(len(windows), batch_size, shuffle, seed), num_workers)


def training_loader(
    windows: Dataset, batch_size: int, seed: int, rank: int = 0, num_ranks: int = 1, num_workers: int = 0
) -> DataLoader:
    """Shuffled `DataLoader` over this rank's part of the windows."""
    sampler = EpochBatchSampler(len(windows), batch_size, True, seed, rank, num_ranks)
    return _loader(RankWindows(windows), sampler, num_workers)


class WindowLoader(DataLoader):
    """A `DataLoader` whose iterator is a plain `map` where no other process and no pinned memory is asked for.

    torch's own marks each batch for its profiler, which takes a quarter of the time of a batch.
    """

    def __iter__(self) -> Iterator[Batch]:
        if self.num_workers or self.pin_memory:
            return super().__iter__()
        return map(self.dataset.__getitems__, self.batch_sampler)


def _loader(windows: Dataset, sampler: EpochBatchSampler, num_workers: int) -> DataLoader:
    return WindowLoader(
        windows,
        batch_sampler=sampler,
        collate_fn=_already_a_batch,
        num_workers=num_workers,
        pin_memory=torch.cuda.is_available(),
        generator=torch.Generator(),  # else each pass would draw a number from the generator of the dropout
    )


def _already_a_batch(batch: Batch) -> Batch:
    return batch
