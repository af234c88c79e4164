"""Pieces of an SVG: escaped elements, scales, ticks, paths."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

WIDE, NARROW = 860, 350
"""Widths, in CSS pixels, of a plot on a desktop and on a phone: text keeps its size on both."""

Point = tuple[float, float]


def tag(name: str, *children: str, **attributes: object) -> Markup:
    """One element. Text children and attribute values are escaped; `class_` is `class`, `font_size` `font-size`."""
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(_short(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    inside = "".join(escape(child) for child in children)
    return Markup(f"<{name}{written}>{inside}</{name}>" if inside else f"<{name}{written}/>")


def group(*children: str, **attributes: object) -> Markup:
    """Elements that belong together."""
    return tag("g", *children, **attributes)


def text(content: str, x: float, y: float, anchor: str = "start", **attributes: object) -> Markup:
    """A line of text; nothing for no content."""
    if not content:
        return Markup()
    return tag("text", content, x=x, y=y, text_anchor=None if anchor == "start" else anchor, **attributes)


def line(start: Point, end: Point, class_: str) -> Markup:
    """A straight line."""
    return tag("line", x1=start[0], y1=start[1], x2=end[0], y2=end[1], class_=class_)


def canvas(width: float, height: float, description: str, *children: str, **attributes: object) -> Markup:
    """A whole plot, scaled to the width of its frame."""
    return tag(
        "svg",
        *children,
        viewBox=f"0 0 {_short(width)} {_short(height)}",
        role="img",
        aria_label=description,
        preserveAspectRatio="xMidYMid meet",
        **attributes,
    )


def both(draw: Callable[[float], Markup]) -> tuple[Markup, Markup]:
    """A plot for a desktop and for a phone."""
    return draw(WIDE), draw(NARROW)


def polyline(points: Sequence[Point | None]) -> str:
    """Path through points; None breaks it, and a point between two breaks becomes a dot."""
    pieces, pen_down = [], False
    for number, point in enumerate(points):
        if point is None:
            pen_down = False
            continue
        pieces.append(f"{'L' if pen_down else 'M'}{_short(point[0])} {_short(point[1])}")
        alone = not pen_down and (number + 1 == len(points) or points[number + 1] is None)
        if alone:
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


def nice_ticks(low: float, high: float, count: int) -> list[float]:
    """Round numbers from `low` to `high`, about `count` of them."""
    if not high > low:
        return [low]
    rough = (high - low) / max(count, 1)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [number * step for number in range(first, last + 1)]


def nice_range(values: Sequence[float], from_zero: bool = False) -> tuple[float, float]:
    """Lowest and highest value with a little room, from zero if asked."""
    low, high = min(values, default=0.0), max(values, default=1.0)
    room = 0.06 * (high - low) or abs(high) * 0.1 or 1.0
    return (min(low, 0.0) if from_zero else low - room), high + room


def tick_labels(ticks: Sequence[float]) -> list[str]:
    """Ticks as text, with as many decimals as their distance needs."""
    step = ticks[1] - ticks[0] if len(ticks) > 1 else 1.0
    shown = next((digits for digits in range(7) if abs(round(step, digits) - step) < 1e-9 * max(1.0, abs(step))), 6)
    if step < 1e-6:
        return [f"{tick:.3g}" for tick in ticks]
    return [f"{tick + 0.0:,.{shown}f}" for tick in ticks]


def _short(value: object) -> object:
    if isinstance(value, float):
        text = f"{value:.1f}"
        return text[:-2] if text.endswith(".0") else text
    return value
