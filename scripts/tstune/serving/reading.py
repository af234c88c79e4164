"""A request: what it may hold, as pydantic types, and the way from its bytes to the tables a model predicts from."""

from __future__ import annotations

import difflib
import json
import re
from contextlib import suppress
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
import pandas as pd
from pydantic import ConfigDict, FailFast, Field, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails
from typing_extensions import TypedDict

from tstune.data.frequency import parse_frequency
from tstune.data.preprocess import Preprocessor
from tstune.data.table import ITEM, TIMESTAMP
from tstune.domains import domain_of_column
from tstune.errors import TstuneError
from tstune.serving import ServingLimits

ROWS, FUTURE = "rows", "future"
_TIME = (  # from 1700 to 2199, which nanoseconds since 1970 can hold
    r"^(1[7-9]|2[01])[0-9]{2}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])"
    r"([T ]([01][0-9]|2[0-3]):[0-5][0-9](:[0-5][0-9](\.[0-9]{1,9})?)?(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9])?)?$"
)
_Number = Annotated[float, Field(ge=-1e15, le=1e15)]  # squares of it, summed up, must stay within single precision
_Name = Annotated[str, Field(max_length=200)]
_NUMBER = "a number within ±1e15"
_READING = f"{_NUMBER}, or null where there is no reading"
_TIMES = 'a time in ISO 8601, such as "2024-01-31T08:05:00"; with a time zone in all rows (read as UTC) or in none'


class InputColumn(NamedTuple):
    """A column of a request: its role in the model, what pydantic checks its values with, and that in words."""

    role: str
    kind: Any
    meaning: str

    def with_words(self, words: tuple[str, ...]) -> InputColumn:
        """Sensors of some domains write words, such as Low and High, for a reading."""
        meaning = f"{', '.join(words)}, or {self.meaning}"
        return InputColumn(self.role, Literal[words] | self.kind, meaning) if words else self


_SERIES = {
    ITEM: InputColumn("item_id", Annotated[_Name, Field(min_length=1)], "text of 1 to 200 characters; names a series"),
    TIMESTAMP: InputColumn("timestamp", Annotated[str, Field(pattern=_TIME)], _TIMES),
}
_KNOWN = InputColumn("control", _Number, f"{_NUMBER}; at every step of the forecast")
_ROLES = (
    InputColumn("target", _Number | None, f"{_READING}; is forecast"),
    InputColumn("conditional", _Number | None, f"{_READING}; known in the past only"),
    InputColumn("control", _Number | None, f"{_READING}; known in the future too: also a column of future"),
    InputColumn("static_real", _Number, f"{_NUMBER}; the same in all rows of a series"),
    InputColumn(
        "static_categorical", _Name | None, "text of up to 200 characters, or null; the same in all rows of a series"
    ),
)


class RequestError(TstuneError):
    """A request that the sender can put right; `status` is the HTTP status of its answer."""

    def __init__(self, message: str, status: int = 422) -> None:
        super().__init__(message)
        self.status = status


