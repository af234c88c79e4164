"""Was a model trained on what test.csv asks for? The competition's people are in BrisT1D-Open too, answers included."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa

from tstune.data.pipeline import PreparedData, Preprocessor
from tstune.data.preprocess import build_panel
from tstune.data.sources.kaggle_brist1d import TARGET, channel_frame
from tstune.data.splits import PARTS, Split, WindowRanges
from tstune.data.table import Roles, SourceTable
from tstune.data.trained_on import refuse_trained_on
from tstune.data.windows import WindowDataset
from tstune.errors import LeakError


def refuse_known_rows(
    table: pa.Table, sha256: str, folder: Path, preprocessor: Preprocessor, allow_overlap: bool
) -> None:
    """Compare the readings of test.csv with those that a run folder says its model learned from.

    Rows of fifteen-minute sensors are too short to be recognised; those of the others give the model away.

    Args:
        table: test.csv, converted.
        sha256: hash of test.csv.
        folder: run folder of the model; without a manifest nothing can be said.
        preprocessor: of the model.
        allow_overlap: warn instead of stopping.

    Raises:
        LeakError: naming a participant, the times and the fix.
    """
    frame = channel_frame(table, [TARGET])
    if frame.empty:
        return
    panel = build_panel(SourceTable(frame=frame, roles=Roles((TARGET,))), "5min", "45min")
    rows = panel.segment_length - 1
    every = WindowRanges(panel.segment_start[:-1][rows > 0], rows[rows > 0], 1)
    nothing = WindowRanges(np.zeros(0, np.int64), np.zeros(0, np.int64), 1)
    windows = {part: WindowDataset(panel, every if part == "test" else nothing, 1, 1) for part in PARTS}
    split = Split(np.zeros((len(panel.item_ids), 3), np.int64), "deployment")
    data = PreparedData(
        panel, split, replace(preprocessor, unit="mmol/L"), windows, {"files": [{"path": "test.csv", "sha256": sha256}]}
    )
    try:
        refuse_trained_on(data, str(folder), allow_overlap)
    except LeakError as leak:
        found = str(leak).partition(": ")[2].partition("; take other weights")[0].partition(" ")[2]
        raise LeakError(
            leak.check, f"--model {folder} {found}; take a model that has not seen test.csv, or add --allow-overlap"
        ) from None
