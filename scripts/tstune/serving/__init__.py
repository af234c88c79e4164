"""A saved model behind HTTP, and how much its server takes on."""

from dataclasses import dataclass, field, fields

from tstune.errors import ConfigError


@dataclass(frozen=True)
class ServingLimits:
    """Each limit is an option of the script; what is beyond it is refused before work is put into it."""

    max_bytes: int = field(default=10_000_000, metadata={"help": "bytes of a request"})
    max_rows: int = field(default=100_000, metadata={"help": "rows of a request, and its steps"})
    max_series: int = field(default=1_000, metadata={"help": "series of a request"})
    max_batch: int = field(default=32, metadata={"help": "requests that share a forward pass"})
    max_queue: int = field(default=64, metadata={"help": "requests in hand; one more gets a 503"})
    batch_wait: float = field(
        default=5.0, metadata={"help": "milliseconds that a request waits for others on their way"}
    )
    head_seconds: float = field(default=10.0, metadata={"help": "seconds in which a request's head must have come"})
    body_seconds: float = field(default=30.0, metadata={"help": "seconds in which its body must have come"})
    max_connections: int = field(
        default=512, metadata={"help": "open connections; one more ends the longest waiting of who has most"}
    )

    def __post_init__(self) -> None:
        for one in fields(self):
            value, least = getattr(self, one.name), 0 if one.name == "batch_wait" else 1
            if not least <= value < float("inf"):
                raise ConfigError(f"--{one.name.replace('_', '-')}={value:g} must be at least {least}")
