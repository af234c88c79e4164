"""What two runs' data manifests have not in common, the weightiest first."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tstune.config.dotted import dotted
from tstune.data.split_items import some_names
from tstune.errors import DataError

MANIFEST = "manifest.json"

_NOTHING = "(not there)"
_LEADING = ("source", "unit", "channels", "frequency", "notes", "cleaning", "window", "split", "windows")
"""Keys whose difference explains the numbers that follow from them."""
_NOT_THE_DATA = ("weights", "leak_check")
"""What a manifest says besides: where the weights came from, and what was checked."""
_SHOWN = 5


@dataclass(frozen=True)
class Difference:
    """One thing that differs.

    Attributes:
        name: files, participants, a key of the manifest.
        lines: what either run has.
        of_the_data: False for what says nothing about the data itself.
    """

    name: str
    lines: tuple[str, ...]
    of_the_data: bool = True


def read_manifest(run: Path) -> dict:
    """Manifest of a run folder, or a manifest file.

    Raises:
        DataError: there is none, or it is damaged.
    """
    path = run / MANIFEST if run.is_dir() else run
    if not path.is_file():
        raise DataError(f"{run} holds no {MANIFEST}; give the output_dir of a finished run, or its {MANIFEST}")
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(manifest, dict) or "source" not in manifest:
            raise ValueError("it does not describe the data of a run")
    except ValueError as error:
        raise DataError(f"{path} cannot be read: {error}") from None
    return manifest


def compare_manifests(left: dict, right: dict) -> list[Difference]:
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


def format_differences(differences: list[Difference], left: str, right: str) -> str:
    """Lines for people; the first says if the data is the same."""
    data = [difference.name for difference in differences if difference.of_the_data]
    lines = [f"different data: {', '.join(data)}" if data else "same data"]
    if differences:
        lines += [f"A = {left}", f"B = {right}"]
    for difference in differences:
        lines += ["", f"{difference.name}:", *(f"  {line}" for line in difference.lines)]
    return "\n".join(lines)


def _files(left: dict, right: dict) -> Difference | None:
    """By content: the same file in another folder is the same."""
    sides = [{file["sha256"]: Path(file["path"]).name for file in run.get("files", [])} for run in (left, right)]
    lines = [
        f"only {label}: {name} (sha256 {digest[:12]}…)"
        for label, mine, other in (("A", *sides), ("B", *reversed(sides)))
        for digest, name in sorted(mine.items(), key=lambda entry: entry[1])
        if digest not in other
    ]
    return Difference("files", _shortened(lines)) if lines else None


def _participants(left: dict, right: dict) -> Iterator[Difference]:
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
            yield Difference(name, tuple(lines))


def _borders(left: dict, right: dict) -> Difference | None:
    """Where the parts of a participant lie, for those that both runs have."""
    sides = [{item["item_id"]: item for item in run.get("items", [])} for run in (left, right)]
    lines = []
    for item_id in sides[0]:
        here, there = (side.get(item_id) for side in sides)
        if there is not None and here != there:
            lines += [
                f"{item_id} {key}: A {here.get(key, _NOTHING)}, B {there.get(key, _NOTHING)}"
                for key in dict.fromkeys([*here, *there])
                if here.get(key, _NOTHING) != there.get(key, _NOTHING)
            ]
    return Difference("items", _shortened(lines)) if lines else None


def _fingerprints(left: dict, right: dict) -> Difference | None:
    """The readings themselves, where nothing else tells them apart (no file, or a file of the same name)."""
    records = [run.get("trained_on") for run in (left, right)]
    if records[0] == records[1]:
        return None
    series = [(record or {}).get("series", []) for record in records]
    names = [row["item_id"] for row in series[0] if row not in series[1]]
    return Difference(
        "trained_on", (f"other readings or times in train or validation: {some_names(names) or 'see B'}",)
    )


def _key(key: str, left: dict, right: dict, of_the_data: bool = True) -> Difference | None:
    """One key, leaf by leaf."""
    sides = [dict(dotted({key: run[key]})) if key in run else {} for run in (left, right)]
    names = [name for name in dict.fromkeys([*sides[0], *sides[1]]) if sides[0].get(name) != sides[1].get(name)]
    if not names:
        return None
    lines = [
        f"{name}: A {_value(sides[0].get(name, _NOTHING))}, B {_value(sides[1].get(name, _NOTHING))}" for name in names
    ]
    return Difference(key, _shortened(lines), of_the_data)


def _value(value: object) -> str:
    text = str(value)
    return text if len(text) <= 100 else f"{text[:97]}…"


def _shortened(lines: list[str]) -> tuple[str, ...]:
    more = len(lines) - _SHOWN
    return tuple(lines) if more <= 1 else (*lines[:_SHOWN], f"and {more} more")
