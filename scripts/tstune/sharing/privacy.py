"""The last look before anything leaves: no path, machine, account or secret in what is published."""

from __future__ import annotations

import getpass
import json
import os
import re
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path

from tstune.errors import OutputError

_PATTERNS = {
    "a path of this machine": re.compile(
        r"(?<![\w/:.<~-])(?:~|\.\.)?/[\w.@-]+/[\w.@/-]+|\.\./[\w.-]+|\b[A-Za-z]:\\\w+"
    ),
    "a token": re.compile(r"\bhf_[A-Za-z0-9]{20,}|\bsk-[A-Za-z0-9]{20,}|\bnixak-\w{10,}"),
}
_SECRET_NAME = re.compile(r"TOKEN|KEY|SECRET|PASSWORD|CREDENTIAL")
_NOBODY = {"root", "user", "ubuntu", "admin", "runner", "data", "main", "test", "local", "localhost", "host", "model"}


def require_clean(contents: Mapping[str, str | Path]) -> None:
    """Stop if a file to publish names this machine or holds a secret.

    Raises:
        OutputError: naming the file and what was found; of a secret only where it lies.
    """
    words = dict(_own_words())
    for name, content in contents.items():
        text = content if isinstance(content, str) else _header(content)
        for what, pattern in _PATTERNS.items():
            found = pattern.search(text)
            if found:
                shown = "" if "token" in what else f" ({found.group()})"
                raise OutputError(f"nothing was published: {name} would hold {what}{shown}; take it out of the run")
        for word, what in words.items():
            if re.search(rf"(?<!\w){re.escape(word)}(?!\w)", text):
                raise OutputError(f"nothing was published: {name} would hold {what}; take it out of the run")


def _own_words() -> Iterator[tuple[str, str]]:
    for name, value in os.environ.items():
        if _SECRET_NAME.search(name.upper()) and len(value) >= 12 and not Path(value).exists():
            yield value, f"the value of {name}"
    for word, what in ((socket.gethostname(), "the name of this machine"), (_user(), "your user name")):
        if len(word) >= 4 and word.lower() not in _NOBODY:
            yield word, what


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container whose user has no name
        return ""


def _header(path: Path) -> str:
    """What a safetensors file says beside its numbers; nothing for other files."""
    if path.suffix != ".safetensors":
        return path.read_text(encoding="utf-8")
    with path.open("rb") as stream:
        size = int.from_bytes(stream.read(8), "little")
        return json.dumps(json.loads(stream.read(size)).get("__metadata__", {}))
