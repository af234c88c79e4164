"""What a source says about itself: what it reads, its options, its licence, and where to get the data."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tstune.config.schema import DataSection
from tstune.errors import ConfigError, DataError


@dataclass(frozen=True)
class Option:
    """One key of `data.source_options`.

    Attributes:
        name: of the key.
        default: what it is if not given; its type is the type that is accepted.
        meaning: one line for a person.
        kind: the accepted type where `default` is None.
    """

    name: str
    default: object
    meaning: str
    kind: type = str


@dataclass(frozen=True)
class SourceInfo:
    """A source in words.

    Attributes:
        name: value of `data.source`.
        summary: what the series are.
        licence: terms of the data.
        where: where the data comes from and where to put it.
        keys: `data.*` keys that this source reads, beside the ones all sources share.
        options: keys of `data.source_options`.
    """

    name: str
    summary: str
    licence: str
    where: str
    keys: Mapping[str, str]
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
        """Every option with its value.

        Raises:
            ConfigError: an option that does not exist, or of the wrong type.
        """
        values = {option.name: option.default for option in self.options}
        kinds = {o.name: o.kind if o.default is None else type(o.default) for o in self.options}
        for name, value in config.source_options.items():
            if name not in values:
                close = difflib.get_close_matches(name, values, n=1)
                hint = f"did you mean {close[0]}?" if close else f"options: {', '.join(values) or 'none'}"
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
        """`data.path`.

        Raises:
            ConfigError: it is not given.
        """
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


def reject_column_roles(config: DataSection) -> None:
    """Stop if column roles are given to a source whose columns are fixed."""
    given = [
        name
        for name in ("target_columns", "conditional_columns", "control_columns", "item_id_column")
        if getattr(config, name)
    ]
    if given:
        raise ConfigError(f"data.{given[0]} has no meaning for source {config.source}; use data.source=csv")
