"""Your own table: CSV, gzipped CSV or Parquet, long or wide, column roles by name.

Long: one row per series and time (``data.item_id_column``). Wide: one row per time; each value column
is a channel of one series, or with ``data.columns_as=items`` a series of its own.
"""

from __future__ import annotations

import glob
import zlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from tstune.config.schema import DataSection
from tstune.data.table import ITEM, TIMESTAMP, Roles, SourceTable
from tstune.errors import ConfigError, DataError

_KINDS = (".csv", ".csv.gz", ".parquet")
_AVERAGED = "duplicate_timestamps_averaged"


def load(config: DataSection) -> SourceTable:
    """Read ``data.path`` and give its columns the roles named in the configuration."""
    if config.path is None:
        raise ConfigError("source csv needs data.path=<file.csv, file.csv.gz, file.parquet, folder or pattern>")
    files = find_files(config.path)
    if len(files) == 1 and files[0] == Path(config.path):
        return table_from_frame(read_table(files[0]), config, files[0])
    if config.item_id_column is None and config.columns_as == "channels":
        tables = [table_from_frame(read_table(file), config, file) for file in files]  # named after the files
    else:
        raise ConfigError(
            f"data.path={config.path} names several files, one series each; "
            "data.item_id_column and data.columns_as=items are for a single file"
        )
    different = next((t for t in tables if t.roles != tables[0].roles), None)
    if different is not None:
        raise DataError(
            f"{different.files[0]} has columns {', '.join(different.roles.channels)}, {files[0]} has "
            f"{', '.join(tables[0].roles.channels)}; name the common ones in data.target_columns"
        )
    names = [_series_name(file) for file in files]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise DataError(f"data.path={config.path} holds {twice!r} twice, in different formats; keep one")
    frame = pd.concat([table.frame for table in tables], ignore_index=True)
    duplicates = sum(table.notes.get(_AVERAGED, 0) for table in tables)
    notes = {_AVERAGED: duplicates} if duplicates else {}
    return replace(tables[0], frame=frame, files=tuple(map(str, files)), notes=notes)


def find_files(pattern: str) -> list[Path]:
    """Files of a path, a folder or a glob pattern, sorted by name.

    Raises:
        DataError: there is none.
    """
    path = Path(pattern)
    if path.is_dir():
        files = [file for file in path.iterdir() if file.name.endswith(_KINDS)]
    elif "*" in pattern or "?" in pattern:
        files = [Path(file) for file in glob.glob(pattern)]
    else:
        return [path]
    if not files:
        raise DataError(f"data.path={pattern} holds no {', '.join(_KINDS)} file")
    return sorted(files)


def table_from_frame(raw: pd.DataFrame, config: DataSection, name: object) -> SourceTable:
    """Turn a table as a user has it into a `SourceTable`.

    Args:
        raw: any frame with a timestamp column.
        config: names of the columns.
        name: what to call the table in errors.

    Raises:
        DataError: missing column, text in a number, bad or repeated timestamp, no value at all.
    """
    raw = raw.reset_index(drop=True)  # rows are told apart by position, whatever index the caller's frame has
    if raw.empty:
        raise DataError(f"{name}: the table has no rows")
    _require(raw, config.timestamp_column, "data.timestamp_column", name)
    if config.item_id_column is not None:
        _require(raw, config.item_id_column, "data.item_id_column", name)
        nameless = raw[config.item_id_column].isna()
        if nameless.any():
            raise DataError(f"{name}: row {int(nameless.idxmax()) + 2}: no value in column {config.item_id_column!r}")
    roles = _roles(raw, config, name)
    frame = read_numbers(raw, roles.channels, name)
    frame.insert(0, TIMESTAMP, parse_timestamps(raw[config.timestamp_column], config.timestamp_format, name))
    if config.columns_as == "items":
        frame, roles = _columns_to_items(frame, roles, config)
    else:
        items = raw[config.item_id_column].astype(str).to_numpy() if config.item_id_column else _series_name(name)
        frame.insert(0, ITEM, items)
    duplicates = int(frame.duplicated([ITEM, TIMESTAMP]).sum())
    if duplicates and config.on_duplicate == "error":
        _reject_duplicates(frame, name, duplicates)
    notes = {_AVERAGED: duplicates} if duplicates else {}
    empty = [column for column in roles.target if frame[column].isna().all()]
    if empty:
        raise DataError(
            f"{name}: target column {empty[0]!r} holds no value, only missing ones; fill it or leave it out"
        )
    return SourceTable(frame=frame, roles=roles, files=(str(name),) if isinstance(name, Path) else (), notes=notes)


