"""Request bodies, read no further than they may be."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from tstune.serving.limits import ServingLimits
from tstune.serving.refusals import RequestError

if TYPE_CHECKING:
    from starlette.requests import Request

_JSON = "application/json"


def require_json(request: Request) -> None:
    """Stop if a request says that its body is not plain JSON.

    A page of another site cannot send this type without asking first, which the server does not allow.

    Raises:
        RequestError: 415.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != _JSON:
        raise RequestError(f"the request has content type {kind or 'none'}; send {_JSON}", 415)
    coding = request.headers.get("content-encoding", "identity").strip().lower()
    if coding != "identity":
        raise RequestError(f"the request is packed with {coding}; send it as it is", 415)


async def read_body(request: Request, limits: ServingLimits) -> bytes:
    """Read a body that may come in chunks of unknown number.

    Raises:
        RequestError: 413 it is too large, 408 it did not come in time.
    """
    stated = request.headers.get("content-length", "")
    if stated.isdecimal() and int(stated) > limits.max_bytes:
        raise _too_large(limits)
    try:
        async with asyncio.timeout(limits.body_seconds):
            return await _read(request, limits)
    except TimeoutError:
        raise RequestError(f"the request did not arrive within {limits.body_seconds:g} s; send it again", 408) from None


async def _read(request: Request, limits: ServingLimits) -> bytes:
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > limits.max_bytes:
            raise _too_large(limits)
        parts.append(part)
    return b"".join(parts)


def _too_large(limits: ServingLimits) -> RequestError:
    return RequestError(
        f"the request is larger than {limits.max_bytes} bytes; send fewer series, or the last readings of each",
        413,
    )
