"""A table as a user has it, long or wide, into series: whose rows they are, their times, the roles of the columns."""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from tstune.config.schema import DataSection
from tstune.data.cleaning.clock import local_to_utc
from tstune.data.cleaning.report import CleaningReport
from tstune.data.files import KINDS
from tstune.data.table import ITEM, TIMESTAMP, Roles, SourceTable
from tstune.domains import domain_of_column
from tstune.errors import ConfigError, DataError

# columns of a long table that say whose it is: item, time, target
_LAYOUTS = {"Nixtla": ("unique_id", "ds", "y"), "GluonTS": ("item_id", "timestamp", "target")}


_BESIDE_TARGETS = ("conditional", "control", "static_real", "static_categorical")
DUPLICATES_AVERAGED = "duplicate_timestamps_averaged"
_OFFSET = re.compile(r"\d[T ]\d.*(?:Z|[+-]\d{2}(?::?\d{2})?)\s*$")


def table_from_frame(
    raw: pd.DataFrame, config: DataSection, name: object, report: CleaningReport | None = None, is_piece: bool = False
) -> SourceTable:
    """Turn a table as a user has it into a `SourceTable`.

    Args:
        raw: any frame with a timestamp column.
        config: names of the columns.
        name: what to call the table in errors.
        report: gets what was found; None begins a new one.
        is_piece: there is more of the table, where a target may have its values.

    Raises:
        DataError: missing column, text in a number, bad or repeated timestamp, no value at all.
    """
    report = CleaningReport() if report is None else report
    raw = raw.reset_index(drop=True)  # rows are told apart by position, whatever index the caller's frame has
    if raw.empty:
        raise DataError(f"{name}: the table has no rows")
    twice = raw.columns[raw.columns.duplicated()]
    if len(twice):
        raise DataError(f"{name}: column {twice[0]!r} occurs twice; rename or delete one")
    config, notes = recognise_layout(raw, config)
    _require(raw, config.timestamp_column, "data.timestamp_column", name)
    if config.item_id_column is not None:
        _require(raw, config.item_id_column, "data.item_id_column", name)
        nameless = raw[config.item_id_column].isna()
        if nameless.any():
            raise DataError(f"{name}: row {int(nameless.idxmax()) + 2}: no value in column {config.item_id_column!r}")
    raw = _without_words(raw, config, report)
    roles = roles_of(raw, config, name)
    frame = read_numbers(raw, roles.columns, name)
    items = raw[config.item_id_column].astype(str) if config.item_id_column else pd.Series(series_name(name), raw.index)
    stamps = _read_times(raw[config.timestamp_column], items, config, name, report)
    frame.insert(0, TIMESTAMP, stamps)
    if config.columns_as == "items":
        frame, roles = _columns_to_items(frame, roles, config)
    else:
        frame.insert(0, ITEM, items.to_numpy())
    again = frame.duplicated([ITEM, TIMESTAMP])
    duplicates = int(again.sum())
    if duplicates and config.on_duplicate == "error":
        _reject_duplicates(frame, name, duplicates)
    if duplicates:
        notes |= {DUPLICATES_AVERAGED: duplicates}
    report.add("duplicate_timestamps", duplicates, "averaged", frame.loc[again, ITEM].value_counts().to_dict())
    empty = [column for column in roles.target if frame[column].isna().all()]
    if empty and not is_piece:
        raise DataError(
            f"{name}: target column {empty[0]!r} holds no value, only missing ones; fill it or leave it out"
        )
    return SourceTable(
        frame=frame,
        roles=roles,
        max_gap=None,
        files=(str(name),) if isinstance(name, Path) else (),
        notes=notes,
        cleaning=report.to_dict(),
        statics=_read_statics(raw, items, roles, name),
    )


def recognise_layout(raw: pd.DataFrame, config: DataSection) -> tuple[DataSection, dict[str, object]]:
    """Fill in the column names of a well-known long layout, unless the configuration names its own."""
    if config.item_id_column is not None or config.columns_as == "items":
        return config, {}
    for layout, (item, time, target) in _LAYOUTS.items():
        default_time = config.timestamp_column == "timestamp" and "timestamp" not in raw.columns
        if config.timestamp_column != time and not default_time:
            continue
        if config.target_columns not in (None, [target]) or not {item, time, target} <= set(raw.columns):
            continue
        chosen = {item, time, target, *_beside_targets(config)}
        unused = [str(column) for column in raw.columns if column not in chosen]
        columns = {"item_id_column": item, "timestamp_column": time, "target_columns": [target]}
        return config.model_copy(update=columns), {"layout": layout} | ({"columns_not_used": unused} if unused else {})
    return config, {}