def read_table(path: Path) -> pd.DataFrame:
    """Read a CSV, gzipped CSV or Parquet file.

    Raises:
        DataError: the file is missing, unreadable or of another kind.
    """
    if not path.is_file():
        raise DataError(f"data file {path} does not exist (data.path is relative to the current folder)")
    try:
        if path.suffix == ".parquet":
            return pd.read_parquet(path)
        if path.name.endswith(_KINDS):
            return pd.read_csv(path, low_memory=False, encoding="utf-8-sig")
    except (ValueError, OSError, EOFError, zlib.error) as error:  # pandas and pyarrow parse errors are ValueErrors
        raise DataError(f"{path} cannot be read: {' '.join(str(error).split())}") from None
    raise DataError(f"{path}: unknown kind of file; use .csv, .csv.gz or .parquet")


def parse_timestamps(column: pd.Series, timestamp_format: str | None, name: object) -> pd.Series:
    """Return timestamps without time zone (zoned ones as UTC).

    Raises:
        DataError: naming the first row that is not a time.
    """
    if pd.api.types.is_numeric_dtype(column):
        raise DataError(f"{name}: column {column.name!r} holds numbers, not timestamps such as 2024-01-31 08:05")
    try:
        stamps = pd.to_datetime(column, format=timestamp_format or "ISO8601", errors="coerce", utc=True)
    except ValueError as error:
        raise ConfigError(f"data.timestamp_format={timestamp_format!r} is not a strptime format: {error}") from None
    if stamps.isna().any():
        row = int(np.flatnonzero(stamps.isna())[0])
        raise DataError(
            f"{name}: row {row + 2}: {column.iloc[row]!r} in column {column.name!r} is not a timestamp; "
            "for other formats set data.timestamp_format, e.g. '%d/%m/%Y %H:%M'"
        )
    return stamps.dt.tz_localize(None).astype("datetime64[ns]")


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
            raise DataError(f"{name}: row {bad[0] + 2}: {cell!r} in column {column!r} is not a number")
        numbers[column] = values.astype("float64").replace([np.inf, -np.inf], np.nan).to_numpy()
    return pd.DataFrame(numbers)


def _require(raw: pd.DataFrame, column: str, key: str, name: object) -> None:
    if column not in raw.columns:
        found = ", ".join(map(str, raw.columns[:12]))
        raise DataError(f"{name}: no column {column!r} ({key}); the columns are: {found}")


def _roles(raw: pd.DataFrame, config: DataSection, name: object) -> Roles:
    taken = {config.timestamp_column, config.item_id_column, *config.conditional_columns, *config.control_columns}
    if config.target_columns is None:
        targets = [column for column in raw.columns if column not in taken]
        text = [column for column in targets if not pd.api.types.is_numeric_dtype(raw[column])]
        if text:
            read_numbers(raw, text, name)  # names the first cell that is not a number, if there is one
        if not targets:
            raise DataError(f"{name}: no column left to forecast; name them in data.target_columns")
    else:
        targets = config.target_columns
    roles = Roles(tuple(targets), tuple(config.conditional_columns), tuple(config.control_columns))
    for key, columns in (("target", roles.target), ("conditional", roles.conditional), ("control", roles.control)):
        for column in columns:
            _require(raw, column, f"data.{key}_columns", name)
    ours = [column for column in roles.channels if column in (ITEM, TIMESTAMP)]
    if ours:
        key = "data.item_id_column" if ours[0] == ITEM else "data.timestamp_column"
        raise ConfigError(f"{name}: column {ours[0]!r} would be forecast; set {key}={ours[0]}, or data.target_columns")
    twice = [column for column in roles.channels if roles.channels.count(column) > 1]
    if twice:
        raise ConfigError(f"column {twice[0]!r} has two roles; name it in one of data.*_columns only")
    return roles


def _columns_to_items(frame: pd.DataFrame, roles: Roles, config: DataSection) -> tuple[pd.DataFrame, Roles]:
    if config.item_id_column or config.conditional_columns or config.control_columns:
        raise ConfigError("data.columns_as=items makes every value column a series; it takes no other column roles")
    long = frame.melt(id_vars=TIMESTAMP, value_vars=list(roles.target), var_name=ITEM, value_name="target")
    return long[[ITEM, TIMESTAMP, "target"]], Roles(target=("target",))


def _series_name(name: object) -> str:
    """File name without its endings, for a table that holds one series."""
    text = Path(str(name)).name
    ending = next((kind for kind in sorted(_KINDS, key=len, reverse=True) if text.endswith(kind)), "")
    return text.removesuffix(ending)


def _reject_duplicates(frame: pd.DataFrame, name: object, count: int) -> None:
    first = frame.loc[frame.duplicated([ITEM, TIMESTAMP]).idxmax()]
    raise DataError(
        f"{name}: {count} duplicate timestamp(s), first {first[TIMESTAMP]} of series {first[ITEM]!r}; "
        "keep one row per time, set data.on_duplicate=mean, or name the series column in data.item_id_column"
    )
