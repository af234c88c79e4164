"""Read a source in pieces of whole series and write its panel piece by piece, so that memory does not grow with it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pandas as pd

from tstune.config.schema import DataSection
from tstune.data.cleaning import CleaningReport, CleaningRules, clean_table
from tstune.data.frequency import StepCounts
from tstune.data.origin import Origin, without_rows
from tstune.data.panel_store import PanelWriter
from tstune.data.preprocess import build_panel
from tstune.data.table import ITEM, TIMESTAMP, SourceTable
from tstune.errors import DataError
from tstune.runtime.logs import logger

PIECE_ROWS = 1 << 19
"""Rows of a piece, at least; a series is never cut, so a longer one is a piece of its own."""

_UNITS_DIFFER = "unit_contradicts_values"
_OUT_OF_ORDER = "rows_out_of_order"


@dataclass(frozen=True)
class TableStream:
    """A source that can be read series by series.

    Attributes:
        files: what is read; their content tells whether a stored panel is of this data.
        open: scratch folder -> pieces in the order of their items' names, that can be gone through more than once.
        notes: what the manifest says about the source besides what the pieces say.
        licence: terms of the data, if the pieces do not say them.
    """

    files: tuple[str, ...]
    open: Callable[[Path], Pieces]
    notes: Mapping[str, object] = field(default_factory=dict)
    licence: str | None = None


@dataclass
class Pieces:
    """Tables of whole series.

    Attributes:
        tables: begins at the first piece again at every iteration.
        in_order: False if the series did not come in the order of their names.
    """

    tables: Iterable[SourceTable]
    in_order: bool = True


def write_streamed(
    stream: TableStream, files: list[dict[str, str]], config: DataSection, rules: CleaningRules, folder: Path
) -> None:
    """Prepare all pieces and write their panel into a folder.

    The result is that of reading everything at once, with two exceptions in what cleaning says about glucose: the
    usual distance of readings, which conflicting ones undercut, is that of a piece, and where `data.unit` contradicts
    the values, the median that is shown is that of the first piece.

    Args:
        stream: the source.
        files: path and SHA-256 of each of its files.
        config, rules: how readings are prepared.
        folder: gets the files of the panel; a folder ``scratch`` in it is for passing use.
    """
    scratch = folder / "scratch"
    scratch.mkdir()
    pieces = stream.open(scratch)
    frequency = config.frequency or _frequency(pieces)
    merged = _Merged()
    with PanelWriter(folder) as writer:
        for table in pieces.tables:
            table = clean_table(table, rules, log=False).with_settings(config.fill, tuple(config.time_features))
            if merged.add(table):
                max_gap = table.max_gap if config.max_gap is None else config.max_gap
                writer.append(build_panel(table, frequency, max_gap))
        merged.finish(pieces.in_order)
        about = replace(merged.about, files=stream.files, notes=merged.notes | dict(stream.notes))
        about = about if stream.licence is None else replace(about, licence=stream.licence)
        writer.finish(Origin(about, merged.num_readings, sorted(merged.names - set(writer.item_ids)), files))
    for path in scratch.iterdir():
        path.unlink()
    scratch.rmdir()


def _frequency(pieces: Pieces) -> str:
    steps = StepCounts()
    for table in pieces.tables:
        if table.frequency is not None:
            return table.frequency
        frame = table.frame.sort_values([ITEM, TIMESTAMP], kind="stable")
        starts = np.flatnonzero(np.diff(pd.factorize(frame[ITEM])[0], prepend=-1))
        steps.add(frame[TIMESTAMP].to_numpy("datetime64[ns]"), starts)
    return steps.most_common()


class _Merged:
    """What the pieces say together."""

    def __init__(self) -> None:
        self.about: SourceTable | None = None
        self.names: set[str] = set()
        self.notes: dict[str, object] = {}
        self.num_readings = 0
        self._cleaning: dict[str, dict] = {}
        self._statics: list[pd.DataFrame] = []
        self._any_readings = False

    def add(self, table: SourceTable) -> bool:
        """Take note of a piece; returns whether it has a reading of a target."""
        own = table.frame[ITEM].astype(str).unique()
        first, self.about = self.about, self.about or without_rows(table)
        has_readings = bool(table.frame[list(table.roles.target)].notna().to_numpy().any())
        if first is not None and table.roles != first.roles:
            raise DataError(
                f"series {own[0]!r} has columns {', '.join(table.roles.columns)}, the first one "
                f"{', '.join(first.roles.columns)}; name the common ones in data.target_columns"
            )
        if first is not None and table.frequency != first.frequency:
            raise DataError(f"series of several steps ({first.frequency}, {table.frequency}); set data.frequency")
        if has_readings and not self._any_readings:
            self.about, self._any_readings = without_rows(table), True
        elif has_readings and table.unit != self.about.unit:
            raise DataError(
                f"targets from series {own[0]!r} on look like {table.unit}, those before like {self.about.unit}; "
                "convert one, or set data.unit to read all as one"
            )
        self.names.update(own)
        self.num_readings += len(table.frame)
        for name, value in table.notes.items():
            adds_up = isinstance(value, int) and not isinstance(value, bool)
            self.notes[name] = value + self.notes.get(name, 0) if adds_up else value
        for name, finding in table.cleaning.items():
            self._add_finding(name, finding)
        if table.statics is not None:
            self._statics.append(table.statics)
        return has_readings

    def finish(self, in_order: bool) -> None:
        """Put together what was merged."""
        if not self._any_readings:
            names = "" if self.about is None else f" of target column(s) {', '.join(self.about.roles.target)}"
            raise DataError(f"no observed value{names} in any series")
        if not in_order:
            self._cleaning.setdefault(_OUT_OF_ORDER, {"count": 0, "action": "sorted", "by_item": {}, "examples": []})
        for line in CleaningReport(self._cleaning).lines():
            logger.info("cleaning: %s", line)
        statics = pd.concat(self._statics) if self._statics else None
        self.about = replace(self.about, cleaning=self._cleaning, statics=statics)

    def _add_finding(self, name: str, finding: dict) -> None:
        before = self._cleaning.get(name)
        if before is not None and name == _UNITS_DIFFER:  # is said once, whatever the pieces
            return
        report = CleaningReport({} if before is None else {name: before})
        counted = ("count", "action", "by_item", "examples")
        rest = {key: value for key, value in finding.items() if key not in counted}
        if before is not None:  # of runs of readings at the sensor's limit; the rest is the same in every piece
            if "runs" in rest:
                rest["runs"] += before["runs"]
            if "longest_run_minutes" in rest:
                rest["longest_run_minutes"] = max(rest["longest_run_minutes"], before["longest_run_minutes"])
        report.add(name, finding["count"], finding["action"], finding["by_item"], finding["examples"], **rest)
        self._cleaning[name] = report[name]
