"""Your own table: CSV, gzipped CSV or Parquet, long or wide, column roles by name.

Long: one row per series and time (``data.item_id_column``). Wide: one row per time; each value column
is a channel of one series, or with ``data.columns_as=items`` a series of its own. The long tables of Nixtla
(``unique_id, ds, y``) and of GluonTS and AutoGluon (``item_id, timestamp, target``) are known by their columns.
"""

from __future__ import annotations

import glob
import re
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from tstune.config.schema import DataSection
from tstune.data.cleaning.clock import local_to_utc
from tstune.data.cleaning.report import CleaningReport
from tstune.data.cleaning.units import SENSOR_WORDS, is_glucose_name, sensor_words_as_limits
from tstune.data.sources.files import KINDS, read_table
from tstune.data.sources.info import SourceInfo
from tstune.data.sources.statics import read_statics
from tstune.data.table import ITEM, TIMESTAMP, Roles, SourceTable
from tstune.errors import ConfigError, DataError

if TYPE_CHECKING:
    from tstune.data.table_stream import TableStream

__all__ = ["INFO", "find_files", "load", "parse_timestamps", "read_numbers", "read_table", "table_from_frame"]

INFO = SourceInfo(
    name="csv",
    summary="your own table, long or wide, CSV or Parquet (source parquet is the same); Nixtla, GluonTS and AutoGluon "
    "tables are known by their columns",
    licence="yours",
    where="set data.path to a .csv, .csv.gz or .parquet file, a folder of them or a pattern such as data/P*.csv.gz",
    keys={
        "path": "file, folder or pattern; one file of several is one series, with item_id_column a part of one table",
        "timestamp_column": "column with the times",
        "timestamp_format": "strptime format where the times are not ISO 8601, e.g. '%d/%m/%Y %H:%M'",
        "timezone": "zone of local clock times, e.g. Europe/London",
        "item_id_column": "column that tells the series of a long table apart",
        "columns_as": "wide table: channels of one series, or items, a series each",
        "target_columns": "columns to forecast",
        "conditional_columns": "columns known in the past only",
        "control_columns": "columns known in the future too",
        "static_categorical_columns": "columns with one name per series",
        "static_real_columns": "columns with one number per series",
        "on_duplicate": "rows with one timestamp: error or mean",
    },
)

# columns of a long table that say whose it is: item, time, target
_LAYOUTS = {"Nixtla": ("unique_id", "ds", "y"), "GluonTS": ("item_id", "timestamp", "target")}
_AVERAGED = "duplicate_timestamps_averaged"
_OFFSET = re.compile(r"\d[T ]\d.*(?:Z|[+-]\d{2}(?::?\d{2})?)\s*$")


def load(config: DataSection) -> SourceTable:
    """Read ``data.path`` and give its columns the roles named in the configuration."""
    if config.path is None:
        raise ConfigError("source csv needs data.path=<file.csv, file.csv.gz, file.parquet, folder or pattern>")
    INFO.read_options(config)
    files, report = find_files(config.path), CleaningReport()
    if len(files) == 1 and files[0] == Path(config.path):
        return table_from_frame(read_table(files[0], report), config, files[0], report)
    if config.columns_as == "items":
        raise ConfigError(
            f"data.path={config.path} names several files, one series each; data.columns_as=items is for a single file"
        )
    if config.item_id_column is not None:
        return _join_parts(files, config, report)
    tables = [table_from_frame(read_table(file, report), config, file, report) for file in files]
    names = [series_name(file) for file in files]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise DataError(f"data.path={config.path} holds {twice!r} twice, in different formats; keep one")
    return replace(join_series(tables), files=tuple(map(str, files)), cleaning=report.to_dict())


def stream(config: DataSection) -> TableStream | None:
    """The same series by series, or None if that cannot be."""
    from tstune.data.sources.csv_stream import stream_of_files

    return stream_of_files(config)


def join_series(tables: Sequence[SourceTable]) -> SourceTable:
    """One table of files that hold a series each.

    Raises:
        DataError: they have different columns.
    """
    different = next((t for t in tables if t.roles != tables[0].roles), None)
    if different is not None:
        raise DataError(
            f"{different.files[0]} has columns {', '.join(different.roles.columns)}, {tables[0].files[0]} has "
            f"{', '.join(tables[0].roles.columns)}; name the common ones in data.target_columns"
        )
    frame = pd.concat([table.frame for table in tables], ignore_index=True)
    statics = pd.concat([table.statics for table in tables]) if tables[0].roles.statics else None
    duplicates = sum(table.notes.get(_AVERAGED, 0) for table in tables)
    notes = {_AVERAGED: duplicates} if duplicates else {}
    return replace(tables[0], frame=frame, notes=notes, statics=statics)


def _join_parts(files: Sequence[Path], config: DataSection, report: CleaningReport) -> SourceTable:
    """One long table in several files."""
    parts = [read_table(file, report) for file in files]
    different = next((place for place, part in enumerate(parts) if set(part) != set(parts[0])), None)
    if different is not None:
        raise DataError(
            f"{files[different]} has columns {', '.join(map(str, parts[different]))}, {files[0]} has "
            f"{', '.join(map(str, parts[0]))}; the parts of one table need the same ones"
        )
    table = table_from_frame(pd.concat(parts, ignore_index=True), config, config.path, report)
    return replace(table, files=tuple(map(str, files)))


