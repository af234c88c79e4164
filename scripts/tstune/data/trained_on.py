"""What weights were trained on, and the refusal to judge them on it.

The record lies in the manifest of a run: per series the times and a few hashes of readings, which tell a participant
again under another name (P01 of a Kaggle file is P01 of the open data) without giving the readings away.
"""

from __future__ import annotations

from collections.abc import Collection
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from tstune.data.defaults import SHIPPED, shipped_weights
from tstune.data.fingerprints import CHECK, LEARNED, VERSION, decode_hashes, hash_readings, short_hashes, times_of_rows
from tstune.data.leaks import FEWEST_MATCHES, extents, more_findings
from tstune.data.manifest import MANIFEST
from tstune.data.panel import Panel, item_rows, time_of
from tstune.data.prepared import PreparedData
from tstune.errors import LeakError
from tstune.foreign_files import damage, read_object
from tstune.runtime.logs import logger

_MODEL_FOLDER = "model"
_VERB = {"train": "was trained on", "validation": "was chosen by"}


@dataclass(frozen=True)
class Judged:
    """Readings that weights are to be judged on."""

    # panel, unit: the readings and the unit of their targets
    panel: Panel
    unit: str | None
    # ``validation``, ``test`` -> [items, 2] first and last row that is judged, see `extents`
    rows: dict[str, np.ndarray]
    files: Collection[str]  # SHA-256 of the files they come from


def refuse_trained_on(
    data: PreparedData, pretrained: str | None, allow_overlap: bool, key: str = "model.pretrained"
) -> PreparedData:
    """Stop if the weights were trained on, or chosen by, what these windows validate or test.

    Args:
        pretrained: folder of the weights; the manifest of the run they come from lies beside it, or there is none.
        allow_overlap: say so in the manifest instead of stopping.
        key: what names the weights in the configuration.

    Returns:
        the data, whose manifest says under ``weights`` what the weights were trained on before, if that is known.

    Raises:
        LeakError: naming series, part, times and the fix.
        CheckpointError: the manifest beside the weights cannot be read.
    """
    with _damage(pretrained):
        records = _records(pretrained)
        findings = _overlap(_judged(data), records or [])
    if records is None:
        return data
    fix = "take other weights, score other readings, or set data.split.allow_overlap=true"
    refuse_findings(findings, f"{key}={pretrained}", fix, allow_overlap)
    weights = {"pretrained": pretrained, "overlap": findings, CHECK: records}
    return replace(data, manifest=data.manifest | {"weights": weights})


def refuse_findings(
    findings: list[str], who: str, fix: str, is_allowed: bool, key: str = "data.split.allow_overlap"
) -> None:
    """Stop at what somebody learned from and is to be judged on; where `key` allows it, say it."""
    if findings and not is_allowed:
        raise LeakError(CHECK, f"{who} {findings[0]}{more_findings(findings)}; {fix}")
    for finding in findings:
        logger.warning("%s: %s %s", key, who, finding)


def overlap_with(data: PreparedData, weights: str | Path, part: str) -> list[str]:
    """What of the windows of one part these weights, or those they came from, were trained on or chosen by."""
    return _overlaps(_judged(data), weights, (part,))


def overlap_of_panel(panel: Panel, unit: str | None, files: Collection[str], weights: str | Path) -> list[str]:
    """The same for readings that are no prepared data, all of which are judged; `files` are their SHA-256."""
    rows = item_rows(panel)
    whole, nothing = np.stack([rows[:-1], rows[1:] - 1], axis=1), np.tile([panel.num_rows, -1], (len(rows) - 1, 1))
    return _overlaps(Judged(panel, unit, {"validation": nothing, "test": whole}, files), weights, ("test",))


def _overlaps(judged: Judged, weights: str | Path, parts: Collection[str]) -> list[str]:
    with _damage(weights):
        return _overlap(judged, _records(str(weights)) or [], parts)


def has_record(weights: str | None) -> bool:
    """Whether a run of ours is known to have trained these weights on readings."""
    with _damage(weights):
        return bool(_records(weights))


def knows_training_windows(data: PreparedData, weights: str | None) -> bool:
    """Whether these weights are known to have learned from, or to be chosen by, the training windows of this data."""
    judged = _judged(data)
    nothing = np.tile([data.panel.num_rows, -1], (len(data.panel.item_ids), 1))
    rows = {"validation": nothing, "test": judged.rows["train"]}
    return weights is not None and bool(_overlaps(replace(judged, rows=rows), weights, ("test",)))


