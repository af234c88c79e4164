"""What the data of a run was: files, items, borders, windows, drops. Saved beside every score."""

from __future__ import annotations

import numpy as np

from tstune.config.schema import DataSection
from tstune.data.leaks import LeakReport
from tstune.data.origin import Origin
from tstune.data.panel import OBSERVED, Panel
from tstune.data.panel_rows import item_rows, row_blocks
from tstune.data.splits import PARTS, Split
from tstune.data.windows import WindowDataset


def describe_data(
    config: DataSection,
    origin: Origin,
    panel: Panel,
    split: Split,
    windows: dict[str, WindowDataset],
    leak_check: LeakReport,
    trained_on: dict,
) -> dict:
    """Build the manifest: JSON values only, the same for every run on the same data, split and windows.

    Args:
        config, origin, panel, split, windows: what the data is and how it was cut.
        leak_check: what was checked.
        trained_on: record of `training_record`.
    """
    table = origin.table
    items = len(panel.item_ids)
    kept = np.bincount(panel.segment_item, weights=panel.segment_length, minlength=items).astype(int)
    per_part = np.stack([windows_by_item(windows[part]) for part in PARTS], axis=1)
    in_a_part = np.stack([_steps_in(panel, split, part) for part in PARTS], axis=1)
    return {
        "source": config.source,
        "licence": table.licence,
        "files": origin.files,
        "notes": table.notes,
        "cleaning": table.cleaning,
        "channels": {
            "target": list(panel.roles.target),
            "conditional": list(panel.roles.conditional),
            "control": list(panel.roles.control),
        }
        | {
            role: list(getattr(panel.roles, role))
            for role in ("static_real", "static_categorical", "time_features")
            if getattr(panel.roles, role)
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
                "first": _moment(panel, first),
                "last": _moment(panel, last),
                "grid_steps": int(panel.item_length[index]),
                "steps_kept": int(kept[index]),
                "borders": split.borders[index].tolist(),
                "begins": [int(split.bounds(part)[0][index]) for part in PARTS],
                "windows": dict(zip(PARTS, per_part[index].tolist(), strict=True)),
            }
            for index, (item_id, first, last) in enumerate(_first_and_last_rows(panel))
        ],
        "leak_check": leak_check.to_dict(),
        "trained_on": trained_on,
    }


def windows_by_item(windows: WindowDataset) -> np.ndarray:
    """[items] windows of each item."""
    ranges, items = windows.ranges, len(windows.panel.item_ids)
    if windows.chosen is None:
        owner, count = windows.panel.segment_item[windows.segment_of(ranges.first)], ranges.count
        return np.bincount(owner, weights=count, minlength=items).astype(int)
    rows = windows.starts(np.arange(len(windows)))
    return np.bincount(windows.panel.segment_item[windows.segment_of(rows)], minlength=items)


def unseen_items(panel: Panel, split: Split, windows: dict[str, WindowDataset]) -> list[str]:
    """Names of the items that are tested although no step of theirs belongs to train."""
    begin, end = split.bounds("train")
    return [panel.item_ids[item] for item in np.flatnonzero((windows_by_item(windows["test"]) > 0) & (end <= begin))]


def _steps_in(panel: Panel, split: Split, part: str) -> np.ndarray:
    """[segments] rows that belong to a part."""
    begin, end = (bound[panel.segment_item] for bound in split.bounds(part))
    first, last = panel.segment_position, panel.segment_position + panel.segment_length
    return np.maximum(np.minimum(last, end) - np.maximum(first, begin), 0)


def _first_and_last_rows(panel: Panel) -> list[tuple[str, int, int]]:
    rows = item_rows(panel)
    return list(zip(panel.item_ids, rows[:-1].tolist(), (rows[1:] - 1).tolist(), strict=True))


def _moment(panel: Panel, row: int) -> str:
    return str(panel.timestamps[row].astype("datetime64[s]"))


def _observed_share(panel: Panel) -> float:
    targets = panel.roles.num_targets
    observed = sum(int((panel.status[rows, :targets] == OBSERVED).sum()) for rows in row_blocks(panel))
    return observed / (panel.num_rows * targets)
