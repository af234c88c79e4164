"""Check a split for leaks and describe it: the last step of preparing data."""

from __future__ import annotations

from tstune.config.schema import DataSection
from tstune.data.fingerprints import bin_levels, hash_readings, kept_rate
from tstune.data.leaks import check_leaks, extents
from tstune.data.manifest import describe_data
from tstune.data.origin import Origin
from tstune.data.panel import Panel
from tstune.data.scaler import Scaler
from tstune.data.splits import Split
from tstune.data.trained_on import training_record
from tstune.data.windows import WindowDataset
from tstune.runtime.logs import logger

_MOST_STRETCHES = 1 << 15
"""Hashed stretches to look for duplicates with: enough to find some 130 shared readings among a million."""


def checked_manifest(
    config: DataSection,
    origin: Origin,
    panel: Panel,
    split: Split,
    windows: dict[str, WindowDataset],
    scaler: Scaler,
) -> dict:
    """Manifest of a split that has passed the leak checker.

    Raises:
        LeakError: naming what leaked, where, and the fix.
    """
    levels = bin_levels(panel, origin.table.unit)
    rate = kept_rate(panel.num_rows * panel.roles.num_targets, _MOST_STRETCHES)
    stretches = hash_readings(panel, origin.table.unit, levels, rate).identifying()
    report = check_leaks(panel, split, windows, scaler, config.scaling, stretches, config.split.allow_overlap)
    for finding in report.allowed:
        logger.warning("data.split.allow_overlap: %s", finding)
    record = training_record(panel, origin.table.unit, extents(panel, windows), levels, stretches)
    return describe_data(config, origin, panel, split, windows, report, record)
