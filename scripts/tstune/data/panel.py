"""Many series on one time grid, as a few flat arrays: whose rows they are, when they were, what they came from."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from tstune.data.table import ITEM, Roles, SourceTable
from tstune.foreign_files import sha256_of

MISSING, INTERPOLATED, OBSERVED = 0, 1, 2
"""What a stored value is: nothing (stored as 0), filled from its neighbours, or a real reading."""
BLOCK_ROWS = 1 << 18
"""Rows looked at at once, where memory must not grow with the panel."""


@dataclass(frozen=True)
class Panel:
    """Series cut into segments without long gaps; the segments lie one after another in flat arrays."""

    values: np.ndarray  # [rows, channels] float32 in original units, finite everywhere, counted from `level`
    status: np.ndarray  # [rows, channels] uint8, `MISSING`, `INTERPOLATED` or `OBSERVED`
    timestamps: np.ndarray  # [rows] datetime64[ns]
    segment_start: np.ndarray  # [segments + 1] first row of each segment, and the number of rows
    segment_item: np.ndarray  # [segments] item each segment belongs to, ascending
    segment_position: np.ndarray  # [segments] steps from the item's first row to the segment's
    item_ids: tuple[str, ...]  # [items] names
    item_length: np.ndarray  # [items] grid steps from the item's first to its last reading
    roles: Roles
    frequency: str
    # [items, channels] float64 that `values` of an item are counted from, so that single precision keeps what changes
    # in a meter at a billion; 0 where it does so anyhow, None if that is everywhere
    level: np.ndarray | None = None
    known_fingerprint: str | None = None  # of a stored panel, so that it is not computed again

    def targets_only(self) -> Panel:
        """The same rows without inputs."""
        own = slice(0, self.roles.num_targets)
        return replace(
            self,
            values=np.ascontiguousarray(self.values[:, own]),
            status=np.ascontiguousarray(self.status[:, own]),
            roles=Roles(self.roles.target),
            level=None if self.level is None else self.level[:, own],
            known_fingerprint=None,
        )

    @property
    def num_rows(self) -> int:
        """Grid rows in all segments."""
        return len(self.values)

    @cached_property
    def is_gapless(self) -> bool:
        """Whether every value of every row was really observed."""
        blocks = range(0, self.num_rows, BLOCK_ROWS)
        return all((self.status[begin : begin + BLOCK_ROWS] == OBSERVED).all() for begin in blocks)

    @property
    def segment_length(self) -> np.ndarray:
        """[segments] rows of each segment."""
        return np.diff(self.segment_start)

    def fingerprint(self) -> str:
        """SHA-256 of all readings: a run only goes on with the data it began with."""
        if self.known_fingerprint is not None:
            return self.known_fingerprint
        digest = hashlib.sha256(np.ascontiguousarray(self.values))
        digest.update(np.ascontiguousarray(self.status))
        if self.level is not None:
            digest.update(np.ascontiguousarray(self.level))
        return digest.hexdigest()

    def level_of(self, items: np.ndarray | int, channels: slice | int = slice(None)) -> np.ndarray | float:
        """[…, channels] what to add to `values` of these items; 0 where that is nothing."""
        return 0.0 if self.level is None else self.level[items][..., channels]

    def row_position(self) -> np.ndarray:
        """[rows] steps from the item's first row to each row."""
        first = self.segment_position - self.segment_start[:-1]
        return np.arange(self.num_rows) + np.repeat(first, self.segment_length)

    def row_item(self) -> np.ndarray:
        """[rows] item of each row."""
        return np.repeat(self.segment_item, self.segment_length)


def row_blocks(panel: Panel) -> Iterator[slice]:
    """All rows, in stretches of at most `BLOCK_ROWS`."""
    for begin in range(0, panel.num_rows, BLOCK_ROWS):
        yield slice(begin, min(begin + BLOCK_ROWS, panel.num_rows))


