"""The web server around the application, from its first answer to a clean stop."""

from __future__ import annotations

import os
import signal
import socket
import sys
from types import FrameType

import uvicorn

from tstune.errors import EXIT_INTERRUPTED, EXIT_OK
from tstune.serving.address import BACKLOG, is_loopback
from tstune.serving.app import create_app
from tstune.serving.service import ForecastService

_LOCAL_NAMES = ("localhost", "127.0.0.1", "::1", "[::1]")
_GRACE_SECONDS = 60


class StoppableServer(uvicorn.Server):
    """Finishes what it has begun when a signal comes; a second signal ends it at once.

    Attributes:
        announcement: printed when it answers.
        stopped_by: the signal.
    """

    announcement = ""
    stopped_by: int | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to answer, and say so: from here on signals are handled."""
        await super().startup(sockets)
        print(self.announcement, flush=True)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Remember the signal: uvicorn would raise it again, and the exit code would not be ours."""
        self.force_exit = self.stopped_by is not None
        self.stopped_by = sig
        self.should_exit = True


def serve(service: ForecastService, taken: socket.socket) -> int:
    """Answer until a signal comes, then finish what was begun.

    Returns:
        exit code: 0 after SIGTERM, 130 after SIGINT.
    """
    host, port = taken.getsockname()[:2]
    local = is_loopback(taken)
    if not local:
        print(
            f"warning: {host} can be reached from other machines and asks nobody who they are; put a server with "
            "authentication and TLS in front, or use --host 127.0.0.1",
            file=sys.stderr,
            flush=True,
        )
    app = create_app(service, (*_LOCAL_NAMES, host) if local else None)
    # log_config=None and no access log: a line per request tells no more than /metrics
    config = uvicorn.Config(
        app,
        http="h11",
        loop="asyncio",
        ws="none",
        log_config=None,
        log_level="warning",
        access_log=False,
        server_header=False,
        backlog=BACKLOG,
        timeout_graceful_shutdown=_GRACE_SECONDS,
    )
    server = StoppableServer(config)
    shown = f"[{host}]" if ":" in host else host
    server.announcement = f"serving {service.served.name} {service.served.version}: http://{shown}:{port}/docs"
    server.run(sockets=[taken])
    code = EXIT_INTERRUPTED if server.stopped_by == signal.SIGINT else EXIT_OK
    if server.force_exit:
        os._exit(code)  # the interpreter would wait for forecasts that nobody waits for any more
    service.close()
    return code
