"""What an error may say in a log: one line, short, and never a password."""

from __future__ import annotations

import re

_CREDENTIALS = re.compile(r"(?<=://)[^/@\s'\"]+@")


def without_credentials(text: str) -> str:
    """The same without the ``user:password@`` of any URL in it."""
    return _CREDENTIALS.sub("", text)


def first_line(error: BaseException) -> str:
    """Kind and first line of an error, at most 200 characters."""
    lines = without_credentials(str(error)).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__
