"""Where an alias has been, and where it goes when it is rolled back."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal

Action = Literal["set", "rollback", "remove"]


@dataclass(frozen=True)
class AliasChange:
    """One move of an alias.

    Attributes:
        action: ``set`` (by hand or by a promotion), ``rollback`` or ``remove``.
        version: number it points to since; None once removed.
        changed: UTC time, ISO 8601.
    """

    action: Action
    version: int | None
    changed: str


def previous_version(changes: Sequence[AliasChange], current: int | None, existing: Collection[int]) -> int | None:
    """The version a roll back leads to: the latest one before `current` that still exists; None if there is none.

    A second roll back goes one further back, not forth again: what was rolled back is forgotten.
    """
    path: list[int] = []
    for change in changes:
        if change.action == "set":
            path.append(change.version)
        elif change.action == "rollback":
            while path and path[-1] != change.version:
                path.pop()
            if not path:
                path.append(change.version)
    while path and (path[-1] == current or path[-1] not in existing):
        path.pop()
    return path[-1] if path else None
