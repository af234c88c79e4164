"""What a source hands over: a long table of readings and what its columns mean."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pandas as pd
from pydantic import TypeAdapter

from tstune.errors import ConfigError, DataError

ITEM = "item_id"
TIMESTAMP = "timestamp"


@dataclass(frozen=True)
class Roles:
    """Names of the value columns by role, in channel order: targets first."""

    target: tuple[str, ...]  # columns to forecast
    conditional: tuple[str, ...] = ()  # known in the past only
    control: tuple[str, ...] = ()  # known in the future too
    static_real: tuple[str, ...] = ()  # numbers that are constant per item, so known in the future too
    # what is computed from the timestamps, two channels each, see `tstune.data.frequency`
    time_features: tuple[str, ...] = ()
    static_categorical: tuple[str, ...] = ()  # names that are constant per item; no channels
    # the values of each of them that training items have; empty before they are learned
    categories: tuple[tuple[str, ...], ...] = ()

    @classmethod
    def from_dict(cls, values: Mapping[str, Iterable]) -> Roles:
        """Inverse of `dataclasses.asdict`, also after JSON."""
        return TypeAdapter(cls).validate_python(values)

    @property
    def columns(self) -> tuple[str, ...]:
        """Channels that are read step by step: target, conditional, control."""
        return self.target + self.conditional + self.control

    @property
    def channels(self) -> tuple[str, ...]:
        """All channels: the columns, constant numbers, and a sine and a cosine for each feature of the time."""
        waves = tuple(f"{name}_{wave}" for name in self.time_features for wave in ("sin", "cos"))
        return self.columns + self.static_real + waves

    @property
    def statics(self) -> tuple[str, ...]:
        """Columns with one value per item."""
        return self.static_categorical + self.static_real

    @property
    def num_categories(self) -> list[int]:
        """Codes of each static category: one per value, and 0 for a value that training did not see."""
        return [len(values) + 1 for values in self.categories]

    @property
    def has_covariates(self) -> bool:
        """True if there is anything but targets."""
        return len(self.channels) > self.num_targets or bool(self.static_categorical)

    @property
    def num_targets(self) -> int:
        """Number of columns to forecast; they are the first channels."""
        return len(self.target)

    @property
    def control_indices(self) -> list[int]:
        """Positions of the channels that are known in the future: control, constants, features of the time."""
        return list(range(len(self.target) + len(self.conditional), len(self.channels)))


@dataclass(frozen=True)
class SourceTable:
    """Readings in long form, in any row order, on any (irregular) timestamps."""

    frame: pd.DataFrame  # columns `item_id` (str), `timestamp` (datetime64[ns]) and one float column per channel
    roles: Roles
    frequency: str | None = None  # grid step, or None to infer it
    # longest gap to interpolate (text such as ``45min``, or steps), the source's own advice; None: what is usual for
    # the frequency
    max_gap: str | int | None = 0
    unit: str | None = None
    licence: str = "not stated"
    files: tuple[str, ...] = ()
    # published ends of train, validation and test in steps, if there are any
    standard_borders: tuple[int, int, int] | None = None
    notes: dict[str, object] = field(default_factory=dict)  # what the source changed, for the manifest
    # what was found in the readings and what was done with it, see `tstune.data.cleaning`
    cleaning: dict[str, dict] = field(default_factory=dict)
    # channel -> what is put where there is no reading, see `tstune.data.preprocess`; ``interpolate`` if not named
    fill: Mapping[str, str] = field(default_factory=dict)
    statics: pd.DataFrame | None = None  # one row per item with the columns `roles.statics`, or None if there are none
    # in which forecasts of these readings come back, while the table is in UTC; None if it has none
    zone: str | None = None
    # names of the columns of series and times that were found, by the keys of the configuration
    read_as: Mapping[str, object] = field(default_factory=dict)

    def check(self, name: str) -> None:
        """Stop with one line if the table is not what this class describes.

        Raises:
            DataError: naming the source, the column and what it must be.
        """
        missing = [column for column in (ITEM, TIMESTAMP, *self.roles.columns) if column not in self.frame.columns]
        if missing:
            raise DataError(f"source {name}: its table has no column {missing[0]!r}")
        if self.frame.empty:
            raise DataError(f"source {name}: its table has no rows")
        stamps = self.frame[TIMESTAMP]
        if not pd.api.types.is_datetime64_dtype(stamps) or stamps.isna().any():
            raise DataError(f"source {name}: column {TIMESTAMP!r} must hold times without a zone, and none missing")
        if self.frame[ITEM].isna().any():
            raise DataError(f"source {name}: column {ITEM!r} must name a series in every row")
        if text := [column for column in self.roles.columns if not pd.api.types.is_numeric_dtype(self.frame[column])]:
            raise DataError(f"source {name}: column {text[0]!r} must hold numbers")

    def numbers(self, columns: Iterable[str]) -> np.ndarray:
        """[rows, columns] float64 readings."""
        return np.stack([self.frame[column].to_numpy(np.float64) for column in columns], axis=1)

    def with_settings(self, fill: Mapping[str, str], time_features: tuple[str, ...]) -> SourceTable:
        """The table with what a configuration adds to what the source says."""
        columns = self.roles.columns
        if unknown := [column for column in fill if column not in columns]:
            raise ConfigError(f"data.fill: no channel {unknown[0]!r}; the channels are {', '.join(columns)}")
        roles = replace(self.roles, time_features=time_features)
        if twice := [name for name in roles.channels if roles.channels.count(name) > 1]:
            raise ConfigError(f"column {twice[0]!r} has the name of a channel of data.time_features; rename it")
        return replace(self, roles=roles, fill={**self.fill, **fill})


PIECE_ROWS = 1 << 19
"""Rows of a piece, at least; a series is never cut, so a longer one is a piece of its own."""


@dataclass(frozen=True)
class TableStream:
    """A source that can be read series by series."""

    files: tuple[str, ...]  # what is read; their content tells whether a stored panel is of this data
    # scratch folder -> what begins, at every call, to hand over tables of whole series in the order of their names
    open: Callable[[Path], Callable[[], Iterable[SourceTable]]]
    # what the manifest says about the source besides what the pieces say
    notes: Mapping[str, object] = field(default_factory=dict)
    licence: str | None = None  # terms of the data, if the pieces do not say them
