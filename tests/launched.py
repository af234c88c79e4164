"""What tests that start real processes share."""

from __future__ import annotations

import itertools
import os
import socket
from pathlib import Path

import finetune_ttm

ROOT = Path(finetune_ttm.__file__).parent.parent


# Below the range that the kernel hands out by itself: a port of that range that was free a moment ago may be the
# local end of somebody's connection by the time a launch listens on it. Every process walks its own stretch.
_PORTS = (10_000 + (os.getpid() * 1_009 + step) % 20_000 for step in itertools.count())


def free_port() -> int:
    """A port that nobody listens on, and that this process gives out once."""
    for port in _PORTS:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise AssertionError("the ports are endless")
