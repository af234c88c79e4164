"""What the data of a run was: files, items, borders, windows, drops. Saved beside every score."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

from tstune.config.schema import DataSection
from tstune.data.panel import OBSERVED, Panel
from tstune.data.splits import PARTS, Split
from tstune.data.table import ITEM, SourceTable
from tstune.data.windows import WindowDataset


def describe_data(
    config: DataSection, table: SourceTable, panel: Panel, split: Split, windows: dict[str, WindowDataset]
) -> dict:
    """Build the manifest: JSON values only."""
    observed = panel.status[:, : panel.roles.num_targets] == OBSERVED
    per_item = np.bincount(panel.segment_item, weights=panel.segment_length, minlength=len(panel.item_ids))
    return {
        "source": config.source,
        "licence": table.licence,
        "files": [{"path": path, "sha256": _sha256(Path(path))} for path in table.files],
        "notes": table.notes,
        "channels": {
            "target": list(panel.roles.target),
            "conditional": list(panel.roles.conditional),
            "control": list(panel.roles.control),
        },
        "frequency": panel.frequency,
        "num_items": len(panel.item_ids),
        "items_without_readings": sorted(set(table.frame[ITEM].astype(str).unique()) - set(panel.item_ids)),
        "num_readings": len(table.frame),
        "num_grid_steps": int(panel.item_length.sum()),
        "num_steps_kept": panel.num_rows,
        "num_steps_dropped_in_long_gaps": int(panel.item_length.sum()) - panel.num_rows,
        "num_segments": len(panel.segment_item),
        "observed_share_of_kept_targets": float(observed.mean()),
        "split_mode": split.mode,
        "windows": {part: len(windows[part]) for part in PARTS},
        "items": [
            {
                "item_id": item_id,
                "grid_steps": int(panel.item_length[index]),
                "steps_kept": int(per_item[index]),
                "borders": split.borders[index].tolist(),
            }
            for index, item_id in enumerate(panel.item_ids)
        ],
    }


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
