"""What a panel was made of: everything a run says about its data but the readings themselves."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import pandas as pd

from tstune.data.table import ITEM, Roles, SourceTable


@dataclass(frozen=True)
class Origin:
    """The source's table after cleaning, without its rows.

    Attributes:
        table: roles, unit, licence, notes, cleaning, … with an empty `frame`.
        num_readings: rows the table had.
        items_without_readings: items of the table that have no reading of a target, sorted.
        files: path and SHA-256 of each file that was read.
    """

    table: SourceTable
    num_readings: int
    items_without_readings: list[str]
    files: list[dict[str, str]]

    @classmethod
    def of(cls, table: SourceTable, kept_items: Iterable[str]) -> Origin:
        """The origin of a panel with these items that was built from one table."""
        names = set(table.frame[ITEM].astype(str).unique())
        files = [{"path": path, "sha256": file_sha256(Path(path))} for path in table.files]
        return cls(without_rows(table), len(table.frame), sorted(names - set(kept_items)), files)

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
        table["roles"] = Roles(**{role: _tuples(names) for role, names in table["roles"].items()})
        table["files"] = tuple(table["files"])
        table["standard_borders"] = None if borders is None else tuple(borders)
        return cls(**dict(values) | {"table": SourceTable(frame=pd.DataFrame(), statics=statics, **table)})


def without_rows(table: SourceTable) -> SourceTable:
    """The table with no row left."""
    return replace(table, frame=table.frame.iloc[:0].copy())


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's content."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _tuples(value: object) -> object:
    return tuple(map(_tuples, value)) if isinstance(value, list | tuple) else value
