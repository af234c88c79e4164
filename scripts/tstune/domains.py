"""Domains: what the project knows about a kind of series beyond its numbers. Blood glucose is the one it comes with.

General code knows no domain by name. It asks for the domain of a unit or a column and calls its hooks: what cleans,
which metrics and parts of the record there are, what the report shows. A domain is an object like `Domain`, found by
its dotted name in a table, and loads what its hooks need when they are called.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar

import numpy as np

from tstune.errors import ConfigError
from tstune.named_code import resolve

_DOMAINS = {"glucose": "tstune.glucose:DOMAIN"}


class Domain:
    """The hooks. Each of them adds nothing until a domain overrides it; those about a unit get one of `units`."""

    name: ClassVar[str]  # key of its part in `evaluation.json`
    about: ClassVar[str]  # what its metrics are about, for messages
    units: ClassVar[tuple[str, ...]]  # as a configuration writes them
    words: ClassVar[tuple[str, ...]] = ()  # what a cell of its columns may hold instead of a number
    warning: ClassVar[str | None] = None  # first and last line of a report
    # tags, limits: of a model card
    tags: ClassVar[tuple[str, ...]] = ()
    limits: ClassVar[str] = ""
    # grid step -> value of `model.pretrained` for weights that know such series
    weights: ClassVar[Mapping[str, str]] = MappingProxyType({})
    examples: ClassVar[Mapping[str, str]] = MappingProxyType({})  # kind of an example forecast -> its title

    # What belongs to it

    def unit_of(self, text: str | None) -> str | None:
        """The one of `units` that a text states, however it is written; None if it states none."""
        return next((unit for unit in self.units if text is not None and unit.lower() == text.strip().lower()), None)

    def owns_column(self, name: str) -> bool:
        """True if the name of a column says that it belongs here."""
        return False

    # Units

    def factor(self, old: str, new: str) -> float:
        """From one unit to another, for forecasts and errors."""
        return 1.0

    def cleaning_factor(self, old: str, new: str) -> float:
        """From one unit to another, for `data.convert_to`."""
        return self.factor(old, new)

    def copy_factor(self, unit: str) -> float:
        """Makes readings of all units comparable, to recognise copies of them."""
        return 1.0

    # Cleaning: `report` is a `CleaningReport`, `rules` are `CleaningRules`, `column` a `tstune.data.cleaning` Column

    def read_words(self, name: str, cells: Any) -> tuple[Any, np.ndarray, str] | None:
        """(cells [rows] with numbers for `words`, [rows] True where there was one, what was done); None without any."""
        return None

    def find_unit(self, column: Any, declared: str | None, rules: Any, report: Any) -> str | None:
        """Unit of a column by what is declared, its name and its values, and a note of it in the report."""
        return declared

    def valid_range(self, unit: str) -> tuple[float, float] | None:
        """Lowest and highest reading that can be true."""
        return None

    def doubtful(self, column: Any, unit: str, rules: Any, report: Any) -> np.ndarray:
        """[readings] True for those that the rules drop; what else is doubtful is counted in the report."""
        return np.zeros(len(column.values), bool)

    # Data

    def cohort_columns(self, values: np.ndarray, unit: str) -> dict[str, float]:
        """Columns of `cohort.csv`: of one item's readings."""
        return {}

    def published_splits(self) -> Mapping[str, Any]:
        """Name in `data.split.preset` -> its borders and roles."""
        return {}

    # Judging: `windows` are `ScoredWindows`

    def scores(self, num_targets: int) -> bool:
        """True if runs with so many targets get a part of their own in the record."""
        return False

    def check_readings(self, values: np.ndarray, unit: str) -> None:
        """Stop if readings cannot be of this domain in their unit."""

    def part(
        self,
        test: Mapping[str, Any],
        validation: Mapping[str, Any],
        horizons: Mapping[str, int],
        item_ids: Sequence[str],
        seen: Collection[str] | None,
        step: np.timedelta64,
        judged: str,
    ) -> dict:
        """The part of `evaluation.json` under `name`, from the test windows and, for thresholds, validation windows."""
        return {}

    def example(self, windows: Any) -> tuple[str, np.ndarray] | None:
        """(kind, [windows] bool): of these windows, one target each, the report shows one more."""
        return None

    def metrics(self) -> Mapping[str, Any]:
        """Name in `evaluation.metrics` -> `BuiltinMetric`."""
        return {}

    def metric_kind(self, column: str) -> str | None:
        """``unit``, ``share`` or ``%`` for a column of its metrics; None for another one."""
        return None

    # Report and service: `run` is what the report reads of a run folder

    def report_parts(self) -> tuple[Callable[[Any], Any], ...]:
        """Sections between those of the calibration and of the training: run -> section, omitted, or None."""
        return ()

    def other_units(self, run: Any, metric: str) -> list[tuple[str, float]]:
        """(unit, value) of a metric of the judged model in the other units."""
        return []

    def band(self, unit: str) -> tuple[float, float] | None:
        """The range that a plot of readings tints."""
        return None

    def typical(self, unit: str) -> tuple[float, float] | None:
        """Mean and deviation of an example for the service's documentation; None takes those of the training."""
        return None


def register_domain(name: str, place: str) -> None:
    """Add a domain: ``package.module:OBJECT`` of your own, an object with the attributes of `Domain`."""
    _DOMAINS[name] = place


def domains() -> list[Domain]:
    """All of them (`ConfigError`: one is not importable)."""
    return [_load(place) for place in _DOMAINS.values()]


def domain_names() -> list[str]:
    """Their names, without loading any."""
    return list(_DOMAINS)


def domain_of(unit: str | None, num_targets: int | None = None) -> Domain | None:
    """The domain that a unit belongs to; with a number of targets, only one that scores such runs."""
    if unit is None:
        return None
    found = next((domain for domain in domains() if domain.unit_of(unit)), None)
    return found if found is None or num_targets is None or found.scores(num_targets) else None


def domain_of_column(name: str) -> Domain | None:
    """The domain that a column belongs to by its name."""
    return next((domain for domain in domains() if domain.owns_column(name)), None)


def published_split(preset: str) -> Any:
    """What `data.split.preset` names."""
    return next(splits[preset] for domain in domains() if preset in (splits := domain.published_splits()))


def source_files() -> list[Path]:
    """Code of all domains, which says how readings are cleaned."""
    packages = {place.partition(":")[0] for place in _DOMAINS.values()}
    origins = [Path(importlib.util.find_spec(package).origin) for package in sorted(packages)]
    return [path for origin in origins for path in sorted(origin.parent.glob("*.py"))]


def _load(place: str) -> Domain:
    try:
        return resolve(place)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"domain {place} cannot be loaded ({error}); is its folder on PYTHONPATH?") from None
