"""What cleaning does to a table, as the configuration says it and as a saved model remembers it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from tstune.config.schema import DataSection
from tstune.data.table import SourceTable


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
        return cls(
            unit=config.unit,
            convert_to=config.convert_to,
            valid_range=config.valid_range,
            out_of_range=config.out_of_range,
            conflicting_readings=config.conflicting_readings,
            interpolated_readings=config.interpolated_readings,
            timezone=config.timezone,
        )

    @classmethod
    def from_dict(cls, values: Mapping[str, object]) -> CleaningRules:
        """Inverse of `dataclasses.asdict`, also after JSON."""
        limits = values.get("valid_range")
        return cls(**{**values, "valid_range": tuple(limits) if limits else None})

    def for_new_data(self, cleaned: SourceTable) -> CleaningRules:
        """Rules for data that is forecast later: the same, in the unit that the training data was read in."""
        unit = cleaned.cleaning.get("unit", {}).get("unit")
        if unit is None:
            return self
        believed = "unit_contradicts_values" in cleaned.cleaning  # values say nothing about the unit of this data
        return replace(self, unit=unit if believed else None, expected_unit=None if believed else unit)
