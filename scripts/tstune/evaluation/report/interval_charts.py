"""Dots with intervals: differences between models, and coverage against what was promised."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from tstune.evaluation.report.svg import WIDE, Scale, canvas, group, line, nice_ticks, tag, text, tick_labels


@dataclass(frozen=True)
class IntervalRow:
    """One dot.

    Attributes:
        label: of the row.
        value: where the dot is; None leaves the row empty.
        low, high: ends of the interval; None draws none.
        style: CSS classes.
        written: the numbers in words, on the right of a wide plot.
        expected: where a mark stands in this row, for example the nominal coverage.
    """

    label: str
    value: float | None
    low: float | None
    high: float | None
    style: str
    written: str = ""
    expected: float | None = None


def interval_chart(
    rows: Sequence[IntervalRow],
    width: float,
    description: str,
    x_title: str,
    zero: float | None = None,
    sides: tuple[str, str] | None = None,
    limits: tuple[float, float] | None = None,
) -> Markup:
    """Rows of dots with intervals on one axis.

    Args:
        rows: from top to bottom.
        width: of the plot.
        description: for a screen reader.
        x_title: with the unit.
        zero: x of the line of no difference.
        sides: what lies on the left and on the right of it.
        limits: ends of the axis; what lies beyond is cut, with an arrow.
    """
    wide = width >= WIDE
    row_height = 34 if wide else 46
    longest = max((len(row.label) for row in rows), default=0)
    written = max((len(row.written) for row in rows), default=0)
    left = 24 + 7.3 * min(max(longest, 14), 34) if wide else 8
    right = 24 + 7.0 * min(max(written, 12), 44) if wide else 14
    top = 30 if sides else 10
    bottom = top + row_height * len(rows)
    low, high = limits or _limits(rows, zero)
    x = Scale(low, high, left + 8, width - right)
    ticks = nice_ticks(low, high, 7 if wide else 4)
    parts = []
    for tick, label in zip(ticks, tick_labels(ticks), strict=True):
        parts.append(line((x(tick), top), (x(tick), bottom), "grid"))
        parts.append(text(label, x(tick), bottom + 18, "middle"))
    parts.append(line((x.start, bottom), (x.end, bottom), "axis"))
    parts.append(text(x_title, (x.start + x.end) / 2, bottom + 38, "middle", class_="axis-title"))
    if zero is not None:
        parts.append(line((x(zero), top - 6), (x(zero), bottom), "zero"))
    if sides and zero is not None:
        for words, room, turn in ((sides[0], x(zero) - x.start, -8), (sides[1], x.end - x(zero), 8)):
            shown = next(
                (phrase for phrase in (words, words.rpartition(" ")[2]) if 7.2 * len(phrase) + 30 < room), None
            )
            if shown is not None:
                arrow = f"← {shown}" if turn < 0 else f"{shown} →"
                parts.append(text(arrow, x(zero) + turn, top - 12, "end" if turn < 0 else "start", class_="side"))
    for number, row in enumerate(rows):
        middle = top + row_height * (number + (0.5 if wide else 0.68))
        if wide:
            parts.append(text(row.label, left - 8, middle + 4, "end", class_="row-label"))
            parts.append(text(row.written, width - right + 16, middle + 4, class_="row-value"))
        else:
            parts.append(text(row.label, left, middle - 13, class_="row-label"))
        parts.append(_row(row, x, middle))
    return canvas(width, bottom + 46, description, *parts, class_="chart intervals")


def _row(row: IntervalRow, x: Scale, middle: float) -> Markup:
    parts = []
    if row.expected is not None:
        place = x.inside(row.expected)
        parts.append(line((place, middle - 9), (place, middle + 9), "expected"))
    if row.low is not None and row.high is not None:
        parts.append(line((x.inside(row.low), middle), (x.inside(row.high), middle), "whisker"))
        for end, beyond, turn in ((row.low, row.low < x.low, 5), (row.high, row.high > x.high, -5)):
            place = x.inside(end)
            if beyond:
                points = (
                    f"{place:.1f},{middle:.1f} {place + turn:.1f},{middle - 5:.1f} {place + turn:.1f},{middle + 5:.1f}"
                )
                parts.append(tag("polygon", points=points, class_="dot"))
            else:
                parts.append(line((place, middle - 4), (place, middle + 4), "whisker"))
    if row.value is not None:
        parts.append(tag("circle", cx=x.inside(row.value), cy=middle, r="5", class_="dot"))
    title = tag("title", f"{row.label}: {row.written}")
    return group(title, *parts, class_=row.style)


def _limits(rows: Sequence[IntervalRow], zero: float | None) -> tuple[float, float]:
    known = [v for row in rows for v in (row.value, row.low, row.high, row.expected) if v is not None]
    known += [] if zero is None else [zero]
    low, high = min(known, default=0.0), max(known, default=1.0)
    room = 0.08 * (high - low) or 0.01
    return low - room, high + room
