"""Lines over time or steps, with bands, for a desktop and a phone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from tstune.evaluation.report.svg import (
    WIDE,
    Scale,
    area,
    canvas,
    group,
    line,
    nice_range,
    nice_ticks,
    polyline,
    tag,
    text,
    tick_labels,
)

Values = Sequence[float | None]


@dataclass(frozen=True)
class Series:
    """One line.

    Attributes:
        key: shown and hidden with the legend's entry of this key.
        style: CSS classes.
        values: one per x, None where there is none.
        bands: (lower, upper) pairs, the widest first.
        shown: whether it is drawn at first.
        points: drawn as dots too.
    """

    key: str
    style: str
    values: Values
    bands: Sequence[tuple[Values, Values]] = ()
    shown: bool = True
    points: bool = False


@dataclass(frozen=True)
class Axes:
    """What is around the lines.

    Attributes:
        x: positions, ascending.
        x_title, y_title: with units.
        from_zero: the y axis begins at 0.
        y_limits: what the y axis must hold.
        x_ticks: (position, label); None chooses.
        zone: (low, high) of y that is shaded, for example the target range.
        marks: (x, label) of vertical lines.
        y_level: y of a horizontal reference line.
        height: in pixels; None goes by the width.
        stops: indices of x that have a row in the table, where the crosshair stops; None is all.
    """

    x: Sequence[float]
    x_title: str
    y_title: str
    from_zero: bool = False
    y_limits: Sequence[float] = ()
    x_ticks: Sequence[tuple[float, str]] | None = None
    zone: tuple[float, float] | None = None
    marks: Sequence[tuple[float, str]] = ()
    y_level: float | None = None
    height: float | None = None
    stops: Sequence[int] | None = None


def line_chart(axes: Axes, series: Sequence[Series], width: float, description: str) -> Markup:
    """Draw lines; the script's crosshair reads `data-x` and the rows of the table beneath."""
    height = axes.height or (330 if width >= WIDE else 250)
    low, high = _y_range(axes, series)
    ticks = nice_ticks(low, high, 5)
    labels = tick_labels(ticks)
    left = 14 + 7.2 * max(map(len, labels), default=1)
    x = Scale(axes.x[0], axes.x[-1] if len(axes.x) > 1 else axes.x[0] + 1, left, width - 14)
    y = Scale(low, high, height - 42, 26)
    parts = [text(axes.y_title, 0, 12, class_="axis-title")]
    if axes.zone is not None:
        top, bottom = y.inside(axes.zone[1]), y.inside(axes.zone[0])
        parts.append(tag("rect", x=x.start, y=top, width=x.end - x.start, height=max(bottom - top, 0), class_="zone"))
    for tick, label in zip(ticks, labels, strict=True):
        parts.append(line((x.start, y(tick)), (x.end, y(tick)), "grid"))
        parts.append(text(label, x.start - 7, y(tick) + 4, "end"))
    if axes.y_level is not None:
        parts.append(line((x.start, y(axes.y_level)), (x.end, y(axes.y_level)), "reference"))
    for position, label in axes.x_ticks or _x_ticks(axes, width):
        parts.append(line((x(position), y.start), (x(position), y.start + 5), "tick"))
        parts.append(text(label, x(position), y.start + 19, "middle"))
    parts.append(line((x.start, y.start), (x.end, y.start), "axis"))
    parts.append(text(axes.x_title, (x.start + x.end) / 2, height - 5, "middle", class_="axis-title"))
    for position, label in axes.marks:
        parts.append(line((x(position), y.start), (x(position), y.end), "mark"))
        near_end = x(position) > (x.start + x.end) / 2
        where = x(position) + (-5 if near_end else 5)
        parts.append(text(label, where, y.end + 10, "end" if near_end else "start", class_="mark-label"))
    parts += [_bands(one, axes.x, x, y) for one in series]
    parts += [_line(one, axes.x, x, y) for one in reversed(series)]  # the first one lies on top
    parts.append(tag("line", class_="crosshair", y1=y.start, y2=y.end, x1=x.start, x2=x.start))
    stops = range(len(axes.x)) if axes.stops is None else axes.stops
    places = ",".join(f"{x(axes.x[stop]):.1f}" for stop in stops)
    return canvas(width, height, description, *parts, class_="chart lines", data_x=places, tabindex="0")


def hours_axis(first: float, last: float, width: float) -> list[tuple[float, str]]:
    """Ticks of an axis in hours at whole divisors of a day; `first` and `last` in hours."""
    span = last - first
    most = 9 if width >= WIDE else 5
    steps = (0.25, 0.5, 1, 2, 3, 4, 6, 8, 12, 24, 48, 72, 96, 168, 336)
    step = next((size for size in steps if span / size <= most), span)
    begin = math.ceil(first / step - 1e-9)
    return [(n * step, f"{n * step:g}") for n in range(begin, math.floor(last / step + 1e-9) + 1)]


def _y_range(axes: Axes, series: Sequence[Series]) -> tuple[float, float]:
    known = [value for one in series for value in one.values if value is not None]
    known += [v for one in series for band in one.bands for side in band for v in side if v is not None]
    known += list(axes.y_limits)
    return nice_range(known, axes.from_zero)


def _x_ticks(axes: Axes, width: float) -> list[tuple[float, str]]:
    ticks = nice_ticks(axes.x[0], axes.x[-1], 8 if width >= WIDE else 4)
    return list(zip(ticks, tick_labels(ticks), strict=True))


def _places(values: Values, positions: Sequence[float], x: Scale, y: Scale) -> list[tuple[float, float] | None]:
    return [None if v is None else (x(p), y(v)) for p, v in zip(positions, values, strict=True)]


def _bands(series: Series, positions: Sequence[float], x: Scale, y: Scale) -> Markup:
    paths = [
        tag("path", d=area(_places(upper, positions, x, y), _places(lower, positions, x, y)), class_="band")
        for lower, upper in series.bands
    ]
    return _switched(series, *paths) if paths else Markup()


def _line(series: Series, positions: Sequence[float], x: Scale, y: Scale) -> Markup:
    places = _places(series.values, positions, x, y)
    parts = [tag("path", d=polyline(places), class_="line")]
    if series.points:
        parts += [tag("circle", cx=place[0], cy=place[1], r="3", class_="dot") for place in places if place]
    return _switched(series, *parts)


def _switched(series: Series, *parts: Markup) -> Markup:
    hidden = "" if series.shown else " off"
    return group(*parts, class_=f"series {series.style}{hidden}", data_key=series.key)