def series_name(name: object) -> str:
    """File name without its endings, for a table that holds one series."""
    text = Path(str(name)).name
    ending = next((kind for kind in sorted(KINDS, key=len, reverse=True) if text.endswith(kind)), "")
    return text.removesuffix(ending)


def _require(raw: pd.DataFrame, column: str, key: str, name: object) -> None:
    if column not in raw.columns:
        found = ", ".join(map(str, raw.columns[:12]))
        raise DataError(f"{name}: no column {column!r} ({key}); the columns are: {found}")


def _reject_duplicates(frame: pd.DataFrame, name: object, count: int) -> None:
    first = frame.loc[frame.duplicated([ITEM, TIMESTAMP]).idxmax()]
    raise DataError(
        f"{name}: {count} duplicate timestamp(s), first {first[TIMESTAMP]} of series {first[ITEM]!r}; "
        "keep one row per time, set data.on_duplicate=mean, or name the series column in data.item_id_column"
    )


def _read_times(
    column: pd.Series, items: pd.Series, config: DataSection, name: object, report: CleaningReport
) -> pd.Series:
    """Times without zone; local ones become UTC if the configuration knows their zone."""
    stamps, zoned = _parse(column, config.timestamp_format, name)
    if zoned.any() and not zoned.all() and config.timezone is None:
        with_zone, without = int(zoned.argmax()), int((~zoned).argmax())
        raise DataError(
            f"{name}: row {with_zone + 2}: {column.iloc[with_zone]!r} has a time zone and row {without + 2}: "
            f"{column.iloc[without]!r} has none; write all alike, or set data.timezone for those without"
        )
    if config.timezone is None:
        return stamps
    local = ~zoned
    result = stamps.copy()
    result[local] = local_to_utc(stamps[local], items[local], config.timezone, report)
    return result


def parse_timestamps(column: pd.Series, timestamp_format: str | None, name: object) -> pd.Series:
    """Return timestamps without time zone (zoned ones as UTC).

    Raises:
        DataError: naming the first row that is not a time.
    """
    return _parse(column, timestamp_format, name)[0]


def _parse(column: pd.Series, timestamp_format: str | None, name: object) -> tuple[pd.Series, np.ndarray]:
    """(times without zone, zoned ones as UTC; [rows] which were zoned)."""
    if pd.api.types.is_numeric_dtype(column):
        raise DataError(f"{name}: column {column.name!r} holds numbers, not timestamps such as 2024-01-31 08:05")
    text_format = timestamp_format or "ISO8601"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # of mixed time zones, which the second look is for
            stamps = pd.to_datetime(column, format=text_format, errors="coerce")
    except ValueError:  # mixed time zones, or no format at all
        stamps = None
    zoned = np.zeros(len(column), bool)
    if stamps is None or not pd.api.types.is_datetime64_dtype(stamps):
        try:
            stamps = pd.to_datetime(column, format=text_format, errors="coerce", utc=True)
        except ValueError as error:
            raise ConfigError(f"data.timestamp_format={timestamp_format!r} is not a strptime format: {error}") from None
        if isinstance(column.dtype, pd.DatetimeTZDtype):
            zoned = np.ones(len(column), bool)
        else:
            zoned = np.array([_OFFSET.search(text) is not None for text in column.astype(str)], bool)
        stamps = stamps.dt.tz_localize(None)
    if stamps.isna().any():
        row = int(np.flatnonzero(stamps.isna())[0])
        raise DataError(
            f"{name}: row {row + 2}: {column.iloc[row]!r} in column {column.name!r} is not a timestamp; "
            "for other formats set data.timestamp_format, e.g. '%d/%m/%Y %H:%M'"
        )
    return stamps.astype("datetime64[ns]"), zoned


def roles_of(raw: pd.DataFrame, config: DataSection, name: object) -> Roles:
    """Roles of the columns: those the configuration names, or every column left over is a target."""
    targets = config.target_columns
    if targets is None:
        taken = {config.timestamp_column, config.item_id_column, *_beside_targets(config)}
        targets = [column for column in raw.columns if column not in taken]
        text = [column for column in targets if not pd.api.types.is_numeric_dtype(raw[column])]
        if text:
            read_numbers(raw, text, name)  # names the first cell that is not a number, if there is one
        if not targets:
            raise DataError(f"{name}: no column left to forecast; name them in data.target_columns")
    roles = Roles(tuple(targets), **{role: tuple(getattr(config, f"{role}_columns")) for role in _BESIDE_TARGETS})
    for role in ("target", *_BESIDE_TARGETS):
        for column in getattr(roles, role):
            _require(raw, column, f"data.{role}_columns", name)
    every = (*roles.columns, *roles.statics)
    ours = [column for column in roles.columns if column in (ITEM, TIMESTAMP)]
    if ours:
        key = "data.item_id_column" if ours[0] == ITEM else "data.timestamp_column"
        raise ConfigError(f"{name}: column {ours[0]!r} would be forecast; set {key}={ours[0]}, or data.target_columns")
    twice = [column for column in every if every.count(column) > 1]
    if twice:
        raise ConfigError(f"column {twice[0]!r} has two roles; name it in one of data.*_columns only")
    return roles


