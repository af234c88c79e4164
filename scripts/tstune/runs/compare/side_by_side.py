"""Finished runs side by side: settings, data, metrics, paired tests on shared windows, items, cost."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from tstune.config.names import dotted
from tstune.data.frequency import parse_frequency
from tstune.data.manifest import compare_manifests
from tstune.errors import DataError, ReportError
from tstune.evaluation.bootstrap import Blocks, relative_rmse
from tstune.evaluation.verdict import Comparison, compared
from tstune.foreign_files import damage
from tstune.registry.model_registry import PREFIX, saved_folder
from tstune.runs.compare.candidates import first_twice
from tstune.runs.folder import CONFIG, ENVIRONMENT, EVALUATION, MANIFEST, METRICS, VERDICT, WINDOWS, RunFolder
from tstune.runs.report.blocks import (
    Cells,
    Definitions,
    Details,
    Figure,
    Omitted,
    ReportBlock,
    ReportSection,
    Table,
    Text,
)
from tstune.runs.report.charts import IntervalRow, forest_plot
from tstune.runs.report.words import duration, label, metric_header

_NOT_THE_RUN = ("output_dir", "overwrite", "tracking.", "distributed.", "evaluation.report", "evaluation.num_plots")
"""Keys that say where a run was written down and on what it ran; cost and data have tables of their own."""


@dataclass(frozen=True)
class ComparedRun:
    """One side of a comparison."""

    name: str  # short and unique
    spec: str  # as the user wrote it
    settings: dict[str, object]  # dotted key -> value
    judged: str  # row of its scoreboard that is compared
    metrics: dict[str, float | None]  # of that row
    sentence: str  # the run's own verdict
    # the files
    manifest: dict
    environment: dict
    evaluation: dict  # `evaluation.json`; empty for a run that is older than it
    windows: pd.DataFrame | None  # `windows.parquet`; None for a run that is older than it


def read_runs(specs: Sequence[str], registry: str | None = None) -> list[ComparedRun]:
    """Read run folders and registry versions; fewer than two, or one given twice, are a `DataError`."""
    if len(specs) < 2:
        raise DataError("give at least two runs to compare")
    if (twice := first_twice(specs)) is not None:
        raise DataError(f"{twice} is given twice")
    with ExitStack() as stack:
        found = [_read(spec, registry, stack) for spec in specs]
    names = [run.name for run in found]
    return [replace(run, name=run.spec) if names.count(run.name) > 1 else run for run in found]


def differing_settings(runs: Sequence[ComparedRun]) -> dict[str, list[object]]:
    """Key -> value in each run, for the keys that are not the same in all; `(not there)` where a run has none."""
    keys = dict.fromkeys(key for run in runs for key in run.settings if not key.startswith(_NOT_THE_RUN))
    values = {key: [run.settings.get(key, "(not there)") for run in runs] for key in keys}
    return {key: found for key, found in values.items() if any(value != found[0] for value in found[1:])}


def _read(spec: str, registry: str | None, stack: ExitStack) -> ComparedRun:
    folder = RunFolder(stack.enter_context(saved_folder(spec, registry)))
    name = spec.removeprefix(PREFIX) if spec.startswith(PREFIX) else Path(spec).resolve().name
    folder.require(METRICS, VERDICT, MANIFEST, ENVIRONMENT, CONFIG)
    verdict, parts = folder.read_json(VERDICT), list(folder.metrics.values())
    judged = verdict["model"]
    if len(parts) != 1 or judged not in parts[0]:
        raise DataError(f"{spec}: metrics.json has no row {judged!r}, which verdict.json judges")
    return ComparedRun(
        name=name,
        spec=spec,
        settings=dict(dotted(folder.config.model_dump(mode="json"))),
        judged=judged,
        metrics=parts[0][judged],
        sentence=verdict.get("sentence", ""),
        manifest=folder.read_json(MANIFEST),
        environment=folder.read_json(ENVIRONMENT),
        evaluation=folder.read_optional(EVALUATION),
        windows=_read_windows(folder, judged) if folder.has(WINDOWS) else None,
    )


def _read_windows(folder: RunFolder, judged: str) -> pd.DataFrame:
    """Columns item_id, origin, count, square, absolute; the sums are those of the judged row."""
    table = folder.read_table(WINDOWS, ["item_id", "origin", "count", f"square/{judged}", f"absolute/{judged}"])
    table.columns = ["item_id", "origin", "count", "square", "absolute"]
    return table


_EFFECTS = {-1: "better", 0: "no clear difference", 1: "worse"}
_WINDOW = ["item_id", "origin"]
_MUST_AGREE = {"prediction_length": "forecast lengths", "frequency": "steps", "targets": "targets", "unit": "units"}


@dataclass(frozen=True)
class Paired:
    """Runs on the windows that all of them have."""

    num_windows: tuple[int, ...]  # windows of each run with an observed value
    num_shared: int  # those that all runs have, with as many observed values
    num_unlike: int  # windows of all runs whose number of observed values differs, which are left out
    # of each run on the shared windows
    rmse: tuple[float, ...]
    mae: tuple[float, ...]
    tests: tuple[Comparison, ...]  # every run but the first against the first
    # items, and [items, runs] RMSE on the shared windows
    item_ids: tuple[str, ...]
    rmse_by_item: np.ndarray
    blocks: Blocks  # what was drawn


def why_unpaired(runs: Sequence[ComparedRun]) -> str | None:
    """Why the windows of these runs are not the same task; None if they are."""
    old = [run.name for run in runs if run.windows is None or not run.evaluation]
    if old:
        return f"{old[0]} holds no windows.parquet and evaluation.json (made by an earlier version)"
    for key, what in _MUST_AGREE.items():
        values = [run.evaluation.get(key) for run in runs]
        if any(value != values[0] for value in values[1:]):
            return f"{what} differ: " + ", ".join(
                f"{run.name} {_shown(v)}" for run, v in zip(runs, values, strict=True)
            )
    return None


def pair(runs: Sequence[ComparedRun]) -> Paired | None:
    """Compare runs of one task, see `why_unpaired`, window by window with the first; None if they share none.

    The test is that of a run's verdict: a paired bootstrap over blocks of days and over items, see `relative_rmse`.
    """
    tables = [run.windows.set_index(_WINDOW) for run in runs]
    shared = tables[0].index
    for table in tables[1:]:
        shared = shared.intersection(table.index)
    shared = shared.sort_values()
    tables = [table.loc[shared] for table in tables]
    counts = np.column_stack([table["count"] for table in tables])
    alike = (counts == counts[:, :1]).all(axis=1)
    kept = alike & (counts[:, 0] > 0)
    if not kept.any():
        return None
    count = counts[kept, 0].astype(np.float64)
    square, absolute = (np.column_stack([table[name] for table in tables])[kept] for name in ("square", "absolute"))
    item, item_ids = pd.factorize(shared.get_level_values("item_id")[kept])
    origin = shared.get_level_values("origin")[kept].to_numpy("datetime64[ns]")
    blocks = Blocks.by_day(item, origin, _path(runs[0]))
    items = len(item_ids)
    by_item = np.stack([np.bincount(item, weights=one, minlength=items) for one in square.T], axis=1)
    rmse_by_item = np.sqrt(by_item / np.bincount(item, weights=count, minlength=items)[:, None])
    return Paired(
        num_windows=tuple(int((run.windows["count"] > 0).sum()) for run in runs),
        num_shared=int(kept.sum()),
        num_unlike=int((~alike).sum()),
        rmse=tuple(np.sqrt(square.sum(axis=0) / count.sum()).tolist()),
        mae=tuple((absolute.sum(axis=0) / count.sum()).tolist()),
        tests=tuple(_test(runs, number, square, rmse_by_item, blocks) for number in range(1, len(runs))),
        item_ids=tuple(map(str, item_ids)),
        rmse_by_item=rmse_by_item,
        blocks=blocks,
    )


def _test(
    runs: Sequence[ComparedRun], number: int, square: np.ndarray, rmse_by_item: np.ndarray, blocks: Blocks
) -> Comparison:
    (interval,) = relative_rmse(square[:, number], square[:, :1], blocks)
    names = runs[number].name, runs[0].name
    return compared(*names, interval, rmse_by_item[:, number], rmse_by_item[:, 0], _EFFECTS)


def _path(run: ComparedRun) -> np.timedelta64:
    """Time that a forecast covers."""
    begin = pd.Timestamp("2000-01-01")
    end = begin + run.evaluation["prediction_length"] * parse_frequency(run.evaluation["frequency"])
    return (end - begin).to_timedelta64()


def _shown(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


TITLE = "Runs compared"
_MOST_ITEMS = 300
_STYLE = {"better": "better", "worse": "worse"}


def comparison_sections(runs: Sequence[ComparedRun]) -> list[ReportSection | Omitted]:
    """Settings, data, metrics, paired tests, items, cost; the first run is the one the others are held against."""
    with damage(f"one of {', '.join(run.spec for run in runs)}", ReportError):
        return _sections(runs)


def _sections(runs: Sequence[ComparedRun]) -> list[ReportSection | Omitted]:
    reason = why_unpaired(runs)
    paired = pair(runs) if reason is None else None
    if reason is None and paired is None:
        reason = "no test window is shared: no item and time was forecast by all of them"
    parts: list[ReportSection | Omitted] = [_settings(runs), _data(runs), _metrics(runs, paired)]
    if paired is None:
        parts.append(Omitted("tests", f"No paired test: {reason}; the metrics above are of different windows."))
    else:
        parts += [_tests(paired), _items(runs, paired)]
    return [*parts, _cost(runs)]


def _settings(runs: Sequence[ComparedRun]) -> ReportSection:
    found = differing_settings(runs)
    if not found:
        return ReportSection("settings", "Settings", [Text("Every setting is the same.")])
    columns = [Cells.text("Key", list(found))]
    for number, run in enumerate(runs):
        columns.append(Cells.text(run.name, [_written(values[number]) for values in found.values()]))
    return ReportSection("settings", "Settings that differ", [Table("Key by key", columns)])


def _data(runs: Sequence[ComparedRun]) -> ReportSection:
    first, lines = runs[0], []
    for run in runs[1:]:
        differing = [found.name for found in compare_manifests(first.manifest, run.manifest) if found.of_the_data]
        what = (
            f"different data than {first.name}: {', '.join(differing)}" if differing else f"same data as {first.name}"
        )
        lines.append((run.name, what))
    return ReportSection("data", "Data", [Definitions(lines)])


def _metrics(runs: Sequence[ComparedRun], paired: Paired | None) -> ReportSection:
    names = [run.name for run in runs]
    units = {run.evaluation.get("unit") for run in runs}
    unit = units.pop() or "" if len(units) == 1 else ""
    metrics = list(dict.fromkeys(metric for run in runs for metric in run.metrics))
    key = [m for m in metrics if m in ("rmse", "mae", "mase", "wql") or m.startswith("rmse@")]
    same_windows = paired is not None and set(paired.num_windows) == {paired.num_shared}
    columns = [Cells.text("Run", names), Cells.text("Forecast", [label(run.judged) for run in runs])]
    columns += [
        Cells.number(metric_header(m, unit), [run.metrics.get(m) for run in runs], lowest=same_windows) for m in key
    ]
    columns.append(Cells.count("Windows (count)", [run.metrics.get("num_windows") for run in runs]))
    every = [Cells.text("Metric", [metric_header(metric, unit) for metric in metrics])]
    every += [Cells(run.name, [_number(run.metrics.get(metric)) for metric in metrics]) for run in runs]
    blocks: list[ReportBlock] = [
        Table("The windows are the same" if same_windows else "Each run on its own windows", columns, frozenset({0})),
        Details("All metrics", [Table("All metrics of all runs", every)]),
        Details("What each run says of itself", [Definitions([(run.name, run.sentence) for run in runs])]),
    ]
    return ReportSection("metrics", "Metrics", blocks)


def _tests(paired: Paired) -> ReportSection:
    tests, first = paired.tests, paired.tests[0].reference
    names = [first, *(test.model for test in tests)]
    rows = [
        IntervalRow.of_change(test.model, _STYLE.get(test.effect, "neutral"), test.change, test.low, test.high)
        for test in tests
    ]
    what = f"Change of RMSE against {first} on the same windows, with 95 % intervals"
    plots = forest_plot(rows, what, ("better", "worse"))
    shared = f"{paired.num_shared:,} windows are shared by all runs"
    if set(paired.num_windows) != {paired.num_shared}:
        own = ", ".join(f"{name} has {n:,}" for name, n in zip(names, paired.num_windows, strict=True))
        shared += f" ({own})"
    if paired.num_unlike:
        shared += f"; {paired.num_unlike:,} more are left out, as other readings were observed in them"
    table = Table(
        f"Paired tests against {first}",
        [
            Cells.text("Run", [test.model for test in tests]),
            Cells.text(f"Against {first}", [test.effect for test in tests]),
            Cells.percent("Change of RMSE (%)", [test.change for test in tests], signed=True),
            Cells.percent("95 % interval, low (%)", [test.low for test in tests], signed=True),
            Cells.percent("95 % interval, high (%)", [test.high for test in tests], signed=True),
        ],
    )
    on_shared = Table(
        "All runs on the shared windows",
        [
            Cells.text("Run", names),
            Cells.number("RMSE", paired.rmse, lowest=True),
            Cells.number("MAE", paired.mae, lowest=True),
        ],
        frozenset({0}),
    )
    figure = Figure("forest-plot", f"RMSE against {first}", plots, table)
    return ReportSection(
        "tests", "Paired tests", [Text(f"{shared}."), on_shared, figure, Text(_drawn(paired), note=True)]
    )


def _drawn(paired: Paired) -> str:
    blocks = paired.blocks
    if paired.tests[0].low is None:
        return f"No intervals: {blocks.num_blocks} blocks of {blocks.days} d are too few days to draw from."
    whom = "other items like these" if blocks.speaks_of_other_items else "other days of the same items"
    return (
        f"Paired block bootstrap over {blocks.num_blocks:,} blocks of {blocks.days} d from {blocks.num_items:,} "
        f"item{'' if blocks.num_items == 1 else 's'}. The intervals speak of {whom}; one that crosses 0 is no clear "
        "difference. Of runs that are equal, about one in forty is still called better."
    )


def _items(runs: Sequence[ComparedRun], paired: Paired) -> ReportSection:
    names, rmse = [run.name for run in runs], paired.rmse_by_item
    best = rmse.argmin(axis=1)
    wins = Table(
        "Items won",
        [
            Cells.text("Run", names),
            Cells.count("Best of all (items)", [int((best == number).sum()) for number in range(len(runs))]),
            Cells.count(f"Better than {names[0]} (items)", [None, *(test.items_better for test in paired.tests)]),
            Cells.count(f"Worse than {names[0]} (items)", [None, *(test.items_worse for test in paired.tests)]),
            Cells.percent(
                f"Win rate against {names[0]} (%)",
                [None, *(test.items_better / test.num_items for test in paired.tests)],
            ),
        ],
        frozenset({0}),
    )
    shown = slice(0, _MOST_ITEMS)
    columns = [Cells.text("Item", paired.item_ids[shown])]
    columns += [Cells.number(name, rmse[shown, number].tolist()) for number, name in enumerate(names)]
    left_out = len(paired.item_ids) - _MOST_ITEMS
    title = "RMSE of each item" + (f", the first {_MOST_ITEMS}" if left_out > 0 else "")
    table = Table(f"{title}, on the shared windows", columns, tall=len(paired.item_ids) > 15)
    return ReportSection("items", "Items", [wins, Details(title, [table])])


def _cost(runs: Sequence[ComparedRun]) -> ReportSection:
    environments = [run.environment for run in runs]
    parameters = [environment.get("parameters") or {} for environment in environments]
    trained = [environment.get("training") or {} for environment in environments]
    memory = [environment.get("peak_memory_mb") or {} for environment in environments]
    columns = [
        Cells.text("Run", [run.name for run in runs]),
        Cells.text("Time", [duration(environment.get("seconds")) for environment in environments]),
        Cells.text("of it training", [duration(found.get("seconds")) for found in trained]),
        Cells.count("Steps", [found.get("num_steps") for found in trained]),
        *(
            Cells.count(f"Peak memory, {kind} (MiB)", [found.get(kind) for found in memory])
            for kind in dict.fromkeys(kind for found in memory for kind in found)
        ),
        Cells.count("Parameters", [found.get("total") for found in parameters]),
        Cells.count("Trained", [found.get("trainable") for found in parameters]),
        Cells.text("Device", [e.get("device_name") or e.get("device") for e in environments]),
        Cells.count("Processes", [environment.get("num_processes") for environment in environments]),
    ]
    return ReportSection("cost", "Cost", [Table("Time, memory, parameters", columns, frozenset({0}))])


def _written(value: object) -> str:
    return "null" if value is None else str(value)


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:,.6g}"
