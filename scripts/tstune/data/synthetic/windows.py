"""Synthetic windows as a data set: each batch is generated when it is asked for."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import torch

from tstune.data.synthetic.components import Generator, happens
from tstune.data.synthetic.mixture import SeriesRecipe, draw_series, interpolate, missing_steps
from tstune.data.windows import Batch, BatchedDataset
from tstune.errors import ConfigError

_BLOCK = 256


class SyntheticWindows(BatchedDataset):
    """A batch of new series for every list of indices.

    The content of a batch is a function of the seed and of the whole list, not of each index: the same list gives
    the same batch in any process, another list gives other series. So the order of an epoch decides what a resumed
    run sees, and nothing is stored.

    A batch is as in `tstune.data.windows`, with one channel. Every context has mean 0 and standard deviation 1
    over its observed steps; the future is in the same units and clipped. What is missing is 0 and masked.
    `item` is the index of the family in `tstune.data.synthetic.FAMILIES`, `start` the index of the window.

    Args:
        recipe: what the series are made of; None takes the defaults.

    Attributes:
        categories: none, generated series belong to nobody.
    """

    categories = None

    def __init__(
        self,
        context_length: int,
        prediction_length: int,
        num_windows: int,
        seed: int,
        recipe: SeriesRecipe | None = None,
    ) -> None:
        sizes = {"context_length": context_length, "prediction_length": prediction_length, "num_windows": num_windows}
        for name, size in sizes.items():
            if size < (4 if name == "context_length" else 1):
                raise ConfigError(f"synthetic windows: {name}={size} is too small")
        if seed < 0:
            raise ConfigError(f"synthetic windows: seed={seed} is negative; give 0 or more")
        self.context_length = context_length
        self.prediction_length = prediction_length
        self.num_windows = num_windows
        self.seed = seed
        self.recipe = recipe or SeriesRecipe()

    def __len__(self) -> int:
        return self.num_windows

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        index = np.asarray(indices, dtype=np.int64)
        digest = hashlib.blake2b(index.astype("<i8").tobytes(), digest_size=16).digest()
        entropy = np.random.SeedSequence([self.seed, int.from_bytes(digest, "little")])
        random = np.random.Generator(np.random.SFC64(entropy))
        batch = self._draw(random, len(index))
        batch["start"] = torch.from_numpy(index.copy())
        return batch

    def _draw(self, random: Generator, n: int) -> Batch:
        context, length = self.context_length, self.context_length + self.prediction_length
        series, family = draw_series(random, n, length, self.recipe)
        usable, observed = np.ones((n, length), bool), np.ones((n, length), bool)

        rows = happens(random, n, self.recipe.missing)
        usable[rows] = observed[rows] = ~missing_steps(random, rows.size, length)
        rows = happens(random, n, self.recipe.interpolated)
        gaps = missing_steps(random, rows.size, length)
        gaps[:, 0] = False
        observed[rows] &= ~gaps
        # the context is filled on its own: a line into the future would tell what comes
        series[rows, :context] = interpolate(series[rows, :context], gaps[:, :context])
        blank = ~usable[:, :context].any(axis=1)  # teaches nothing: leave such a series whole
        usable[blank] = observed[blank] = True

        series = _in_units_of_context(series, usable[:, :context], self.recipe.clip)
        series[~usable] = 0
        series[:, context:][~observed[:, context:]] = 0
        return {
            "past_values": torch.from_numpy(series[:, :context, None].copy()),
            "past_observed_mask": torch.from_numpy(usable[:, :context, None].copy()),
            "past_read_mask": torch.from_numpy((usable & observed)[:, :context, None].copy()),
            "future_values": torch.from_numpy(series[:, context:, None].copy()),
            "future_observed_mask": torch.from_numpy(observed[:, context:, None].copy()),
            "item": torch.from_numpy(family.astype(np.int64)),
        }


def _in_units_of_context(series: np.ndarray, usable: np.ndarray, clip: float) -> np.ndarray:
    """Centre and scale by what is usable of the context; a constant context keeps its scale."""
    context = usable.shape[1]
    past, count = series[:, :context], usable.sum(axis=1, keepdims=True)
    mean = (past * usable).sum(axis=1, keepdims=True, dtype=np.float64) / count
    spread = np.square((past - mean) * usable).sum(axis=1, keepdims=True, dtype=np.float64) / count
    std = np.sqrt(spread)
    series = ((series - mean) / np.where(std > 1e-3, std, 1)).astype(np.float32)
    np.clip(series[:, context:], -clip, clip, out=series[:, context:])
    return series


class FixedSyntheticWindows(BatchedDataset):
    """Synthetic windows kept in memory: window i is the same in whatever batch it is asked for (for validation).

    Args:
        arguments: those of `SyntheticWindows`.
    """

    def __init__(self, *arguments: object, **named: object) -> None:
        drawn = SyntheticWindows(*arguments, **named)
        blocks = [
            drawn.__getitems__(range(first, min(first + _BLOCK, len(drawn)))) for first in range(0, len(drawn), _BLOCK)
        ]
        self._windows = {name: torch.cat([block[name] for block in blocks]) for name in blocks[0]}

    def __len__(self) -> int:
        return len(self._windows["start"])

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        rows = torch.as_tensor(indices, dtype=torch.int64)
        return {name: values.index_select(0, rows) for name, values in self._windows.items()}
