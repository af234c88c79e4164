"""One page about data before a run: when each series has readings, how they are distributed, gaps, who is in it."""

from __future__ import annotations

from functools import partial

import numpy as np

from tstune.data.describe import Description, describe_cohort, max_gap_of
from tstune.data.panel import OBSERVED
from tstune.domains import domain_of
from tstune.runs.report.blocks import Cells, Code, Fact, Facts, Figure, ReportSection, Table, Text
from tstune.runs.report.charts import Span, both, histogram, nice_ticks, span_chart
from tstune.runs.report.render import as_html

_MOST_ITEMS = 60
_MOST_GAPS = 20
_BARS = 30


def data_page(found: Description, name: str) -> str:
    """HTML that needs nothing from anywhere."""
    panel = found.panel
    facts = [
        Fact("Series", f"{len(panel.item_ids):,}"),
        Fact("Step", panel.frequency),
        Fact("Steps kept", f"{panel.num_rows:,}", note=f"of {int(panel.item_length.sum()):,}"),
        *(Fact(f"Windows, {part}", f"{len(windows):,}") for part, windows in found.windows.items()),
    ]
    domain = domain_of(found.preprocessor.unit)
    sections = [
        ReportSection("summary", "What it is", [Text(f"It is {found.verdict}."), Facts(facts), Code(found.recipe())]),
        ReportSection("coverage", "When there are readings", [_coverage(found)]),
        ReportSection("values", "What the readings are", [_distribution(found)]),
        ReportSection("gaps", "Gaps", [_gaps(found)]),
        ReportSection("items", "Who is in it", [_items(found)]),
    ]
    return as_html(f"Data: {name}", sections, domain.warning if domain else None)


def _coverage(found: Description) -> Figure:
    """A bar per stretch without a long gap, on one clock."""
    panel = found.panel
    days = panel.timestamps.astype("datetime64[s]").astype(np.float64) / 86_400
    begin = days.min()
    starts, ends = days[panel.segment_start[:-1]] - begin, days[panel.segment_start[1:] - 1] - begin
    rows = []
    for item, item_id in list(enumerate(panel.item_ids))[:_MOST_ITEMS]:
        own = np.flatnonzero(panel.segment_item == item)
        spans = [Span(starts[n], ends[n], "c0", f": day {starts[n]:.1f} to {ends[n]:.1f}") for n in own]
        share = panel.segment_length[own].sum() / panel.item_length[item]
        rows.append((item_id, spans, f"{share:.0%}"))
    last = float(max(days.max() - begin, 1e-9))
    ticks = [(tick, f"{tick:g}") for tick in nice_ticks(0.0, last, 6)]
    draw = partial(span_chart, rows, description="Stretches of readings", ends=(0.0, last), ticks=ticks, x_title="day")
    table = Table.capped(
        "Share of the time that is kept",
        [Cells.text("Series", [row[0] for row in rows]), Cells.text("Kept", [row[2] for row in rows])],
    )
    more = f" The first {_MOST_ITEMS} of {len(panel.item_ids)} series." if len(panel.item_ids) > _MOST_ITEMS else ""
    caption = f"White: gaps longer than {max_gap_of(found)}, which cut a series.{more}"
    return Figure("coverage-plot", "Coverage", both(lambda width: draw(width=width)), table, caption)


def _distribution(found: Description) -> Figure:
    panel, target = found.panel, found.panel.roles.target[0]
    values = panel.values[:, 0] + panel.level_of(panel.row_item(), 0)
    values = values[panel.status[:, 0] == OBSERVED]
    heights, edges = np.histogram(values, bins=_BARS)
    heights = 100 * heights / max(1, heights.sum())
    unit = f" ({found.preprocessor.unit})" if found.preprocessor.unit else ""
    titles = f"{target}{unit}", "% of readings"
    plot = histogram(edges.tolist(), heights.tolist(), [], f"Distribution of {target}", titles)
    levels = [0, 1, 25, 50, 75, 99, 100]
    table = Table(
        f"Percentiles of {target}{unit}",
        [
            Cells.text("Percentile", levels),
            Cells.number("Value", [float(value) for value in np.percentile(values, levels)]),
        ],
    )
    return Figure("values-plot", f"{target}{unit}", [plot], table, beside=True)


def _gaps(found: Description) -> Table | Text:
    gaps = found.gaps()
    if not gaps:
        return Text(f"No gap is longer than {max_gap_of(found)}.")
    item, when, steps = zip(*gaps[:_MOST_GAPS], strict=True)
    title = f"The longest of {len(gaps):,} gaps" if len(gaps) > _MOST_GAPS else f"Gaps, {len(gaps)} of them"
    return Table(title, [Cells.text("Series", item), Cells.text("After", when), Cells.count("Steps", steps)])


def _items(found: Description) -> Table:
    cohort = describe_cohort(found).astype(object)
    columns = []
    for name in cohort.columns:
        values = [None if value is None or value != value else value for value in cohort[name]]
        words = name in ("item_id", "step", "dropped")
        columns.append(Cells.text(name, values) if words else Cells.text(name, [_plain(value) for value in values]))
    return Table.capped("Series", columns)


def _plain(value: object) -> str | None:
    return None if value is None else f"{value:g}" if isinstance(value, float) else str(value)
