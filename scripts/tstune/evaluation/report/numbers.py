"""Numbers as text: the same decimals down a column, a dash where there is none."""

from __future__ import annotations

import math
from collections.abc import Sequence

MISSING = "–"
_SPACE = "\u00a0"  # a number and its unit stay on one line


def significant_digits(values: Sequence[float | None], digits: int = 4) -> list[str]:
    """Values with the decimals that give the largest of them `digits` significant digits."""
    known = [abs(value) for value in values if _known(value)]
    largest = max(known, default=0.0)
    decimals = digits - 1 - math.floor(math.log10(largest)) if largest > 0 else 0
    return fixed(values, min(max(decimals, 0), 6))


def fixed(values: Sequence[float | None], decimals: int, signed: bool = False) -> list[str]:
    """Values with a fixed number of decimals; `signed` writes the plus too."""
    return [_fixed(value, decimals, signed) if _known(value) else MISSING for value in values]


def percents(shares: Sequence[float | None], decimals: int = 1, signed: bool = False) -> list[str]:
    """Shares of 1 as percent, without the sign %."""
    return fixed([100 * share if _known(share) else None for share in shares], decimals, signed)


def counts(values: Sequence[float | None]) -> list[str]:
    """Whole numbers with thousands separated."""
    return [f"{round(value):,}" if _known(value) else MISSING for value in values]


def texts(values: Sequence[object]) -> list[str]:
    """Anything as text."""
    return [MISSING if value is None or value == "" else str(value) for value in values]


def measured(value: float | None, unit: str, digits: int = 4) -> str:
    """One value with its unit."""
    text = significant_digits([value], digits)[0]
    return text if text == MISSING or not unit else f"{text}{_SPACE}{unit}"


def percent(share: float | None, decimals: int = 1, signed: bool = False) -> str:
    """One share of 1 as percent, with the sign."""
    text = percents([share], decimals, signed)[0]
    return text if text == MISSING else f"{text}{_SPACE}%"


def duration(seconds: float | None) -> str:
    """A span of time in its two largest units: ``8 h``, ``42 h 40 min``, ``3.2 s``."""
    if not _known(seconds):
        return MISSING
    if seconds < 60:
        return f"{seconds:.3g}{_SPACE}s"
    units = (("d", 86400), ("h", 3600), ("min", 60), ("s", 1))
    if seconds < 3 * 86400:  # 42 h says more than 1 d 18 h
        units = units[1:]
    rest, parts = round(seconds), []
    for name, size in units:
        number, rest = divmod(rest, size)
        if number:
            parts.append(f"{number}{_SPACE}{name}")
    return " ".join(parts[:2])


def _fixed(value: float, decimals: int, signed: bool) -> str:
    text = f"{value:{'+' if signed else ''},.{decimals}f}"
    return text.replace("-", "") if float(text.replace(",", "")) == 0 else text  # no "-0.0"


def _known(value: float | None) -> bool:
    return value is not None and math.isfinite(value)
