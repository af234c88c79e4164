"""Sums of arrays that are too long for memory, to the last bit as numpy sums them whole."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

_LEAF = 1 << 16


def pairwise_sum(count: int, blocks: Iterable[np.ndarray]) -> float:
    """Sum of `count` float64 numbers that come in blocks of any length.

    numpy halves an array, at a multiple of eight, and adds the sums of the halves; so does this until a part is small
    enough to leave it to numpy.
    """
    return _sum(count, _Reader(iter(blocks)))


class _Reader:
    """Gives as many numbers at once as are asked for."""

    def __init__(self, blocks: Iterator[np.ndarray]) -> None:
        self._blocks = blocks
        self._left = np.zeros(0)

    def take(self, count: int) -> np.ndarray:
        parts = [self._left]
        have = len(self._left)
        while have < count:
            parts.append(next(self._blocks))
            have += len(parts[-1])
        whole = np.concatenate(parts) if len(parts) > 1 else parts[0]
        self._left = whole[count:]
        return whole[:count]


def _sum(count: int, reader: _Reader) -> float:
    if count <= _LEAF:
        return float(np.add.reduce(reader.take(count)))
    half = count // 2
    half -= half % 8
    first = _sum(half, reader)
    return first + _sum(count - half, reader)
