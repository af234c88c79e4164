"""From the bytes of a request to the tables that a model predicts from."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import NoReturn

import numpy as np
import pandas as pd

from tstune.data.frequency import parse_frequency
from tstune.data.prepared import Preprocessor
from tstune.data.table import ITEM, TIMESTAMP
from tstune.serving.columns import Column, RequestColumns, require_columns
from tstune.serving.limits import ServingLimits
from tstune.serving.refusals import RequestError, shown

ROWS, FUTURE = "rows", "future"


@dataclass(frozen=True)
class ForecastRequest:
    """What `predict` is given.

    Attributes:
        frame: history, a row per series and time.
        future: rows of the known future, or None.
    """

    frame: pd.DataFrame
    future: pd.DataFrame | None


def read_request(content: bytes, preprocessor: Preprocessor, limits: ServingLimits) -> ForecastRequest:
    """Parse and check a request body.

    Raises:
        RequestError: 400 no JSON, 413 too large, 422 anything else; the message names the place and the fix.
    """
    columns, body = RequestColumns.of(preprocessor.roles), _parsed(content)
    _require_fields(body, columns)
    every = body[ROWS] + body.get(FUTURE, []) if columns.future else body[ROWS]
    if len(every) > limits.max_rows:
        raise RequestError(f"{len(every)} rows are more than the {limits.max_rows} of a request; send fewer", 413)
    frame = _table(body[ROWS], columns.rows, ROWS, preprocessor)
    num_series = frame[ITEM].nunique()
    if num_series > limits.max_series:
        raise RequestError(f"{num_series} series are more than the {limits.max_series} of a request; send fewer", 413)
    _limit_span(frame, preprocessor.frequency, limits.max_rows)
    future = _table(body[FUTURE], columns.future, FUTURE, preprocessor) if columns.future else None
    return ForecastRequest(frame, future)


def _parsed(content: bytes) -> object:
    try:
        return json.loads(content, parse_constant=_refuse_constant)
    except UnicodeDecodeError:
        raise RequestError("the request is not UTF-8 text; send JSON in UTF-8", 400) from None
    except json.JSONDecodeError as error:
        place = f"line {error.lineno} column {error.colno}"
        raise RequestError(f"the request is not JSON: {place}: {error.msg}", 400) from None
    except RecursionError:
        raise RequestError("the request is nested too deeply; send rows of plain values", 400) from None
    except RequestError:
        raise
    except ValueError:  # an integer with more digits than Python reads
        raise RequestError("the request holds a number with thousands of digits; check the readings", 400) from None


def _refuse_constant(constant: str) -> NoReturn:
    raise RequestError(f"{constant} is not JSON: write null where there is no reading", 400)


def _require_fields(body: object, columns: RequestColumns) -> None:
    """Check everything above the rows."""
    if not isinstance(body, dict):
        raise RequestError(f'the request is {shown(body)}; send an object with the history: {{"rows": […]}}')
    fields = (ROWS, FUTURE) if columns.future else (ROWS,)
    unknown = next((name for name in body if name not in fields), None)
    if unknown == FUTURE:
        raise RequestError("this model reads no column that is known in the future; leave future out")
    if unknown is not None:
        raise RequestError(f"the request has no field {shown(unknown)}; its fields are {', '.join(fields)}")
    for name in fields:
        if name not in body:
            known = ", ".join(column.name for column in columns.future if column.role == "control")
            why = "the history" if name == ROWS else f"{known} over the forecast"
            raise RequestError(f'the request has no {name}; add {why}: {{"{name}": […]}}')
        if not isinstance(body[name], list) or not body[name]:
            raise RequestError(f"{name} is {shown(body[name])}; send a list with a row per series and time")


def _table(rows: list, columns: tuple[Column, ...], field: str, preprocessor: Preprocessor) -> pd.DataFrame:
    names = {column.name for column in columns}
    for number, row in enumerate(rows):
        if not isinstance(row, dict):
            raise RequestError(f"{field}[{number}] is {shown(row)}; send an object with a value per column")
        if row.keys() != names:
            require_columns(row, columns, f"{field}[{number}]")
    table = {}
    for column in columns:
        values = [row[column.name] for row in rows]
        for number, value in enumerate(values):
            column.check(value, f"{field}[{number}]", known=field == FUTURE)
        if column.role == "timestamp":
            values = _times(values, field)
        elif column.is_number and not any(isinstance(value, str) for value in values):
            values = np.array([np.nan if value is None else value for value in values], np.float64)
        table[column.name] = values
    frame = pd.DataFrame(table)
    if preprocessor.on_duplicate == "error":
        _refuse_duplicates(frame, field)
    return frame


def _times(texts: list[str], field: str) -> pd.Series:
    """Times without a zone, or in UTC where all have one."""
    zoned = [text.endswith("Z") or (text[-6:-5] in ("+", "-") and ":" in text[:-6]) for text in texts]
    if any(zoned) and not all(zoned):
        number, other = zoned.index(True), zoned.index(False)
        raise RequestError(
            f"{field}[{number}]: column {TIMESTAMP!r} has a time zone and {field}[{other}] has none; write all alike"
        )
    stamps = pd.Series(pd.to_datetime(texts, format="ISO8601", errors="coerce", utc=all(zoned)))
    if stamps.isna().any():
        number = int(stamps.isna().argmax())
        raise RequestError(
            f"{field}[{number}]: column {TIMESTAMP!r} holds {shown(texts[number])}, a day that is in no calendar"
        )
    return stamps


def _refuse_duplicates(frame: pd.DataFrame, field: str) -> None:
    again = frame.duplicated([ITEM, TIMESTAMP])
    if again.any():
        number = int(again.argmax())
        item, stamp = frame.loc[number, [ITEM, TIMESTAMP]]
        before = int(((frame[ITEM] == item) & (frame[TIMESTAMP] == stamp)).argmax())
        raise RequestError(
            f"{field}[{number}] and {field}[{before}] hold the same time {stamp} of series {shown(item)}; keep one"
        )


def _limit_span(frame: pd.DataFrame, frequency: str, most: int) -> None:
    """Two rows a century apart are a million steps: what is put on a grid is limited as the rows are."""
    begin, offset = pd.Timestamp("2001-01-01"), parse_frequency(frequency)
    step = (begin + 12 * offset - begin) / 12  # of months and business days the average
    spans = frame.groupby(ITEM, sort=False)[TIMESTAMP].agg(["min", "max"])
    steps = (spans["max"] - spans["min"]) / step
    if steps.sum() > most:
        raise RequestError(
            f"the rows reach over {steps.sum():.0f} steps of {frequency}, longest series {shown(steps.idxmax())}; a "
            f"request may reach over {most}: send the last readings of each series, and check the timestamps",
            413,
        )
