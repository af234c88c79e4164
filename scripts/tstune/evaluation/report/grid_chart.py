"""An error grid: forecasts against readings over zones of risk."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from markupsafe import Markup

from tstune.evaluation.report.svg import Scale, canvas, group, line, nice_ticks, tag, text, tick_labels

SIDE = 390.0


def grid_chart(
    outline: Sequence[tuple[str, Sequence[Sequence[float]]]],
    points: Sequence[Sequence[float]],
    unit: str,
    description: str,
) -> Markup:
    """Zones as tinted areas with their letters, pairs as dots.

    Args:
        outline: (zone letter, polygon), in `unit`.
        points: (reading, forecast), in `unit`; what lies beyond the square is set on its edge.
        unit: of the axes.
        description: for a screen reader.
    """
    highest = max(max(vertex) for _, polygon in outline for vertex in polygon)
    x, y = Scale(0, highest, 48, SIDE - 12), Scale(0, highest, SIDE - 46, 24)
    parts = [text(f"Forecast ({unit})", 0, 12, class_="axis-title")]
    for zone, polygon in outline:
        corners = " ".join(f"{x(a):.1f},{y(b):.1f}" for a, b in polygon)
        parts.append(group(tag("title", f"zone {zone}"), tag("polygon", points=corners), class_=f"grid-zone z{zone}"))
    parts.append(line((x(0), y(0)), (x(highest), y(highest)), "reference"))
    ticks = nice_ticks(0, highest, 5)
    for tick, label in zip(ticks, tick_labels(ticks), strict=True):
        parts.append(text(label, x(tick), y.start + 18, "middle"))
        parts.append(text(label, x.start - 7, y(tick) + 4, "end"))
    dots = "".join(f"M{x.inside(a):.1f} {y.inside(b):.1f}h0" for a, b in points)
    parts.append(tag("path", d=dots or "M0 0", class_="points"))
    for zone, polygon in outline:
        place = _label_place(np.asarray(polygon, dtype=np.float64), highest)
        if place is not None:
            parts.append(text(zone, x(place[0]), y(place[1]) + 6, "middle", class_="zone-letter"))
    parts.append(tag("rect", x=x.start, y=y.end, width=x.end - x.start, height=y.start - y.end, class_="frame"))
    parts.append(text(f"Reading ({unit})", (x.start + x.end) / 2, SIDE - 8, "middle", class_="axis-title"))
    return canvas(SIDE, SIDE, description, *parts, class_="chart grid-chart")


def _label_place(polygon: np.ndarray, highest: float) -> tuple[float, float] | None:
    """The place inside a polygon that is farthest from its edges; None where a letter has no room."""
    low, high = polygon.min(axis=0), polygon.max(axis=0)
    share = (np.arange(40) + 0.5) / 40
    candidates = np.stack(np.meshgrid(*(low[i] + share * (high[i] - low[i]) for i in (0, 1))), axis=-1).reshape(-1, 2)
    start, end = polygon, np.roll(polygon, -1, axis=0)
    rise = np.where(end[:, 1] == start[:, 1], 1e-12, end[:, 1] - start[:, 1])
    crosses = (start[:, 1] > candidates[:, None, 1]) != (end[:, 1] > candidates[:, None, 1])
    crossing = start[:, 0] + (candidates[:, None, 1] - start[:, 1]) / rise * (end[:, 0] - start[:, 0])
    inside = (crosses & (candidates[:, None, 0] < crossing)).sum(axis=1) % 2 == 1
    along = end - start
    length = np.maximum((along**2).sum(axis=1), 1e-12)
    share = np.clip(((candidates[:, None] - start) * along).sum(axis=2) / length, 0, 1)
    distance = np.linalg.norm(candidates[:, None] - (start + share[..., None] * along), axis=2).min(axis=1)
    distance = np.where(inside, distance, -1.0)
    best = int(distance.argmax())
    return tuple(candidates[best]) if distance[best] > 0.025 * highest else None
