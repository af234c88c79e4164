"""For work that only one process may do."""

from __future__ import annotations

import os

from tstune.errors import DistributedError


def refuse_ranks(what: str, why: str = "several would send and pay for the same windows") -> None:
    """Stop where a launcher started several processes.

    Args:
        what: is not for several, for the message.
        why: it is not.

    Raises:
        DistributedError: there are several.
    """
    ranks = os.environ.get("WORLD_SIZE", "1")
    if ranks != "1":
        raise DistributedError(
            f"WORLD_SIZE={ranks}: {what} is for one process, {why}; start it with python instead of accelerate launch"
        )
