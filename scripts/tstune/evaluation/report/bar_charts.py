"""Bars: how forecasts rank among their quantiles, change by item, shares that add up to 100 %."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from markupsafe import Markup

from tstune.evaluation.report.svg import (
    WIDE,
    Scale,
    canvas,
    group,
    line,
    nice_ticks,
    polyline,
    tag,
    text,
    tick_labels,
)


def histogram(
    edges: Sequence[float],
    heights: Sequence[float],
    expected: Sequence[float] | None,
    width: float,
    description: str,
    x_title: str,
    y_title: str,
) -> Markup:
    """Bars between edges, with a line where they should end."""
    height = 300.0
    top = 1.12 * max([*heights, *(expected or ()), 1e-9])
    ticks = nice_ticks(0, top, 5)
    x, y = Scale(edges[0], edges[-1], 44, width - 10), Scale(0, top, height - 42, 26)
    parts = [text(y_title, 0, 12, class_="axis-title")]
    for tick, label in zip(ticks, tick_labels(ticks), strict=True):
        parts += [line((x.start, y(tick)), (x.end, y(tick)), "grid"), text(label, x.start - 7, y(tick) + 4, "end")]
    pairs = list(pairwise(edges))
    for (begin, end), value in zip(pairs, heights, strict=True):
        bar = tag("rect", x=x(begin) + 1, y=y(value), width=max(x(end) - x(begin) - 2, 0.5), height=y(0) - y(value))
        parts.append(group(tag("title", f"{begin:g} to {end:g}: {value:.2g}"), bar, class_="bar c0"))
    for (begin, end), value in zip(pairs, expected or (), strict=bool(expected)):
        parts.append(line((x(begin), y(value)), (x(end), y(value)), "expected"))
    for tick in nice_ticks(edges[0], edges[-1], 5):
        parts.append(text(f"{tick:g}", x(tick), y.start + 19, "middle"))
    parts.append(line((x.start, y.start), (x.end, y.start), "axis"))
    parts.append(text(x_title, (x.start + x.end) / 2, height - 5, "middle", class_="axis-title"))
    return canvas(width, height, description, *parts, class_="chart bars")


def change_bars(names: Sequence[str], changes: Sequence[float], width: float, description: str, y_title: str) -> Markup:
    """One bar per item from zero, lowest first: green-blue below, orange above. Changes in percent."""
    height = 260.0
    low, high = min([*changes, 0.0]), max([*changes, 0.0])
    room = 0.08 * (high - low) or 1.0
    low, high = low - (room if low < 0 else 0), high + (room if high > 0 else 0)
    ticks = nice_ticks(low, high, 5)
    labels = tick_labels(ticks)
    left = 14 + 7.2 * max(map(len, labels), default=1)
    y = Scale(low, high, height - 26, 26)
    slot = (width - 10 - left) / max(len(changes), 1)
    gap = 0.18 * slot if slot > 4 else 0
    thick = min(slot - 2 * gap, 56)
    parts = [text(y_title, 0, 12, class_="axis-title")]
    for tick, label in zip(ticks, labels, strict=True):
        parts += [line((left, y(tick)), (width - 10, y(tick)), "grid"), text(label, left - 7, y(tick) + 4, "end")]
    for number, (name, change) in enumerate(zip(names, changes, strict=True)):
        begin = left + slot * number + (slot - thick) / 2
        top, bottom = sorted((y(change), y(0)))
        style = "better" if change < 0 else "worse"
        bar = tag("rect", x=begin, y=top, width=thick, height=max(bottom - top, 0.5))
        parts.append(group(tag("title", f"{name}: {change:+.1f} %"), bar, class_=f"bar {style}"))
        if slot >= 34:
            parts.append(text(_cut(name, int(slot / 7)), begin + thick / 2, height - 6, "middle"))
    parts.append(line((left, y(0)), (width - 10, y(0)), "zero"))
    if slot < 34:
        parts.append(text("items, from the lowest to the highest", (left + width) / 2, height - 6, "middle"))
    return canvas(width, height, description, *parts, class_="chart bars")


def stacked_bars(
    rows: Sequence[tuple[str, Sequence[float]]], styles: Sequence[str], names: Sequence[str], width: float, what: str
) -> Markup:
    """One bar per row, parts of 100 % from left to right, written inside where there is room."""
    wide = width >= WIDE
    row_height, left, top = (34, 150, 6) if wide else (50, 0, 4)
    height = top + row_height * len(rows) + 24
    x = Scale(0, 100, left, width - 10)
    parts = []
    for number, (name, shares) in enumerate(rows):
        y = top + row_height * number + (0 if wide else 18)
        label_at = (left - 8, y + 19, "end") if wide else (0, y - 5, "start")
        parts.append(text(name, *label_at, class_="row-label"))
        begin = 0.0
        for share, style, part in zip(shares, styles, names, strict=True):
            size = x(begin + share) - x(begin)
            if share > 0:
                bar = tag("rect", x=x(begin), y=y, width=max(size, 0.6), height="26")
                inside = (
                    text(f"{share:.0f}", x(begin) + size / 2, y + 17, "middle", class_="inside") if size > 24 else ""
                )
                parts.append(group(tag("title", f"{name}, {part}: {share:.1f} %"), bar, inside, class_=f"part {style}"))
            begin += share
    for tick in (0, 25, 50, 75, 100):
        anchor = {0: "start", 100: "end"}.get(tick, "middle")
        parts.append(text(f"{tick} %" if tick else "0", x(tick), height - 4, anchor))
    return canvas(width, height, what, *parts, class_="chart stacked")


def phase_bars(rows: Sequence[tuple[str, float, str]], width: float, description: str) -> Markup:
    """Name, value and the value in words, as horizontal bars."""
    wide = width >= WIDE
    row_height, left = (32, 150) if wide else (44, 0)
    x = Scale(0, max([value for _, value, _ in rows] + [1e-9]), left, width - 90)
    parts = []
    for number, (name, value, written) in enumerate(rows):
        y = row_height * number + (4 if wide else 18)
        parts.append(text(name, *((left - 8, y + 16, "end") if wide else (0, y - 5, "start")), class_="row-label"))
        bar = tag("rect", x=left, y=y, width=max(x(value) - left, 1.0), height="22", rx="2")
        parts.append(group(tag("title", f"{name}: {written}"), bar, class_="bar c0"))
        parts.append(text(written, x(value) + 8, y + 16, class_="row-value"))
    return canvas(width, row_height * len(rows) + 8, description, *parts, class_="chart bars")


def square_chart(
    x_values: Sequence[float], y_values: Sequence[float], width: float, description: str, titles: tuple[str, str]
) -> Markup:
    """Values between 0 and 1 against each other, with the diagonal where they agree."""
    height = 300.0
    x, y = Scale(0, 1, 44, width - 14), Scale(0, 1, height - 42, 26)
    parts = [text(titles[1], 0, 12, class_="axis-title")]
    for tick in (0, 0.25, 0.5, 0.75, 1):
        parts.append(line((x.start, y(tick)), (x.end, y(tick)), "grid"))
        parts.append(text(f"{100 * tick:g}", x.start - 7, y(tick) + 4, "end"))
        parts.append(text(f"{100 * tick:g}", x(tick), y.start + 19, "middle"))
    parts.append(line((x(0), y(0)), (x(1), y(1)), "reference"))
    places = [(x(a), y(b)) for a, b in zip(x_values, y_values, strict=True)]
    dots = [
        group(
            tag("title", f"{100 * a:.3g} % promised, {100 * b:.1f} % found"),
            tag("circle", cx=p[0], cy=p[1], r="4", class_="dot"),
        )
        for a, b, p in zip(x_values, y_values, places, strict=True)
    ]
    parts.append(group(tag("path", d=polyline(places), class_="line"), *dots, class_="series c0"))
    parts.append(line((x.start, y.start), (x.end, y.start), "axis"))
    parts.append(text(titles[0], (x.start + x.end) / 2, height - 5, "middle", class_="axis-title"))
    return canvas(width, height, description, *parts, class_="chart square")


def _cut(name: str, length: int) -> str:
    return name if len(name) <= length else name[: max(length - 1, 1)] + "…"
