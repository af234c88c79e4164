"""Irregular readings on a grid, short gaps filled, cut at long ones; and all of it once more for new readings."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path

import numpy as np
import pandas as pd
from pydantic import ConfigDict, TypeAdapter

from tstune.config.managers import read_overrides
from tstune.config.names import dotted
from tstune.config.schema import DataSection
from tstune.config.validation import validate
from tstune.data.cleaning import CleaningRules, clean_table, order_of
from tstune.data.defaults import default_max_gap
from tstune.data.files import read_columns, read_table
from tstune.data.frame import renamed, require_columns, table_from_frame
from tstune.data.frequency import encode_times, fixed_step, infer_frequency, parse_frequency, to_steps
from tstune.data.panel import INTERPOLATED, MISSING, OBSERVED, Panel
from tstune.data.scaler import Scaler
from tstune.data.series_rows import holds_series
from tstune.data.sources import load_source, recognised_source
from tstune.data.table import ITEM, TIMESTAMP, Roles, SourceTable
from tstune.domains import domain_of
from tstune.errors import ConfigError, DataError
from tstune.foreign_files import damage, read_object

_SMALL, _NOISE = 1e3, 1e-12
"""Below this single precision is fine enough; and smaller changes, of the largest reading, are rounding of a sum."""
_MOST_LOST = 0.001
"""Of a usual change from row to row may be lost by single precision; more, and a series is counted from its level."""
_DAY = pd.Timedelta("1D").value

READ_AS = (
    *("timestamp_column", "timestamp_format", "item_id_column", "columns_as", "on_duplicate"),
    *("skip_rows", "keep_rows", "missing_values", "rename", "item_from"),
)
"""Settings of how a table is read, which new data are read by too."""
_OF_THE_MODEL = ("columns_as", "convert_to", "expected_unit")
_RULES = [key.name for key in fields(CleaningRules)]
OF_A_FILE = tuple(f"data.{name}" for name in sorted({*READ_AS, *_RULES}.difference(_OF_THE_MODEL)))
"""Settings that may be others for a file that a saved model reads."""


def build_panel(
    table: SourceTable,
    frequency: str | None,
    max_gap: str | int | None,
    cut: bool = True,
    levels: Mapping[str, Sequence[float]] | None = None,
) -> Panel:
    """Turn readings into a `Panel`.

    Readings that fall on one grid step are averaged. A gap of at most `max_gap` is interpolated
    linearly and marked; a longer gap in any target ends the segment. Covariates never end a segment:
    where they are missing for longer, they stay missing.

    `table.fill` names channels that are treated otherwise: ``hold`` repeats the last reading over such a gap, ``none``
    leaves every gap missing, and with ``zero`` no reading is a reading of 0, however long the gap is.

    Args:
        frequency: grid step; None takes the table's, else the most common one.
        max_gap: longest gap to fill, as a duration or in steps; None takes the table's, or what is usual.
        cut: False keeps each item in one piece and leaves long gaps missing (for forecasting).
        levels: item -> what its channels were counted from in training, see `Panel.level`.
    """
    codes, item_ids = pd.factorize(table.frame[ITEM].values, sort=True)
    stamps = table.frame[TIMESTAMP].to_numpy("datetime64[ns]")
    order = order_of(codes, stamps)
    codes, stamps = codes[order], stamps[order]
    item_starts = np.flatnonzero(np.diff(codes, prepend=-1))
    readings = table.numbers(table.roles.columns)[order]
    frequency = frequency or table.frequency or infer_frequency(stamps, item_starts)
    gap_steps = to_steps(longest_gap(table, frequency, max_gap), frequency, "data.max_gap")
    if gap_steps < 0:
        raise ConfigError(f"data.max_gap={max_gap} is negative; 0 interpolates nothing")
    policies = np.array([table.fill.get(column, "interpolate") for column in table.roles.columns])
    gaps, zeros = np.where(policies == "none", 0, gap_steps), policies == "zero"

    pieces: list[tuple[np.ndarray, ...]] = []
    segment_item, segment_position, segment_length, item_length, kept_ids = [], [], [], [], []
    item_level = []
    for name, start, stop in zip(item_ids, item_starts, np.append(item_starts[1:], len(codes)), strict=True):
        values, grid = _to_grid(stamps[start:stop], readings[start:stop], frequency, name)
        targets = slice(0, table.roles.num_targets)
        values, grid = _trim(values, grid, targets)
        if not len(values):  # no reading of any target: not an item of this panel
            continue
        values[:, zeros] = np.nan_to_num(values[:, zeros])
        item = len(kept_ids)
        kept_ids.append(str(name))
        item_length.append(len(values))
        level = _levels(values, (levels or {}).get(str(name)))
        item_level.append(np.concatenate([level, np.zeros(len(table.roles.channels) - len(level))]))
        filled, status = _fill(values - level, gaps, policies == "hold", hold_end=not cut)
        filled, status = _with_known(filled, status, grid, table, name)
        broken = _long_gaps(values[:, targets], gaps[targets]) if cut else np.zeros(len(values), bool)
        for first, last in _runs(~broken):
            pieces.append((filled[first:last], status[first:last], grid[first:last]))
            segment_item.append(item)
            segment_position.append(first)
            segment_length.append(last - first)
    if not pieces:
        names = ", ".join(table.roles.target)
        raise DataError(f"no observed value in target column(s) {names} of any series")
    values, status, timestamps = (np.concatenate(parts) for parts in zip(*pieces, strict=True))
    return Panel(
        values=values,
        status=status,
        timestamps=timestamps,
        segment_start=np.concatenate([[0], np.cumsum(segment_length)]),
        segment_item=np.asarray(segment_item),
        segment_position=np.asarray(segment_position),
        item_ids=tuple(kept_ids),
        item_length=np.asarray(item_length),
        roles=table.roles,
        frequency=frequency,
        level=np.stack(item_level) if np.any(item_level) else None,
    )


def longest_gap(table: SourceTable, frequency: str, max_gap: str | int | None) -> str | int:
    """What is interpolated at most: as configured, as the source advises, or what is usual for the frequency."""
    if max_gap is None:
        max_gap = table.max_gap
    return default_max_gap(frequency) if max_gap is None else max_gap


def _to_grid(stamps: np.ndarray, readings: np.ndarray, frequency: str, item: str) -> tuple[np.ndarray, np.ndarray]:
    """Average the readings of each grid step; steps without one are NaN."""
    offset = parse_frequency(frequency)
    step = fixed_step(offset)
    if step is None:
        grid = _calendar_grid(stamps, offset)
        bins = _calendar_bins(stamps, grid, offset)
    else:
        nanos = stamps.astype(np.int64)
        anchor = _phase(nanos, step.value)
        bins = (nanos - anchor + step.value // 2) // step.value
        _refuse_huge_grid(int(bins[-1] - bins[0]) + 1, len(stamps), frequency, item)
        grid = ((np.arange(bins[0], bins[-1] + 1)) * step.value + anchor).astype("datetime64[ns]")
        bins = bins - bins[0]
    values = np.full((len(grid), readings.shape[1]), np.nan, dtype=np.float64)
    for channel in range(readings.shape[1]):
        seen = ~np.isnan(readings[:, channel])
        count = np.bincount(bins[seen], minlength=len(grid))
        total = np.bincount(bins[seen], weights=readings[seen, channel], minlength=len(grid))
        np.divide(total, count, out=values[:, channel], where=count > 0)
    return values, grid


def _phase(nanos: np.ndarray, step: int) -> int:
    """What most rows have beyond whole steps since 1970, as rows at half past have; 0 where no phase has most rows.

    Steps of days have their day and time of day each from most rows: a reading at noon is one of its day.
    """
    phases, counts = np.unique(nanos % step, return_counts=True)
    if counts.max() * 2 > len(nanos):
        return int(phases[counts.argmax()])
    return _phase(nanos - nanos % _DAY, step) if step > _DAY else 0


def _calendar_grid(stamps: np.ndarray, offset: pd.tseries.offsets.BaseOffset) -> np.ndarray:
    """Steps of a calendar from the one that the first stamp belongs to, to that of the last."""
    days = pd.DatetimeIndex(stamps[[0, -1]]).normalize()
    first, last = (map(offset.rollforward, days)) if _names_its_end(offset) else map(offset.rollback, days)
    return pd.date_range(first, last, freq=offset).to_numpy("datetime64[ns]")


def _calendar_bins(stamps: np.ndarray, grid: np.ndarray, offset: pd.tseries.offsets.BaseOffset) -> np.ndarray:
    """[rows] step of each stamp: that which it follows, or, where steps are named by their end, that which ends it."""
    days = stamps.astype("datetime64[D]")
    if _names_its_end(offset):
        return np.minimum(np.searchsorted(grid, days, side="left"), len(grid) - 1)
    return np.searchsorted(grid, days, side="right") - 1


def _names_its_end(offset: pd.tseries.offsets.BaseOffset) -> bool:
    """True for month, quarter and year ends, and for business days, which weekends are counted to."""
    unit = offset.name.partition("-")[0]
    return unit in ("B", "C") or unit.endswith("E")


def _refuse_huge_grid(num_steps: int, num_rows: int, frequency: str, item: str) -> None:
    if num_steps > 200 * num_rows + 10_000_000:
        raise DataError(
            f"series {item!r}: {num_rows} rows spread over {num_steps} steps of {frequency}; "
            "check its timestamps, or set data.frequency"
        )


def _levels(values: np.ndarray, known: Sequence[float] | None) -> np.ndarray:
    """[channels] what to count the values of a series from, so that single precision keeps what changes in them."""
    known = np.zeros(values.shape[1]) if known is None else np.asarray(known)[: values.shape[1]]
    return np.array([_level(column[~np.isnan(column)], level) for column, level in zip(values.T, known, strict=True)])


def _level(readings: np.ndarray, known: float) -> float:
    """The first reading, where counting from `known` loses too much by the first tenth, which is training data."""
    first = readings[: max(10, len(readings) // 10)]
    changes = np.abs(np.diff(first))
    largest = np.abs(first).max(initial=0.0)
    changes = changes[changes > _NOISE * largest]
    if not changes.size or largest < _SMALL:
        return known
    away = first - known
    lost = np.abs(away.astype(np.float32) - away).max()
    return known if lost <= _MOST_LOST * np.median(changes) else float(first[0])


def _trim(values: np.ndarray, grid: np.ndarray, targets: slice) -> tuple[np.ndarray, np.ndarray]:
    """Drop rows before the first and after the last moment at which a target was observed."""
    rows = np.flatnonzero(~np.isnan(values[:, targets]).all(axis=1))
    kept = slice(rows[0], rows[-1] + 1) if rows.size else slice(0, 0)
    return values[kept], grid[kept]


def _fill(values: np.ndarray, gaps: np.ndarray, holds: np.ndarray, hold_end: bool) -> tuple[np.ndarray, np.ndarray]:
    """Fill gaps of at most `gaps` rows between two readings of each channel; longer ones become 0, `MISSING`.

    A line is drawn between the two, or the first of them held where `holds`. With `hold_end` the last reading is held
    over a gap of that length at the end, as training windows do.
    """
    filled = np.zeros(values.shape, np.float32)
    status = np.full(values.shape, MISSING, np.uint8)
    rows = np.arange(len(values))
    for channel in range(values.shape[1]):
        seen = np.flatnonzero(~np.isnan(values[:, channel]))
        if not seen.size:
            continue
        if holds[channel]:
            line = values[seen[np.maximum(np.searchsorted(seen, rows, side="right") - 1, 0)], channel]
        else:
            line = np.interp(rows, seen, values[seen, channel])
        usable = ~_long_gaps(values[:, channel : channel + 1], gaps[channel : channel + 1])
        if hold_end and len(values) - 1 - seen[-1] <= gaps[channel]:
            usable[seen[-1] :] = True  # np.interp goes on with the last value
        filled[usable, channel] = line[usable]
        status[usable, channel] = INTERPOLATED
        status[seen, channel] = OBSERVED
    return filled, status


def _with_known(
    values: np.ndarray, status: np.ndarray, grid: np.ndarray, table: SourceTable, item: str
) -> tuple[np.ndarray, np.ndarray]:
    """Put the constants of the item and the features of its times beside its other channels."""
    roles = table.roles
    if not roles.static_real and not roles.time_features:
        return values, status
    known = encode_times(grid, roles.time_features)
    if roles.static_real:
        constants = table.statics.loc[str(item), list(roles.static_real)].to_numpy(np.float32)
        known = np.hstack([np.tile(constants, (len(grid), 1)), known])
    return np.hstack([values, known]), np.hstack([status, np.full(known.shape, OBSERVED, np.uint8)])


def _long_gaps(values: np.ndarray, gaps: np.ndarray) -> np.ndarray:
    """[rows] True where any column misses more than its `gaps` rows in a row, or has no reading on one side."""
    broken = np.zeros(len(values), bool)
    for column, gap_steps in zip(values.T, gaps, strict=True):
        for first, last in _runs(np.isnan(column)):
            if last - first > gap_steps or first == 0 or last == len(column):
                broken[first:last] = True
    return broken


def _runs(flags: np.ndarray) -> np.ndarray:
    """[runs, 2] start and stop of each stretch of True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], flags, [False]]).astype(np.int8)))
    return edges.reshape(-1, 2)


