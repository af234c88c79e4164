"""The address that a server listens on."""

from __future__ import annotations

import ipaddress
import socket

from tstune.errors import ConfigError

BACKLOG = 2048


def bind(host: str, port: int) -> socket.socket:
    """Take an address; `port` 0 takes a free one.

    Raises:
        ConfigError: it is in use, or not an address of this machine.
    """
    if not 0 <= port <= 65535:  # the resolver would take it modulo 65536
        raise ConfigError(f"--port {port} is no port; ports go from 0 to 65535")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (OSError, UnicodeError):
        raise ConfigError(f"--host {host} --port {port} is not an address; try --host 127.0.0.1 --port 8000") from None
    taken = socket.socket(family, kind, protocol)
    try:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # an earlier server's last connections may linger
        taken.bind(address)
        taken.listen(BACKLOG)
    except OSError as error:
        taken.close()
        raise ConfigError(
            f"--host {host} --port {port} cannot be used: {error.strerror}; choose another --host or --port"
        ) from None
    return taken


def is_loopback(taken: socket.socket) -> bool:
    """True if only this machine can reach the address."""
    return ipaddress.ip_address(taken.getsockname()[0].partition("%")[0]).is_loopback