def rows_between(panel: Panel, begin: np.ndarray, end: np.ndarray, block: slice) -> np.ndarray:
    """[rows of the block] True from `begin` to before `end`, [items] steps from each item's first row."""
    first, last = segment_of(panel, np.array([block.start, block.stop - 1]))
    segments = slice(first, last + 1)
    item, start = panel.segment_item[segments], panel.segment_start[segments]
    row_of_step = start - panel.segment_position[segments]
    stop = np.minimum(panel.segment_start[first + 1 : last + 2], block.stop)
    start = np.maximum(start, block.start)
    left, right = (np.clip(row_of_step + bound[item], start, stop) - block.start for bound in (begin, end))
    some = right > left
    steps = np.zeros(block.stop - block.start + 1, np.int8)
    np.add.at(steps, left[some], 1)
    np.add.at(steps, right[some], -1)
    return np.cumsum(steps[:-1], dtype=np.int8).view(bool)


def item_rows(panel: Panel) -> np.ndarray:
    """[items + 1] panel row at which each item begins, and the number of rows."""
    first_segment = np.searchsorted(panel.segment_item, np.arange(len(panel.item_ids) + 1))
    return panel.segment_start[first_segment]


def segment_of(panel: Panel, rows: np.ndarray) -> np.ndarray:
    """[rows] segment of each row."""
    return np.searchsorted(panel.segment_start, rows, side="right") - 1


def position_of(panel: Panel, rows: np.ndarray) -> np.ndarray:
    """[rows] steps from the item's first row."""
    segment = segment_of(panel, rows)
    return panel.segment_position[segment] + rows - panel.segment_start[segment]


def item_id_of(panel: Panel, row: int) -> str:
    """Name of the item a row belongs to."""
    return panel.item_ids[int(panel.segment_item[segment_of(panel, np.array([row]))[0]])]


def time_of(panel: Panel, row: int) -> str:
    """Time of a row as people write it, to the minute where that is enough."""
    return str(panel.timestamps[row].astype("datetime64[s]")).replace("T", " ").removesuffix(":00")


@dataclass(frozen=True)
class Origin:
    """The source's table after cleaning, without its rows."""

    table: SourceTable  # roles, unit, licence, notes, cleaning, … with an empty `frame`
    num_readings: int  # rows the table had
    items_without_readings: list[str]  # items of the table that have no reading of a target, sorted
    files: list[dict[str, str]]  # path and SHA-256 of each file that was read

    @classmethod
    def of(cls, table: SourceTable, kept_items: Iterable[str]) -> Origin:
        """The origin of a panel with these items that was built from one table."""
        names = set(table.frame[ITEM].astype(str).unique())
        files = [{"path": path, "sha256": sha256_of(Path(path))} for path in table.files]
        return cls(without_rows(table), len(table.frame), sorted(names - set(kept_items)), files)

    def targets_only(self) -> Origin:
        """The same without inputs."""
        roles = Roles(self.table.roles.target)
        fill = {name: how for name, how in self.table.fill.items() if name in roles.target}
        return replace(self, table=replace(self.table, roles=roles, fill=fill, statics=None))

    def to_dict(self) -> dict:
        """JSON values; the statics are a table of their own and left out."""
        table = {name: value for name, value in vars(self.table).items() if name not in ("frame", "statics")}
        rest = {name: value for name, value in vars(self).items() if name != "table"}
        return {"table": table | {"roles": asdict(self.table.roles), "fill": dict(self.table.fill)}} | rest

    @classmethod
    def from_dict(cls, values: Mapping, statics: pd.DataFrame | None) -> Origin:
        """Inverse of `to_dict`, also after JSON."""
        table = dict(values["table"])
        borders = table["standard_borders"]
        table["roles"] = Roles.from_dict(table["roles"])
        table["files"] = tuple(table["files"])
        table["standard_borders"] = None if borders is None else tuple(borders)
        return cls(**dict(values) | {"table": SourceTable(frame=pd.DataFrame(), statics=statics, **table)})


def without_rows(table: SourceTable) -> SourceTable:
    """The table with no row left."""
    return replace(table, frame=table.frame.iloc[:0].copy())