def _damage(weights: str | Path | None) -> AbstractContextManager[None]:
    """A manifest may come from somebody else."""
    return damage(f"{MANIFEST} of {weights}", state="does not say what the weights were trained on")


def _judged(data: PreparedData) -> Judged:
    files = {file["sha256"] for file in data.manifest["files"]}
    return Judged(data.panel, data.preprocessor.unit, extents(data.panel, data.windows), files)


def _records(pretrained: str | None) -> list[dict] | None:
    """What these weights, and those they came from, were trained on; None for weights that no run of ours wrote."""
    if pretrained in SHIPPED:
        folders = shipped_weights(pretrained).values()
        return [record for folder in folders for record in _records(str(folder)) or []] or None
    if pretrained is None or not Path(pretrained).is_dir():
        return None
    folder = Path(pretrained).resolve()
    path = (folder.parent if folder.name == _MODEL_FOLDER else folder) / MANIFEST
    if not path.is_file():
        return None
    manifest = read_object(path)  # it says what these weights were trained on: restore it where it is damaged
    earlier, own = manifest.get("weights", {}).get(CHECK, []), manifest.get(CHECK)
    if own is not None and own.get("version") == VERSION:
        files = [file["sha256"] for file in manifest["files"]]
        return [*earlier, {"source": manifest.get("source"), "files": files} | own]
    if manifest.get("source") != "synthetic":
        logger.warning(
            "model.pretrained=%s: its manifest does not say what it was trained on (it was written by another "
            "version), so an overlap with this data cannot be ruled out",
            pretrained,
        )
    return earlier


def _overlap(judged: Judged, records: Collection[dict], parts: Collection[str] = ("validation", "test")) -> list[str]:
    """Findings, each once whatever records have it; names count only for series that readings do not tell."""
    panel, findings = judged.panel, {}
    for record in records:
        told = set()
        for series, item, part, learned, count, begin, end in _matching_readings(judged, record):
            if part not in parts:
                continue
            told.add((series["item_id"], part))
            text = (
                f"{_VERB[learned]} readings of {part}: series {panel.item_ids[item]!r} "
                f"({time_of(panel, begin)} to {time_of(panel, end)}) is {series['item_id']!r} of "
                f"{record['source']} ({series[learned]['from']} to {series[learned]['to']}), {count} stretches agree"
            )
            findings.setdefault((series["item_id"], item, part, learned), text)
        for key, text in _matching_names(judged, record):
            if key not in told and key[1] in parts:
                findings.setdefault(key, text)
    return list(findings.values())


def _matching_readings(judged: Judged, record: dict) -> list[tuple[dict, int, str, str, int, int, int]]:
    """(series of the record, item, part, what was learned from it, matches, first row, last row)."""
    panel, found = judged.panel, []
    shape = len(panel.item_ids), panel.roles.num_targets
    for level in sorted({series["level"] for series in record["series"]}):
        stretches = hash_readings(panel, judged.unit, np.full(shape, level), record["rate"]).identifying()
        short = short_hashes(stretches.hashes)
        for series in (series for series in record["series"] if series["level"] == level):
            for learned, parts in LEARNED.items():
                hashes = series[learned] and decode_hashes(series[learned]["hashes"])
                if hashes is None or not len(hashes):
                    continue
                matching = stretches.select(np.isin(short, hashes))
                for part in parts:
                    inside = matching.select(matching.within(judged.rows[part]))
                    for item in np.unique(inside.item):
                        mine = inside.select(inside.item == item)
                        if len(mine) >= FEWEST_MATCHES:
                            first, last = int(mine.first_row.min()), int(mine.last_row.max())
                            found.append((series, int(item), part, learned, len(mine), first, last))
    return found


def _matching_names(judged: Judged, record: dict) -> list[tuple[tuple, str]]:
    """Series of the same file, the same name and overlapping times, whatever was made of the readings."""
    panel, found = judged.panel, []
    if not set(record["files"]) & set(judged.files):
        return []
    for series in record["series"]:
        if series["item_id"] not in panel.item_ids or series["channel"] not in panel.roles.target:
            continue
        item = panel.item_ids.index(series["item_id"])
        for learned, parts in LEARNED.items():
            for part in parts:
                now, then = times_of_rows(panel, judged.rows[part][item]), series[learned]
                if now and then and now["from"] <= then["to"] and then["from"] <= now["to"]:
                    text = (
                        f"{_VERB[learned]} {series['item_id']!r} from {then['from']} to {then['to']}, and {part} "
                        f"lies from {now['from']} to {now['to']} in the same file"
                    )
                    found.append(((series["item_id"], part), text))
    return found