def _beside_targets(config: DataSection) -> list[str]:
    return [column for role in _BESIDE_TARGETS for column in getattr(config, f"{role}_columns")]


def _columns_to_items(frame: pd.DataFrame, roles: Roles, config: DataSection) -> tuple[pd.DataFrame, Roles]:
    if config.item_id_column or _beside_targets(config):
        raise ConfigError("data.columns_as=items makes every value column a series; it takes no other column roles")
    long = frame.melt(id_vars=TIMESTAMP, value_vars=list(roles.target), var_name=ITEM, value_name="target")
    return long[[ITEM, TIMESTAMP, "target"]], Roles(target=("target",))


def read_numbers(raw: pd.DataFrame, columns: Sequence[str], name: object) -> pd.DataFrame:
    """Return the columns as float64.

    Raises:
        DataError: naming the first cell that is not a number.
    """
    numbers = {}
    for column in columns:
        values = pd.to_numeric(raw[column], errors="coerce")
        bad = np.flatnonzero(values.isna() & raw[column].notna())
        if bad.size:
            cell = raw[column].iloc[int(bad[0])]
            comma = "; is it a decimal comma? write 1.5, or separate the columns with ;"
            words = (
                "; encode words as numbers first (1 where an activity is declared, else 0), or say what they are in "
                "data.item_id_column or data.static_categorical_columns"
            )
            text = str(cell).strip()
            hint = comma if re.fullmatch(r"[+-]?\d+,\d+", text) else "" if re.search(r"\d", text) else words
            raise DataError(f"{name}: row {bad[0] + 2}: {cell!r} in column {column!r} is not a number{hint}")
        numbers[column] = values.astype("float64").replace([np.inf, -np.inf], np.nan).to_numpy()
    return pd.DataFrame(numbers)


def _without_words(raw: pd.DataFrame, config: DataSection, report: CleaningReport) -> pd.DataFrame:
    """Put numbers where a column says something else that its domain knows, as exports of sensors do."""
    taken = {config.timestamp_column, config.item_id_column}
    names = raw.columns if config.target_columns is None else config.target_columns
    for column in names:
        domain = domain_of_column(str(column))
        if domain is None or column in taken or column not in raw.columns:
            continue
        if pd.api.types.is_numeric_dtype(raw[column]):
            continue
        found = domain.read_words(str(column), raw[column])
        if found is not None:
            cells, worded, action = found
            words = [(row, str(raw[column].iloc[row]).strip().lower()) for row in np.flatnonzero(worded)[:3]]
            examples = [f"row {row + 2}: {word}" for row, word in words]
            report.add("sensor_words", int(worded.sum()), action, examples=examples)
            raw = raw.assign(**{column: cells})
    return raw


def _read_statics(raw: pd.DataFrame, items: pd.Series, roles: Roles, name: object) -> pd.DataFrame | None:
    """One row per series: categories are text, missing ones None, the others float64; None without such columns."""
    if not roles.statics:
        return None
    columns = {}
    for column in roles.statics:
        values = raw[column]
        known = values.notna()
        first = values[known].groupby(items[known].to_numpy(), sort=False).first()
        changed = known & (values != items.map(first)).to_numpy()
        if changed.any():
            row = int(np.flatnonzero(changed)[0])
            item = items.iloc[row]
            raise DataError(
                f"{name}: row {row + 2}: static column {column!r} of series {item!r} is {values.iloc[row]!r}, before "
                f"it was {first[item]!r}; it must not change within a series: give it another role, or leave it out"
            )
        columns[column] = first.reindex(items.unique())
    table = pd.DataFrame(columns, index=pd.Index(items.unique(), dtype=object))
    for column in roles.static_categorical:
        texts = [str(value) if pd.notna(value) else None for value in table[column]]
        table[column] = pd.Series(texts, table.index, dtype=object)
    for column in roles.static_real:
        numbers = pd.to_numeric(table[column], errors="coerce")
        bad = np.flatnonzero(~np.isfinite(numbers))
        if bad.size:
            cell = table[column].iloc[int(bad[0])]
            problem = "no value" if pd.isna(cell) else f"{cell!r}, which is not a number"
            raise DataError(
                f"{name}: static column {column!r} of series {table.index[bad[0]]!r} has {problem}; fill it, or leave "
                "the column out"
            )
        table[column] = numbers.astype("float64")
    return table
