"""When each item was read, and which of its time is train, validation and test."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from markupsafe import Markup

from tstune.evaluation.report.svg import WIDE, Scale, canvas, group, line, nice_ticks, tag, text

PARTS = ("train", "validation", "test")
MOST_ROWS = 40
_STEPS = (1 / 24, 1 / 8, 1 / 4, 1 / 2, 1, 2, 3, 7, 14, 28, 56, 91, 182, 365, 730)  # days between dates


@dataclass(frozen=True)
class Spans:
    """Parts of one item in time.

    Attributes:
        item: its name.
        first, last: first and last reading.
        parts: part -> (begin, end), only those with a step.
    """

    item: str
    first: datetime
    last: datetime
    parts: dict[str, tuple[datetime, datetime]]


def item_spans(item: dict) -> Spans | None:
    """Spans of an item of the manifest; None for a manifest without dates."""
    if not {"first", "last", "begins", "borders", "grid_steps"} <= set(item):
        return None
    first, last = datetime.fromisoformat(item["first"]), datetime.fromisoformat(item["last"])
    steps = max(int(item["grid_steps"]) - 1, 1)

    def moment(step: int) -> datetime:
        return first + (last - first) * min(step / steps, 1.0)

    bounds = zip(PARTS, item["begins"], item["borders"], strict=True)
    parts = {part: (moment(begin), moment(end)) for part, begin, end in bounds if end > begin}
    return Spans(str(item["item_id"]), first, last, parts)


def chosen_rows(spans: Sequence[Spans]) -> list[Spans]:
    """At most `MOST_ROWS` of them, evenly spread."""
    if len(spans) <= MOST_ROWS:
        return list(spans)
    return [spans[round(i * (len(spans) - 1) / (MOST_ROWS - 1))] for i in range(MOST_ROWS)]


def by_calendar(spans: Sequence[Spans]) -> bool:
    """True if the items overlap enough in time to share a calendar, else they are drawn from their first reading."""
    longest = max((one.last - one.first for one in spans), default=timedelta(0))
    whole = max(one.last for one in spans) - min(one.first for one in spans)
    return whole <= 4 * longest


def timeline(spans: Sequence[Spans], width: float, description: str) -> Markup:
    """One bar per item, on a calendar or in days since its first reading."""
    wide = width >= WIDE
    calendar = by_calendar(spans)
    row_height = (26 if len(spans) <= 12 else 16) if wide else (34 if len(spans) <= 12 else 26)
    thick = row_height - 8 if wide else 12
    left, top = (150 if wide else 0), 4
    bottom = top + row_height * len(spans)
    origin = min(one.first for one in spans)
    ends = [(one.last - (origin if calendar else one.first)) / timedelta(days=1) for one in spans]
    x = Scale(0, max([*ends, 1e-6]), left, width - 10)
    parts = []
    for day, label in _ticks(origin, x.high, calendar, 7 if wide else 4):
        if calendar and x(day) + 76 > width:
            continue  # its date would not fit
        parts.append(line((x(day), top), (x(day), bottom), "grid"))
        parts.append(text(label, x(day), bottom + 18, "start" if calendar else "middle"))
    for number, one in enumerate(spans):
        start = origin if calendar else one.first
        y = top + row_height * number + (4 if wide else row_height - thick - 2)
        label_at = (left - 8, y + thick / 2 + 4, "end") if wide else (0, y - 3, "start")
        parts.append(text(_cut(one.item, 20 if wide else 40), *label_at, class_="row-label"))
        whole = [(one.first - start) / timedelta(days=1), (one.last - start) / timedelta(days=1)]
        parts.append(
            tag("rect", x=x(whole[0]), y=y, width=max(x(whole[1]) - x(whole[0]), 1.0), height=thick, class_="unused")
        )
        for part, (begin, end) in one.parts.items():
            place, stop = x((begin - start) / timedelta(days=1)), x((end - start) / timedelta(days=1))
            bar = tag("rect", x=place, y=y, width=max(stop - place, 0.8), height=thick)
            title = tag("title", f"{one.item}, {part}: {begin:%Y-%m-%d %H:%M} to {end:%Y-%m-%d %H:%M}")
            parts.append(group(title, bar, class_=f"part {part}"))
    parts.append(line((x.start, bottom), (x.end, bottom), "axis"))
    title = "date" if calendar else "days since the first reading of each item"
    parts.append(text(title, (x.start + x.end) / 2, bottom + 38, "middle", class_="axis-title"))
    return canvas(width, bottom + 44, description, *parts, class_="chart timeline")


def _ticks(origin: datetime, days: float, calendar: bool, count: int) -> list[tuple[float, str]]:
    if not calendar:
        return [(tick, f"{tick:g}") for tick in nice_ticks(0, days, count)]
    step = next((size for size in _STEPS if days / size <= count), days)
    midnight = origin.replace(hour=0, minute=0, second=0, microsecond=0)
    pattern = "%Y-%m-%d" if step >= 1 else "%m-%d %H:%M"
    moments = [midnight + timedelta(days=step * number) for number in range(int(days / step) + 2)]
    places = [((moment - origin) / timedelta(days=1), f"{moment:{pattern}}") for moment in moments]
    return [(place, text) for place, text in places if 0 <= place <= days]


def _cut(name: str, length: int) -> str:
    return name if len(name) <= length else name[: length - 1] + "…"