def find_files(pattern: str) -> list[Path]:
    """Files of a path, a folder or a glob pattern, sorted by name.

    Raises:
        DataError: there is none.
    """
    path = Path(pattern)
    if path.is_dir():
        files = [file for file in path.iterdir() if file.name.endswith(KINDS)]
    elif "*" in pattern or "?" in pattern:
        files = [Path(file) for file in glob.glob(pattern)]
    else:
        return [path]
    if not files:
        raise DataError(f"data.path={pattern} holds no {', '.join(KINDS)} file")
    return sorted(files)


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
    raw = _without_sensor_words(raw, config, report)
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
        notes |= {_AVERAGED: duplicates}
    report.add("duplicate_timestamps", duplicates, "averaged", frame.loc[again, ITEM].value_counts().to_dict())
    empty = [column for column in roles.target if frame[column].isna().all()]
    if empty and not is_piece:
        raise DataError(
            f"{name}: target column {empty[0]!r} holds no value, only missing ones; fill it or leave it out"
        )
    return SourceTable(
        frame=frame,
        roles=roles,
        files=(str(name),) if isinstance(name, Path) else (),
        notes=notes,
        cleaning=report.to_dict(),
        statics=read_statics(raw, items, roles, name),
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
        chosen = {item, time, target, *config.conditional_columns, *config.control_columns, *_statics(config)}
        unused = [str(column) for column in raw.columns if column not in chosen]
        columns = {"item_id_column": item, "timestamp_column": time, "target_columns": [target]}
        return config.model_copy(update=columns), {"layout": layout} | ({"columns_not_used": unused} if unused else {})
    return config, {}


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


def _without_sensor_words(raw: pd.DataFrame, config: DataSection, report: CleaningReport) -> pd.DataFrame:
    """Put the sensor's limit where a glucose column says Low or High, as exports of sensors do."""
    taken = {config.timestamp_column, config.item_id_column}
    names = raw.columns if config.target_columns is None else config.target_columns
    for column in names:
        if column in taken or column not in raw.columns or not is_glucose_name(str(column)):
            continue
        if pd.api.types.is_numeric_dtype(raw[column]):
            continue
        words = raw[column].astype(str).str.strip().str.lower()
        worded = words.isin(list(SENSOR_WORDS)).to_numpy()
        if worded.any():
            limits, unit = sensor_words_as_limits(str(column), raw[column], words)
            raw = raw.assign(**{column: limits})
            report.add(
                "sensor_words",
                int(worded.sum()),
                f"read as the sensor's limits in {unit}",
                examples=[f"row {row + 2}: {words.iloc[row]}" for row in np.flatnonzero(worded)[:3]],
            )
    return raw


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


def _require(raw: pd.DataFrame, column: str, key: str, name: object) -> None:
    if column not in raw.columns:
        found = ", ".join(map(str, raw.columns[:12]))
        raise DataError(f"{name}: no column {column!r} ({key}); the columns are: {found}")


def roles_of(raw: pd.DataFrame, config: DataSection, name: object) -> Roles:
    taken = {config.timestamp_column, config.item_id_column, *config.conditional_columns, *config.control_columns}
    taken |= set(_statics(config))
    if config.target_columns is None:
        targets = [column for column in raw.columns if column not in taken]
        text = [column for column in targets if not pd.api.types.is_numeric_dtype(raw[column])]
        if text:
            read_numbers(raw, text, name)  # names the first cell that is not a number, if there is one
        if not targets:
            raise DataError(f"{name}: no column left to forecast; name them in data.target_columns")
    else:
        targets = config.target_columns
    roles = Roles(
        target=tuple(targets),
        conditional=tuple(config.conditional_columns),
        control=tuple(config.control_columns),
        static_real=tuple(config.static_real_columns),
        static_categorical=tuple(config.static_categorical_columns),
    )
    for key in ("target", "conditional", "control", "static_real", "static_categorical"):
        for column in getattr(roles, key):
            _require(raw, column, f"data.{key}_columns", name)
    every = (*roles.columns, *roles.statics)
    ours = [column for column in roles.columns if column in (ITEM, TIMESTAMP)]
    if ours:
        key = "data.item_id_column" if ours[0] == ITEM else "data.timestamp_column"
        raise ConfigError(f"{name}: column {ours[0]!r} would be forecast; set {key}={ours[0]}, or data.target_columns")
    twice = [column for column in every if every.count(column) > 1]
    if twice:
        raise ConfigError(f"column {twice[0]!r} has two roles; name it in one of data.*_columns only")
    return roles


def _columns_to_items(frame: pd.DataFrame, roles: Roles, config: DataSection) -> tuple[pd.DataFrame, Roles]:
    if config.item_id_column or config.conditional_columns or config.control_columns or _statics(config):
        raise ConfigError("data.columns_as=items makes every value column a series; it takes no other column roles")
    long = frame.melt(id_vars=TIMESTAMP, value_vars=list(roles.target), var_name=ITEM, value_name="target")
    return long[[ITEM, TIMESTAMP, "target"]], Roles(target=("target",))


def _statics(config: DataSection) -> list[str]:
    return [*config.static_categorical_columns, *config.static_real_columns]


def series_name(name: object) -> str:
    """File name without its endings, for a table that holds one series."""
    text = Path(str(name)).name
    ending = next((kind for kind in sorted(KINDS, key=len, reverse=True) if text.endswith(kind)), "")
    return text.removesuffix(ending)


def _reject_duplicates(frame: pd.DataFrame, name: object, count: int) -> None:
    first = frame.loc[frame.duplicated([ITEM, TIMESTAMP]).idxmax()]
    raise DataError(
        f"{name}: {count} duplicate timestamp(s), first {first[TIMESTAMP]} of series {first[ITEM]!r}; "
        "keep one row per time, set data.on_duplicate=mean, or name the series column in data.item_id_column"
    )
