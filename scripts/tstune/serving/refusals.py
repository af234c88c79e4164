"""Requests that get an error instead of a forecast."""

from __future__ import annotations

import json

from tstune.errors import TstuneError

_SHOWN = 60


class RequestError(TstuneError):
    """A request that the sender can put right.

    Attributes:
        status: HTTP status of the answer.
        headers: of the answer.
    """

    def __init__(self, message: str, status: int = 422, headers: dict[str, str] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.headers = headers or {}


def shown(value: object) -> str:
    """A value of a request as JSON, cut where it is long."""
    text = json.dumps(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
