"""Data sources by name. A source turns files into a `SourceTable`; everything after is shared."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Callable

from tstune.config.schema import DataSection
from tstune.data.sources.info import SourceInfo, reject_column_roles
from tstune.data.table import SourceTable, TableStream
from tstune.errors import ConfigError

__all__ = [
    "available_sources",
    "describe_sources",
    "load_source",
    "register_source",
    "reject_column_roles",
    "source_info",
    "stream_source",
]

_OF_ALL = """\
data.source is one of these names, or your own function as package.module:function: it takes the data section and
returns a SourceTable. Keys that all sources share: cache, frequency, max_gap, fill, min_context, time_features, unit,
convert_to, valid_range, out_of_range, conflicting_readings, timezone, scaling, split; see tstune/config/schema.py."""

# name -> module with a function load(config) -> SourceTable and its INFO; loaded on first use
_SOURCES = {
    "brist1d_open": "tstune.data.sources.brist1d_open",
    "cgm_sample": "tstune.data.sources.cgm_sample",
    "csv": "tstune.data.sources.csv",
    "ett": "tstune.data.sources.ett",
    "hf_dataset": "tstune.data.sources.hf_dataset",
    "kaggle_brisT1D": "tstune.data.sources.kaggle_brist1d",
    "parquet": "tstune.data.sources.csv",
    "simulated_t1d": "tstune.data.sources.simulated_t1d",
    "t1d_uom": "tstune.data.sources.t1d_uom",
}


def available_sources() -> list[str]:
    """Names that `data.source` accepts, beside ``package.module:function``."""
    return sorted(_SOURCES)


def register_source(name: str, module: str) -> None:
    """Add a source: a module with ``load(config: DataSection) -> SourceTable`` and, to be listed, an ``INFO``."""
    _SOURCES[name] = module


def source_info(name: str) -> SourceInfo | None:
    """What a source says about itself, or None if it says nothing.

    Raises:
        ConfigError: unknown source.
    """
    return getattr(_module(name), "INFO", None)


def describe_sources(name: str | None = None) -> str:
    """One source, or all of them, in words: options, licence and where to get the data.

    Raises:
        ConfigError: unknown source.
    """
    infos = {}
    for one in available_sources() if name is None else [name]:
        info = source_info(one)
        if info is None:
            lines = (importlib.import_module(_SOURCES[one]).__doc__ or "").strip().splitlines()
            info = SourceInfo(one, lines[0] if lines else "not described", "not stated", "not stated", {})
        infos[info.name] = info.text()  # a name that is another's alias is listed once
    return "\n\n".join([*infos.values(), *([_OF_ALL] if name is None else [])])


def load_source(config: DataSection) -> SourceTable:
    """Read the table named by ``data.source``.

    Raises:
        ConfigError: unknown source, or a function that is none.
        DataError: files missing or unreadable.
    """
    load = _own_function(config.source) if ":" in config.source else _module(config.source).load
    return load(config)


def stream_source(config: DataSection) -> TableStream | None:
    """The source named by ``data.source`` in pieces of whole series; None if it can only be read at once.

    Raises:
        ConfigError: unknown source.
        DataError: files missing or unreadable.
    """
    if ":" in config.source:
        return None
    stream = getattr(_module(config.source), "stream", None)
    return None if stream is None else stream(config)


def _module(name: str) -> object:
    if name not in _SOURCES:
        close = difflib.get_close_matches(name, available_sources(), n=1)
        hint = f"did you mean {close[0]}? " if close else ""
        raise ConfigError(
            f"data.source: unknown source {name!r}; {hint}available: {', '.join(available_sources())}, "
            "or your own function as package.module:function"
        )
    return importlib.import_module(_SOURCES[name])


def _own_function(place: str) -> Callable[[DataSection], SourceTable]:
    """A function of the user's, wrapped so that what it returns is checked."""
    module_name, _, function_name = place.partition(":")
    try:
        module = importlib.import_module(module_name) if module_name else None
    except ImportError as error:
        raise ConfigError(f"data.source: {place} cannot be imported ({error}); is its folder on PYTHONPATH?") from None
    function = getattr(module, function_name, None) if function_name else None
    if not callable(function):
        raise ConfigError(
            f"data.source: {place} names no function; write package.module:function, "
            "a function that takes the data section and returns a SourceTable"
        )

    def load(config: DataSection) -> SourceTable:
        table = function(config)
        if not isinstance(table, SourceTable):
            raise ConfigError(f"data.source: {place} returned a {type(table).__name__}, not a SourceTable")
        table.check(place)
        return table

    return load
