"""Cells of a table into times: which columns hold them, how they are written, and on which clock they run."""

from __future__ import annotations

import re
import warnings
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from tstune.errors import ConfigError, DataError

_OFFSET = re.compile(r"\d[T ]\d.*?(Z|[+-]\d{2}(?::?\d{2})?)\s*$")
_DATE = re.compile(r"\s*\d{1,4}[./-]\s?\w{1,9}[./-]\s?\d{2,4}\.?\s*")
_CLOCK = re.compile(r"\s*\d{1,2}[:.h]\d{2}(?:[:.]\d{2}(?:[.,]\d+)?)?\s*(?:[AaPp]\.?[Mm]\.?)?\s*")
_DATE_SOMEWHERE = re.compile(r"\d{1,4}[./-]\w{1,9}[./-]\d{2,4}|\d{8}T?\d{0,6}|\b[A-Za-z]{3,9}\.? \d{1,2},? \d{4}")
_WRITTEN = (
    re.compile(  # dates that are not ISO 8601: 31.1.2024, 1/31/24, 31-Jan-2024, January 31, 2024, then a time of day
        r"(?:\d{1,2}(?P<sign>[./-])(?P<month>\d{1,2})(?P=sign)(?P<year>\d{4}|\d{2})"
        r"|\d{1,2}(?P<sign_of_name>[ ./-])(?P<name>[A-Za-z]{3,9})(?P=sign_of_name)(?P<year_of_name>\d{4}|\d{2})"
        r"|(?P<name_before>[A-Za-z]{3,9})(?P<gap> )\d{1,2}(?P<comma>,? )(?P<year_after>\d{4}))"
        r"(?P<between>,? |T)?(?P<clock>\d{1,2}:\d{2}(?P<second>:\d{2})?(?P<fraction>\.\d{1,6})?"
        r"(?:(?P<half_gap> ?)(?P<half>[AaPp][Mm]))?(?:(?P<offset_gap> ?)(?P<offset>Z|[+-]\d{2}:?\d{2}))?)?"
    )
)
_BLANKS, _HALF_OF_DAY = "[\u00a0\u202f\u2009]", r"([AaPp])\. ?[Mm]\.?"
"""What programs write around am and pm: blanks that do not break, and the dots of `p. m.`"""
_NAMES = (
    *("timestamp", "datetime", "date_time", "time", "date", "ds", "zeitstempel", "zeit", "datum"),
    *("uhrzeit", "fecha", "horodatage"),
)
_NUMBER_NAMES = (*_NAMES, "epoch", "unix", "year", "jahr", "datestring")
_PARTS = {  # names of columns that hold a part of a time each
    "year": ("year", "jahr", "yr", "yyyy", "año", "année"),
    "month": ("month", "monat", "mo", "mm", "mes", "mois"),
    "day": ("day", "tag", "dd", "dia", "día", "jour"),
    "hour": ("hour", "stunde", "hr", "hh", "hora", "heure"),
    "minute": ("minute", "min", "minuto"),
    "second": ("second", "sekunde", "sec"),
}
_DIGITS = {4: "%Y", 6: "%Y%m", 8: "%Y%m%d", 10: "%Y%m%d%H", 12: "%Y%m%d%H%M", 14: "%Y%m%d%H%M%S"}
_SINCE_1970 = (("s", 1e8, 1e11, "seconds"), ("ms", 1e11, 1e14, "milliseconds"), ("us", 1e14, 1e17, "microseconds"))
_SINCE_1970 += (("ns", 1e17, 1e19, "nanoseconds"),)
_MANY = 3.0
"""A reading of the days and months that spans so much longer than the other one is not meant."""


class AmbiguousDatesError(DataError):
    """Dates whose day and month could be either."""


@dataclass(frozen=True)
class Times:
    """A column as times."""

    stamps: pd.Series  # [rows] datetime64[ns] without zone, those with one as UTC; NaT where there is no time
    zoned: np.ndarray  # [rows] which had a zone
    zone: str | None  # of the rows, as pandas takes it; None where there is none
    read_as: str | None = None  # how they were written, if that was not ISO 8601 nor told


