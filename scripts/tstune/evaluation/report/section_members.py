"""The models of a comparison: how each was made and at what cost, or why it is missing."""

from __future__ import annotations

from tstune.evaluation.report.blocks import Column, Definitions, Section, Table, Text
from tstune.evaluation.report.folder import RunFiles
from tstune.evaluation.report.names import label
from tstune.evaluation.report.numbers import counts, duration


def members(run: RunFiles) -> Section | None:
    """One row per listed model; None where a run is of one model."""
    listed = run.environment.get("members")
    if not listed:
        return None
    scores = [run.metrics.get(one["name"], {}).get("rmse") for one in listed]
    table = Table(
        f"{len(listed)} models were listed",
        [
            Column.text("Model", [label(one["name"]) for one in listed]),
            Column.text("Family", [one["family"] for one in listed]),
            Column.text("Weights", [(one["weights"] or "").rpartition("/")[2] for one in listed]),
            Column.text("Tuning", [one["mode"] for one in listed]),
            Column("Parameters trained", counts([one["trainable"] for one in listed])),
            Column("Time to tune", [duration(one["seconds"]) for one in listed]),
            Column.number(f"RMSE ({run.unit})", scores, lowest=True),
        ],
        highlight=frozenset(n for n, one in enumerate(listed) if one["name"] == run.judged),
    )
    missing = [(f"{label(one['name'])} is missing", one["reason"]) for one in listed if one["reason"] is not None]
    note = f"{len(listed) - len(missing)} of {len(listed)} models were had; all of them forecast the same windows."
    return Section("members", "Models compared", [Text(note), table, *([Definitions(missing)] if missing else [])])
