"""What was tried in an output folder: one JSON line per attempt, the last one of a recipe counts."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Literal

Status = Literal["done", "failed", "nothing sent"]


@dataclass(frozen=True)
class Attempt:
    """One try to run a recipe.

    Attributes:
        recipe: its name.
        status: what came of it.
        finished: when, ISO 8601 in UTC.
        reason: why there is no run folder.
        overrides: what the user changed.
        machine: what this machine needed beside it.
        seconds: of the whole process.
        peak_memory_mib: resident memory of that process at most.
        commit: of the code; a plus at its end stands for changes that were not committed.
    """

    recipe: str
    status: Status
    finished: str
    reason: str | None = None
    overrides: list[str] = field(default_factory=list)
    machine: list[str] = field(default_factory=list)
    seconds: float | None = None
    peak_memory_mib: float | None = None
    commit: str | None = None


class Journal:
    """`rows.jsonl` of an output folder.

    Args:
        folder: made with the first line.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / "rows.jsonl"

    def read(self) -> dict[str, Attempt]:
        """The last attempt of each recipe; a line that was cut off by a crash is passed over."""
        if not self.path.is_file():
            return {}
        known = {item.name for item in fields(Attempt)}
        found: dict[str, Attempt] = {}
        for line in self.path.read_text(encoding="utf-8").splitlines():
            try:
                values = json.loads(line)
                attempt = Attempt(**{name: value for name, value in values.items() if name in known})
            except (ValueError, TypeError, AttributeError):
                continue  # the run folder itself says whether it is whole, so a lost line costs at most one run
            found[attempt.recipe] = attempt
        return found

    def append(self, attempt: Attempt) -> None:
        """Write one line that is on the disk when this returns."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        torn = self.path.is_file() and self.path.stat().st_size > 0 and self.path.read_bytes()[-1:] != b"\n"
        with self.path.open("a", encoding="utf-8") as stream:
            stream.write(("\n" if torn else "") + json.dumps(asdict(attempt)) + "\n")
            stream.flush()
            os.fsync(stream.fileno())
