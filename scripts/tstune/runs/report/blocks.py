"""What a report is made of: sections of text, tables and figures, drawn as HTML or as Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from markupsafe import Markup

from tstune.runs.report.words import MISSING, counts, fixed, percents, significant_digits

_MOST_ROWS = 400


@dataclass(frozen=True)
class Cells:
    """One column of a table, already written out."""

    header: str  # with the unit, for example ``RMSE (mg/dL)``
    cells: Sequence[str]  # one per row
    numeric: bool = True  # set right-aligned
    best: int | None = None  # row that is set in bold
    # one per row, -1 (much lower than the reference) to 1 (much higher), None for no colour
    shades: Sequence[float | None] | None = None
    key: str | None = None  # what a legend switches on and off, and a tooltip shows with it
    quiet: bool = False  # left out of the tooltip

    @classmethod
    def text(cls, header: str, values: Sequence[object]) -> Cells:
        """Names and words."""
        cells = [MISSING if value is None or value == "" else str(value) for value in values]
        return cls(header, cells, numeric=False)

    @classmethod
    def number(cls, header: str, values: Sequence[float | None], key: str | None = None, lowest: bool = False) -> Cells:
        """Measured values: four significant digits of the largest, the same decimals in all rows."""
        known = [(value, row) for row, value in enumerate(values) if value is not None]
        best = min(known)[1] if lowest and len(known) > 1 else None
        return cls(header, significant_digits(values), best=best, key=key)

    @classmethod
    def decimal(cls, header: str, values: Sequence[float | None], digits: int, signed: bool = False) -> Cells:
        """Values with a fixed number of decimals."""
        return cls(header, fixed(values, digits, signed))

    @classmethod
    def percent(cls, header: str, shares: Sequence[float | None], digits: int = 1, signed: bool = False) -> Cells:
        """Shares, 0.5 set as 50.0; the header says %."""
        return cls(header, percents(shares, digits, signed))

    @classmethod
    def count(cls, header: str, values: Sequence[float | None]) -> Cells:
        """Whole numbers."""
        return cls(header, counts(values))


class ReportBlock:
    """A part of a section; `kind` says how it is drawn."""

    @property
    def kind(self) -> str:
        """Name of the class."""
        return type(self).__name__


@dataclass(frozen=True)
class Text(ReportBlock):
    """A paragraph; `note` sets it small, for what a reader should know about the numbers above."""

    text: str
    note: bool = False


@dataclass(frozen=True)
class Table(ReportBlock):
    """A table."""

    title: str  # caption
    columns: Sequence[Cells]  # at least one; the first names the rows
    highlight: frozenset[int] = frozenset()  # rows of the model the report is about
    tall: bool = False  # many rows: it scrolls inside its own frame

    @classmethod
    def capped(cls, title: str, columns: Sequence[Cells]) -> Table:
        """A table with a row per item, which scrolls in its frame; of very many the first, and its title says so."""
        table = cls(title, columns, tall=len(columns[0].cells) > 15)
        if len(table.rows) <= _MOST_ROWS:
            return table
        return replace(
            table.only(range(_MOST_ROWS)), title=f"{title}, the first {_MOST_ROWS:,} of {len(table.rows):,} rows"
        )

    @property
    def rows(self) -> range:
        """Row numbers."""
        return range(len(self.columns[0].cells))

    def only(self, rows: Sequence[int]) -> Table:
        """The same table with some of its rows."""
        columns = [
            replace(
                column,
                cells=[column.cells[row] for row in rows],
                best=rows.index(column.best) if column.best in rows else None,
                shades=[column.shades[row] for row in rows] if column.shades else None,
            )
            for column in self.columns
        ]
        highlight = frozenset(number for number, row in enumerate(rows) if row in self.highlight)
        return replace(self, columns=columns, highlight=highlight)


@dataclass(frozen=True)
class LegendEntry:
    """One line of a legend: a button that shows and hides the series of this key, or a name alone without a key."""

    key: str
    label: str
    style: str
    shown: bool = True


@dataclass(frozen=True)
class Figure(ReportBlock):
    """A plot with its table beneath."""

    id: str  # unique on the page
    title: str  # what is drawn
    plots: Sequence[Markup]  # SVG for a desktop and for a phone, or one that suits both
    table: Table  # the numbers of the plot
    caption: str = ""  # how to read it
    legend: Sequence[LegendEntry] = ()  # series that can be switched
    brief: Table | None = None  # fewer rows for Markdown, where the table has one per step
    beside: bool = False  # the table lies open beside the plot where there is room


@dataclass(frozen=True)
class HeatMap(ReportBlock):
    """A table whose cells are coloured by a change of error, and the same (`table`) in the unit of the data."""

    id: str
    title: str
    map: Table
    table: Table
    caption: str


@dataclass(frozen=True)
class Choices(ReportBlock):
    """Blocks of which a reader with JavaScript sees one at a time, and any other reader all."""

    label: str  # what is chosen
    options: dict[str, list[ReportBlock]]  # name -> blocks
    group: str = ""  # choices with the same group move together


@dataclass(frozen=True)
class Columns(ReportBlock):
    """Blocks beside each other where there is room, under one legend."""

    blocks: list[ReportBlock]
    legend: Sequence[LegendEntry] = ()


@dataclass(frozen=True)
class Details(ReportBlock):
    """Blocks that are folded away at first."""

    summary: str
    blocks: list[ReportBlock]


@dataclass(frozen=True)
class Fact:
    """One key number."""

    label: str
    value: str
    unit: str = ""
    note: str = ""


@dataclass(frozen=True)
class Facts(ReportBlock):
    """A row of key numbers."""

    facts: list[Fact]


@dataclass(frozen=True)
class VerdictBlock(ReportBlock):
    """The sentences the run was made for, its effect (``helped``, …), and what was saved and why."""

    effect: str | None
    headline: str
    rest: str
    kept: str


@dataclass(frozen=True)
class Definitions(ReportBlock):
    """Terms and what they are."""

    pairs: list[tuple[str, str]]


@dataclass(frozen=True)
class Code(ReportBlock):
    """Text that is shown as it is."""

    text: str


@dataclass(frozen=True)
class ReportSection(ReportBlock):
    """One part of the report; `id` is its anchor."""

    id: str
    title: str
    blocks: list[ReportBlock] = field(default_factory=list)


@dataclass(frozen=True)
class Omitted(ReportBlock):
    """A part that a reader would look for, and why it is not there."""

    id: str
    reason: str