def find_time_columns(raw: pd.DataFrame, taken: Collection[str], timestamp_format: str | None = None) -> list[str]:
    """Columns that hold the time of each row, where nobody named them; empty if that is not sure.

    One column of times, a date and a clock time, or year, month, day, …
    """
    free = [column for column in raw.columns if column not in taken]
    sample = raw.iloc[np.unique(np.linspace(0, len(raw) - 1, 50).astype(int))] if len(raw) else raw
    whole = [column for column in free if _holds_times(sample[column], str(column), timestamp_format)]
    clocks = [column for column in free if _texts_match(sample[column], _CLOCK)]
    dates = [column for column in whole if _texts_match(sample[column], _DATE)]
    parts = _part_columns(free)
    if len(parts) > 2 and set(whole) <= set(parts):
        return parts
    with_clock = [column for column in whole if column not in dates]
    if not whole:
        return []
    by_name = sorted(with_clock or whole, key=lambda column: _rank(str(column)))
    best = [column for column in by_name if _rank(str(column)) == _rank(str(by_name[0]))]
    if len(best) > 1:
        return []
    if best[0] in dates and len(clocks) == 1:
        return [best[0], clocks[0]]
    return best


def _rank(name: str) -> int:
    return _NAMES.index(name.lower()) if name.lower() in _NAMES else len(_NAMES)


def _part_columns(columns: Sequence[str]) -> list[str]:
    found = {}
    for column in columns:
        part = next((part for part, names in _PARTS.items() if str(column).strip().lower() in names), None)
        if part is not None:
            found.setdefault(part, column)
    return [found[part] for part in _PARTS if part in found] if {"year", "month"} <= set(found) else []


def _holds_times(cells: pd.Series, name: str, timestamp_format: str | None) -> bool:
    if pd.api.types.is_datetime64_any_dtype(cells):
        return True
    texts = cells.dropna().astype(str)
    if texts.empty:
        return False
    if not texts.str.contains(_DATE_SOMEWHERE).all() and name.lower() not in _NUMBER_NAMES:
        return False
    try:
        return not parse_times(cells.dropna(), timestamp_format, name).stamps.isna().any()
    except AmbiguousDatesError:  # who reads them all may know, or says so
        return True
    except DataError:
        return False


def _texts_match(cells: pd.Series, pattern: re.Pattern) -> bool:
    if pd.api.types.is_numeric_dtype(cells) or pd.api.types.is_datetime64_any_dtype(cells):
        return False
    texts = cells.dropna().astype(str)
    return not texts.empty and bool(texts.map(pattern.fullmatch).notna().all())


def join_time_columns(raw: pd.DataFrame, columns: Sequence[str]) -> pd.Series:
    """[rows] one column of the times whose parts stand in several."""
    parts = _part_columns(columns)
    if len(parts) == len(columns):
        numbers = {column: pd.to_numeric(raw[column], errors="coerce").astype("float64") for column in parts}
        names = {next(part for part, names in _PARTS.items() if str(c).strip().lower() in names): c for c in parts}
        table = pd.DataFrame({part: numbers[column] for part, column in names.items()}).reindex(columns=list(_PARTS))
        table = table.fillna({"day": 1} if "day" not in names else {})
        table = table.fillna({part: 0 for part in ("hour", "minute", "second") if part not in names})
        joined = pd.to_datetime(table, errors="coerce")
    else:
        texts = [_as_text(raw[column]) for column in columns]
        joined = texts[0]
        for text in texts[1:]:
            joined = joined + " " + text
    return joined.rename(" + ".join(map(str, columns)))


def _as_text(cells: pd.Series) -> pd.Series:
    if pd.api.types.is_datetime64_any_dtype(cells):
        return cells.dt.strftime("%Y-%m-%d").astype("string")
    if pd.api.types.is_float_dtype(cells):
        return cells.astype("Int64").astype("string")
    return cells.astype("string").str.strip()


def parse_timestamps(column: pd.Series, timestamp_format: str | None, name: object) -> pd.Series:
    """Return timestamps without time zone (zoned ones as UTC)."""
    stamps = parse_times(column, timestamp_format, name).stamps
    missing = np.flatnonzero(stamps.isna())
    if missing.size:
        raise no_time(column, int(missing[0]), int(missing[0]) + 2, name, timestamp_format)
    return stamps


def no_time(column: pd.Series, place: int, row: int, name: object, timestamp_format: str | None) -> DataError:
    """The error for a row without a time."""
    cell = column.iloc[place]
    shown = "nothing" if pd.isna(cell) else repr(cell)
    what = f"{name}: row {row}: {shown} in column {column.name!r} is not a timestamp"
    if timestamp_format is not None:
        return DataError(
            f"{what} in data.timestamp_format={timestamp_format!r}; data.timestamp_format=null looks itself"
        )
    return DataError(f"{what}; for other formats set data.timestamp_format, e.g. '%d/%m/%Y %H:%M'")


