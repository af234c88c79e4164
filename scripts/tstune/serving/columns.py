"""The columns of a request, and what may stand in them."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass

from tstune.data.table import ITEM, TIMESTAMP, Roles
from tstune.domains import domain_of_column
from tstune.serving.refusals import RequestError, shown

LARGEST = 1e15
"""Largest absolute value of a reading: sums of squares over a context must stay within single precision."""
LONGEST_NAME = 200
TIME_PATTERN = (
    r"^(1[7-9]|2[01])[0-9]{2}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])"
    r"([T ]([01][0-9]|2[0-3]):[0-5][0-9](:[0-5][0-9](\.[0-9]{1,9})?)?(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9])?)?$"
)
"""ISO 8601 from 1700 to 2199, which nanoseconds since 1970 can hold."""
_TIME = re.compile(TIME_PATTERN.removeprefix("^").removesuffix("$"))


@dataclass(frozen=True)
class Column:
    """A column of a request.

    Attributes:
        name: its key in a row.
        role: item_id, timestamp, target, conditional, control, static_real or static_categorical.
    """

    name: str
    role: str

    @property
    def words(self) -> tuple[str, ...]:
        """What it may hold instead of a number, as sensors of glucose write Low and High."""
        domain = domain_of_column(self.name) if self.role == "target" else None
        return domain.words if domain else ()

    @property
    def is_number(self) -> bool:
        """True for columns of numbers."""
        return self.role in ("target", "conditional", "control", "static_real")

    def check(self, value: object, place: str, known: bool = False) -> None:
        """Stop if a value cannot stand in this column.

        Args:
            value: as `json` reads it.
            place: such as ``rows[3]``, for the message.
            known: it must be there: null is refused.

        Raises:
            RequestError: naming place, column, value and fix.
        """
        if self.is_number:
            self._check_number(value, place, known or self.role == "static_real")
        elif self.role == "static_categorical":
            if value is not None and not _is_text(value, LONGEST_NAME):
                raise self._bad(place, value, f"is no name; write text of up to {LONGEST_NAME} characters, or null")
        elif self.role == "item_id":
            if not _is_text(value, LONGEST_NAME) or not value:
                raise self._bad(place, value, f"names no series; write text of 1 to {LONGEST_NAME} characters")
        elif not isinstance(value, str) or not _TIME.fullmatch(value):
            raise self._bad(place, value, 'is no time; write ISO 8601, e.g. "2024-01-31T08:05:00"')

    def schema(self, known: bool = False) -> dict:
        """JSON schema of a value."""
        if self.is_number:
            number = {"type": "number", "minimum": -LARGEST, "maximum": LARGEST}
            if known or self.role == "static_real":
                return number
            words = [{"type": "string", "enum": list(self.words)}] if self.words else []
            return {"anyOf": [number, {"type": "null"}, *words], "description": "null: no reading"}
        if self.role == "static_categorical":
            return {"anyOf": [{"type": "string", "maxLength": LONGEST_NAME}, {"type": "null"}]}
        if self.role == "item_id":
            return {"type": "string", "minLength": 1, "maxLength": LONGEST_NAME, "description": "name of the series"}
        return {"type": "string", "pattern": TIME_PATTERN, "description": "ISO 8601; all with a time zone, or none"}

    def _check_number(self, value: object, place: str, known: bool) -> None:
        if value is None:
            if known:
                raise self._bad(place, value, "must be known; write a number")
            return
        if isinstance(value, str) and value in self.words:
            return
        if type(value) not in (int, float):  # True and False are ints
            words = f", or one of {', '.join(self.words)}" if self.words else ""
            null = "" if known else ", or null where there is no reading"
            raise self._bad(place, value, f"is not a number; write a number{null}{words}")
        if not -LARGEST <= value <= LARGEST:
            raise RequestError(f"{place}: column {self.name!r} holds a number beyond ±{LARGEST:g}; check the reading")

    def _bad(self, place: str, value: object, problem: str) -> RequestError:
        return RequestError(f"{place}: column {self.name!r} holds {shown(value)}, which {problem}")


@dataclass(frozen=True)
class RequestColumns:
    """What a row of the history and a row of the future hold.

    Attributes:
        rows: columns of a row of the history.
        future: columns of a row of the future; empty where the model knows nothing of it.
    """

    rows: tuple[Column, ...]
    future: tuple[Column, ...]

    @classmethod
    def of(cls, roles: Roles) -> RequestColumns:
        """Columns of a model's channels."""
        series = (Column(ITEM, "item_id"), Column(TIMESTAMP, "timestamp"))
        kinds = ("target", "conditional", "control", "static_real", "static_categorical")
        values = tuple(Column(name, kind) for kind in kinds for name in getattr(roles, kind))
        control = tuple(column for column in values if column.role == "control")
        return cls((*series, *values), (*series, *control) if control else ())


def require_columns(row: dict, columns: tuple[Column, ...], place: str) -> None:
    """Stop if a row has other keys than these columns.

    Raises:
        RequestError: naming the column and what it should be.
    """
    names = [column.name for column in columns]
    unknown = next((name for name in row if name not in names), None)
    if unknown is not None:
        close = difflib.get_close_matches(unknown, names, n=1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        raise RequestError(
            f"{place}: column {shown(unknown)} is not read by this model; {hint}it reads {', '.join(names)}; rename it "
            "or leave it out"
        )
    missing = next((name for name in names if name not in row), None)
    if missing is not None:
        raise RequestError(f"{place}: column {missing!r} is missing; write it in every row, null where it has no value")


def _is_text(value: object, longest: int) -> bool:
    if not isinstance(value, str) or len(value) > longest:
        return False
    return not any("\ud800" <= letter <= "\udfff" for letter in value)  # half a letter cannot be sent back
