"""Data in words: who is in it, item by item, and a look before a run: what was recognised, which keys say so, and which
windows come of it; without torch.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import yaml
from omegaconf import OmegaConf
from pydantic import ValidationError

from tstune.config.managers import parse_override
from tstune.config.names import dotted, merged
from tstune.config.schema import DataSection
from tstune.config.section import AUTO, RESOLVED
from tstune.data.cleaning import CleaningReport, CleaningRules
from tstune.data.defaults import BUILTIN, default_horizons, season_of, shipped_weights
from tstune.data.files import find_files, read_table
from tstune.data.frame import names_series, require_columns, table_from_frame
from tstune.data.frequency import fixed_step, parse_frequency, to_steps, with_unit
from tstune.data.panel import OBSERVED, Panel, item_rows, position_of, time_of
from tstune.data.panel_store import read_panel
from tstune.data.plan import NoWindow, plan_windows
from tstune.data.preprocess import longest_gap
from tstune.data.series_rows import holds_series
from tstune.data.sources import recognised_source
from tstune.data.splits import PARTS, Split, WindowIndex, WindowRanges, some_names, split_panel
from tstune.data.table import TIMESTAMP
from tstune.data.times import find_time_columns
from tstune.domains import domain_of, domain_of_column
from tstune.errors import ConfigError, DataError, visible
from tstune.runs.folder import COHORT, writing
from tstune.runtime.files import escape, without_formulas

if TYPE_CHECKING:
    from tstune.data.prepared import PreparedData

_MOSTLY = 0.5


def describe_cohort(prepared: PreparedData) -> pd.DataFrame:
    """One row per item.

    Columns: `item_id`, `days` (first to last reading), `readings`, `step` (the item's own sampling step, which may be
    coarser than the grid), `missing_%` (of the readings that step promises), `mean`, `cv_%`, those of the domain (for
    glucose `time_in_range_%`: 70 to 180 mg/dL or 3.9 to 10 mmol/L, `time_below_%`, `time_above_%`), then
    `windows_train`, `windows_validation`, `windows_test`, and `dropped` (what and why). The statistics are those of
    the first target, over real readings only.
    """
    panel = prepared.panel
    step = fixed_step(parse_frequency(panel.frequency))
    windows = {part: prepared.windows[part].by_item() for part in PARTS}
    unit = prepared.preprocessor.unit
    domain = domain_of(unit)
    rows, bounds = [], item_rows(panel)
    for item, item_id in enumerate(panel.item_ids):
        own = slice(bounds[item], bounds[item + 1])
        seen = panel.status[own, 0] == OBSERVED
        places = position_of(panel, np.arange(own.start, own.stop)[seen])
        values = panel.values[own, 0][seen].astype(np.float64) + panel.level_of(item, 0)
        every = int(np.bincount(np.diff(places)).argmax()) if len(places) > 1 else 1
        length = int(panel.item_length[item])
        promised = max(1, -(-length // every))
        row = {
            "item_id": item_id,
            "days": round(length * step / pd.Timedelta("1D"), 1) if step is not None else np.nan,
            "readings": len(values),
            "step": str(every * parse_frequency(panel.frequency).n) + panel.frequency.lstrip("0123456789"),
            "missing_%": _per_cent(max(0.0, 1 - len(values) / promised)),
            "mean": round(float(values.mean()), 2) if len(values) else np.nan,
            "cv_%": _per_cent(values.std() / values.mean()) if len(values) and values.mean() else np.nan,
        }
        row |= domain.cohort_columns(values, unit) if domain else {}
        row |= {f"windows_{part}": int(windows[part][item]) for part in PARTS}
        row["dropped"] = _dropped(prepared, item, sum(int(windows[part][item]) for part in PARTS))
        rows.append(row)
    rows += [
        {"item_id": name, "readings": 0, "dropped": "whole item: no reading of a target"}
        for name in prepared.manifest.get("items_without_readings", [])
    ]
    table = pd.DataFrame(rows)
    counts = ["readings", *(f"windows_{part}" for part in PARTS)]
    return table.astype(dict.fromkeys(counts, "Int64"))


def format_cohort(table: pd.DataFrame) -> str:
    """The table as Markdown, with a row of medians if there are several items."""
    shown = table.copy()
    numbers = [name for name in table.columns if name not in ("item_id", "step", "dropped")]
    if len(table) > 1:
        medians = {name: round(float(table[name].astype("float64").dropna().median()), 1) for name in numbers}
        shown = pd.concat([shown, pd.DataFrame([{"item_id": "median", **medians}])], ignore_index=True)
    cells = [[_cell(value) for value in row] for row in shown.astype(object).to_numpy().tolist()]
    lines = [list(map(str, shown.columns)), ["---"] * len(shown.columns), *cells]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def write_cohort(prepared: PreparedData, folder: str | Path) -> pd.DataFrame:
    """Write `cohort.csv` and `cohort.md` into a folder and return the table."""
    table = describe_cohort(prepared)
    with writing(Path(folder)):
        without_formulas(table).to_csv(Path(folder) / COHORT, index=False)
        (Path(folder) / "cohort.md").write_text(format_cohort(table) + "\n", encoding="utf-8")
    return table


def _dropped(prepared: PreparedData, item: int, num_windows: int) -> str:
    """What of an item no window can use, and why."""
    panel = prepared.panel
    needed = prepared.train.context_length + prepared.train.prediction_length
    lengths = panel.segment_length[panel.segment_item == item]
    item_id, length = panel.item_ids[item], int(panel.item_length[item])
    reasons = []
    lost = length - int(lengths.sum())
    if lost:
        number = len(lengths) - 1
        gaps = "1 gap" if number == 1 else f"{number} gaps" if number else "gaps"
        reasons.append(f"{lost} steps in {gaps} longer than {max_gap_of(prepared)}")
    short = lengths[lengths < needed]
    if len(short):
        pieces = "1 piece" if len(short) == 1 else f"{len(short)} pieces"
        reasons.append(f"{int(short.sum())} steps in {pieces} shorter than a window of {needed} steps")
    for name, finding in prepared.manifest.get("cleaning", {}).items():
        number = finding.get("by_item", {}).get(item_id, 0)
        if number and finding.get("action") in ("dropped", "left out", "read once"):
            reasons.append(f"{number} readings: {name.replace('_', ' ')}, {finding['action']}")
    if not num_windows:
        reasons.insert(0, "no window at all")
    return "; ".join(reasons)


def _per_cent(share: float) -> float:
    return round(100 * float(share), 1)


def _cell(value: object) -> str:
    if value is None or value is pd.NA or (isinstance(value, float) and np.isnan(value)):
        return ""
    return f"{value:g}" if isinstance(value, float) else escape(str(value))


def max_gap_of(prepared: PreparedData | Description) -> str:
    """The longest gap that is filled, with its unit."""
    return with_unit(prepared.preprocessor.max_gap, prepared.panel.frequency)


def remarks(prepared: PreparedData) -> list[str]:
    """What somebody should hear before a run: inputs that are mostly blank, and items that a part has no window of."""
    panel, split = prepared.panel, prepared.split
    lines = [_blank(prepared, place) for place in range(panel.roles.num_targets, len(panel.roles.columns))]
    lines.append(_unnamed(panel.roles.target, prepared.config))
    kept = np.bincount(panel.segment_item, weights=panel.segment_length, minlength=len(panel.item_ids))
    lost = 1 - kept / panel.item_length
    for index, part in enumerate(PARTS):
        windows = prepared.windows[part]
        empty = (windows.by_item() == 0) & split.takes_part[:, index]
        shown = [
            f"{panel.item_ids[item]}" + (f" ({lost[item]:.0%} of its time lies in long gaps)" if lost[item] > 0 else "")
            for item in np.flatnonzero(empty)
        ]
        if shown:
            steps = windows.context_length - windows.padding + windows.prediction_length
            gap = max_gap_of(prepared)
            lines.append(f"no {part} window of {some_names(shown)}: it takes {steps} steps without a gap above {gap}")
    return [line for line in lines if line]


def _unnamed(targets: Sequence[str], config: DataSection) -> str | None:
    """A line about several targets that are forecast because nobody has said which columns are to be."""
    if len(targets) == 1 or config.target_columns is not None or config.source == "ett" or ":" in config.source:
        return None
    only, other = (shlex.quote(f"data.{role}_columns=[{targets[at]}]") for role, at in (("target", 0), ("control", -1)))
    told = f"nothing names what to forecast, so all columns of numbers are: {some_names(targets)}"
    return f"{told}; {only} takes one, {other} makes an input of one (conditional_columns: if not known ahead)"


def _blank(prepared: PreparedData, place: int) -> str | None:
    """A line about an input whose blanks are taken as unknown, where most of it is blank."""
    panel, name = prepared.panel, prepared.panel.roles.columns[place]
    if prepared.preprocessor.fill.get(name, "interpolate") not in ("interpolate", "hold"):
        return None
    seen = panel.status[:, place] == OBSERVED
    given = panel.values[seen, place]
    if not len(given) or seen.mean() >= _MOSTLY:
        return None
    return (
        f"{name}: {1 - seen.mean():.1%} of its steps are blank and taken as unknown (mean of the others "
        f"{given.mean():.3g}); if blank means none (mean {given.sum() / len(seen):.2g}), set data.fill={{{name}: zero}}"
    )


FEW_WINDOWS = {"train": 100, "validation": 20, "test": 20}
"""With fewer, a run works and says little."""


@dataclass(frozen=True)
class ReadAs:
    """What `describe_cohort` and `remarks` ask of a preprocessor."""

    unit: str | None
    max_gap: str | int
    fill: Mapping[str, str]


@dataclass(frozen=True)
class Description:
    """What a file or folder of series is."""

    config: DataSection  # keys of a run that reads it this way; they name what was recognised
    given: dict  # those keys as they would be written
    further: dict  # other sections of its recipe that somebody has given
    # panel, split, windows, preprocessor, manifest: as of `PreparedData`, as far as its table of items asks
    panel: Panel
    split: Split
    windows: dict[str, WindowIndex]
    preprocessor: ReadAs
    manifest: dict
    lengths: tuple[int, int]
    follows: dict[str, object] = field(default_factory=dict)  # what keys that are left open become
    why_not: str | None = None  # why there are no windows, with settings that work; None where there are
    works: Mapping[str, object] = field(default_factory=dict)  # those settings

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
        values = merged(values, self.further)
        for key, value in self.works.items():
            values = merged(values, OmegaConf.to_container(parse_override(f"{key}={value}")))
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
        told = "; the longest {} after {} of {}"
        longest = "".join(told.format(with_unit(gap[2], panel.frequency), gap[1], gap[0]) for gap in gaps[:1])
        roles, unit = panel.roles, self.preprocessor.unit
        lines = [
            f"{len(panel.item_ids)} series every {panel.frequency}, {first} to {last}, {panel.num_rows:,} steps kept",
            f"forecast: {', '.join(roles.target)}{f' in {unit}' if unit else ''}",
        ]
        inputs = {"known in the past": roles.conditional, "known in the future": roles.control}
        lines += [f"{what}: {', '.join(names)}" for what, names in inputs.items() if names]
        lines.append(f"gaps longer than {max_gap_of(self)}: {len(gaps)}{longest}")
        for name, finding in self.manifest["cleaning"].items():
            if finding["count"]:
                lines.append(f"{name.replace('_', ' ')}: {finding['count']:,} {finding['action']}")
        lines += remarks(self)
        windows = ", ".join(f"{part} {len(self.windows[part]):,}" for part in PARTS)
        lines += [f"windows of {self.lengths[0]} + {self.lengths[1]} steps: {windows}", f"{self.verdict}"]
        follows = " ".join(f"{key}={value}" for key, value in self.follows.items())
        recipe = f"As a recipe (its own settings follow the data: {follows}):\n\n{self.recipe()}"
        return visible("\n\n".join(["\n".join(lines), format_cohort(describe_cohort(self)), recipe]))


def describe(
    path: str,
    overrides: Mapping[str, object] | None = None,
    further: Mapping[str, Mapping] | None = None,
    horizon: str | int | None = None,
) -> Description:
    """Look at a file or folder.

    Args:
        overrides: further keys of the `data` section; they are taken as they are.
        further: other sections of a recipe, whose lengths are those of the windows.
        horizon: how far to forecast, ``2h`` or steps, instead of `model.prediction_length`.

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
    table, further = origin.table, dict(further or {})
    if horizon is not None:
        further = merged(further, {"model": {"prediction_length": steps_ahead(horizon, panel.frequency)}})
    lengths = [further.get("model", {}).get(f"{name}_length") for name in ("context", "prediction")]
    lengths = [length if isinstance(length, int) and length > 0 else AUTO for length in lengths]
    max_gap = longest_gap(table, panel.frequency, config.max_gap)
    known = sorted(shipped_weights(), reverse=True)
    ordered = {key: given[key] for key in ("source", "path") if key in given}
    about = {
        "given": ordered | given,
        "further": further,
        "panel": panel,
        "preprocessor": ReadAs(table.unit, max_gap, dict(table.fill)),
        "manifest": {"cleaning": table.cleaning, "items_without_readings": origin.items_without_readings},
    }
    try:
        plan = plan_windows(config, *lengths, panel, table, known)
    except (DataError, ConfigError) as error:
        nothing = WindowRanges(np.zeros(0, np.int64), np.zeros(0, np.int64), 1)
        windows = {part: WindowIndex(panel, nothing, *known[-1]) for part in PARTS}
        split = split_panel(panel, config.split, table.standard_borders)
        why = {"why_not": str(asked_by_horizon(error, horizon)), "works": getattr(error, "works", {})}
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
    about["follows"] = {key: value for key, value in follows.items() if key not in dict(dotted(further))}
    return Description(plan.config, split=plan.split, windows=plan.windows, lengths=lengths, **about)


