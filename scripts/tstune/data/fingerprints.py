"""Recognise readings by their values: under another name, at another time, in another unit, slightly rounded.

The readings of a series, in order and without gaps, are put into bins and every stretch of `STRETCH` of them gets a
hash. Which hashes are kept depends on the hash alone, so two copies keep the same ones wherever they lie.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass, replace

import numpy as np

from tstune.data.panel import OBSERVED, Panel, item_rows
from tstune.domains import domain_of

STRETCH = 32
"""Readings in one hash: of 400,000 stretches of twelve people three are shared, and no three by the same two people."""

_FEWEST_CHANGES = 6
"""Changes of bin within a stretch; flat stretches (a sensor at its limit, a quiet night) identify nobody."""
_OFFSET = 0.381966
"""Keeps the edges of the bins away from round numbers, where a last bit would decide."""
_BLOCK = 1 << 17
"""Readings hashed at once: a block that fits into the cache, and memory that does not grow with the panel."""
_MULTIPLIERS = np.array([0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9], np.uint64)
_SAMPLE = 50_000
_FARTHEST_BIN = 1e15

CHECK = "trained_on"
VERSION = 1
"""Of the way readings are hashed; records of another version are not comparable."""
_MOST_HASHES = 8192
"""Per run: some 45 KB of text. Of a million readings one stretch in 128 is kept: some 500 shared ones are noticed."""
LEARNED = {"train": ("validation", "test"), "validation": ("test",)}
"""Part that weights learned from or were chosen by -> parts that must not hold the same readings."""


@dataclass(frozen=True)
class Stretches:
    """The stretches of readings that were kept."""

    hashes: np.ndarray  # [stretches] uint64
    item: np.ndarray  # [stretches] index into `panel.item_ids`
    channel: np.ndarray  # [stretches] target channel
    # first_row, last_row: [stretches] panel rows of the first and the last reading
    first_row: np.ndarray
    last_row: np.ndarray
    rate: int  # one stretch in `rate` was kept, a power of two

    def __len__(self) -> int:
        return len(self.hashes)

    def select(self, which: np.ndarray | slice) -> Stretches:
        """Those of a mask, an index or a slice."""
        fields = (self.hashes, self.item, self.channel, self.first_row, self.last_row)
        return Stretches(*(values[which] for values in fields), self.rate)

    def identifying(self) -> Stretches:
        """Those that a series does not repeat within itself, by hash and item: a periodic signal identifies nothing."""
        order = np.lexsort((self.channel, self.item, self.hashes))
        kept = self.select(order)
        again = np.ones(max(len(kept) - 1, 0), bool)
        for values in (kept.hashes, kept.item, kept.channel):
            again &= values[1:] == values[:-1]
        return kept.select(~(np.append(again, False) | np.append(False, again))[: len(kept)])

    def within(self, extent: np.ndarray) -> np.ndarray:
        """[stretches] True for those that lie in the rows [items, 2] from first to last as a whole."""
        begin, end = extent[self.item].T
        return (self.first_row >= begin) & (self.last_row <= end)

    def thinned(self, rate: int) -> Stretches:
        """As if only one in `rate` had been kept, which is no more than one in the present rate."""
        return replace(self.select(_kept(self.hashes, rate)), rate=rate)


def in_canonical_unit(unit: str | None) -> float:
    """Factor that makes readings comparable, whatever unit of their domain they are in."""
    domain = domain_of(unit)
    return domain.copy_factor(unit) if domain else 1.0


def bin_levels(panel: Panel, unit: str | None) -> np.ndarray:
    """[items, targets] the bins of a series are 2**level wide, 1/4 to 1/2 of its deviation.

    Items of similar deviation share the level of the panel, so that a copy that ends earlier has the same bins.
    """
    targets = panel.roles.num_targets
    rows = np.arange(0, panel.num_rows, max(1, panel.num_rows // _SAMPLE))
    items = len(panel.item_ids)
    item = np.repeat(np.arange(items), _per_item(rows, item_rows(panel)))
    levels = np.zeros((items, targets), np.int64)
    for channel in range(targets):
        seen = panel.status[rows, channel] == OBSERVED
        values = panel.values[rows[seen], channel].astype(np.float64) * in_canonical_unit(unit)
        count = np.bincount(item[seen], minlength=items)
        mean = np.bincount(item[seen], values, items) / np.maximum(count, 1)
        variance = np.bincount(item[seen], (values - mean[item[seen]]) ** 2, items) / np.maximum(count, 1)
        known = variance > 0
        if not known.any():
            continue
        own = np.floor(np.log2(variance, where=known, out=np.zeros(items)) / 2) - 1
        common = np.floor(np.median(own[known]))
        levels[:, channel] = np.where(known, common + 2 * np.round((own - common) / 2), common)
    return levels


def kept_rate(num_readings: int, most: int) -> int:
    """Smallest power of two that keeps at most `most` of so many stretches."""
    rate = 1
    while num_readings > rate * most:
        rate *= 2
    return rate


def hash_readings(panel: Panel, unit: str | None, levels: np.ndarray, rate: int) -> Stretches:
    """Hash the targets of all items, binned by `levels` [items, targets], and keep one stretch in `rate`."""
    starts = item_rows(panel)
    found: list[tuple[np.ndarray, ...]] = []
    for channel in range(panel.roles.num_targets):
        factors = np.exp2(-levels[:, channel]) * in_canonical_unit(unit)
        held_rows, held_bins = np.zeros(0, np.int64), np.zeros(0, np.int64)
        for begin in range(0, panel.num_rows, _BLOCK):
            rows = begin + np.flatnonzero(panel.status[begin : begin + _BLOCK, channel] == OBSERVED)
            scale = factors[0] if (factors == factors[0]).all() else np.repeat(factors, _per_item(rows, starts))
            readings = panel.values[rows, channel]
            if panel.level is not None:
                readings = readings + np.repeat(panel.level[:, channel], _per_item(rows, starts))
            scaled = np.clip(readings * scale + _OFFSET, -_FARTHEST_BIN, _FARTHEST_BIN)
            bins = np.floor(scaled).astype(np.int64)
            rows, bins = np.concatenate([held_rows, rows]), np.concatenate([held_bins, bins])
            hashes = _rolling(bins)
            at = np.flatnonzero(_kept(hashes, rate))
            at = at[_changes(bins, at) >= _FEWEST_CHANGES]
            first, last = rows[at], rows[at + STRETCH - 1]
            item = np.searchsorted(starts, first, side="right") - 1
            inside = last < starts[item + 1]
            found.append((hashes[at][inside], item[inside], first[inside], last[inside], channel))
            tail = len(rows) - min(len(rows), STRETCH - 1)
            held_rows, held_bins = rows[tail:], bins[tail:]
    hashes, item, first, last = (np.concatenate([block[k] for block in found]) for k in range(4))
    channels = np.repeat([block[4] for block in found], [len(block[0]) for block in found])
    return Stretches(hashes, item, channels, first, last, rate)


def _per_item(rows: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """[items] how many of these ascending rows each item has."""
    return np.diff(np.searchsorted(rows, starts))


def _rolling(bins: np.ndarray) -> np.ndarray:
    """[readings - STRETCH + 1] hash of each stretch, by doubling: two halves make a whole."""
    if len(bins) < STRETCH:
        return np.zeros(0, np.uint64)
    hashes = bins.view(np.uint64) * _MULTIPLIERS[0]
    hashes ^= hashes >> np.uint64(29)
    width = 1
    while width < STRETCH:
        hashes = hashes[:-width] * _MULTIPLIERS[1] + hashes[width:]
        hashes ^= hashes >> np.uint64(32)
        width *= 2
    return hashes * _MULTIPLIERS[2]


def _kept(hashes: np.ndarray, rate: int) -> np.ndarray:
    return hashes <= np.uint64((1 << 64) // rate - 1)


def _changes(bins: np.ndarray, at: np.ndarray) -> np.ndarray:
    """[stretches] changes of bin within the stretches that begin `at` these readings."""
    changed = np.concatenate([[0], np.cumsum(bins[1:] != bins[:-1])]) if len(bins) else np.zeros(1, np.int64)
    return changed[np.minimum(at + STRETCH - 1, len(changed) - 1)] - changed[at]


def training_record(
    panel: Panel, unit: str | None, rows: dict[str, np.ndarray], levels: np.ndarray, stretches: Stretches
) -> dict:
    """What a model learns from these windows, JSON values only; `rows` and `levels` of `extents` and `bin_levels`."""
    stretches = stretches.select(stretches.within(rows["train"]) | stretches.within(rows["validation"]))
    rate = stretches.rate
    while len(stretches) > _MOST_HASHES:
        rate *= 2
        stretches = stretches.thinned(rate)
    owner = stretches.item * panel.roles.num_targets + stretches.channel
    stretches = stretches.select(np.argsort(owner, kind="stable"))
    begin = np.searchsorted(np.sort(owner), np.arange(len(panel.item_ids) * panel.roles.num_targets + 1))
    series = []
    for item, item_id in enumerate(panel.item_ids):
        times = {part: times_of_rows(panel, rows[part][item]) for part in LEARNED}
        if not any(times.values()):
            continue
        for channel, name in enumerate(panel.roles.target):
            number = item * panel.roles.num_targets + channel
            mine = stretches.select(slice(begin[number], begin[number + 1]))
            row = {"item_id": item_id, "channel": name, "level": int(levels[item, channel])}
            for part, span in times.items():
                row[part] = span and span | {"hashes": _encode(mine.hashes[mine.within(rows[part])])}
            series.append(row)
    return {"version": VERSION, "rate": rate, "unit": unit, "series": series}


def times_of_rows(panel: Panel, rows: np.ndarray) -> dict[str, str] | None:
    """ISO times of the first and the last row; None where there is none."""
    if rows[1] < rows[0]:
        return None
    begin, end = (str(panel.timestamps[row].astype("datetime64[s]")) for row in rows)
    return {"from": begin, "to": end}


def short_hashes(hashes: np.ndarray) -> np.ndarray:
    """The 32 bits that are stored; the upper ones say only that a hash was kept."""
    return hashes.astype(np.uint32)


def _encode(hashes: np.ndarray) -> str:
    return base64.b64encode(np.sort(short_hashes(hashes)).astype("<u4").tobytes()).decode("ascii")


def decode_hashes(text: str) -> np.ndarray:
    """[hashes] uint32 of a record."""
    return np.frombuffer(base64.b64decode(text), "<u4")
