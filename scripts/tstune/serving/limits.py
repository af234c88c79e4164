"""How much a server takes on."""

from __future__ import annotations

from dataclasses import dataclass, fields

from tstune.errors import ConfigError


@dataclass(frozen=True)
class ServingLimits:
    """Limits of a server; what is beyond them is refused before work is put into it.

    Attributes:
        max_bytes: of one request body.
        max_rows: rows of one request, and grid steps that its series reach over.
        max_series: series of one request.
        max_batch: requests that share a forward pass.
        batch_wait: milliseconds that a request waits for others that are on their way.
        max_queue: requests that are read, waiting or forecast at one time.
        body_seconds: seconds in which a body must have arrived.
    """

    max_bytes: int = 10_000_000
    max_rows: int = 100_000
    max_series: int = 1_000
    max_batch: int = 32
    batch_wait: float = 5.0
    max_queue: int = 64
    body_seconds: float = 30.0

    def __post_init__(self) -> None:
        for field in fields(self):
            value, least = getattr(self, field.name), 0 if field.name == "batch_wait" else 1
            if not least <= value < float("inf"):
                key = f"--{field.name.replace('_', '-')}"
                raise ConfigError(f"{key}={value:g} must be at least {least}")
