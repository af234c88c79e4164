"""Real glucose of one person with type 1 diabetes, shipped in the PyPI package bokeh_sampledata.

52,281 five-minute readings in mg/dL, 2010-03-24 to 2010-10-10, public domain.
"""

from __future__ import annotations

import pandas as pd

from tstune.config.schema import DataSection
from tstune.data.cleaning.rules import CleaningReport
from tstune.data.sources import SourceInfo
from tstune.data.table import ITEM, TIMESTAMP, Roles, SourceTable
from tstune.named_code import optional_module

INFO = SourceInfo(
    name="cgm_sample",
    summary="real glucose (mg/dL) of one person with type 1 diabetes, 2010, five-minute readings",
    licence="public domain (bokeh_sampledata.glucose)",
    where="nothing to download: the PyPI package bokeh-sampledata of requirements.txt holds it",
    keys={},
)


def load(config: DataSection) -> SourceTable:
    """Return the series as item ``cgm_sample`` with the channel ``glucose`` in mg/dL."""
    INFO.read_options(config)
    sample = optional_module("bokeh_sampledata.glucose", "source cgm_sample", "bokeh-sampledata>=2024.2")
    readings = sample.data["glucose"].astype("float64")
    # The clock was set back a few times, so a handful of stamps occur twice: keep their mean.
    unique = readings.groupby(level=0).mean()
    frame = pd.DataFrame({ITEM: "cgm_sample", TIMESTAMP: unique.index.to_numpy(), "glucose": unique.to_numpy()})
    duplicates, report = len(readings) - len(unique), CleaningReport()
    report.add("duplicate_timestamps", duplicates, "averaged", {"cgm_sample": duplicates})
    return SourceTable(
        frame=frame,
        roles=Roles(target=("glucose",)),
        frequency="5min",
        max_gap="45min",
        unit="mg/dL",
        licence=INFO.licence,
        notes={"duplicate_timestamps_averaged": duplicates},
        cleaning=report.to_dict(),
    )
