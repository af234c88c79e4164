"""The plots of a report as SVG: lines, bars, intervals, spans of time and error grids, for a desktop and for a phone.

Text keeps its size on both, since each plot is drawn once per width. Colours are CSS classes of `report.css`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from markupsafe import Markup, escape

WIDE, NARROW, SQUARE = 860.0, 350.0, 370.0
"""Widths, in CSS pixels, of a plot on a desktop and on a phone, and of one that suits both."""

_INPUT_HEIGHT = 0.22  # of the plot: bars of what the model read besides

Point = tuple[float, float]
Values = Sequence[float | None]
Ticks = Sequence[tuple[float, str]]


@dataclass(frozen=True)
class Scale:
    """Straight map of values to pixels."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        return self.start + (value - self.low) / ((self.high - self.low) or 1.0) * (self.end - self.start)

    def inside(self, value: float) -> float:
        """The pixel of a value, held at the ends of the scale."""
        return self(min(max(value, self.low), self.high))

    @property
    def middle(self) -> float:
        """The pixel half way."""
        return (self.start + self.end) / 2


def both(draw: Callable[[float], Markup]) -> list[Markup]:
    """A plot for a desktop and for a phone."""
    return [draw(WIDE), draw(NARROW)]


def tag(name: str, *children: str, **attributes: object) -> Markup:
    """One element. Text children and attribute values are escaped; `class_` is `class`, `font_size` `font-size`."""
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(_short(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    inside = "".join(escape(child) for child in children)
    return Markup(f"<{name}{written}>{inside}</{name}>" if inside else f"<{name}{written}/>")


def polyline(points: Sequence[Point | None]) -> str:
    """Path through points; None breaks it, and a point between two breaks becomes a dot."""
    pieces, pen_down = [], False
    for number, point in enumerate(points):
        if point is None:
            pen_down = False
            continue
        pieces.append(f"{'L' if pen_down else 'M'}{_short(point[0])} {_short(point[1])}")
        if not pen_down and (number + 1 == len(points) or points[number + 1] is None):
            pieces.append("h0")
        pen_down = True
    return "".join(pieces)


def area(upper: Sequence[Point | None], lower: Sequence[Point | None]) -> str:
    """Closed path between two lines, in pieces where either breaks."""
    pieces, above, below = [], [], []
    for high, low in [*zip(upper, lower, strict=True), (None, None)]:
        if high is not None and low is not None:
            above.append(high)
            below.append(low)
        elif above:
            corners = [*above, *reversed(below)]
            pieces.append("M" + "L".join(f"{_short(x)} {_short(y)}" for x, y in corners) + "Z")
            above, below = [], []
    return "".join(pieces)


def nice_ticks(low: float, high: float, count: int) -> list[float]:
    """Round numbers from `low` to `high`, about `count` of them."""
    if not high > low:
        return [low]
    rough = (high - low) / max(count, 1)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * 0.999)
    return [number * step for number in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def tick_labels(ticks: Sequence[float]) -> list[str]:
    """Ticks as text, with as many decimals as their distance needs."""
    step = ticks[1] - ticks[0] if len(ticks) > 1 else 1.0
    if step < 1e-6:
        return [f"{tick:.3g}" for tick in ticks]
    shown = next((digits for digits in range(7) if abs(round(step, digits) - step) < 1e-9 * max(1.0, abs(step))), 6)
    return [f"{tick + 0.0:,.{shown}f}" for tick in ticks]


def hours_axis(first: float, last: float, width: float) -> list[tuple[float, str]]:
    """Ticks of an axis in hours at whole divisors of a day; `first` and `last` in hours."""
    span, most = last - first, 9 if width >= WIDE else 5
    steps = (0.25, 0.5, 1, 2, 3, 4, 6, 8, 12, 24, 48, 72, 96, 168, 336)
    step = next((size for size in steps if span / size <= most), span)
    numbers = range(math.ceil(first / step - 1e-9), math.floor(last / step + 1e-9) + 1)
    return [(number * step, f"{number * step:g}") for number in numbers]


def canvas(width: float, height: float, description: str, kind: str, *children: str, **attributes: object) -> Markup:
    """A whole plot, scaled to the width of its frame."""
    box = f"0 0 {_short(width)} {_short(float(height))}"
    return tag("svg", *children, viewBox=box, role="img", aria_label=description, class_=f"chart {kind}", **attributes)


def text(content: str, x: float, y: float, anchor: str = "start", **attributes: object) -> Markup:
    """A line of text; nothing for no content."""
    anchor = None if anchor == "start" else anchor
    return tag("text", content, x=x, y=y, text_anchor=anchor, **attributes) if content else Markup()


def stroke(start: Point, end: Point, class_: str) -> Markup:
    """A straight line."""
    return tag("line", x1=start[0], y1=start[1], x2=end[0], y2=end[1], class_=class_)


def titled(title: str, *children: str, class_: str) -> Markup:
    """Elements with a tooltip."""
    return tag("g", tag("title", title), *children, class_=class_)


def plane(
    width: float,
    height: float,
    x_range: tuple[float, float],
    y_range: tuple[float, float],
    titles: tuple[str, str],
    x_ticks: Ticks | None = None,
    grid: bool = True,
) -> tuple[Scale, Scale, list[Markup]]:
    """Both scales, and the axes between them with ticks and titles; `x_ticks` None chooses them."""
    y_ticks = nice_ticks(*y_range, 5)
    labels = tick_labels(y_ticks)
    x = Scale(*x_range, 14 + 7.2 * max(map(len, labels), default=1), width - 14)
    y = Scale(*y_range, height - 42, 26)
    if x_ticks is None:
        found = nice_ticks(*x_range, 8 if width >= WIDE else 5)
        x_ticks = list(zip(found, tick_labels(found), strict=True))
    parts = [text(titles[1], 0, 12, class_="axis-title")]
    for tick, label in zip(y_ticks, labels, strict=True):
        parts.append(stroke((x.start, y(tick)), (x.end, y(tick)), "grid") if grid else "")
        parts.append(text(label, x.start - 7, y(tick) + 4, "end"))
    for position, label in x_ticks:
        parts.append(stroke((x(position), y.start), (x(position), y.start + 5), "tick"))
        parts.append(text(label, x(position), y.start + 19, "middle"))
    parts.append(stroke((x.start, y.start), (x.end, y.start), "axis"))
    parts.append(text(titles[0], x.middle, height - 5, "middle", class_="axis-title"))
    return x, y, parts


@dataclass(frozen=True)
class Line:
    """One line."""

    key: str  # shown and hidden with the legend's entry of this key
    style: str  # CSS classes
    values: Values  # one per x, None where there is none
    bands: Sequence[tuple[Values, Values]] = ()  # (lower, upper) pairs, the widest first
    shown: bool = True  # whether it is drawn at first
    points: bool = False  # drawn as dots too


@dataclass(frozen=True)
class Axes:
    """What is around the lines."""

    x: Sequence[float]  # positions, ascending
    # with units
    x_title: str
    y_title: str
    from_zero: bool = False  # the y axis begins at 0
    # ends of the x axis, and what the y axis must hold
    x_limits: tuple[float, float] | None = None
    y_limits: Sequence[float] = ()
    x_ticks: Ticks | None = None  # None chooses
    zone: tuple[float, float] | None = None  # (low, high) of y that is shaded, for example the target range
    marks: Ticks = ()  # (x, label) of vertical lines
    expected: tuple[Point, Point] | None = None  # (begin, end), a dashed line that the others are held against
    # indices of x that have a row in the table, where the crosshair stops; None is all
    stops: Sequence[int] | None = None
    # name -> what was read besides, bars at the foot of the plot, each on a scale of its own
    inputs: Mapping[str, Values] = field(default_factory=dict)


def line_chart(axes: Axes, series: Sequence[Line], width: float, description: str) -> Markup:
    """Lines over time or steps; the script's crosshair reads `data-x` and the rows of the table beneath."""
    lines = [line for one in series for line in (one.values, *(side for band in one.bands for side in band))]
    known = [*axes.y_limits, *(value for line in lines for value in line if value is not None)]
    low, high = min(known, default=0.0), max(known, default=1.0)
    room = 0.06 * (high - low) or abs(high) * 0.1 or 1.0
    y_range = (min(low, 0.0) if axes.from_zero else low - room), high + room
    x_range = axes.x_limits or (axes.x[0], axes.x[-1] if len(axes.x) > 1 else axes.x[0] + 1)
    height = 330.0 if width >= WIDE else 250.0
    x, y, frame = plane(width, height, x_range, y_range, (axes.x_title, axes.y_title), axes.x_ticks)
    parts = []
    if axes.zone is not None:
        top, bottom = y.inside(axes.zone[1]), y.inside(axes.zone[0])
        parts.append(tag("rect", x=x.start, y=top, width=x.end - x.start, height=max(bottom - top, 0), class_="zone"))
    parts += frame
    for number, (name, values) in enumerate(axes.inputs.items(), start=1):
        given = [(p, v) for p, v in zip(axes.x, values, strict=False) if v]
        lowest, most = min(0.0, *(v for _, v in given), 0.0), max((v for _, v in given), default=1.0)
        for position, value in given:
            top = y.start + _INPUT_HEIGHT * (y.end - y.start) * (value - lowest) / (most - lowest or 1.0)
            bar = stroke((x(position), y.start), (x(position), top), "input-bar")
            parts.append(titled(f"{name} {value:g}", bar, class_=f"input c{5 + number % 4}"))
    if axes.expected is not None:
        parts.append(stroke(*((x(a), y(b)) for a, b in axes.expected), "reference"))
    for position, label in axes.marks:
        parts.append(stroke((x(position), y.start), (x(position), y.end), "mark"))
        turn, anchor = (-5, "end") if x(position) > x.middle else (5, "start")
        parts.append(text(label, x(position) + turn, y.end + 10, anchor, class_="mark-label"))

    def places(values: Values) -> list[Point | None]:
        return [None if v is None else (x(p), y(v)) for p, v in zip(axes.x, values, strict=True)]

    for one in series:
        bands = [tag("path", d=area(places(up), places(down)), class_="band") for down, up in one.bands]
        parts.append(_switched(one, *bands) if bands else "")
    for one in reversed(series):  # the first one lies on top
        at = places(one.values)
        dots = [tag("circle", cx=p[0], cy=p[1], r="3", class_="dot") for p in at if p] if one.points else []
        parts.append(_switched(one, tag("path", d=polyline(at), class_="line"), *dots))
    parts.append(tag("line", class_="crosshair", y1=y.start, y2=y.end, x1=x.start, x2=x.start))
    stops = range(len(axes.x)) if axes.stops is None else axes.stops
    data_x = ",".join(f"{x(axes.x[stop]):.1f}" for stop in stops)
    return canvas(width, height, description, "lines", *parts, data_x=data_x, tabindex="0")


def histogram(
    edges: Sequence[float],
    heights: Sequence[float],
    expected: Sequence[float],
    description: str,
    titles: tuple[str, str],
) -> Markup:
    """Bars between edges, with a line where they should end; `titles` of the x and the y axis."""
    top = 1.12 * max([*heights, *expected, 1e-9])
    x, y, parts = plane(SQUARE, 300.0, (edges[0], edges[-1]), (0, top), titles)
    for (begin, end), value in zip(pairwise(edges), heights, strict=True):
        bar = tag("rect", x=x(begin) + 1, y=y(value), width=max(x(end) - x(begin) - 2, 0.5), height=y(0) - y(value))
        parts.append(titled(f"{begin:g} to {end:g}: {value:.2g}", bar, class_="bar c0"))
    for (begin, end), value in zip(pairwise(edges), expected, strict=False):
        parts.append(stroke((x(begin), y(value)), (x(end), y(value)), "expected"))
    return canvas(SQUARE, 300.0, description, "bars", *parts)


def change_bars(names: Sequence[str], changes: Sequence[float], width: float, description: str, y_title: str) -> Markup:
    """One bar per item from zero, lowest first: better below, worse above. Changes in percent."""
    low, high = min([*changes, 0.0]), max([*changes, 0.0])
    room = 0.08 * (high - low) or 1.0
    y_range = low - (room if low < 0 else 0), high + (room if high > 0 else 0)
    x, y, parts = plane(width, 276.0, (0, max(len(changes), 1)), y_range, ("", y_title), ())
    slot = x(1) - x(0)
    thick = min(slot * (0.64 if slot > 4 else 1), 56)
    for number, (name, change) in enumerate(zip(names, changes, strict=True)):
        middle, (top, bottom) = x(number + 0.5), sorted((y(change), y(0)))
        bar = tag("rect", x=middle - thick / 2, y=top, width=thick, height=max(bottom - top, 0.5))
        style = "better" if change < 0 else "worse"
        parts.append(titled(f"{name}: {change:+.1f} %", bar, class_=f"bar {style}"))
        if slot >= 34:
            parts.append(text(_cut(name, int(slot / 7)), middle, y.start + 20, "middle"))
    parts.append(stroke((x.start, y(0)), (x.end, y(0)), "zero"))
    if slot < 34:
        parts.append(text("items, from the lowest to the highest", x.middle, y.start + 20, "middle"))
    return canvas(width, 276.0, description, "bars", *parts)


@dataclass(frozen=True)
class IntervalRow:
    """One dot."""

    label: str  # of the row
    value: float | None  # where the dot is; None leaves the row empty
    # ends of the interval; None draws none
    low: float | None
    high: float | None
    style: str  # CSS classes
    written: str = ""  # the numbers in words, on the right of a wide plot
    expected: float | None = None  # where a mark stands in this row, for example the nominal coverage

    @classmethod
    def of_change(
        cls, label: str, style: str, change: float, low: float | None = None, high: float | None = None
    ) -> IntervalRow:
        """A relative change, a share of 1, in percent."""
        interval = "" if low is None or high is None else f" ({100 * low:+.1f} to {100 * high:+.1f})"
        low, high = (None if end is None else 100 * end for end in (low, high))
        return cls(label, 100 * change, low, high, style, f"{100 * change:+.1f} %{interval}")


def change_limits(rows: Sequence[IntervalRow]) -> tuple[float, float]:
    """The axis of changes: all of it, but at most -100 to +150 %, or a diverged model would hide the others."""
    values = [0.0, *(value for row in rows for value in (row.value, row.low, row.high) if value is not None)]
    low, high = max(min(values), -100.0), min(max(values), 150.0)
    room = max(0.1 * (high - low), 0.5)
    return low - room, high + room


def interval_chart(
    rows: Sequence[IntervalRow],
    width: float,
    description: str,
    x_title: str,
    limits: tuple[float, float],
    zero: bool = False,
    sides: tuple[str, str] = ("", ""),
) -> Markup:
    """Rows of dots with intervals on one axis; what lies beyond its limits is cut, with an arrow.

    `zero` draws the line of no difference, and `sides` are what lies on the left and on the right of it.
    """
    wide = width >= WIDE
    left = 24 + 7.3 * min(max([14, *(len(row.label) for row in rows)]), 34) if wide else 8
    right = 24 + 7.0 * min(max([12, *(len(row.written) for row in rows)]), 44) if wide else 14
    height, top = 34 if wide else 46, 30 if any(sides) else 10
    bottom = top + height * len(rows)
    x = Scale(*limits, left + 8, width - right)
    ticks = nice_ticks(*limits, 7 if wide else 4)
    parts = _x_axis(x, top, bottom, list(zip(ticks, tick_labels(ticks), strict=True)), x_title)
    if zero:
        parts.append(stroke((x(0), top - 6), (x(0), bottom), "zero"))
    for words, room, turn in ((sides[0], x(0) - x.start, -8), (sides[1], x.end - x(0), 8)):
        shown = next((phrase for phrase in (words, words.rpartition(" ")[2]) if 7.2 * len(phrase) + 30 < room), "")
        arrow = shown and (f"← {shown}" if turn < 0 else f"{shown} →")
        parts.append(text(arrow, x(0) + turn, top - 12, "end" if turn < 0 else "start", class_="side"))
    for number, row in enumerate(rows):
        middle = top + height * (number + (0.5 if wide else 0.68))
        if wide:
            parts.append(text(row.label, left - 8, middle + 4, "end", class_="row-label"))
            parts.append(text(row.written, width - right + 16, middle + 4, class_="row-value"))
        else:
            parts.append(text(row.label, left, middle - 13, class_="row-label"))
        parts.append(_interval(row, x, middle))
    return canvas(width, bottom + 46, description, "intervals", *parts)


def forest_plot(rows: Sequence[IntervalRow], description: str, sides: tuple[str, str]) -> list[Markup]:
    """Changes of RMSE on both sides of no difference, for a desktop and for a phone."""
    limits, title = change_limits(rows), "change of RMSE (%)"
    return both(lambda width: interval_chart(rows, width, description, title, limits, zero=True, sides=sides))


@dataclass(frozen=True)
class Span:
    """A piece of a horizontal bar: its ends, CSS classes, tooltip, and words inside where there is room."""

    begin: float
    end: float
    style: str
    title: str
    inside: str = ""


def span_chart(
    rows: Sequence[tuple[str, Sequence[Span], str]],
    width: float,
    description: str,
    ends: tuple[float, float],
    ticks: Ticks = (),
    x_title: str = "",
) -> Markup:
    """Bars of pieces, one above the other: shares of a whole, parts of a time, durations.

    A row is a label, its pieces, and words behind the last one. No ticks draw no axis.
    """
    wide, few = width >= WIDE, len(rows) <= 12
    height, thick = (16, 8) if wide and not few else (32, 22) if wide else (26, 12) if not few else (46, 20)
    left, top = 150 if wide else 0, 4
    bottom = top + height * len(rows)
    x = Scale(*ends, left, width - (90 if any(words for *_, words in rows) else 10))
    parts = _x_axis(x, top, bottom, ticks, x_title) if ticks else []
    for number, (label, pieces, words) in enumerate(rows):
        y = top + height * number + ((height - thick) / 2 if wide else height - thick - 2)
        place = (left - 8, y + thick / 2 + 4, "end") if wide else (0, y - 3, "start")
        parts.append(text(_cut(label, 20 if wide else 40), *place, class_="row-label"))
        for one in pieces:
            begin, size = x(one.begin), x(one.end) - x(one.begin)
            bar = tag("rect", x=begin, y=y, width=max(size, 0.8), height=thick)
            inside = (
                text(one.inside, begin + size / 2, y + thick / 2 + 4, "middle", class_="inside") if size > 24 else ""
            )
            parts.append(titled(f"{label}{one.title}", bar, inside, class_=f"part {one.style}"))
        parts.append(text(words, x(pieces[-1].end) + 8, y + thick / 2 + 4, class_="row-value"))
    return canvas(width, bottom + (44 if x_title else 24 if ticks else 4), description, "spans", *parts)


def _x_axis(x: Scale, top: float, bottom: float, ticks: Ticks, title: str) -> list[Markup]:
    """Upright grid lines behind rows, with labels beneath; the outermost labels stay inside."""
    parts = []
    for tick, label in ticks:
        half = 4 * len(label)
        anchor = "start" if x(tick) < half else "end" if x(tick) + half > x.end + 10 else "middle"
        parts.append(stroke((x(tick), top), (x(tick), bottom), "grid"))
        parts.append(text(label, x(tick), bottom + 18, anchor))
    parts.append(stroke((x.start, bottom), (x.end, bottom), "axis"))
    return [*parts, text(title, x.middle, bottom + 38, "middle", class_="axis-title")]


def _interval(row: IntervalRow, x: Scale, middle: float) -> Markup:
    parts = []
    if row.expected is not None:
        place = x.inside(row.expected)
        parts.append(stroke((place, middle - 9), (place, middle + 9), "expected"))
    if row.low is not None and row.high is not None:
        parts.append(stroke((x.inside(row.low), middle), (x.inside(row.high), middle), "whisker"))
        for place, beyond, turn in (
            (x.inside(row.low), row.low < x.low, 5),
            (x.inside(row.high), row.high > x.high, -5),
        ):
            if beyond:
                corners = [(place, middle), (place + turn, middle - 5), (place + turn, middle + 5)]
                parts.append(tag("polygon", points=" ".join(f"{a:.1f},{b:.1f}" for a, b in corners), class_="dot"))
            else:
                parts.append(stroke((place, middle - 4), (place, middle + 4), "whisker"))
    if row.value is not None:
        parts.append(tag("circle", cx=x.inside(row.value), cy=middle, r="5", class_="dot"))
    return titled(f"{row.label}: {row.written}", *parts, class_=row.style)


def _switched(series: Line, *parts: Markup) -> Markup:
    hidden = "" if series.shown else " off"
    return tag("g", *parts, class_=f"series {series.style}{hidden}", data_key=series.key)


def _cut(name: str, length: int) -> str:
    return name if len(name) <= length else name[: max(length - 1, 1)] + "…"


def _short(value: object) -> object:
    return f"{value:.1f}".removesuffix(".0") if isinstance(value, float) else value
