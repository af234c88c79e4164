"""What cleaning is told to do, by a configuration or a saved model, and what it found or changed, for the manifest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace

from tstune.config.schema import DataSection
from tstune.data.table import SourceTable

NUM_EXAMPLES = 3


@dataclass(frozen=True)
class CleaningRules:
    """The cleaning keys of `DataSection`, where they are documented.

    `expected_unit` is the glucose unit that a saved model reads; other data is refused.
    """

    unit: str | None = None
    convert_to: str | None = None
    valid_range: tuple[float, float] | None = None
    out_of_range: str = "keep"
    conflicting_readings: str = "keep"
    interpolated_readings: str = "keep"
    timezone: str | None = None
    expected_unit: str | None = None

    @classmethod
    def from_config(cls, config: DataSection) -> CleaningRules:
        """The rules of a configuration."""
        return cls(**{key.name: getattr(config, key.name) for key in fields(cls) if key.name != "expected_unit"})

    def for_new_data(self, cleaned: SourceTable) -> CleaningRules:
        """Rules for data that is forecast later: the same, in the unit that the training data was read in."""
        unit = cleaned.cleaning.get("unit", {}).get("unit")
        if unit is None:
            return self
        believed = "unit_contradicts_values" in cleaned.cleaning  # values say nothing about the unit of this data
        return replace(self, unit=unit if believed else None, expected_unit=None if believed else unit)


class CleaningReport:
    """Findings by name, counts with examples, in the order in which they were made.

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
        """Add to a finding: how many readings, rows or runs, what was done with them, and further JSON values of it."""
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
