"""Log lines of the main process, and silence for libraries that chat."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from tstune.errors import visible

logger = logging.getLogger("tstune")


class _Plain(logging.Formatter):
    """The message, in which names of others steer no terminal."""

    def format(self, record: logging.LogRecord) -> str:
        return visible(super().format(record))


def setup_logging() -> None:
    """Send our messages to stderr as plain lines; only rank 0 speaks."""
    if not logger.handlers:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(_Plain("%(message)s"))
        logger.addHandler(handler)
        logger.propagate = False
    logger.setLevel(logging.INFO if os.environ.get("RANK", "0") == "0" else logging.ERROR)
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    for noisy in ("tsfm_public", "transformers", "matplotlib", "bitsandbytes", "accelerate"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    # DeepSpeed sets its own level when something imports it, but keeps filters.
    logging.getLogger("DeepSpeed").addFilter(lambda record: record.levelno >= logging.ERROR)
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")


@contextmanager
def quiet() -> Iterator[None]:
    """Errors alone are said inside, and no progress bar is drawn: for runs that somebody else tells of."""
    before = logger.handlers[0].level
    logger.handlers[0].setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.handlers[0].setLevel(before)


def is_quiet() -> bool:
    """True inside `quiet`."""
    return any(handler.level > logging.INFO for handler in logger.handlers)


def quiet_transformers() -> None:
    """Turn off the progress bars of transformers, which report milliseconds. Call it once it is imported."""
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
