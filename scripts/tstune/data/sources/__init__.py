"""Data sources by name. A source turns files into a `SourceTable`; everything after is shared."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Callable

from tstune.config.schema import DataSection
from tstune.data.table import SourceTable
from tstune.errors import ConfigError

# name -> module with a function load(config) -> SourceTable; loaded on first use
_SOURCES = {
    "cgm_sample": "tstune.data.sources.cgm_sample",
    "csv": "tstune.data.sources.csv",
    "ett": "tstune.data.sources.ett",
}


def available_sources() -> list[str]:
    """Names that `data.source` accepts."""
    return sorted(_SOURCES)


def register_source(name: str, module: str) -> None:
    """Add a source: a module with ``load(config: DataSection) -> SourceTable``."""
    _SOURCES[name] = module


def load_source(config: DataSection) -> SourceTable:
    """Read the table named by ``data.source``.

    Raises:
        ConfigError: unknown source.
        DataError: files missing or unreadable.
    """
    if config.source not in _SOURCES:
        close = difflib.get_close_matches(config.source, available_sources(), n=1)
        hint = f"did you mean {close[0]}? " if close else ""
        raise ConfigError(
            f"data.source: unknown source {config.source!r}; {hint}available: {', '.join(available_sources())}"
        )
    load: Callable[[DataSection], SourceTable] = importlib.import_module(_SOURCES[config.source]).load
    return load(config)


def reject_column_roles(config: DataSection) -> None:
    """Stop if column roles are given to a source whose columns are fixed."""
    given = [
        name
        for name in ("target_columns", "conditional_columns", "control_columns", "item_id_column")
        if getattr(config, name)
    ]
    if given:
        raise ConfigError(f"data.{given[0]} has no meaning for source {config.source}; use data.source=csv")
