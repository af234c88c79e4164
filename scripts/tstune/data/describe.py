"""A look at data before a run: what was recognised, which keys say so, and which windows come of it; without torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import yaml
from omegaconf import OmegaConf
from pydantic import ValidationError

from tstune.config.managers import parse_override
from tstune.config.names import merged
from tstune.config.schema import DataSection
from tstune.config.section import AUTO, RESOLVED
from tstune.data.cleaning import CleaningReport, CleaningRules
from tstune.data.cohort import describe_cohort, format_cohort, remarks
from tstune.data.defaults import BUILTIN, default_horizons, season_of, shipped_weights
from tstune.data.files import find_files, read_table
from tstune.data.frame import require_columns, table_from_frame
from tstune.data.panel import Panel, time_of
from tstune.data.panel_store import read_panel
from tstune.data.plan import plan_windows
from tstune.data.preprocess import longest_gap
from tstune.data.series_rows import holds_series
from tstune.data.sources import recognised_source
from tstune.data.splits import PARTS, Split, WindowIndex, WindowRanges, split_panel
from tstune.data.table import TIMESTAMP
from tstune.data.times import find_time_columns
from tstune.domains import domain_of, domain_of_column
from tstune.errors import ConfigError, DataError, visible

FEW_WINDOWS = {"train": 100, "validation": 20, "test": 20}
"""With fewer, a run works and says little."""
_ITEM_NAMES = ("item_id", "unique_id", "id", "person", "patient", "subject", "participant", "series", "name")
_MOSTLY_BLANK = 0.5


@dataclass(frozen=True)
class ReadAs:
    """What `describe_cohort` and `remarks` ask of a preprocessor."""

    unit: str | None
    max_gap: str | int
    fill: Mapping[str, str]


@dataclass(frozen=True)
class Description:
    """What a file or folder of series is.

    Attributes:
        config: keys of a run that reads it this way; they name what was recognised.
        given: those keys as they would be written.
        panel, split, windows, preprocessor, manifest: as of `PreparedData`, as far as its table of items asks.
        lengths: context and forecast of the windows.
        follows: what keys that are left open become.
        why_not: why there are no windows, with settings that work; None where there are.
        works: those settings, as they would be written.
    """

    config: DataSection
    given: dict
    panel: Panel
    split: Split
    windows: dict[str, WindowIndex]
    preprocessor: ReadAs
    manifest: dict
    lengths: tuple[int, int]
    follows: dict[str, object] = field(default_factory=dict)
    why_not: str | None = None
    works: tuple[str, ...] = ()

    @property
    def train(self) -> WindowIndex:
        """Training windows."""
        return self.windows["train"]

    @property
    def verdict(self) -> str:
        """Is it enough, in a sentence."""
        if self.why_not is not None:
            return f"not enough as it is: {self.why_not}"
        few = [f"{len(self.windows[part])} {part}" for part in PARTS if len(self.windows[part]) < FEW_WINDOWS[part]]
        if few:
            return f"barely enough: {', '.join(few)} windows will say little"
        return "enough"

    def recipe(self) -> str:
        """A whole recipe that reads the data this way; what it leaves open follows the data."""
        name = Path(self.given["path"]).name.split(".")[0] or "data"
        domain = domain_of(self.preprocessor.unit)
        alone = domain is not None and not self.panel.roles.control  # nothing else known of the future
        weights = domain.weights.get(self.panel.frequency, BUILTIN) if alone else BUILTIN
        values = {"model": {"pretrained": weights}, "data": self.given, "tuning": {"mode": "decoder"}}
        values["training"] = {"max_steps": 500, "eval_every_steps": 50}
        if weights != BUILTIN:  # they know such series, there is little to learn
            values["training"]["learning_rate"] = 1e-4
        values["output_dir"] = f"runs/{name}"
        for word in self.works:
            values = merged(values, OmegaConf.to_container(parse_override(word)))
        text = yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=1000)
        return f"{RESOLVED}\n{text}" if "${" in text or "???" in text else text

    def gaps(self) -> list[tuple[str, str, int]]:
        """(item, time of the last reading before it, steps) of each gap that cuts a series, longest first."""
        panel, found = self.panel, []
        for before in range(len(panel.segment_item) - 1):
            if panel.segment_item[before] == panel.segment_item[before + 1]:
                end = panel.segment_position[before] + panel.segment_length[before]
                steps = int(panel.segment_position[before + 1] - end)
                last = time_of(panel, int(panel.segment_start[before + 1]) - 1)
                found.append((panel.item_ids[panel.segment_item[before]], last, steps))
        return sorted(found, key=lambda gap: -gap[2])

    def text(self) -> str:
        """For a terminal."""
        panel, gaps = self.panel, self.gaps()
        first, last = time_of(panel, int(panel.timestamps.argmin())), time_of(panel, int(panel.timestamps.argmax()))
        longest = "".join(f"; the longest {steps} steps after {when} of {item}" for item, when, steps in gaps[:1])
        roles, unit = panel.roles, self.preprocessor.unit
        lines = [
            f"{len(panel.item_ids)} series every {panel.frequency}, {first} to {last}, {panel.num_rows:,} steps kept",
            f"forecast: {', '.join(roles.target)}{f' in {unit}' if unit else ''}",
        ]
        inputs = {"known in the past": roles.conditional, "known in the future": roles.control}
        lines += [f"{what}: {', '.join(names)}" for what, names in inputs.items() if names]
        lines.append(f"gaps longer than {self.preprocessor.max_gap}: {len(gaps)}{longest}")
        for name, finding in self.manifest["cleaning"].items():
            if finding["count"]:
                lines.append(f"{name.replace('_', ' ')}: {finding['count']:,} {finding['action']}")
        lines += remarks(self)
        windows = ", ".join(f"{part} {len(self.windows[part]):,}" for part in PARTS)
        lines += [f"windows of {self.lengths[0]} + {self.lengths[1]} steps: {windows}", f"{self.verdict}"]
        follows = " ".join(f"{key}={value}" for key, value in self.follows.items())
        recipe = f"As a recipe (its own settings follow the data: {follows}):\n\n{self.recipe()}"
        return visible("\n\n".join(["\n".join(lines), format_cohort(describe_cohort(self)), recipe]))


def describe(path: str, overrides: Mapping[str, object] | None = None) -> Description:
    """Look at a file or folder.

    Args:
        path: `data.path`.
        overrides: further keys of the `data` section; they are taken as they are.

    Raises:
        ConfigError, DataError: it cannot be read, or not be told what it holds.
    """
    given = {"path": path, **(overrides or {})}
    given.setdefault("source", recognised_source(Path(path)) or "csv")
    table = None
    if given["source"] in ("csv", "parquet"):
        files, report = find_files(str(path)), CleaningReport()
        raw = read_table(files[0], report, int(given.get("skip_rows", 0)))
        if not holds_series(raw.columns):  # a row of one whole series says itself what it is
            given = recognised_columns(given, raw, is_whole=len(files) == 1)
            require_columns(raw, _section(given), files[0])
        if len(files) == 1:
            table = table_from_frame(raw, _section(given), files[0], report)
    config = _section(given)
    panel, origin = read_panel(config, CleaningRules.from_config(config), table)
    table = origin.table
    max_gap = longest_gap(table, panel.frequency, config.max_gap)
    known = sorted(shipped_weights(), reverse=True)
    ordered = {key: given[key] for key in ("source", "path") if key in given}
    about = {
        "given": ordered | given,
        "panel": panel,
        "preprocessor": ReadAs(table.unit, max_gap, dict(table.fill)),
        "manifest": {"cleaning": table.cleaning, "items_without_readings": origin.items_without_readings},
    }
    try:
        plan = plan_windows(config, AUTO, AUTO, panel, table, known)
    except (DataError, ConfigError) as error:
        nothing = WindowRanges(np.zeros(0, np.int64), np.zeros(0, np.int64), 1)
        windows = {part: WindowIndex(panel, nothing, *known[-1]) for part in PARTS}
        split = split_panel(panel, config.split, table.standard_borders)
        why = {"why_not": str(error), "works": getattr(error, "works", ())}
        return Description(config, split=split, windows=windows, lengths=known[-1], **why, **about)
    lengths = plan.windows["train"].context_length, plan.windows["train"].prediction_length
    strides = {f"data.{part}_stride": getattr(plan.config, f"{part}_stride") for part in PARTS}
    follows = {
        "model.context_length": lengths[0],
        "model.prediction_length": lengths[1],
        "data.max_gap": max_gap,
        "data.split.mode": plan.split.mode,
        **{key: value for key, value in strides.items() if value > 1},
        "evaluation.seasonality": season_of(None, panel.frequency),
        "evaluation.horizons": default_horizons(panel.frequency, lengths[1]),
    }
    return Description(plan.config, split=plan.split, windows=plan.windows, lengths=lengths, follows=follows, **about)


def _section(values: Mapping[str, object]) -> DataSection:
    try:
        return DataSection.model_validate(values)
    except ValidationError as error:
        problem = error.errors()[0]
        raise ConfigError(f"data.{'.'.join(map(str, problem['loc']))}: {problem['msg']}") from None


def recognised_columns(given: dict, raw: pd.DataFrame, is_whole: bool) -> dict:
    """The keys of a table with what its columns seem to be, where nobody has said it."""
    if {"target_columns", "columns_as"} & set(given):
        return given
    taken = {given.get("item_id_column"), *given.get("conditional_columns", []), *given.get("control_columns", [])}
    times = (
        [TIMESTAMP]
        if TIMESTAMP in raw.columns
        else find_time_columns(raw, taken - {None}, given.get("timestamp_format"))
    )
    if "timestamp_column" not in given and times and times != [TIMESTAMP]:
        given["timestamp_column"] = times[0] if len(times) == 1 else times
    free = [str(column) for column in raw.columns if column not in {*times, *taken}]
    numbers = [column for column in free if _is_numeric(raw[column])]
    if "item_id_column" not in given and is_whole:
        item = _item_column(raw, times, free, numbers)
        if item is not None:
            given["item_id_column"] = item
            numbers = [column for column in numbers if column != item]
    owned = [column for column in numbers if domain_of_column(column) is not None]
    if owned and len(owned) < len(numbers):
        given["target_columns"] = owned
        given.setdefault("conditional_columns", [column for column in numbers if column not in owned])
    elif len(numbers) < len(free) - ("item_id_column" in given) and numbers:
        given["target_columns"] = numbers
    blank = [name for name in given.get("conditional_columns", []) if _blanks(raw[name]) > _MOSTLY_BLANK]
    if blank and "fill" not in given:
        given["fill"] = dict.fromkeys(blank, "zero")
    return given


def _item_column(raw: pd.DataFrame, times: Sequence[str], free: Sequence[str], numbers: Sequence[str]) -> str | None:
    """The column that tells series apart: few values, each at many times, and no time twice within one."""
    named = [column for column in free if column.lower() in _ITEM_NAMES]
    for column in [*named, *(column for column in free if column not in {*numbers, *named})]:
        values = raw[column].nunique(dropna=False)
        fits = 1 < values <= len(raw) / 4 and not raw[column].isna().any()
        if fits and not raw.duplicated([column, *times]).any():
            return column
    return None


def _is_numeric(cells: pd.Series) -> bool:
    sample = cells.dropna().head(200)
    sample = sample[sample.astype(str).str.strip() != ""]
    numbers = pd.to_numeric(sample.astype(str).str.replace(",", ".", regex=False), errors="coerce")
    return bool(len(sample)) and bool(numbers.notna().mean() > 0.5)


def _blanks(cells: pd.Series) -> float:
    blank = cells.isna()
    if not pd.api.types.is_numeric_dtype(cells):
        blank |= cells.astype(str).str.strip() == ""
    return float(blank.mean())
