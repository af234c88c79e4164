"""A nested configuration as flat dotted names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping


def dotted(values: Mapping, prefix: str = "") -> Iterator[tuple[str, object]]:
    """Yield every leaf, for example ``("training.learning_rate", 0.001)``."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from dotted(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
