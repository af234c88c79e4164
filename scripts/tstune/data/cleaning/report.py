"""What cleaning found or changed: counts with examples, for the manifest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

NUM_EXAMPLES = 3


class CleaningReport:
    """Findings by name, in the order in which they were made.

    Each finding is a dict of JSON values: `count`, `action` (what was done with them), `by_item` (only items that
    have any) and up to three `examples`.
    """

    def __init__(self, findings: Mapping[str, dict] | None = None) -> None:
        self._findings = {name: dict(finding) for name, finding in (findings or {}).items()}

    def add(
        self,
        name: str,
        count: int,
        action: str = "kept",
        by_item: Mapping[str, int] | None = None,
        examples: Sequence[str] = (),
        **more: object,
    ) -> None:
        """Add to a finding.

        Args:
            name: what was found, for example ``out_of_range``.
            count: how many readings, rows or runs.
            action: what was done with them: kept, dropped, converted, …
            by_item: counts of the items that have any.
            examples: a few of them, for a person to read.
            more: further JSON values of this finding.
        """
        found = self._findings.setdefault(name, {"count": 0, "action": action, "by_item": {}, "examples": []})
        found["count"] += int(count)
        found["action"] = action
        for item, number in (by_item or {}).items():
            found["by_item"][str(item)] = found["by_item"].get(str(item), 0) + int(number)
        found["examples"] = [*found["examples"], *examples][:NUM_EXAMPLES]
        found |= more

    def __contains__(self, name: str) -> bool:
        return name in self._findings

    def __getitem__(self, name: str) -> dict:
        return self._findings[name]

    def lines(self) -> list[str]:
        """One line per finding that has any."""
        return [
            f"{name.replace('_', ' ')}: {found['count']:,} {found['action']}"
            + (f" ({'; '.join(found['examples'])})" if found["examples"] else "")
            for name, found in self._findings.items()
            if found["count"]
        ]

    def to_dict(self) -> dict[str, dict]:
        """The findings, JSON values only."""
        return self._findings