def parse_times(column: pd.Series, timestamp_format: str | None, name: object) -> Times:
    """Read a column; cells that are no time become NaT."""
    if pd.api.types.is_datetime64_any_dtype(column):
        return _typed(column)
    is_number = pd.api.types.is_numeric_dtype(column)
    if timestamp_format is not None:
        texts = _as_text(column) if is_number else as_strings(column).str.strip()
        texts = _with_plain_halves(texts) if "%p" in timestamp_format else texts
        return _times(_strptime(texts, timestamp_format), texts)
    if is_number or _all_digits(column):
        return _from_numbers(column, name)
    stamps = _strptime(column, "ISO8601") if pd.api.types.infer_dtype(column) == "string" else None
    if stamps is not None and not stamps.hasnans:  # the usual case: text, nothing around it
        return _times(stamps, column)
    texts = as_strings(column).str.strip()
    stamps = _strptime(texts, "ISO8601")
    if stamps.isna().sum() * 2 <= len(stamps):
        return _times(stamps, texts)
    guessed = _guess(texts, name)
    return _times(stamps, texts) if guessed is None else guessed


def _typed(column: pd.Series) -> Times:
    if not isinstance(column.dtype, pd.DatetimeTZDtype):
        return Times(column.astype("datetime64[ns]"), np.zeros(len(column), bool), None)
    stamps = column.dt.tz_convert("UTC").dt.tz_localize(None).astype("datetime64[ns]")
    return Times(stamps, np.ones(len(column), bool), str(column.dt.tz))


def _times(stamps: pd.Series, texts: pd.Series, read_as: str | None = None) -> Times:
    """Times that were read from texts; the offset of the latest is that of all."""
    if not isinstance(stamps.dtype, pd.DatetimeTZDtype):
        in_ns = stamps if stamps.dtype == np.dtype("datetime64[ns]") else stamps.astype("datetime64[ns]")
        return Times(in_ns, np.zeros(len(stamps), bool), None, read_as)
    offsets = texts.fillna("").str.extract(_OFFSET, expand=False)
    zoned = offsets.notna().to_numpy()
    stamps = stamps.dt.tz_localize(None).astype("datetime64[ns]")
    zone = None
    if zoned.any():
        last = stamps[zoned].to_numpy().argmax()
        offset = offsets[zoned].iloc[last]
        zone = "UTC" if offset == "Z" else f"{offset[:3]}:{offset[3:].lstrip(':') or '00'}"
    return Times(stamps, zoned, "UTC" if zone in ("+00:00", "-00:00") else zone, read_as)


