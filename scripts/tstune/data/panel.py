"""Many series on one time grid, stored as a few flat arrays."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np

from tstune.data.table import Roles

MISSING, INTERPOLATED, OBSERVED = 0, 1, 2
"""What a stored value is: nothing (stored as 0), filled from its neighbours, or a real reading."""


@dataclass(frozen=True)
class Panel:
    """Series cut into segments without long gaps; the segments lie one after another in flat arrays.

    Attributes:
        values: [rows, channels] float32 in original units, finite everywhere.
        status: [rows, channels] uint8, `MISSING`, `INTERPOLATED` or `OBSERVED`.
        timestamps: [rows] datetime64[ns].
        segment_start: [segments + 1] first row of each segment, and the number of rows.
        segment_item: [segments] item each segment belongs to, ascending.
        segment_position: [segments] steps from the item's first row to the segment's.
        item_ids: [items] names.
        item_length: [items] grid steps from the item's first to its last reading.
        roles: names of the channels.
        frequency: grid step as pandas text.
        known_fingerprint: of a stored panel, so that it is not computed again.
    """

    values: np.ndarray
    status: np.ndarray
    timestamps: np.ndarray
    segment_start: np.ndarray
    segment_item: np.ndarray
    segment_position: np.ndarray
    item_ids: tuple[str, ...]
    item_length: np.ndarray
    roles: Roles
    frequency: str
    known_fingerprint: str | None = None

    @property
    def num_rows(self) -> int:
        """Grid rows in all segments."""
        return len(self.values)

    @property
    def segment_length(self) -> np.ndarray:
        """[segments] rows of each segment."""
        return np.diff(self.segment_start)

    @property
    def is_mapped(self) -> bool:
        """True if the readings lie in files that are mapped into memory, read-only, and may be larger than it."""
        return not self.values.flags.writeable

    def fingerprint(self) -> str:
        """SHA-256 of all readings: a run only goes on with the data it began with."""
        if self.known_fingerprint is not None:
            return self.known_fingerprint
        digest = hashlib.sha256(np.ascontiguousarray(self.values))
        digest.update(np.ascontiguousarray(self.status))
        return digest.hexdigest()

    def row_position(self) -> np.ndarray:
        """[rows] steps from the item's first row to each row."""
        first = self.segment_position - self.segment_start[:-1]
        return np.arange(self.num_rows) + np.repeat(first, self.segment_length)

    def row_item(self) -> np.ndarray:
        """[rows] item of each row."""
        return np.repeat(self.segment_item, self.segment_length)
