"""Who is in the data: one row per item, for the run folder and for a paper's first table."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from tstune.data.frequency import fixed_step, parse_frequency
from tstune.data.panel import OBSERVED, Panel, item_rows
from tstune.data.splits import PARTS, some_names
from tstune.domains import domain_of
from tstune.errors import OutputError
from tstune.runtime.files import escape, without_formulas

if TYPE_CHECKING:
    from tstune.data.prepared import PreparedData

COHORT_FILE = "cohort.csv"
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
        places, values = (
            _positions(panel, item)[seen],
            panel.values[own, 0][seen].astype(np.float64) + panel.level_of(item, 0),
        )
        every = int(np.bincount(np.diff(places)).argmax()) if len(places) > 1 else 1
        length = int(panel.item_length[item])
        promised = max(1, -(-length // every))
        row = {
            "item_id": item_id,
            "days": round(length * step / pd.Timedelta("1D"), 1) if step is not None else np.nan,
            "readings": len(values),
            "step": str(every * parse_frequency(panel.frequency).n) + _step_name(panel.frequency),
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
        medians = {name: round(float(table[name].astype("float64").median()), 1) for name in numbers}
        shown = pd.concat([shown, pd.DataFrame([{"item_id": "median", **medians}])], ignore_index=True)
    cells = [[_cell(value) for value in row] for row in shown.astype(object).to_numpy().tolist()]
    lines = [list(map(str, shown.columns)), ["---"] * len(shown.columns), *cells]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def write_cohort(prepared: PreparedData, folder: str | Path) -> pd.DataFrame:
    """Write `cohort.csv` and `cohort.md` into a folder and return the table."""
    table = describe_cohort(prepared)
    try:
        without_formulas(table).to_csv(Path(folder) / COHORT_FILE, index=False)
        (Path(folder) / "cohort.md").write_text(format_cohort(table) + "\n", encoding="utf-8")
    except OSError as error:
        raise OutputError(f"{folder} cannot be written: {error.strerror}") from None
    return table


def _positions(panel: Panel, item: int) -> np.ndarray:
    """[rows of the item] steps from its first row."""
    segments = np.flatnonzero(panel.segment_item == item)
    return np.concatenate(
        [np.arange(panel.segment_length[one]) + panel.segment_position[one] for one in segments] or [np.zeros(0, int)]
    )


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
        reasons.append(f"{lost} steps in {gaps} longer than {prepared.preprocessor.max_gap}")
    short = lengths[lengths < needed]
    if len(short):
        pieces = "1 piece" if len(short) == 1 else f"{len(short)} pieces"
        reasons.append(f"{int(short.sum())} steps in {pieces} shorter than a window of {needed}")
    for name, finding in prepared.manifest.get("cleaning", {}).items():
        number = finding.get("by_item", {}).get(item_id, 0)
        if number and finding.get("action") in ("dropped", "left out", "read once"):
            reasons.append(f"{number} readings: {name.replace('_', ' ')}, {finding['action']}")
    if not num_windows:
        reasons.insert(0, "no window at all")
    return "; ".join(reasons)


def _step_name(frequency: str) -> str:
    return frequency.lstrip("0123456789")


def _per_cent(share: float) -> float:
    return round(100 * float(share), 1)


def _cell(value: object) -> str:
    if value is None or value is pd.NA or (isinstance(value, float) and np.isnan(value)):
        return ""
    return f"{value:g}" if isinstance(value, float) else escape(str(value))


def remarks(prepared: PreparedData) -> list[str]:
    """What somebody should hear before a run: inputs that are mostly blank, and items that a part has no window of."""
    panel, split = prepared.panel, prepared.split
    lines = [_blank(prepared, place) for place in range(panel.roles.num_targets, len(panel.roles.columns))]
    kept = np.bincount(panel.segment_item, weights=panel.segment_length, minlength=len(panel.item_ids))
    lost = 1 - kept / panel.item_length
    for index, part in enumerate(PARTS):
        windows = prepared.windows[part]
        empty = windows.by_item() == 0
        if split.takes_part is not None:
            empty &= split.takes_part[:, index]
        shown = [
            f"{panel.item_ids[item]}" + (f" ({lost[item]:.0%} of its time lies in long gaps)" if lost[item] > 0 else "")
            for item in np.flatnonzero(empty)
        ]
        if shown:
            steps = windows.context_length - windows.padding + windows.prediction_length
            gap = prepared.preprocessor.max_gap
            lines.append(f"no {part} window of {some_names(shown)}: it takes {steps} steps without a gap above {gap}")
    return [line for line in lines if line]


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
