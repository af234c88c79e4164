"""What is known of published data sets: their splits by date and person, and who is compared with whom."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from tstune.errors import DataError


@dataclass(frozen=True)
class PublishedSplit:
    """A split by time and by participant."""

    borders_at: tuple[str, str, str | None]  # last day of train, validation and test; None is the end of the series
    seen: frozenset[str]  # participants that are trained on, validated on and tested
    train_only: frozenset[str]  # participants that are trained on and validated on, but not tested
    unseen: frozenset[str]  # participants that are only tested

    def role(self, item_id: str) -> str | None:
        """``seen``, ``train_only`` or ``unseen``; None for an item that the split leaves out. Case does not matter."""
        name = item_id.upper()
        return next((role for role in ("seen", "train_only", "unseen") if name in getattr(self, role)), None)


# The Kaggle competition BrisT1D: p03 has no test rows, and P07, P13, P17, P23 of the open data take no part.
PRESETS: dict[str, PublishedSplit] = {
    "brist1d": PublishedSplit(
        borders_at=("2023-08-17", "2023-08-31", None),
        seen=frozenset({"P01", "P02", "P04", "P05", "P06", "P10", "P11", "P12"}),
        train_only=frozenset({"P03"}),
        unseen=frozenset({"P15", "P16", "P18", "P19", "P21", "P22", "P24"}),
    )
}
"""Name in `data.split.preset` -> split."""


def presets() -> dict[str, PublishedSplit]:
    """`PRESETS`, as a hook."""
    return PRESETS


def midnight_windows(timestamps: np.ndarray, step: np.timedelta64) -> np.ndarray:
    """[windows] bool: the forecast begins at local midnight, so its first step is the first grid time of a day.

    The night task is a different one from all day: report both, never mixed. Times are [windows, steps]; 00:02 is the
    first one of a day on a 5-minute grid.
    """
    first = np.asarray(timestamps)[:, 0]
    return first - first.astype("datetime64[D]") < step


def sensor_steps(observed: np.ndarray, item: np.ndarray, step: np.timedelta64) -> dict[int, np.timedelta64]:
    """Item -> its sensor's sampling step: the most common distance between neighbouring readings, of [windows, steps].

    A 15-minute sensor on a 5-minute grid has a reading in every third place. One step where an item has no two readings
    in a window.
    """
    observed, item = np.asarray(observed, dtype=bool), np.asarray(item)
    window, place = np.nonzero(observed)
    together = window[1:] == window[:-1]
    distance, owner = np.diff(place)[together], item[window[1:][together]]
    found = {}
    for which in np.unique(item):
        counts = np.bincount(distance[owner == which], minlength=2)
        found[int(which)] = int(counts.argmax() or 1) * step
    return found


def strata(
    item: np.ndarray,
    item_ids: Sequence[str],
    seen: Collection[str] | None = None,
    sensor: dict[int, np.timedelta64] | None = None,
) -> dict[str, np.ndarray]:
    """Name -> [windows] bool of every group that has a window, `all` first.

    Args:
        item: [windows] index into `item_ids`.
        seen: names of items with training data; adds `seen` and `unseen`.
        sensor: item -> sampling step, from `sensor_steps`; adds `sensor 5 min` and so on.
    """
    item = np.asarray(item)
    if len(item) and (item.min() < 0 or item.max() >= len(item_ids)):
        raise DataError(f"windows of item {item.max()}, but there are {len(item_ids)} names")
    if unknown := sorted(set(seen or ()) - set(item_ids)):
        raise DataError(f"seen item {unknown[0]!r} is none of the {len(item_ids)} items")
    groups = {"all": np.ones(len(item), dtype=bool)}
    if seen is not None:
        known = np.array([name in seen for name in item_ids], dtype=bool)[item]
        groups |= {"seen": known, "unseen": ~known}
    if sensor is not None:
        minutes = {which: step / np.timedelta64(1, "m") for which, step in sensor.items()}
        for length in sorted(set(minutes.values())):
            groups[f"sensor {length:g} min"] = np.isin(item, [w for w, value in minutes.items() if value == length])
    for which in np.unique(item):
        groups[f"participant {item_ids[which]}"] = item == which
    return {name: mask for name, mask in groups.items() if mask.any()}
