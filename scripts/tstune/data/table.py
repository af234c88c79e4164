"""What a source hands over: a long table of readings and what its columns mean."""

from __future__ import annotations

from dataclasses import dataclass, field

import pandas as pd

from tstune.errors import DataError

ITEM = "item_id"
TIMESTAMP = "timestamp"


@dataclass(frozen=True)
class Roles:
    """Names of the value columns by role, in channel order: targets first.

    Attributes:
        target: columns to forecast.
        conditional: known in the past only.
        control: known in the future too.
    """

    target: tuple[str, ...]
    conditional: tuple[str, ...] = ()
    control: tuple[str, ...] = ()

    @property
    def channels(self) -> tuple[str, ...]:
        """All value columns: target, conditional, control."""
        return self.target + self.conditional + self.control

    @property
    def num_targets(self) -> int:
        """Number of columns to forecast; they are the first channels."""
        return len(self.target)

    @property
    def control_indices(self) -> list[int]:
        """Positions of the known-future channels."""
        return list(range(len(self.target) + len(self.conditional), len(self.channels)))


@dataclass(frozen=True)
class SourceTable:
    """Readings in long form, in any row order, on any (irregular) timestamps.

    Attributes:
        frame: columns `item_id` (str), `timestamp` (datetime64[ns]) and one float column per channel.
        roles: what the channels are.
        frequency: grid step, or None to infer it.
        max_gap: longest gap to interpolate (text such as ``45min``, or steps), the source's own advice.
        unit: unit of the targets, for display.
        licence: terms of the data, for the manifest.
        files: files that were read, for the manifest.
        standard_borders: published ends of train, validation and test in steps, if there are any.
        notes: what the source changed, for the manifest.
        cleaning: what was found in the readings and what was done with it, see `tstune.data.cleaning`.
    """

    frame: pd.DataFrame
    roles: Roles
    frequency: str | None = None
    max_gap: str | int = 0
    unit: str | None = None
    licence: str = "not stated"
    files: tuple[str, ...] = ()
    standard_borders: tuple[int, int, int] | None = None
    notes: dict[str, object] = field(default_factory=dict)
    cleaning: dict[str, dict] = field(default_factory=dict)

    def check(self, name: str) -> None:
        """Stop with one line if the table is not what this class describes.

        Raises:
            DataError: naming the source, the column and what it must be.
        """
        missing = [column for column in (ITEM, TIMESTAMP, *self.roles.channels) if column not in self.frame.columns]
        if missing:
            raise DataError(f"source {name}: its table has no column {missing[0]!r}")
        if self.frame.empty:
            raise DataError(f"source {name}: its table has no rows")
        stamps = self.frame[TIMESTAMP]
        if not pd.api.types.is_datetime64_dtype(stamps) or stamps.isna().any():
            raise DataError(f"source {name}: column {TIMESTAMP!r} must hold times without a zone, and none missing")
        if self.frame[ITEM].isna().any():
            raise DataError(f"source {name}: column {ITEM!r} must name a series in every row")
        text = [column for column in self.roles.channels if not pd.api.types.is_numeric_dtype(self.frame[column])]
        if text:
            raise DataError(f"source {name}: column {text[0]!r} must hold numbers")
