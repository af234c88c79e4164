"""Sort a long table by item on disk: rows come in any order and are read again item by item."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np


class ItemSorter:
    """Rows of many items, written in batches and read as whole items in the order of their names.

    Each batch is sorted by item before it is written, so an item is a number of stretches of the files, few where the
    table was sorted or grouped; rows of an item keep their order. Memory grows with the stretches, not with the rows.

    Args:
        folder: for two files of 8 bytes per row and number.
        num_columns: numbers in a row.
    """

    def __init__(self, folder: Path, num_columns: int) -> None:
        self.in_order = True
        """True while the items came in the order of their names."""
        self._paths = folder / "stamps", folder / "readings"
        self._files = tuple(path.open("wb") for path in self._paths)
        self._num_columns = num_columns
        self._codes: dict[str, int] = {}
        self._stretches: list[np.ndarray] = []  # [3, stretches] item, first row, rows
        self._rows = 0
        self._last_name: str | None = None

    def add(self, names: list[str], codes: np.ndarray, stamps: np.ndarray, readings: np.ndarray) -> None:
        """Write a batch.

        Args:
            names: items of the batch.
            codes: [rows] index into `names`.
            stamps: [rows] datetime64[ns].
            readings: [rows, columns] float64.
        """
        if not len(codes):
            return
        changes = np.flatnonzero(np.diff(codes, prepend=-1))
        if self.in_order:
            met = [] if self._last_name is None else [self._last_name]
            met += [names[code] for code in codes[changes]]
            self.in_order = all(before <= after for before, after in itertools.pairwise(met))
            self._last_name = met[-1]
        known = np.array([self._codes.setdefault(name, len(self._codes)) for name in names])
        order = np.argsort(codes, kind="stable")
        own = codes[order]
        first = np.flatnonzero(np.diff(own, prepend=-1))
        length = np.diff(np.append(first, len(own)))
        self._stretches.append(np.stack([known[own[first]], first + self._rows, length]))
        self._files[0].write(stamps[order].astype("<M8[ns]", copy=False).view(np.uint8))
        self._files[1].write(np.ascontiguousarray(readings[order], "<f8").reshape(-1).view(np.uint8))
        self._rows += len(own)

    def close(self) -> None:
        """Finish writing."""
        for file in self._files:
            file.close()

    def items(self, num_rows: int) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Items ([rows] names), stamps and readings of whole items, at least `num_rows` rows each but the last."""
        if not self._rows:
            return
        names = np.array(list(self._codes), dtype=object)
        rank = np.empty(len(names), np.int64)
        rank[np.argsort(names, kind="stable")] = np.arange(len(names))
        stretches = np.concatenate(self._stretches, axis=1)
        stretches = stretches[:, np.lexsort((stretches[1], rank[stretches[0]]))]
        last_of_item = np.append(np.diff(stretches[0]) != 0, True)
        rows = np.cumsum(stretches[2])
        begin, done = 0, 0
        for end in np.flatnonzero(last_of_item) + 1:
            if rows[end - 1] - done >= num_rows or end == len(rows):
                yield self._read(names, stretches[:, begin:end])
                begin, done = end, rows[end - 1]

    def _read(self, names: np.ndarray, stretches: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        stamps = np.memmap(self._paths[0], "<M8[ns]", "r")
        readings = np.memmap(self._paths[1], "<f8", "r").reshape(-1, self._num_columns)
        parts = [slice(first, first + length) for first, length in stretches[1:].T]
        return (
            np.repeat(names[stretches[0]], stretches[2]),
            np.concatenate([stamps[part] for part in parts]),
            np.concatenate([readings[part] for part in parts]),
        )
