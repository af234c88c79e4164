"""Several runs side by side, as sections that are drawn as one HTML page or as Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from tstune.comparison.paired import Paired, pair, why_unpaired
from tstune.comparison.runs import ComparedRun, differing_data, differing_settings
from tstune.runs.report.blocks import Block, Column, Definitions, Details, Figure, Omitted, Section, Table, Text
from tstune.runs.report.charts import IntervalRow, both, change_limits, interval_chart
from tstune.runs.report.words import duration, label, metric_header

TITLE = "Runs compared"
_MOST_ITEMS = 300
_STYLE = {"better": "better", "worse": "worse"}


def comparison_sections(runs: Sequence[ComparedRun]) -> list[Section | Omitted]:
    """Settings, data, metrics, paired tests, items, cost; the first run is the one the others are held against."""
    reason = why_unpaired(runs)
    paired = pair(runs) if reason is None else None
    if reason is None and paired is None:
        reason = "no test window is shared: no item and time was forecast by all of them"
    parts: list[Section | Omitted] = [_settings(runs), _data(runs), _metrics(runs, paired)]
    if paired is None:
        parts.append(Omitted("tests", f"No paired test: {reason}; the metrics above are of different windows."))
    else:
        parts += [_tests(paired), _items(runs, paired)]
    return [*parts, _cost(runs)]


def _settings(runs: Sequence[ComparedRun]) -> Section:
    found = differing_settings(runs)
    if not found:
        return Section("settings", "Settings", [Text("Every setting is the same.")])
    columns = [Column.text("Key", list(found))]
    for number, run in enumerate(runs):
        columns.append(Column.text(run.name, [_written(values[number]) for values in found.values()]))
    return Section("settings", "Settings that differ", [Table("Settings that differ", columns)])


def _data(runs: Sequence[ComparedRun]) -> Section:
    first, lines = runs[0], []
    for run in runs[1:]:
        differing = differing_data(run, first)
        what = (
            f"different data than {first.name}: {', '.join(differing)}" if differing else f"same data as {first.name}"
        )
        lines.append((run.name, what))
    return Section("data", "Data", [Definitions(lines)])


def _metrics(runs: Sequence[ComparedRun], paired: Paired | None) -> Section:
    names = [run.name for run in runs]
    units = {run.evaluation.get("unit") for run in runs}
    unit = units.pop() or "" if len(units) == 1 else ""
    metrics = list(dict.fromkeys(metric for run in runs for metric in run.metrics))
    key = [m for m in metrics if m in ("rmse", "mae", "mase", "wql") or m.startswith("rmse@")]
    same_windows = paired is not None and set(paired.num_windows) == {paired.num_shared}
    columns = [Column.text("Run", names), Column.text("Forecast", [label(run.judged) for run in runs])]
    columns += [
        Column.number(metric_header(m, unit), [run.metrics.get(m) for run in runs], lowest=same_windows) for m in key
    ]
    columns.append(Column.count("Windows (count)", [run.metrics.get("num_windows") for run in runs]))
    every = [Column.text("Metric", [metric_header(metric, unit) for metric in metrics])]
    every += [Column(run.name, [_number(run.metrics.get(metric)) for metric in metrics]) for run in runs]
    blocks: list[Block] = [
        Table("The windows are the same" if same_windows else "Each run on its own windows", columns, frozenset({0})),
        Details("All metrics", [Table("All metrics", every)]),
        Details("What each run says of itself", [Definitions([(run.name, run.sentence) for run in runs])]),
    ]
    return Section("metrics", "Metrics", blocks)


def _tests(paired: Paired) -> Section:
    tests, first = paired.tests, paired.tests[0].reference
    names = [first, *(test.model for test in tests)]
    rows = [
        IntervalRow.of_change(test.model, _STYLE.get(test.effect, "neutral"), test.change, test.low, test.high)
        for test in tests
    ]

    def draw(width: float) -> Markup:
        what = f"Change of RMSE against {first} on the same windows, with 95 % intervals"
        sides = ("better", "worse")
        return interval_chart(rows, width, what, "change of RMSE (%)", change_limits(rows), zero=True, sides=sides)

    shared = f"{paired.num_shared:,} windows are shared by all runs"
    if set(paired.num_windows) != {paired.num_shared}:
        own = ", ".join(f"{name} has {n:,}" for name, n in zip(names, paired.num_windows, strict=True))
        shared += f" ({own})"
    if paired.num_unlike:
        shared += f"; {paired.num_unlike:,} more are left out, as other readings were observed in them"
    table = Table(
        f"Paired tests against {first}",
        [
            Column.text("Run", [test.model for test in tests]),
            Column.text(f"Against {first}", [test.effect for test in tests]),
            Column.percent("Change of RMSE (%)", [test.change for test in tests], signed=True),
            Column.percent("95 % interval, low (%)", [test.low for test in tests], signed=True),
            Column.percent("95 % interval, high (%)", [test.high for test in tests], signed=True),
        ],
    )
    on_shared = Table(
        "All runs on the shared windows",
        [
            Column.text("Run", names),
            Column.number("RMSE", paired.rmse, lowest=True),
            Column.number("MAE", paired.mae, lowest=True),
        ],
        frozenset({0}),
    )
    figure = Figure("forest-plot", f"RMSE against {first}", both(draw), table)
    return Section("tests", "Paired tests", [Text(f"{shared}."), on_shared, figure, Text(_drawn(paired), note=True)])


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


def _items(runs: Sequence[ComparedRun], paired: Paired) -> Section:
    names, rmse = [run.name for run in runs], paired.rmse_by_item
    best = rmse.argmin(axis=1)
    wins = Table(
        "Items won",
        [
            Column.text("Run", names),
            Column.count("Best of all (items)", [int((best == number).sum()) for number in range(len(runs))]),
            Column.count(f"Better than {names[0]} (items)", [None, *(test.items_better for test in paired.tests)]),
            Column.count(f"Worse than {names[0]} (items)", [None, *(test.items_worse for test in paired.tests)]),
            Column.percent(
                f"Win rate against {names[0]} (%)",
                [None, *(test.items_better / test.num_items for test in paired.tests)],
            ),
        ],
        frozenset({0}),
    )
    shown = slice(0, _MOST_ITEMS)
    columns = [Column.text("Item", paired.item_ids[shown])]
    columns += [Column.number(name, rmse[shown, number].tolist()) for number, name in enumerate(names)]
    left_out = len(paired.item_ids) - _MOST_ITEMS
    title = "RMSE of each item" + (f", the first {_MOST_ITEMS}" if left_out > 0 else "")
    table = Table(f"{title}, on the shared windows", columns, tall=len(paired.item_ids) > 15)
    return Section("items", "Items", [wins, Details(title, [table])])


def _cost(runs: Sequence[ComparedRun]) -> Section:
    environments = [run.environment for run in runs]
    parameters = [environment.get("parameters") or {} for environment in environments]
    trained = [environment.get("training") or {} for environment in environments]
    memory = [environment.get("peak_memory_mb") or {} for environment in environments]
    columns = [
        Column.text("Run", [run.name for run in runs]),
        Column.text("Time", [duration(environment.get("seconds")) for environment in environments]),
        Column.text("of it training", [duration(found.get("seconds")) for found in trained]),
        Column.count("Steps", [found.get("num_steps") for found in trained]),
        *(
            Column.count(f"Peak memory, {kind} (MiB)", [found.get(kind) for found in memory])
            for kind in dict.fromkeys(kind for found in memory for kind in found)
        ),
        Column.count("Parameters", [found.get("total") for found in parameters]),
        Column.count("Trained", [found.get("trainable") for found in parameters]),
        Column.text("Device", [e.get("device_name") or e.get("device") for e in environments]),
        Column.count("Processes", [environment.get("num_processes") for environment in environments]),
    ]
    return Section("cost", "Cost", [Table("Time, memory, parameters", columns, frozenset({0}))])


def _written(value: object) -> str:
    return "null" if value is None else str(value)


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:,.6g}"
