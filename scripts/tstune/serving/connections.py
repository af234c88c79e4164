"""Connections that keep the server waiting: how long, and whose goes first where there are too many."""

from __future__ import annotations

import asyncio
from collections import Counter
from functools import partial

from uvicorn.protocols.http.h11_impl import H11Protocol

from tstune.serving import ServingLimits


def protocol(limits: ServingLimits) -> partial:
    """What `uvicorn.Config(http=…)` takes; uvicorn itself waits for the head of a request for ever."""
    return partial(_Connection, limits)


class _Connection(H11Protocol):
    """Given up if no request is in hand for `head_seconds`, or at once to make room for a newer one.

    Room is made by the client (its address) that has most of those connections that the server waits for, the longest
    waiting first: a flood of half-sent requests pushes out itself.
    """

    def __init__(self, limits: ServingLimits, *args: object, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)
        self._limits = limits
        self._timer: asyncio.TimerHandle | None = None
        self._silent_since = self.loop.time()

    @property
    def host(self) -> str | None:
        """Who is at the other end; a reverse proxy, where there is one."""
        return self.client[0] if self.client else None

    @property
    def has_request(self) -> bool:
        """Whether a whole head is there and its answer is not."""
        return self.cycle is not None and not self.cycle.response_complete

    @property
    def awaits_client(self) -> bool:
        """Whether the next thing to come is the client's: the rest of a head, or of a body."""
        return not self.has_request or self.cycle.more_body

    def connection_made(self, transport: asyncio.Transport) -> None:
        """Begin to wait for a head; make room for it."""
        super().connection_made(transport)
        self._wait()
        if len(self.connections) > self._limits.max_connections:
            waiting = [one for one in self.connections if one.awaits_client and not one.transport.is_closing()]
            number = Counter(one.host for one in waiting)
            min(waiting, key=lambda one: (-number[one.host], one._silent_since)).transport.abort()

    def data_received(self, data: bytes) -> None:
        """Stop the clock once the head is whole; the body has a clock of its own."""
        super().data_received(data)
        if self.has_request:
            self._timer.cancel()

    def on_response_complete(self) -> None:
        """Wait for the next head, or for the rest of a body that nobody reads."""
        super().on_response_complete()
        if not self.has_request and not self.transport.is_closing():
            self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget it."""
        self._timer.cancel()
        super().connection_lost(exc)

    def _wait(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._silent_since = self.loop.time()
        self._timer = self.loop.call_later(self._limits.head_seconds, self.transport.abort)