def steps_ahead(horizon: str | int, frequency: str) -> int:
    """Steps of `--horizon`, of which there must be one."""
    ahead = to_steps(horizon, frequency, "--horizon")
    if ahead < 1:
        raise ConfigError(f"--horizon {horizon} is no step of {frequency}; give 1 or more, or a time as 2h")
    return ahead


def asked_by_horizon(error: DataError | ConfigError, horizon: str | int | None) -> DataError | ConfigError:
    """The error with settings as whoever gave `--horizon`, if anybody did, may paste them."""
    if horizon is None or not isinstance(error, NoWindow):
        return error
    return NoWindow(error.why, error.works, "--horizon ")


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
    times = [TIMESTAMP]
    if TIMESTAMP not in raw.columns:
        times = find_time_columns(raw, taken - {None}, given.get("timestamp_format"))
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
    blank = [name for name in given.get("conditional_columns", []) if _blanks(raw[name]) > _MOSTLY]
    if blank and "fill" not in given:
        given["fill"] = dict.fromkeys(blank, "zero")
    return given


def _item_column(raw: pd.DataFrame, times: Sequence[str], free: Sequence[str], numbers: Sequence[str]) -> str | None:
    """The column that tells series apart: few values, each at many times and none twice; else one that is named so."""
    named = [column for column in free if names_series(column) and 4 * raw[column].nunique() <= len(raw)]
    few = [column for column in free if 1 < raw[column].nunique() <= len(raw) / 4]
    texts = [column for column in few if column not in {*numbers, *named}]
    fitting = [column for column in [*named, *texts] if not raw[column].isna().any()]
    alone = [column for column in fitting if not raw.duplicated([column, *times]).any()]
    return next(iter([*alone, *(column for column in fitting if column in named)]), None)


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
