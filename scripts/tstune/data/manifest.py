"""What the data of a run was, saved beside every score: files, items, borders, windows, drops; and how two differ."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tstune.config.names import dotted
from tstune.config.schema import DataSection
from tstune.data.leaks import CHECKS
from tstune.data.panel import OBSERVED, Origin, Panel, item_rows, row_blocks
from tstune.data.splits import PARTS, Split, WindowIndex, some_names

MANIFEST = "manifest.json"

_NOTHING = "(not there)"
_LEADING = ("source", "unit", "channels", "frequency", "notes", "cleaning", "window", "split", "windows")
"""Keys whose difference explains the numbers that follow from them."""
_NOT_THE_DATA = ("weights", "leak_check")
"""What a manifest says besides: where the weights came from, and what was checked."""
_SHOWN = 5


def describe_data(
    config: DataSection,
    origin: Origin,
    panel: Panel,
    split: Split,
    windows: dict[str, WindowIndex],
    allowed: list[str],
    trained_on: dict,
) -> dict:
    """Build the manifest: JSON values only, the same for every run on the same data, split and windows."""
    table = origin.table
    items = len(panel.item_ids)
    kept = np.bincount(panel.segment_item, weights=panel.segment_length, minlength=items).astype(int)
    per_part = np.stack([windows[part].by_item() for part in PARTS], axis=1)
    rows = item_rows(panel)
    in_a_part = np.stack([_steps_in(panel, split, part) for part in PARTS], axis=1)
    return {
        "source": config.source,
        "licence": table.licence,
        "files": origin.files,
        "notes": table.notes,
        "cleaning": table.cleaning,
        "channels": {
            role: list(getattr(panel.roles, role))
            for role in ("target", "conditional", "control", "static_real", "static_categorical", "time_features")
            if getattr(panel.roles, role) or role in ("target", "conditional", "control")
        },
        "fill": {channel: table.fill.get(channel, "interpolate") for channel in panel.roles.columns},
        "unit": table.unit,
        "frequency": panel.frequency,
        "num_items": items,
        "items_without_readings": origin.items_without_readings,
        "num_readings": origin.num_readings,
        "num_grid_steps": int(panel.item_length.sum()),
        "num_steps_kept": panel.num_rows,
        "num_steps_dropped_in_long_gaps": int(panel.item_length.sum()) - panel.num_rows,
        "num_steps_in_no_part": int(panel.num_rows - in_a_part.sum()),
        "num_segments": len(panel.segment_item),
        "observed_share_of_kept_targets": _observed_share(panel),
        "split_mode": split.mode,
        "split": config.split.model_dump(mode="json") | {"purge_steps": split.purge},
        "window": {
            "context_length": windows["train"].context_length,
            "prediction_length": windows["train"].prediction_length,
            "min_context": windows["train"].context_length - windows["train"].padding,
            "strides": {part: windows[part].ranges.stride for part in PARTS},
            "train_fraction": config.train_fraction,
            "train_fraction_from": config.train_fraction_from,
        },
        "windows": {part: len(windows[part]) for part in PARTS},
        "unseen_items": unseen_items(panel, split, windows),
        "items_without_windows": [panel.item_ids[item] for item in np.flatnonzero(~per_part.any(axis=1))],
        "items": [
            {
                "item_id": item_id,
                "first": _moment(panel, rows[index]),
                "last": _moment(panel, rows[index + 1] - 1),
                "grid_steps": int(panel.item_length[index]),
                "steps_kept": int(kept[index]),
                "borders": split.borders[index].tolist(),
                "begins": [int(split.bounds(part)[0][index]) for part in PARTS],
                "windows": dict(zip(PARTS, per_part[index].tolist(), strict=True)),
            }
            for index, item_id in enumerate(panel.item_ids)
        ],
        "leak_check": {"checks": list(CHECKS), "allowed": allowed},
        "trained_on": trained_on,
    }


def unseen_items(panel: Panel, split: Split, windows: dict[str, WindowIndex]) -> list[str]:
    """Names of the items that are tested although no step of theirs belongs to train."""
    begin, end = split.bounds("train")
    return [panel.item_ids[item] for item in np.flatnonzero((windows["test"].by_item() > 0) & (end <= begin))]


def _steps_in(panel: Panel, split: Split, part: str) -> np.ndarray:
    """[segments] rows that belong to a part."""
    begin, end = (bound[panel.segment_item] for bound in split.bounds(part))
    first, last = panel.segment_position, panel.segment_position + panel.segment_length
    return np.maximum(np.minimum(last, end) - np.maximum(first, begin), 0)


def _moment(panel: Panel, row: int) -> str:
    return str(panel.timestamps[row].astype("datetime64[s]"))


def _observed_share(panel: Panel) -> float:
    targets = panel.roles.num_targets
    observed = sum(int((panel.status[rows, :targets] == OBSERVED).sum()) for rows in row_blocks(panel))
    return observed / (panel.num_rows * targets)


@dataclass(frozen=True)
class DataDifference:
    """One thing that differs."""

    name: str  # files, participants, a key of the manifest
    lines: tuple[str, ...]  # what either run has
    of_the_data: bool = True  # False for what says nothing about the data itself


def compare_manifests(left: dict, right: dict) -> list[DataDifference]:
    """Everything that differs: files, participants and settings first, then what follows from them."""
    found = [_files(left, right), *_participants(left, right)]
    skipped = {"files", "items", "trained_on", *_NOT_THE_DATA}
    keys = sorted({*left, *right} - skipped, key=lambda key: ((*_LEADING, key).index(key), key))
    found += [_key(key, left, right) for key in keys]
    found.append(_borders(left, right))
    if not any(found):  # else it says the same once more
        found.append(_fingerprints(left, right))
    found += [_key(key, left, right, of_the_data=False) for key in _NOT_THE_DATA]
    return [difference for difference in found if difference is not None]


def format_differences(differences: list[DataDifference], left: str, right: str) -> str:
    """Lines for people; the first says if the data is the same."""
    data = [difference.name for difference in differences if difference.of_the_data]
    lines = [f"different data: {', '.join(data)}" if data else "same data"]
    if differences:
        lines += [f"A = {left}", f"B = {right}"]
    for difference in differences:
        lines += ["", f"{difference.name}:", *(f"  {line}" for line in difference.lines)]
    return "\n".join(lines)


def _files(left: dict, right: dict) -> DataDifference | None:
    """By content: the same file in another folder is the same."""
    sides = [{file["sha256"]: Path(file["path"]).name for file in run.get("files", [])} for run in (left, right)]
    lines = [
        f"only {label}: {name} (sha256 {digest[:12]}…)"
        for label, mine, other in (("A", *sides), ("B", *reversed(sides)))
        for digest, name in sorted(mine.items(), key=lambda entry: entry[1])
        if digest not in other
    ]
    return DataDifference("files", _shortened(lines)) if lines else None


def _participants(left: dict, right: dict) -> Iterator[DataDifference]:
    """Who is there, and who is tested without having been trained on."""
    sides = [[item["item_id"] for item in run.get("items", [])] for run in (left, right)]
    unseen = [run.get("unseen_items", []) for run in (left, right)]
    for name, (mine, other) in (("participants", sides), ("unseen participants", unseen)):
        lines = [
            f"only {label}: {some_names([item for item in here if item not in set(there)])}"
            for label, here, there in (("A", mine, other), ("B", other, mine))
            if set(here) - set(there)
        ]
        if lines:
            yield DataDifference(name, tuple(lines))


def _borders(left: dict, right: dict) -> DataDifference | None:
    """Where the parts of a participant lie, for those that both runs have."""
    sides = [{item["item_id"]: item for item in run.get("items", [])} for run in (left, right)]
    lines = []
    for item_id in sides[0]:
        here, there = (side.get(item_id) for side in sides)
        if there is not None and here != there:
            lines += _unlike(here, there, f"{item_id} ")
    return DataDifference("items", _shortened(lines)) if lines else None


def _fingerprints(left: dict, right: dict) -> DataDifference | None:
    """The readings themselves, where nothing else tells them apart (no file, or a file of the same name)."""
    records = [run.get("trained_on") for run in (left, right)]
    if records[0] == records[1]:
        return None
    series = [(record or {}).get("series", []) for record in records]
    names = [row["item_id"] for row in series[0] if row not in series[1]]
    return DataDifference(
        "trained_on", (f"other readings or times in train or validation: {some_names(names) or 'see B'}",)
    )


def _key(key: str, left: dict, right: dict, of_the_data: bool = True) -> DataDifference | None:
    """One key, leaf by leaf."""
    lines = _unlike(*(dict(dotted({key: run[key]})) if key in run else {} for run in (left, right)))
    return DataDifference(key, _shortened(lines), of_the_data) if lines else None


def _unlike(left: dict, right: dict, whose: str = "") -> list[str]:
    return [
        f"{whose}{name}: A {_value(left.get(name, _NOTHING))}, B {_value(right.get(name, _NOTHING))}"
        for name in dict.fromkeys([*left, *right])
        if left.get(name) != right.get(name)
    ]


def _value(value: object) -> str:
    text = str(value)
    return text if len(text) <= 100 else f"{text[:97]}…"


def _shortened(lines: list[str]) -> tuple[str, ...]:
    more = len(lines) - _SHOWN
    return tuple(lines) if more <= 1 else (*lines[:_SHOWN], f"and {more} more")
