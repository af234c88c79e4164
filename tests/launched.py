"""What tests that start real processes share."""

from __future__ import annotations

import socket
from pathlib import Path

import finetune_ttm

ROOT = Path(finetune_ttm.__file__).parent.parent


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