@dataclass(frozen=True)
class Preprocessor:
    """What a saved model needs to read new data the way it read its training data."""

    __pydantic_config__ = ConfigDict(arbitrary_types_allowed=True, extra="forbid")

    roles: Roles
    frequency: str
    max_gap: str | int
    scaler: Scaler
    unit: str | None
    # timestamp_column, timestamp_format, item_id_column, columns_as, on_duplicate, skip_rows, keep_rows,
    # missing_values, rename, item_from: how a table is read
    timestamp_column: str | list[str]
    timestamp_format: str | None
    item_id_column: str | None
    columns_as: str
    on_duplicate: str
    cleaning: CleaningRules = field(default_factory=CleaningRules)
    # channel -> what stands where there is no reading, where that is no line
    fill: Mapping[str, str] = field(default_factory=dict)
    min_context: int | None = None  # steps of history that a forecast needs; None: a whole context
    skip_rows: int = 0
    keep_rows: str | None = None
    missing_values: Sequence[str | float] = ()
    rename: Mapping[str, str] = field(default_factory=dict)
    item_from: str | None = None
    # item -> what its channels are counted from, see `Panel.level`; only those that are
    levels: Mapping[str, Sequence[float]] = field(default_factory=dict)

    @property
    def time_columns(self) -> list[str]:
        """Columns with the time of each row, or a part of it."""
        return [self.timestamp_column] if isinstance(self.timestamp_column, str) else list(self.timestamp_column)

    def write(self, folder: Path, model_type: str) -> None:
        """Write `preprocessor.json` into a folder; `read` gives it back."""
        text = json.dumps(self.to_dict() | {"model_type": model_type}, indent=2)
        (folder / "preprocessor.json").write_text(text, encoding="utf-8")

    def to_dict(self) -> dict:
        """Values for `preprocessor.json`."""
        return asdict(self) | {"scaler": self.scaler.to_dict()}

    @classmethod
    def from_dict(cls, values: dict) -> Preprocessor:
        """Inverse of `to_dict`."""
        found = TypeAdapter(cls).validate_python(values | {"scaler": Scaler.from_dict(values["scaler"])})
        channels, scaler = found.roles.channels, found.scaler
        if not found.roles.target or len(set(channels)) != len(channels):
            raise ValueError(f"its channels are {channels}")
        if not scaler.fits(len(channels)):
            raise ValueError(f"its scaler is no mean and positive deviation for each of {len(channels)} channels")
        parse_frequency(found.frequency)
        DataSection(source="csv", **{name: values[name] for name in READ_AS if name in values})
        return found

    def targets_only(self) -> Preprocessor:
        """The same for a model that reads no other column."""
        targets, scaler = slice(0, self.roles.num_targets), self.scaler
        alone = replace(scaler, mean=np.array(scaler.mean[targets]), std=np.array(scaler.std[targets]))
        return replace(self, roles=Roles(self.roles.target), scaler=alone)

    @classmethod
    def read(cls, folder: Path) -> tuple[str, Preprocessor]:
        """The family of a saved model, and its preprocessor.

        Raises:
            CheckpointError: it is damaged.
        """
        path = folder / "preprocessor.json"
        saved = read_object(path, keys=["model_type"])
        with damage(path):
            return saved.pop("model_type"), cls.from_dict(saved)

    def read_frame(self, frame: pd.DataFrame, name: object, is_future: bool = False) -> SourceTable:
        """Read new data with the columns of the training data; those of the future hold no static columns.

        Series are told apart as in training, or by the column `item_id`, the name that sources and forecasts give it;
        `timestamp` serves where the time columns of training are not there.
        """
        return table_from_frame(frame, self.section_for(frame, name, is_future), name)

    def read_new(self, data: pd.DataFrame | str | Path) -> SourceTable:
        """The same with a table or file, or an export of a sensor or a folder of them, which their source reads."""
        if isinstance(data, pd.DataFrame):
            return self.read_frame(data, "input")
        section = self.export_section(path := Path(data))
        if section is None:
            return self.read_frame(read_table(path, skip_rows=self.skip_rows), path)
        return self.own_columns(load_source(section), path)

    def export_section(self, path: Path) -> DataSection | None:
        """How a source reads a file or folder that it knows by its content; None for a table with our own columns."""
        with suppress(DataError):  # a folder, or a file without a header
            if {self.rename.get(name, name) for name in self.roles.target} <= set(read_columns(path, self.skip_rows)):
                return None
        source = recognised_source(path) if path.exists() else None
        if source is None:
            return None
        return DataSection(
            source=source,
            path=str(path),
            frequency=self.frequency,
            timezone=self.cleaning.timezone,
            conditional_columns=list(self.roles.conditional),
            item_from=self.item_from,
        )

    def own_columns(self, table: SourceTable, path: Path) -> SourceTable:
        """A table of a source with no other columns than those of the training data."""
        roles = replace(self.roles, time_features=(), categories=())
        if lacking := [name for name in (*roles.columns, *roles.statics) if name not in table.frame]:
            raise DataError(f"{path} is an export without {lacking[0]!r}, which the model reads; give it as a table")
        return replace(table, roles=roles)

    def for_file(self, path: Path, rename: Mapping[str, str] | None = None) -> Preprocessor:
        """The same with other names for the columns (None: those of training); stops at one that is not there."""
        if rename is None and self.export_section(path) is not None:
            return self
        frame, found = pd.DataFrame(columns=read_columns(path, self.skip_rows)), self
        if rename is not None:
            known = [*self.roles.columns, *self.roles.statics, *self.time_columns, self.item_id_column or ITEM]
            if strange := [name for name in rename if name not in known and self.columns_as == "channels"]:
                raise ConfigError(f"--rename {strange[0]}=…: the model knows no {strange[0]!r}, but {', '.join(known)}")
            renamed(frame, rename, path, "--rename")
            found = replace(self, rename=rename)
        require_columns(frame, found.section_for(frame, path), path)
        return found

    def changed(self, overrides: Sequence[str]) -> Preprocessor:
        """The same with ``data.key=value`` for a file that is written otherwise; another unit is converted to ours."""
        changes = read_overrides(overrides)
        data = validate(changes, "key=value").data
        if strange := [key for key, _ in dotted(changes) if not key.startswith(OF_A_FILE)]:
            raise ConfigError(f"{strange[0]}=… is settled by the training; a file may change {', '.join(OF_A_FILE)}")
        given = {name: getattr(data, name) for name in changes.get("data", ())}
        rules = {name: given.pop(name) for name in _RULES if name in given}
        if "unit" in rules:
            rules |= {"expected_unit": None, "convert_to": self.unit if domain_of(self.unit) else None}
        return replace(self, cleaning=replace(self.cleaning, **rules), **given)

    def other_scale(self, readings: np.ndarray, of_all_items: bool) -> str | None:
        """What to say of cleaned readings [rows, targets] if they are in another unit than those of the training.

        Where items differ much in size, a few of them say nothing: `of_all_items` says that all are here.
        """
        if self.scaler.by_window and not of_all_items:
            return None
        for channel, name in enumerate(self.roles.target):
            level = float(np.mean([one[channel] for one in self.levels.values()] or 0.0))
            factor = self.scaler.times_as_large(readings[:, channel], channel, level)
            if factor is None:
                continue
            if not factor:
                return f"readings of {name!r} hardly move, as of a dead sensor"
            domain, fix = domain_of(self.unit), "convert them"
            for unit in domain.units if domain else ():
                if unit != self.unit and 0.5 < domain.factor(unit, self.unit) * factor < 2:
                    fix = f"if they are in {unit}, add data.unit={unit}, which converts them"
            return f"readings of {name!r} are {factor:.3g} times as large as those that the model learned from: {fix}"
        return None

    def section_for(self, frame: pd.DataFrame, name: object, is_future: bool = False) -> DataSection:
        """How a table with these columns is read; `name` is what errors call it."""
        item_id_column = self.item_id_column
        if item_id_column is None and self.columns_as == "channels" and ITEM in frame.columns:
            item_id_column = ITEM
        read_as = {name: getattr(self, name) for name in READ_AS} | {"item_id_column": item_id_column}
        read_as["missing_values"] = list(self.missing_values)
        read_as["rename"] = {new: old for new, old in self.rename.items() if old in frame.columns}
        if self.columns_as == "channels" and not holds_series(frame.columns):
            roles = (*(() if is_future else self.roles.target), *self.roles.control)
            if lacking := [one for one in roles if one not in frame.columns and one not in read_as["rename"]]:
                raise DataError(
                    f"{name}: no column {lacking[0]!r}, which the model reads; the columns are: "
                    f"{', '.join(map(str, frame.columns[:12]))}; if one of them is it: --rename {lacking[0]}=<column>"
                )
        if TIMESTAMP in frame.columns and not set(self.time_columns) <= set(frame.columns):
            read_as |= {"timestamp_column": TIMESTAMP, "timestamp_format": None}
        return DataSection(
            source="csv",
            **read_as,
            frequency=self.frequency,
            timezone=self.cleaning.timezone,
            target_columns=None if self.columns_as == "items" else list(self.roles.target),
            conditional_columns=list(self.roles.conditional),
            control_columns=list(self.roles.control),
            static_categorical_columns=[] if is_future else list(self.roles.static_categorical),
            static_real_columns=[] if is_future else list(self.roles.static_real),
        )

    def panel_of(self, table: SourceTable) -> Panel:
        """Clean new readings and put them on the grid as it was done with the training data, items in one piece."""
        fill = {channel: policy for channel, policy in self.fill.items() if channel in table.roles.columns}
        rules = self.cleaning
        if table.unit not in (None, self.unit):  # an export says its unit
            rules = replace(rules, unit=table.unit, convert_to=self.unit, expected_unit=None)
        table = clean_table(table, rules).with_settings(fill, self.roles.time_features)
        return build_panel(table, self.frequency, self.max_gap, cut=False, levels=self.levels)
