"""What models, versions, aliases and stored files may be called."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import PurePosixPath

from tstune.errors import RegistryError

LARGEST_VERSION = 999_999_999

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_VERSION = re.compile(r"[1-9][0-9]{0,8}")
_LOOKS_LIKE_A_VERSION = re.compile(r"[vV]?[0-9]+")
_DRIVE = re.compile(r"[A-Za-z]:")


@dataclass(frozen=True)
class Reference:
    """One version of a model: by number (`cgm:3`) or by alias (`cgm@champion`); the other one is None."""

    name: str
    version: int | None = None
    alias: str | None = None

    @classmethod
    def parse(cls, text: str) -> Reference:
        """Read ``name:version`` or ``name@alias``.

        Raises:
            RegistryError: neither of the two.
        """
        name, separator, rest = re.fullmatch("([^@:]*)([@:]?)(.*)", text, re.DOTALL).groups()
        if not separator:
            raise RegistryError(f"{text!r} names no version: write name:version or name@alias, e.g. cgm:3")
        check_name(name)
        if separator == "@":
            return cls(name, alias=check_alias(rest))
        if not _VERSION.fullmatch(rest):
            raise RegistryError(f"{text!r}: the version {rest!r} is not a whole number from 1 on, e.g. cgm:3")
        return cls(name, version=int(rest))

    def __str__(self) -> str:
        return f"{self.name}@{self.alias}" if self.alias is not None else f"{self.name}:{self.version}"


def check_name(name: str, what: str = "model name") -> str:
    """Return the name if it may be used.

    Raises:
        RegistryError: empty, too long, or with characters that mean something in a path or a reference.
    """
    if not _NAME.fullmatch(name) or ".." in name:
        raise RegistryError(
            f"{what} {name!r} is not allowed: begin with a letter or digit, then letters, digits, '.', '_' and '-', "
            "at most 100, and no '..'"
        )
    return name


def check_alias(alias: str) -> str:
    """Return the alias if it may be used.

    Raises:
        RegistryError: not a name, or one that could be mistaken for a version.
    """
    check_name(alias, "alias")
    if _LOOKS_LIKE_A_VERSION.fullmatch(alias) or alias.lower() == "latest":
        raise RegistryError(f"alias {alias!r} could be mistaken for a version; use a word such as champion")
    return alias


def check_stored_path(path: str, origin: str) -> str:
    """Return a relative path that stays inside the folder it is written to.

    Raises:
        RegistryError: absolute, with `..`, or with characters that some system reads as a separator.
    """
    parts = PurePosixPath(path).parts
    is_plain = bool(parts) and "/".join(parts) == path and not path.startswith("/") and ".." not in parts
    if not is_plain or "\\" in path or _DRIVE.match(path) or not path.isprintable() or len(path) > 500:
        raise RegistryError(f"{origin} holds a file with the name {path!r}, which is not a plain relative path")
    return path
