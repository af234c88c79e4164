"""One seed for Python, NumPy and torch on every process."""

from __future__ import annotations


def set_seed(seed: int) -> None:
    """Seed all generators; the same seed on every rank, so that fresh weights agree."""
    from accelerate.utils import set_seed as accelerate_set_seed

    accelerate_set_seed(seed)
