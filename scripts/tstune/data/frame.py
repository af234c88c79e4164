"""A table as a user has it, long or wide, into series: whose rows they are, their times, the roles of the columns."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from tstune.config.schema import DataSection
from tstune.data.cells import AmbiguousCommaError, Cells, file_style, read_cells
from tstune.data.cleaning.clock import SKIPPED_TIMES, local_to_utc
from tstune.data.cleaning.rules import CleaningReport
from tstune.data.files import kind_of
from tstune.data.series_rows import holds_series, table_from_series
from tstune.data.table import ITEM, TIMESTAMP, Roles, SourceTable
from tstune.data.text_table import MOST_FOOTERS, ROW
from tstune.data.times import Times, find_time_columns, join_time_columns, no_time, parse_times
from tstune.domains import domain_of_column
from tstune.errors import ConfigError, DataError

# columns of a long table that say whose it is: item, time, target
_LAYOUTS = {"Nixtla": ("unique_id", "ds", "y"), "GluonTS": ("item_id", "timestamp", "target")}

_SERIES_NAMES = {"id", "name", "series", "ptid", "subjid", "usubjid", "deidentid"}
_SERIES_NAMES |= {whose + end for whose in ("person", "patient", "subject", "participant") for end in ("", "id")}
_SERIES_NAMES |= {f"{whose}id" for whose in ("item", "unique", "series", "user", "anon", "pat", "case")}
"""Of columns that say whose a row is, in small letters and without signs."""
_CLOCKS = ("Europe/Berlin", "Europe/London", "America/New_York", "Australia/Sydney", "Pacific/Auckland")

_BESIDE_TARGETS = ("conditional", "control", "static_real", "static_categorical")
DUPLICATES_AVERAGED = "duplicate_timestamps_averaged"
ROW_NUMBERS = ("no", "no.", "nr", "nr.", "#", "index", "row", "idx", "lfd. nr.", "unnamed: 0")
_REGULAR = 0.8
_SHARED_TIMES = 0.2
"""Of all steps between rows may be far shorter than those within a series; more, and there are several series."""


def table_from_frame(
    raw: pd.DataFrame, config: DataSection, name: object, report: CleaningReport | None = None, is_piece: bool = False
) -> SourceTable:
    """Turn a table as a user has it into a `SourceTable`.

    Args:
        is_piece: there is more of the table, where a target may have its values.

    Raises:
        DataError: missing column, text in a number, bad or repeated timestamp, no value at all.
    """
    report = CleaningReport() if report is None else report
    if raw.empty:
        raise DataError(f"{name}: the table has no rows")
    raw = renamed(raw, config.rename, name)
    if holds_series(raw.columns):
        return table_from_series(raw, config, name)
    twice = raw.columns[raw.columns.duplicated()]
    if len(twice):
        raise DataError(f"{name}: column {twice[0]!r} occurs twice; rename or delete one")
    raw = _with_row_numbers(_kept_rows(raw, config, name, report))
    config, notes = recognise_layout(raw, config)
    raw, config, columns = _with_one_time(raw, config, name, report)
    raw, times, zone = _read_times(raw, config, name, report)
    if config.item_id_column is not None:
        _require(raw, config.item_id_column, "data.item_id_column", name)
        nameless = raw[config.item_id_column].isna().to_numpy()
        if nameless.any():
            row = raw.index[nameless.argmax()]
            raise DataError(f"{name}: row {row}: no value in column {config.item_id_column!r}")
    elif config.columns_as == "channels":
        _refuse_several_series(raw, times.stamps.to_numpy("datetime64[ns]"), config, name)
    roles = roles_of(raw, config, name)
    numbers = read_numbers(raw, roles.columns, name, report, config.missing_values)
    numbers = {column: numbers[column].to_numpy() for column in roles.columns}
    items = id_texts(raw[config.item_id_column]) if config.item_id_column else pd.Series(series_name(name), raw.index)
    numbers = {TIMESTAMP: _on_one_clock(times, items, config, report)} | numbers
    if config.columns_as == "items":
        frame, roles = _columns_to_items(pd.DataFrame(numbers), roles, config)
    else:
        frame = pd.DataFrame({ITEM: items.to_numpy(object)} | numbers, copy=False)
    again = _repeated(frame)
    duplicates = int(again.sum())
    if duplicates and config.on_duplicate == "error":
        skipped = report[SKIPPED_TIMES]["examples"] if SKIPPED_TIMES in report else []
        _reject_duplicates(frame, name, duplicates, skipped, zone)
    notes |= {DUPLICATES_AVERAGED: duplicates} if duplicates else {}
    averaged = frame.loc[again, ITEM].value_counts().to_dict() if duplicates else {}
    report.add("duplicate_timestamps", duplicates, "averaged", averaged)
    empty = [column for column in roles.target if np.isnan(frame[column].to_numpy(np.float64)).all()]
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
        zone=zone,
        read_as={"timestamp_column": columns, "item_id_column": config.item_id_column},
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


def names_series(column: str) -> bool:
    """Whether the name of a column says that it tells series apart, such as ``PtID``."""
    return re.sub(r"[\W_]", "", column.lower()) in _SERIES_NAMES


def series_name(name: object) -> str:
    """File name without its endings, for a table that holds one series."""
    path = Path(str(name))
    return path.name[: len(path.name) - len(kind_of(path) or "")]


def require_columns(raw: pd.DataFrame, config: DataSection, name: object) -> None:
    """Stop at a column that a configuration names and a table has not; `raw` needs no rows."""
    raw = renamed(raw, config.rename, name)
    if holds_series(raw.columns):
        return
    config, _ = recognise_layout(raw, config)
    named = {"timestamp": config.timestamp_column, "item_id": config.item_id_column}
    for role, columns in named.items():
        for column in [columns] if isinstance(columns, str) else columns or ():
            if column != TIMESTAMP:  # where there is none, times are looked for
                _require(raw, column, f"data.{role}_column", name)
    for role in ("target", *_BESIDE_TARGETS):
        for column in getattr(config, f"{role}_columns") or ():
            _require(raw, column, f"data.{role}_columns", name)


def renamed(raw: pd.DataFrame, rename: Mapping[str, str], name: object, key: str = "data.rename") -> pd.DataFrame:
    """The table with the names of `data.rename`, new name -> column; `key` is what is said to ask for them."""
    for column in rename.values():
        _require(raw, column, key, name)
    return raw.rename(columns={column: new for new, column in rename.items()}) if rename else raw


def _refuse_several_series(raw: pd.DataFrame, stamps: np.ndarray, config: DataSection, name: object) -> None:
    """Stop where a column of few values, that nobody named, tells rows apart which share their times.

    Two people with a sensor each would be averaged, and the average is easier to forecast than either.
    """
    order = np.argsort(stamps, kind="stable")
    steps = np.diff(stamps[order])
    if len(stamps) < 20 or not (steps > np.timedelta64(0)).any():
        return
    lengths, counts = np.unique(steps, return_counts=True)
    if lengths[counts.argmax()] > np.timedelta64(0) and counts.max() > _REGULAR * len(steps):
        return  # one clock, and a column that says something about each of its times
    taken = {config.timestamp_column, *(config.target_columns or ()), *_beside_targets(config)}
    for column in raw.columns:
        codes, values = pd.factorize(raw[column]) if column not in taken else (None, ())
        if not 2 <= len(values) <= len(stamps) // 10 or (codes < 0).any():
            continue
        own = np.lexsort((stamps, codes))
        within = np.diff(stamps[own])[np.diff(codes[own]) == 0]
        step = np.median(within[within > np.timedelta64(0)]) if (within > np.timedelta64(0)).any() else steps.max()
        shared, alone = (float((gaps < 0.3 * step / len(values)).mean()) for gaps in (steps, within))
        if shared > _SHARED_TIMES and alone < shared / 10:
            shown = ", ".join(map(str, list(values)[:4]))
            raise DataError(
                f"{name}: rows of one time differ in column {column!r} ({shown}): several series would be averaged "
                f"into one; set data.item_id_column={column}, or take one of them: "
                f"data.keep_rows='{column} == {values[0]}'"
            )


def _require(raw: pd.DataFrame, column: str, key: str, name: object) -> None:
    if column not in raw.columns:
        found = ", ".join(map(str, raw.columns[:12]))
        hint = f"; if the table holds one series: {key}=null" if key == "data.item_id_column" else ""
        raise DataError(f"{name}: no column {column!r} ({key}); the columns are: {found}{hint}")


def _reject_duplicates(frame: pd.DataFrame, name: object, count: int, skipped: Sequence[str], zone: str | None) -> None:
    again = frame[_repeated(frame)]
    first = again.iloc[0]
    if skipped:  # they were moved on by an hour, onto others
        raise DataError(
            f"{name}: {skipped[0]} is a time that does not exist in data.timezone={zone}: daylight saving skips "
            f"it, and the time an hour later is there too ({count} such pairs at most); the clock of this table was "
            "not set: give its real zone, such as data.timezone=UTC, or set data.on_duplicate=mean"
        )
    advice = "keep one row per time, set data.on_duplicate=mean, or name the series column in data.item_id_column"
    if zone is None and not again.duplicated([ITEM, TIMESTAMP]).any():
        times = pd.DatetimeIndex(again[TIMESTAMP])
        if clock := next((one for one in _CLOCKS if times.tz_localize(one, "NaT", "NaT").isna().all()), None):
            advice = f"clocks are set back in this hour; name the zone of this one, such as data.timezone={clock}"
    raise DataError(
        f"{name}: {count} duplicate timestamp(s), first {first[TIMESTAMP]} of series {first[ITEM]!r}; {advice}"
    )


def _repeated(frame: pd.DataFrame) -> np.ndarray:
    """[rows] True where a series has a time once more."""
    codes, stamps = pd.factorize(frame[ITEM].values)[0], frame[TIMESTAMP].to_numpy()
    own = np.diff(codes)  # rows in order, the usual case, are told apart without looking at all pairs
    if ((own > 0) | ((own == 0) & (np.diff(stamps) > np.timedelta64(0)))).all():
        return np.zeros(len(frame), bool)
    return frame.duplicated([ITEM, TIMESTAMP]).to_numpy()


def id_texts(cells: pd.Series) -> pd.Series:
    """Names of series as text, exactly as they are written; a number that a reader made a fraction is whole again."""
    if pd.api.types.is_float_dtype(cells) and (cells % 1 == 0).all():
        cells = cells.astype("int64")
    if cells.dtype == object and pd.api.types.infer_dtype(cells, skipna=False) == "string":
        return cells
    return cells.astype(str).astype(object)


def _with_row_numbers(raw: pd.DataFrame) -> pd.DataFrame:
    """Rows are told apart by the lines of their file; in a frame, by those it would have under a header."""
    return raw if raw.index.name == ROW else raw.set_axis(pd.RangeIndex(2, len(raw) + 2, name=ROW))


def _kept_rows(raw: pd.DataFrame, config: DataSection, name: object, report: CleaningReport) -> pd.DataFrame:
    """Rows that `data.keep_rows` asks for, such as ``type == cgm``."""
    if config.keep_rows is None:
        return raw
    column, sign, wanted = re.fullmatch(r"\s*(.+?)\s*(==|!=)\s*(.*?)\s*", config.keep_rows).groups()
    _require(raw, column, "data.keep_rows", name)
    cells = raw[column].astype("string").str.strip()
    kept = (cells.fillna("") == wanted.strip("'\"")).to_numpy() == (sign == "==")
    if not kept.any():
        found = ", ".join(cells.dropna().unique()[:6])
        raise DataError(f"{name}: data.keep_rows={config.keep_rows!r} keeps no row; column {column!r} holds {found}")
    report.add("rows_not_kept", int((~kept).sum()), f"left out by data.keep_rows={config.keep_rows}")
    return raw[kept]


def _with_one_time(
    raw: pd.DataFrame, config: DataSection, name: object, report: CleaningReport
) -> tuple[pd.DataFrame, DataSection, str | list[str]]:
    """The table with its times in one column, and those it had; found where the usual one is not there."""
    named = config.timestamp_column
    columns = [named] if isinstance(named, str) else list(named)
    other = {config.item_id_column, *(config.target_columns or ()), *_beside_targets(config)}
    if columns == [TIMESTAMP] and TIMESTAMP not in raw.columns:
        columns = find_time_columns(raw, other, config.timestamp_format) or columns
        report.add("times_found", len(raw), f"in {' and '.join(map(repr, columns))} (data.timestamp_column)")
    for column in columns:
        _require(raw, column, "data.timestamp_column", name)
    if len(columns) == 1:
        return raw, config.model_copy(update={"timestamp_column": columns[0]}), columns[0]
    joined = join_time_columns(raw, columns)
    raw = raw.drop(columns=[column for column in columns if column not in other])
    return raw.assign(**{joined.name: joined}), config.model_copy(update={"timestamp_column": joined.name}), columns


def _read_times(
    raw: pd.DataFrame, config: DataSection, name: object, report: CleaningReport
) -> tuple[pd.DataFrame, Times, str | None]:
    """(the table without rows below it that hold no time, its times, the zone in which forecasts come back)."""
    column = raw[config.timestamp_column]
    times = parse_times(column, config.timestamp_format, name)
    if times.read_as is not None:
        report.add("times", len(column), times.read_as)
    missing = np.isnat(times.stamps.to_numpy())
    if missing.any():
        last = len(missing) - int(np.argmin(missing[::-1]))
        if missing.all() or last == len(missing) or missing[:last].any() or len(missing) - last > MOST_FOOTERS:
            place = int(missing.argmax())
            raise no_time(column, place, column.index[place], name, config.timestamp_format)
        report.add(
            "rows_below_the_table", len(missing) - last, "left out", examples=[f"first in row {raw.index[last]}"]
        )
        raw, times = raw.iloc[:last], Times(times.stamps.iloc[:last], times.zoned[:last], times.zone, times.read_as)
    if times.zoned.any() and not times.zoned.all() and config.timezone is None:
        with_zone, without = int(times.zoned.argmax()), int((~times.zoned).argmax())
        raise DataError(
            f"{name}: row {raw.index[with_zone]}: {column.iloc[with_zone]!r} has a time zone and row "
            f"{raw.index[without]}: {column.iloc[without]!r} has none; write all alike, or set data.timezone for those "
            "without"
        )
    return raw, times, config.timezone or times.zone


def _on_one_clock(times: Times, items: pd.Series, config: DataSection, report: CleaningReport) -> np.ndarray:
    """[rows] times without zone; local ones become UTC if the configuration knows their zone."""
    stamps = times.stamps
    if config.timezone is not None:
        local = ~times.zoned
        stamps = stamps.copy()
        stamps[local] = local_to_utc(stamps[local], items[local], config.timezone, report)
    return stamps.to_numpy("datetime64[ns]")


def roles_of(raw: pd.DataFrame, config: DataSection, name: object) -> Roles:
    """Roles of the columns: those the configuration names, or every column left over is a target."""
    targets = config.target_columns
    if targets is None:
        taken = {config.timestamp_column, config.item_id_column, *_beside_targets(config)}
        targets = [column for column in raw.columns if column not in taken and not _numbers_rows(raw[column])]
        if not targets:
            raise DataError(f"{name}: no column left to forecast; name them in data.target_columns")
    roles = Roles(tuple(targets), **{role: tuple(getattr(config, f"{role}_columns")) for role in _BESIDE_TARGETS})
    for role in ("target", *_BESIDE_TARGETS):
        for column in getattr(roles, role):
            _require(raw, column, f"data.{role}_columns", name)
    every = (*roles.columns, *roles.statics)
    if ours := [column for column in roles.columns if column in (ITEM, TIMESTAMP)]:
        key = "data.item_id_column" if ours[0] == ITEM else "data.timestamp_column"
        raise ConfigError(f"{name}: column {ours[0]!r} would be forecast; set {key}={ours[0]}, or data.target_columns")
    if twice := [column for column in every if every.count(column) > 1]:
        raise ConfigError(f"column {twice[0]!r} has two roles; name it in one of data.*_columns only")
    return roles


def _numbers_rows(cells: pd.Series) -> bool:
    """True for a column such as ``No`` that counts the rows: nobody wants to forecast it."""
    if str(cells.name).strip().lower() not in ROW_NUMBERS:
        return False
    numbers = pd.to_numeric(cells, errors="coerce").to_numpy(np.float64, na_value=np.nan)
    return len(numbers) > 1 and bool((np.diff(numbers) == 1).all())


def _beside_targets(config: DataSection) -> list[str]:
    return [column for role in _BESIDE_TARGETS for column in getattr(config, f"{role}_columns")]


def _columns_to_items(frame: pd.DataFrame, roles: Roles, config: DataSection) -> tuple[pd.DataFrame, Roles]:
    if config.item_id_column or _beside_targets(config):
        raise ConfigError("data.columns_as=items makes every value column a series; it takes no other column roles")
    long = frame.melt(id_vars=TIMESTAMP, value_vars=list(roles.target), var_name=ITEM, value_name="target")
    return long[[ITEM, TIMESTAMP, "target"]], Roles(target=("target",))


def read_numbers(
    raw: pd.DataFrame,
    columns: Sequence[str],
    name: object,
    report: CleaningReport | None = None,
    missing: Collection[str] = (),
) -> pd.DataFrame:
    """Return the columns as float64."""
    report = CleaningReport() if report is None else report
    are_numbers = all(pd.api.types.is_numeric_dtype(raw[column]) for column in columns)
    style = None if are_numbers else file_style(raw)
    numbers = {}
    for column in columns:
        if pd.api.types.is_datetime64_any_dtype(raw[column]):
            raise DataError(f"{name}: column {column!r} holds times; name what to forecast in data.target_columns")
        try:
            found = read_cells(raw[column], missing, style)
        except AmbiguousCommaError as error:
            raise DataError(
                f"{name} cannot be read: {str(error)!r} in column {column!r} is either a decimal comma or a thousand; "
                "write numbers with a decimal point"
            ) from None
        if found.unread.any():
            found.values, found.unread = _read_domain_words(raw[column], found, report)
        if found.unread.any():
            raise _not_a_number(raw[column], found.unread, name)
        _note_cells(column, found, report)
        numbers[column] = found.values
    return pd.DataFrame(numbers, index=raw.index)


def _read_domain_words(cells: pd.Series, found: Cells, report: CleaningReport) -> tuple[np.ndarray, np.ndarray]:
    """Numbers where a column says something else that its domain knows, as exports of sensors do; what is left."""
    domain = domain_of_column(str(cells.name))
    mixed = pd.Series(np.where(found.unread, cells.astype(object), found.values.astype(object)), cells.index)
    read = domain and domain.read_words(str(cells.name), mixed)
    if not read:
        return found.values, found.unread
    replaced, worded, action = read
    shown = np.flatnonzero(worded)[:3]
    examples = [f"row {cells.index[place]}: {str(cells.iloc[place]).strip().lower()}" for place in shown]
    report.add("sensor_words", int(worded.sum()), action, examples=examples)
    values = found.values.copy()
    values[worded] = pd.to_numeric(replaced[worded]).to_numpy(np.float64)
    return values, found.unread & ~worded


def _not_a_number(cells: pd.Series, unread: np.ndarray, name: object) -> DataError:
    place = int(unread.argmax())
    cell, row = cells.iloc[place], cells.index[place] if cells.index.name == ROW else place + 2
    text = str(cell).strip()
    if re.fullmatch(r"[+-]?\d+,\d+", text):
        hint = "; is it a decimal comma? others in the column have a decimal point"
    elif unread.sum() * 2 < cells.notna().sum():
        hint = f"; if it stands for no reading: 'data.missing_values=[{text}]'"
    else:
        hint = (
            "; encode words as numbers first (1 where an activity is declared, else 0), say what they are in "
            "data.item_id_column or data.static_categorical_columns, or name what to forecast in data.target_columns"
        )
    return DataError(f"{name}: row {row}: {cell!r} in column {cells.name!r} is not a number{hint}")


def _note_cells(column: str, found: Cells, report: CleaningReport) -> None:
    if found.restyled:
        comma = "decimal_commas", found.restyled, "read as decimal points"
        points = "thousands", found.restyled, "read without their separators"
        report.add(*(comma if found.style == "comma" else points), examples=[f"column {column}"])
    if found.words:
        shown = [f"{column}: {', '.join(f'{count} x {word}' for word, count in list(found.words.items())[:3])}"]
        report.add("words_for_no_reading", sum(found.words.values()), "read as missing", examples=shown)
    if found.infinite:
        report.add("infinite", found.infinite, "read as missing", examples=[f"column {column}"])


def _read_statics(raw: pd.DataFrame, items: pd.Series, roles: Roles, name: object) -> pd.DataFrame | None:
    """One row per series: categories are text, missing ones None, the others float64; None without such columns."""
    if not roles.statics:
        return None
    columns = {}
    for column in roles.statics:
        values = raw[column].astype(object)
        known = values.notna()
        first = values[known].groupby(items[known].to_numpy(), sort=False).first()
        changed = known & (values != items.map(first)).to_numpy()
        if changed.any():
            row = int(np.flatnonzero(changed)[0])
            item = items.iloc[row]
            raise DataError(
                f"{name}: row {raw.index[row]}: static column {column!r} of series {item!r} is {values.iloc[row]!r}, "
                f"before it was {first[item]!r}; it must not change within a series: give it another role, or leave it "
                "out"
            )
        columns[column] = first.reindex(items.unique())
    table = pd.DataFrame(columns, index=pd.Index(items.unique(), dtype=object))
    for column in roles.static_categorical:
        texts = [str(value) if pd.notna(value) else None for value in table[column]]
        table[column] = pd.Series(texts, table.index, dtype=object)
    for column in roles.static_real:
        numbers = read_cells(table[column].convert_dtypes()).values
        bad = np.flatnonzero(np.isnan(numbers))
        if bad.size:
            cell = table[column].iloc[int(bad[0])]
            problem = "no value" if pd.isna(cell) else f"{cell!r}, which is not a number"
            raise DataError(
                f"{name}: static column {column!r} of series {table.index[bad[0]]!r} has {problem}; fill it, or leave "
                "the column out"
            )
        table[column] = numbers
    return table
