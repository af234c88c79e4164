"""Tables that each are a part of a run (`val_data`, `test_data`), instead of one table that is split."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from tstune.config.schema import DataSection, SplitSection
from tstune.data.cleaning import CleaningRules, clean_table
from tstune.data.frequency import fixed_step, parse_frequency
from tstune.data.panel import MISSING, Origin, Panel, item_rows, time_of
from tstune.data.panel_store import frequency_of
from tstune.data.preprocess import build_panel, longest_gap
from tstune.data.sources import available_sources, load_source
from tstune.data.splits import PARTS, Split, split_panel
from tstune.data.table import SourceTable
from tstune.errors import ConfigError, DataError

GIVEN = "parts_given"
"""Note of the manifest: which parts were given as data of their own, and what they were."""

Bounds = dict[str, tuple[np.ndarray, np.ndarray]]
"""Part -> first step and end of it in each item of a panel."""


def named_data(section: DataSection, name: str | Path) -> DataSection:
    """The `data` section for the name of a source, or for a file."""
    known = isinstance(name, str) and (":" in name or name in available_sources())
    if known or not Path(name).exists():
        return section.model_copy(update={"source": str(name)})
    return section.model_copy(update={"source": "csv", "path": str(name)})


def tables_of_parts(section: DataSection) -> dict[str, SourceTable]:
    """Readings of the parts that `data.validation_path` and `data.test_path` name."""
    paths = {"validation": section.validation_path, "test": section.test_path}
    return {
        part: load_source(section.model_copy(update={"path": path, "validation_path": None, "test_path": None}))
        for part, path in paths.items()
        if path is not None
    }


def join_parts(
    config: DataSection, rules: CleaningRules, tables: Mapping[str, SourceTable]
) -> tuple[Panel, Origin, Split]:
    """One panel of all tables and the split that they are; a part without one is cut off the table of ``train``.

    Each table is put on the grid by itself, so no gap between two parts is filled. A series of several tables comes
    once, and its tables must be apart in time.
    """
    settings = config.fill, tuple(config.time_features)
    tables = {part: clean_table(table, rules).with_settings(*settings) for part, table in tables.items()}
    first = tables["train"]
    for part, table in tables.items():
        for what, theirs, ours in (("columns", table.roles, first.roles), ("unit", table.unit, first.unit)):
            if theirs != ours:
                raise DataError(f"the {what} of the {part} data are {theirs}, those of the train data {ours}")
    frequency = config.frequency or frequency_of([first])
    max_gap = longest_gap(first, frequency, config.max_gap)
    panels = {"train": build_panel(first, frequency, max_gap)}
    own = panels["train"]  # of an item that is trained on, every part is counted from the same level
    levels = {name: own.level_of(item) + np.zeros(len(own.roles.channels)) for item, name in enumerate(own.item_ids)}
    panels |= {
        part: build_panel(table, frequency, max_gap, levels=levels) for part, table in tables.items() if part != "train"
    }
    pieces = [(panel, {part: _whole(panel)}) for part, panel in panels.items() if part != "train"]
    pieces.append((panels["train"], _rest(panels["train"], config.split, first, set(tables))))
    panel, split = _joined(pieces, config.split.mode)
    return panel, _origin(tables, panel), split


def _whole(panel: Panel) -> tuple[np.ndarray, np.ndarray]:
    return np.zeros(len(panel.item_ids), np.int64), panel.item_length.astype(np.int64)


def _rest(panel: Panel, config: SplitSection, table: SourceTable, given: set[str]) -> Bounds:
    """Where the train data and what else is cut off it lie: they share the time that the given part would have had."""
    left = [part for part in PARTS if part == "train" or part not in given]
    if len(left) == 1:
        return {"train": _whole(panel)}
    if config.by != "time" or config.preset is not None:
        what = f"preset={config.preset}" if config.preset else f"by={config.by}"
        raise ConfigError(f"data.split.{what} with val_data or test_data: give both, or split by time")
    shares = {part: getattr(config, part) for part in PARTS}
    factor = sum(shares.values()) / sum(shares[part] for part in left)
    update = {part: shares[part] * factor if part in left else 0.0 for part in PARTS}
    split = split_panel(panel, config.model_copy(update=update), table.standard_borders)
    return {part: split.bounds(part) for part in left}


def _joined(pieces: list[tuple[Panel, Bounds]], mode: str) -> tuple[Panel, Split]:
    item_ids = sorted({name for panel, _ in pieces for name in panel.item_ids})
    numbers = [{name: number for number, name in enumerate(panel.item_ids)} for panel, _ in pieces]
    first_rows = [item_rows(panel) for panel, _ in pieces]
    step = fixed_step(parse_frequency(pieces[0][0].frequency))
    begins, ends = np.zeros((2, len(item_ids), len(PARTS)), np.int64)
    rows, segments, lengths = [], [], np.zeros(len(item_ids), np.int64)
    level = np.zeros((len(item_ids), len(pieces[0][0].roles.channels)))
    for item, name in enumerate(item_ids):
        mine = [index for index, known in enumerate(numbers) if name in known]
        mine.sort(key=lambda index: pieces[index][0].timestamps[first_rows[index][numbers[index][name]]])
        trained = next((index for index in mine if "train" in pieces[index][1]), mine[0])
        level[item] = pieces[trained][0].level_of(numbers[trained][name])
        before = None  # last time of the table before
        for index in mine:
            (panel, bounds), number = pieces[index], numbers[index][name]
            begin, end = first_rows[index][number : number + 2]
            if before is not None:
                if panel.timestamps[begin] <= before:
                    raise DataError(
                        f"{' and '.join(part for i in mine for part in pieces[i][1])}: series {name!r} has "
                        f"{time_of(panel, begin)} in the data of both; give each time once, or tell the series apart "
                        "in data.item_id_column"
                    )
                lengths[item] += 0 if step is None else (panel.timestamps[begin] - before) // step.to_timedelta64() - 1
            before = panel.timestamps[end - 1]
            shift = panel.level_of(number) - level[item]
            seen = panel.status[begin:end] != MISSING
            values = np.where(seen, panel.values[begin:end] + shift, 0).astype(np.float32)
            rows.append((values, panel.status[begin:end], panel.timestamps[begin:end]))
            own = slice(*np.searchsorted(panel.segment_item, (number, number + 1)))
            for length, position in zip(panel.segment_length[own], panel.segment_position[own], strict=True):
                segments.append((item, lengths[item] + position, length))
            for part, (starts, stops) in bounds.items():
                column = PARTS.index(part)
                begins[item, column], ends[item, column] = lengths[item] + starts[number], lengths[item] + stops[number]
            lengths[item] += panel.item_length[number]
    segment_item, segment_position, segment_length = np.asarray(segments, np.int64).T
    values, status, timestamps = (np.concatenate(arrays) for arrays in zip(*rows, strict=True))
    panel = replace(
        pieces[-1][0],
        values=values,
        status=status,
        timestamps=timestamps,
        segment_start=np.concatenate([[0], np.cumsum(segment_length)]),
        segment_item=segment_item,
        segment_position=segment_position,
        item_ids=tuple(item_ids),
        item_length=lengths,
        level=level if level.any() else None,
    )
    return panel, Split(ends, mode, begins, ends > begins)


def _origin(tables: Mapping[str, SourceTable], panel: Panel) -> Origin:
    origins = {part: Origin.of(table, panel.item_ids) for part, table in tables.items()}
    about = origins["train"].table
    given = {part: list(table.files) or "a table" for part, table in tables.items() if part != "train"}
    cleaning = dict(about.cleaning)
    for part in given:
        cleaning |= {f"{name} ({part} data)": finding for name, finding in tables[part].cleaning.items()}
    statics = [table.statics for table in tables.values() if table.statics is not None]
    if statics:
        joined = pd.concat(statics)
        about = replace(about, statics=joined[~joined.index.duplicated()])
    return Origin(
        replace(about, notes=about.notes | {GIVEN: given}, cleaning=cleaning),
        sum(origin.num_readings for origin in origins.values()),
        sorted({name for origin in origins.values() for name in origin.items_without_readings}),
        [file for origin in origins.values() for file in origin.files],
    )
