"""Data sources by name, and what each says about itself. A source makes a `SourceTable`; everything after is shared."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from tstune.config.schema import DataSection
from tstune.config.validation import validate
from tstune.data.table import SourceTable, TableStream
from tstune.errors import ConfigError, DataError, did_you_mean
from tstune.named_code import import_named

_OF_ALL = """\
data.source is one of these names, or your own function as package.module:function: it takes the data section and
returns a SourceTable. Keys that all sources share: cache, frequency, max_gap, fill, min_context, time_features, unit,
convert_to, valid_range, out_of_range, conflicting_readings, scaling, split. Others it reads if they stand there."""

# name -> module with a function load(config) -> SourceTable and its INFO; loaded on first use
_SOURCES = {
    "brist1d_open": "tstune.data.sources.brist1d_open",
    "cgm_export": "tstune.data.sources.cgm_export",
    "cgm_sample": "tstune.data.sources.cgm_sample",
    "csv": "tstune.data.sources.csv",
    "ett": "tstune.data.sources.ett",
    "hf_dataset": "tstune.data.sources.hf_dataset",
    "kaggle_brisT1D": "tstune.data.sources.kaggle_brist1d",
    "parquet": "tstune.data.sources.csv",
    "simulated_t1d": "tstune.data.sources.simulated_t1d",
    "t1d_uom": "tstune.data.sources.t1d_uom",
}

_OF_TABLES = (
    *("path", "skip_rows", "keep_rows", "missing_values", "rename", "timestamp_column", "timestamp_format", "timezone"),
    *("item_id_column", "item_from", "columns_as", "target_columns", "conditional_columns", "control_columns"),
    "on_duplicate",
)
"""Keys that a source may know nothing of."""


@dataclass(frozen=True)
class Option:
    """One key of `data.source_options`."""

    name: str
    default: object  # what it is if not given; its type is the type that is accepted
    meaning: str
    kind: type = str  # the accepted type where `default` is None


@dataclass(frozen=True)
class SourceInfo:
    """A source in words."""

    name: str
    summary: str
    licence: str
    where: str  # where the data comes from and where to put it
    keys: Mapping[str, str]  # `data.*` keys that this source reads, beside the ones all sources share
    options: tuple[Option, ...] = ()

    def text(self) -> str:
        """Several lines for `--list-sources`."""
        lines = [self.name, f"  {self.summary}", f"  licence  {self.licence}", f"  data     {self.where}"]
        rows = {f"data.{key}": meaning for key, meaning in self.keys.items()}
        for option in self.options:
            rows[f"data.source_options.{option.name}"] = f"{option.meaning} (default: {_shown(option.default)})"
        width = max(map(len, rows), default=0)
        lines += [f"  {key:<{width}}  {meaning}" for key, meaning in rows.items()]
        return "\n".join(lines)

    def read_options(self, config: DataSection) -> dict[str, object]:
        """Every option with its value; `ConfigError` for one that the source does not have, or of another kind.

        And for a key of the section that this source would pass over in silence.
        """
        unread = {"item_from", "skip_rows"} if "timestamp_column" in self.keys else set(_OF_TABLES)
        unread -= {"target_columns"} if "conditional_columns" in self.keys else set()  # see `choose_channels`
        for key in (key for key in _OF_TABLES if key in unread and key not in self.keys):
            if (value := getattr(config, key)) != DataSection.model_fields[key].get_default():
                other = "cgm_export" if key == "item_from" else "csv"
                told = f"data.{key}={value} has no meaning for source {self.name}"
                raise ConfigError(f"{told}; leave it out or use data.source={other}")
        values = {option.name: option.default for option in self.options}
        kinds = {o.name: o.kind if o.default is None else type(o.default) for o in self.options}
        for name, value in config.source_options.items():
            if name not in values:
                hint = did_you_mean(name, values).strip() or f"options: {', '.join(values) or 'none'}"
                raise ConfigError(f"data.source_options.{name}: source {self.name} has no such option; {hint}")
            kind = kinds[name]
            if kind is float and type(value) is int:
                value = float(value)
            if kind is tuple and isinstance(value, list):
                value = tuple(str(entry) for entry in value)
            if type(value) is not kind:
                wanted = {tuple: "a list", str: "text", bool: "true or false"}.get(kind, f"a number ({kind.__name__})")
                raise ConfigError(f"data.source_options.{name}={value!r}: source {self.name} takes {wanted}")
            values[name] = value
        return values

    def need_path(self, config: DataSection) -> Path:
        """`data.path`, without which the source cannot do."""
        if config.path is None:
            raise ConfigError(f"source {self.name} needs data.path; {self.where}")
        return Path(config.path)

    def missing(self, path: Path, what: str = "does not exist") -> DataError:
        """The error for files that are not there."""
        return DataError(f"source {self.name}: {path} {what}; {self.where}")


def _shown(default: object) -> str:
    if default is None:
        return "none"
    if isinstance(default, tuple):
        return f"[{', '.join(map(str, default))}]"
    return str(default).lower() if isinstance(default, bool) else str(default)


def available_sources() -> list[str]:
    """Names that `data.source` accepts, beside ``package.module:function``."""
    return sorted(_SOURCES)


def source_info(name: str) -> SourceInfo:
    """What a source says about itself."""
    return _module(name).INFO


def describe_sources(name: str | None = None) -> str:
    """One source, or all of them, in words: options, licence and where to get the data."""
    infos = map(source_info, available_sources() if name is None else [name])
    texts = dict.fromkeys(info.text() for info in infos)  # a name that is another's alias is listed once
    return "\n\n".join([*texts, *([_OF_ALL] if name is None else [])])


def recognised_source(path: Path) -> str | None:
    """The source that knows a file or folder by its content; None if none does.

    A source that can says so by ``recognises(path) -> bool``.
    """
    for name in available_sources():
        recognises = getattr(_module(name), "recognises", None)
        if recognises is not None and recognises(path):
            return name
    return None


def load_source(config: DataSection) -> SourceTable:
    """Read the table named by ``data.source``.

    Raises:
        ConfigError, DataError: the source, its options or its files need a change.
    """
    load = _own_function(config.source) if ":" in config.source else _module(config.source).load
    return load(config)


@dataclass(frozen=True)
class SourceLoader:
    """A source that was read."""

    config: DataSection
    processed_data: SourceTable  # its readings, for `get_datasets`; `processed_data.frame` is the table


_READ: dict[str, SourceTable] = {}
"""What `get_loader` read last, by its request and the state of its files."""


def get_loader(data_source_name: str = "cgm_sample", use_cached: bool = True, **keys: object) -> SourceLoader:
    """Read a source.

    Args:
        data_source_name: a value of `data.source`.
        use_cached: take what this process read last, if it was this and its files have not changed since.
        **keys: further keys of the `data` section, for example ``path``.
    """
    config = validate({"data": {"source": data_source_name, **keys}}, origin="get_loader").data
    if use_cached and _request(config, *_READ.values()) in _READ:
        return SourceLoader(config, *_READ.values())
    table = load_source(config)
    _READ.clear()
    _READ[_request(config, table)] = table
    return SourceLoader(config, table)


def _request(config: DataSection, *known: SourceTable) -> str:
    changed = [(file, Path(file).stat().st_mtime_ns) for table in known for file in table.files if Path(file).is_file()]
    return f"{config.model_dump_json()} {changed}"


def check_source(config: DataSection) -> None:
    """Stop at what is wrong with ``data.source`` and can be seen in a moment: paths, names of columns."""
    check = None if ":" in config.source else getattr(_module(config.source), "check", None)
    if check is not None:
        check(config)


def stream_source(config: DataSection) -> TableStream | None:
    """The source named by ``data.source`` in pieces of whole series; None if it can only be read at once."""
    if ":" in config.source:
        return None
    stream = getattr(_module(config.source), "stream", None)
    return None if stream is None else stream(config)


def _module(name: str) -> object:
    if name not in _SOURCES:
        hint = did_you_mean(name, available_sources())
        raise ConfigError(
            f"data.source: unknown source {name!r}; {hint}available: {', '.join(available_sources())}, "
            "or your own function as package.module:function"
        )
    return importlib.import_module(_SOURCES[name])


def _own_function(place: str) -> Callable[[DataSection], SourceTable]:
    """A function of the user's, wrapped so that what it returns is checked."""
    module, _, name = place.partition(":")
    function = import_named("data.source:", place) if module and name else None
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
