"""Where a roll back leads."""

from __future__ import annotations

import pytest

from tstune.registry.versions import AliasChange, previous_version


def changes(text: str) -> list[AliasChange]:
    """`1 2 <1 x` is: set to 1, set to 2, rolled back to 1, removed."""
    made = []
    for word in text.split():
        if word == "x":
            made.append(AliasChange("remove", None, "now"))
        else:
            made.append(AliasChange("rollback" if word[0] == "<" else "set", int(word.strip("<")), "now"))
    return made


@pytest.mark.parametrize(
    ("history", "current", "target"),
    [
        ("", None, None),
        ("1", 1, None),
        ("1 2", 2, 1),
        ("1 2 3 <2", 2, 1),
        ("1 2 3 <2 <1", 1, None),
        ("1 2 1", 1, 2),
        ("1 2 1 <2", 2, 1),
        ("1 2 3 <2 4", 4, 2),
        ("1 2 x", None, 2),
        ("1 2 x <2", 2, 1),
        ("1 5 2", 2, 1),  # 5 is deleted
        ("5 1", 1, None),
        ("1 2", 3, 2),  # moved from outside, with no line in the history
        ("<3 4", 4, 3),  # the beginning of the history is lost
    ],
)
def test_previous_version(history: str, current: int | None, target: int | None) -> None:
    assert previous_version(changes(history), current, {1, 2, 3, 4}) == target
