"""Series of different items that hold the same readings, in parts that must not meet."""

from __future__ import annotations

import numpy as np

from tstune.data.fingerprints import STRETCH, Stretches
from tstune.data.panel import Panel
from tstune.data.panel_rows import position_of, time_of

FEWEST_MATCHES = 3
"""Stretches that must agree before two series are called the same."""
SHORTEST_COPY = 3 * STRETCH // 2
"""Grid steps they must reach over: two smooth curves, as after a meal, may agree for the length of one stretch."""

_PARTS = (("train", "validation"), ("train", "test"), ("validation", "test"))


def find_duplicates(panel: Panel, extents: dict[str, np.ndarray], stretches: Stretches) -> list[str]:
    """Say which series of a later part hold readings of another series of an earlier part.

    The copy may have another name, other times and rounded values.

    Args:
        panel: the series.
        extents: part -> [items, 2] first and last row.
        stretches: hashed readings of the panel, the identifying ones.
    """
    if len(panel.item_ids) < 2 or not len(stretches):
        return []
    group = np.cumsum(np.append(True, stretches.hashes[1:] != stretches.hashes[:-1])[: len(stretches)])
    shared = np.flatnonzero(np.bincount(group)[group] > 1)
    stretches, group = stretches.select(shared), group[shared]
    findings = []
    for earlier, later in _PARTS:
        source, copy = (np.flatnonzero(stretches.within(extents[part])) for part in (earlier, later))
        for first, second in _same_readings(panel, stretches, group, source, copy):
            item, other = (panel.item_ids[stretches.item[which[0]]] for which in (first, second))
            findings.append(
                f"readings of {later} in series {other!r} ({_when(panel, stretches, second)}) are those of {earlier} "
                f"in series {item!r} ({_when(panel, stretches, first)}), {len(first)} stretches of them"
            )
    return findings


def _same_readings(
    panel: Panel, stretches: Stretches, group: np.ndarray, source: np.ndarray, copy: np.ndarray
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Pairs of matching stretches, one (source, copy) for every two items that agree often and at one distance."""
    if not source.size or not copy.size:
        return []
    # items ascend within a group, so if another item than the copy's is there, it is the first or the last
    begin = np.searchsorted(group[source], group[copy], side="left")
    end = np.searchsorted(group[source], group[copy], side="right")
    pairs = []
    for at in (begin, end - 1):
        partner = source[np.clip(at, 0, len(source) - 1)]
        pairs.append(np.stack([partner, copy])[:, (begin < end) & (stretches.item[partner] != stretches.item[copy])])
    first, second = np.unique(np.concatenate(pairs, axis=1), axis=1)
    if not first.size:
        return []
    distance = position_of(panel, stretches.first_row[second]) - position_of(panel, stretches.first_row[first])
    both = stretches.item[first] * len(panel.item_ids) + stretches.item[second]
    found = []
    order = np.argsort(both, kind="stable")
    for mine in np.split(order, np.flatnonzero(np.diff(both[order])) + 1):
        values, counts = np.unique(distance[mine], return_counts=True)
        # readings between two grid steps may be rounded either way
        near = mine[np.abs(distance[mine] - values[counts.argmax()]) <= 1]
        reach = stretches.last_row[second[near]].max() - stretches.first_row[second[near]].min() + 1
        if len(near) >= FEWEST_MATCHES and reach >= SHORTEST_COPY:
            found.append((first[near], second[near]))
    return found


def _when(panel: Panel, stretches: Stretches, which: np.ndarray) -> str:
    rows = stretches.first_row[which].min(), stretches.last_row[which].max()
    return " to ".join(time_of(panel, int(row)) for row in rows)