class RequestForm:
    """What a request to one model holds, and how it is read.

    Attributes:
        columns: ``rows`` -> name -> column of the history; ``future`` likewise, where the model reads one.
        body: type of a whole request.
    """

    def __init__(self, preprocessor: Preprocessor, limits: ServingLimits) -> None:
        self._frequency, self._limits, roles = preprocessor.frequency, limits, preprocessor.roles
        begin, offset = pd.Timestamp("2001-01-01"), parse_frequency(self._frequency)
        self._step = (begin + 12 * offset - begin) / 12  # of months and business days the average
        self.columns = {ROWS: dict(_SERIES)}
        for column in _ROLES:
            for name in getattr(roles, column.role):
                domain = domain_of_column(name) if column.role == "target" else None
                self.columns[ROWS][name] = column.with_words(domain.words if domain else ())
        if roles.control:
            self.columns[FUTURE] = _SERIES | dict.fromkeys(roles.control, _KNOWN)
        lists = {}
        for field, columns in self.columns.items():
            cells = {name: Annotated[one.kind, Field(description=one.meaning)] for name, one in columns.items()}
            row = json_object(f"RowOf{field.title()}", cells)
            lists[field] = Annotated[list[row], FailFast(), Field(min_length=1, max_length=limits.max_rows)]
        self.body = json_object("ForecastRequest", lists)
        self._checked = TypeAdapter(self.body).validate_json

    def read(self, content: bytes) -> list[pd.DataFrame | None]:
        """The history, a row per series and time, and the known future, of a request body.

        Raises:
            RequestError: 400 no JSON, 413 too large, 422 anything else; the message names the place and the fix.
        """
        try:
            body = self._checked(content)
        except ValidationError as error:
            found = error.errors(include_url=False)
            # what is not read comes first: it is often the misspelt name of what is missing
            raise self._refusal(min(found, key=lambda one: one["type"] != "extra_forbidden")) from None
        self._limit(sum(map(len, body.values())), "rows")
        history, future = (pd.DataFrame(body[field]) if field in body else None for field in (ROWS, FUTURE))
        self._limit(num_series := len(set(history[ITEM].to_numpy())), "series")
        self._limit_span(history, num_series)
        return [history, future]

    def _refusal(self, error: ErrorDetails) -> RequestError:
        """One line about what pydantic found: the place, what stands there, what should."""
        kind, (field, number, name) = error["type"], (*error["loc"], None, None, None)[:3]
        place, names, expected = "the request", self.columns, 'an object with the history: {"rows": […]}'
        if kind == "json_invalid":
            return RequestError(f"the request is not JSON: {error['ctx']['error']}", 400)
        if kind == "too_long":
            self._limit(error["ctx"]["actual_length"], "rows")
        if field is not None:
            place, expected = field[:60], "a list with a row per series and time"
        if number is not None:
            place, names, expected = f"{field}[{number}]", names[field], "an object with a value per column"
        if name is not None:
            place = f"{place}: column {name[:60]!r}"
            expected = names[name].meaning.partition(";")[0] if name in names else ""
        if kind == "extra_forbidden":
            close = difflib.get_close_matches(name or field, names, n=1)
            hint = f"did you mean {close[0]!r}? " if close else ""
            return RequestError(f"{place} is not read by this model; {hint}it reads {', '.join(names)}")
        found = "is missing" if kind == "missing" else f"is {shown(error['input'])}"
        return RequestError(f"{place} {found}; write {expected}")

    def _limit(self, count: int, what: str) -> None:
        most = getattr(self._limits, f"max_{what}")
        if count > most:
            raise RequestError(f"{count} {what} are more than the {most} of a request; send fewer", 413)

    def _limit_span(self, history: pd.DataFrame, num_series: int) -> None:
        """Two rows a century apart are a million steps: what is put on a grid is limited as the rows are."""
        texts, most = history[TIMESTAMP], self._limits.max_rows
        with suppress(ValueError):  # no such day: who reads the times will say so
            first, last = (np.datetime64(text[:10], "D") for text in (min(texts.values), max(texts.values)))
            days = (last - first).astype(int) + 3  # whole ones, and zones a day apart at each end
            if num_series * days * (pd.Timedelta("1D") / self._step) <= most:
                return  # the usual case, told in no time
        times = pd.to_datetime(texts, format="ISO8601", errors="coerce", utc=True)
        spans = times.groupby(history[ITEM], sort=False).agg(["min", "max"])
        steps = (spans["max"] - spans["min"]) / self._step
        if steps.sum() > most:
            reach = f"{steps.sum():.0f} steps of {self._frequency}, longest series {shown(steps.idxmax())}"
            fix = f"a request may reach over {most}: send the last readings of each series, and check the timestamps"
            raise RequestError(f"the rows reach over {reach}; {fix}", 413)


def json_object(name: str, keys: dict[str, Any]) -> type:
    """Type of an object with exactly these keys, whatever their names, and values of these types."""
    kind = TypedDict(name, keys)
    kind.__pydantic_config__ = ConfigDict(extra="forbid", strict=True)
    return kind


def shown(value: object) -> str:
    """A value of a request as JSON, cut where it is long."""
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:60]}…"


def in_json_places(message: str) -> str:
    """What is wrong with a table, for who sent it: rows counted from 0 without a header, no advice on our settings."""
    field = "future" if message.startswith("future: ") else "rows"
    message = re.sub(r"[;,] [^;,]*\bdata\.[a-z_]+.*", "", message.removeprefix("input: ").removeprefix("future: "))
    message = re.sub(r"(^| and )row (\d+): ", lambda found: f"{found[1]}{field}[{int(found[2]) - 2}]: ", message)
    return " ".join(message.split())