def _strptime(texts: pd.Series, text_format: str) -> pd.Series:
    """Times, in UTC if any text has an offset."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # of mixed time zones, which the second look is for
            stamps = pd.Series(pd.to_datetime(texts.values, format=text_format, errors="coerce"), texts.index)
        if pd.api.types.is_datetime64_dtype(stamps):
            return stamps
    except ValueError:  # mixed time zones, or no format at all
        pass
    try:
        return pd.Series(pd.to_datetime(texts.values, format=text_format, errors="coerce", utc=True), texts.index)
    except ValueError as error:
        raise ConfigError(f"data.timestamp_format={text_format!r} is not a strptime format: {error}") from None


def _all_digits(column: pd.Series) -> bool:
    digits = r"\s*\d+(?:\.\d+)?\s*"
    if len(column) and isinstance(column.iloc[0], str) and re.fullmatch(digits, column.iloc[0]) is None:
        return False  # the usual case, told in no time
    cells = column.dropna()
    return all(len(some) and as_strings(some).str.fullmatch(digits).all() for some in (cells.head(1), cells))


def as_strings(cells: pd.Series) -> pd.Series:
    """The cells as text; what is text already stays in the memory of Arrow, whose functions are quick."""
    return cells if isinstance(cells.dtype, pd.StringDtype) else cells.astype("string")


def _from_numbers(column: pd.Series, name: object) -> Times:
    """Years, dates written as one number, or time since 1970, told by their size."""
    numbers = pd.to_numeric(column, errors="coerce").astype("float64")
    known = numbers[numbers.notna()]
    whole = known.astype("int64") if (known % 1 == 0).all() else None
    zoned = np.zeros(len(column), bool)
    digits = len(str(whole.iloc[0])) if whole is not None and len(whole) else 0
    if digits in _DIGITS and known.between(10 ** (digits - 1), 10**digits - 1).all():
        texts = pd.Series(pd.NA, column.index, dtype="string")
        texts[known.index] = whole.astype("string")
        stamps = pd.to_datetime(texts, format=_DIGITS[digits], errors="coerce")
        if stamps[known.index].dt.year.between(1600 if digits == 4 else 1900, 2200).all():
            return Times(stamps.astype("datetime64[ns]"), zoned, None, f"numbers read as {_DIGITS[digits]}")
    size = float(known.abs().median()) if len(known) else 0.0
    for unit, low, high, words in _SINCE_1970:
        if low <= size < high:
            exact = numbers if whole is None else whole.reindex(column.index).astype("Int64")
            stamps = pd.Series(pd.to_datetime(exact, unit=unit, errors="coerce"), column.index)
            stamps = stamps.astype("datetime64[ns]")
            return Times(stamps, ~zoned, "UTC", f"numbers read as {words} since 1970, UTC")
    raise DataError(
        f"{name}: column {column.name!r} holds numbers, not timestamps such as 2024-01-31 08:05; data.timestamp_format "
        "says how to read numbers such as 20240131 (%Y%m%d)"
    )


def _with_plain_halves(texts: pd.Series) -> pd.Series:
    """The texts with am and pm as strptime knows them, where the first has them otherwise."""
    first = texts.dropna().head(1)
    if not (first.str.contains(_BLANKS) | first.str.contains(_HALF_OF_DAY.replace("(", "(?:"))).any():
        return texts
    return texts.str.replace(_BLANKS, " ", regex=True).str.replace(_HALF_OF_DAY, r"\1m", regex=True)


def _guess(texts: pd.Series, name: object) -> Times | None:
    """Dates in the order of a country; None if they are no dates."""
    texts = _with_plain_halves(texts)
    found = {day_first: read for day_first in (True, False) if (read := _read_in_order(texts, day_first))}
    if not found:
        return None
    if len(found) == 2 and not found[True][0].equals(found[False][0]):
        spans = {order: stamps.max() - stamps.min() for order, (stamps, _) in found.items()}
        shorter = min(spans, key=spans.__getitem__)
        first = texts.dropna().iloc[0]
        if "." not in first.split()[0] and spans[not shorter] < _MANY * spans[shorter] + pd.Timedelta("2D"):
            raise AmbiguousDatesError(
                f"{name}: {first!r} in column {texts.name!r} could be day first or month first; set "
                f"data.timestamp_format='{found[True][1]}' or '{found[False][1]}'"
            )
        found = {shorter: found[shorter]} if "." not in first.split()[0] else {True: found[True]}
    stamps, text_format = next(iter(found.values()))
    return _times(stamps, texts, f"read as {text_format}")


def _read_in_order(texts: pd.Series, day_first: bool) -> tuple[pd.Series, str] | None:
    """Times and their format, with the day first or the month; a few rows may lack the clock time."""
    known = texts.dropna()
    formats: list[str] = []
    stamps = None
    for _ in range(3):
        rest = known if stamps is None else known[stamps[known.index].isna()]
        if rest.empty:
            break
        guess = _format_of(rest.iloc[0], day_first)
        if guess is None or (formats and _date_order(guess) != _date_order(formats[0])):
            break
        formats.append(guess)
        read = _strptime(texts, guess)
        stamps = read if stamps is None else stamps.fillna(read)
    if stamps is None or stamps[known.index].isna().sum() * 20 > len(known):
        return None
    return stamps, formats[0]


def _format_of(text: str, day_first: bool) -> str | None:
    found = _WRITTEN.fullmatch(text)
    if found is None:
        return None
    parts = found.groupdict()
    year = "%Y" if len(parts["year"] or parts["year_of_name"] or parts["year_after"]) == 4 else "%y"
    if parts["month"]:
        order = ("%d", "%m") if day_first else ("%m", "%d")
        date = parts["sign"].join((*order, year))
    else:
        name = "%b" if len(parts["name_before"] or parts["name"]) == 3 else "%B"
        before = f"{name}{parts['gap']}%d{parts['comma']}{year}"
        date = before if parts["name_before"] else f"%d{parts['sign_of_name']}{name}{parts['sign_of_name']}{year}"
    if parts["clock"] is None:
        return date
    clock = ("%I" if parts["half"] else "%H") + ":%M" + (":%S" if parts["second"] else "")
    clock += ".%f" if parts["fraction"] else ""
    return (
        date
        + parts["between"]
        + clock
        + (parts["half_gap"] + "%p" if parts["half"] else "")
        + (parts["offset_gap"] + "%z" if parts["offset"] else "")
    )


def _date_order(text_format: str) -> list[str]:
    return [code for code in re.findall("%([a-zA-Z])", text_format) if code in "dmbBYy"]
