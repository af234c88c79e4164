"""Days and times of day as text, the way borders in time are written."""

from __future__ import annotations

from datetime import date, datetime, timedelta
from typing import Annotated

from pydantic import BeforeValidator


def _as_text(value: object) -> object:
    """YAML readers and Python callers may hand over objects."""
    text = value.isoformat() if isinstance(value, date) else value
    if isinstance(text, str):
        try:
            zoned = datetime.fromisoformat(text).tzinfo is not None
        except ValueError:
            raise ValueError("input should be a date such as 2023-08-17, or a time such as 2023-08-17T23:55") from None
        if zoned:
            raise ValueError("input should have no time zone: series are in the clock of their source")
    return text


Moment = Annotated[str, BeforeValidator(_as_text)]
"""A day (`2023-08-17`, all of it) or a time (`2023-08-17T23:55`) without time zone."""


def end_of(moment: str) -> datetime:
    """First instant that no longer belongs to a day or time."""
    try:
        return datetime.combine(date.fromisoformat(moment), datetime.min.time()) + timedelta(days=1)
    except ValueError:  # a time, not a day
        return datetime.fromisoformat(moment) + timedelta(microseconds=1)
