"""Two versions side by side: what was set differently first, then what came of it."""

from __future__ import annotations

from dataclasses import dataclass

from tstune.config.dotted import dotted
from tstune.registry.records import ModelVersion

_NOTHING = "(not set)"


@dataclass(frozen=True)
class Difference:
    """One name with its value in either version; None where a version has no such number."""

    name: str
    left: object
    right: object


@dataclass(frozen=True)
class Comparison:
    """What two versions have and have not in common.

    Attributes:
        left: first version.
        right: second version.
        config: keys that differ, as dotted names.
        metrics: every number that either has, by names such as ``test/fine_tuned/rmse``.
        other_data: keys of the data manifest that differ; if there is one, the metrics are not comparable.
    """

    left: ModelVersion
    right: ModelVersion
    config: tuple[Difference, ...]
    metrics: tuple[Difference, ...]
    other_data: tuple[str, ...]

    def __str__(self) -> str:
        data = f"same data manifest ({(self.left.manifest_sha256 or '')[:12]}…)"
        if self.other_data:
            data = f"other data: manifest.json differs in {', '.join(self.other_data)}; the metrics are not comparable"
        lines = ["configuration:"]
        lines += _rows(self, [(row.name, str(row.left), str(row.right)) for row in self.config])
        lines += ["", "metrics:"]
        lines += _rows(self, [(row.name, _number(row.left), _number(row.right), _change(row)) for row in self.metrics])
        return "\n".join([*lines, "", data])


def compare(left: ModelVersion, right: ModelVersion, other_data: tuple[str, ...]) -> Comparison:
    """Compare two versions, of one model or of two, whose data manifests differ in the keys `other_data`."""
    settings = dict(dotted(left.config)), dict(dotted(right.config))
    metrics = left.flat_metrics(), right.flat_metrics()
    return Comparison(
        left,
        right,
        tuple(row for row in _pairs(*settings, _NOTHING) if row.left != row.right),
        tuple(_pairs(*metrics, None)),
        other_data,
    )


def differing_keys(left: dict, right: dict) -> tuple[str, ...]:
    """Names whose values differ, or that only one side has."""
    return tuple(row.name for row in _pairs(left, right, _NOTHING) if row.left != row.right)


def table(rows: list[tuple[str, ...]]) -> list[str]:
    """Lines with columns as wide as their widest cell."""
    columns = max(map(len, rows), default=0)
    padded = [(*row, *[""] * (columns - len(row))) for row in rows]
    widths = [max(len(row[column]) for row in padded) for column in range(columns)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in padded]


def _pairs(left: dict, right: dict, nothing: object) -> list[Difference]:
    return [Difference(name, left.get(name, nothing), right.get(name, nothing)) for name in {**left, **right}]


def _rows(pair: Comparison, rows: list[tuple[str, ...]]) -> list[str]:
    if not rows:
        return ["  no difference"]
    return [f"  {line}" for line in table([("", pair.left.reference, pair.right.reference), *rows])]


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.6g}"


def _change(row: Difference) -> str:
    """Change from left to right, in percent where that says something."""
    if row.left is None or row.right is None or row.left == row.right or row.left == 0:
        return ""
    return f"{100 * (row.right / row.left - 1):+.2f} %"
