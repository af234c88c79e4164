"""Everything between a configuration and windows, in order."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field

import numpy as np
import pandas as pd

from tstune.config.schema import DataSection
from tstune.data.cleaning import CleaningRules, clean_table
from tstune.data.frequency import to_steps
from tstune.data.leak_check import checked_manifest
from tstune.data.panel import Panel
from tstune.data.preprocess import build_panel
from tstune.data.scaler import Scaler, fit_scaler
from tstune.data.sources import load_source
from tstune.data.sources.csv import table_from_frame
from tstune.data.splits import PARTS, Split, require_windows, split_panel, window_ranges
from tstune.data.table import Roles, SourceTable
from tstune.data.windows import WindowDataset
from tstune.errors import ConfigError, DataError


@dataclass(frozen=True)
class Preprocessor:
    """What a saved model needs to read new data the way it read its training data.

    Attributes:
        roles: value columns by role, in channel order.
        frequency: grid step.
        max_gap: longest gap to interpolate.
        scaler: fitted on the training part.
        unit: unit of the targets, for display.
        timestamp_column, timestamp_format, item_id_column, columns_as, on_duplicate: how a table is read.
        cleaning: what is done with its readings.
    """

    roles: Roles
    frequency: str
    max_gap: str | int
    scaler: Scaler
    unit: str | None
    timestamp_column: str
    timestamp_format: str | None
    item_id_column: str | None
    columns_as: str
    on_duplicate: str
    cleaning: CleaningRules = field(default_factory=CleaningRules)

    def to_dict(self) -> dict:
        """Values for `preprocessor.json`."""
        return asdict(self) | {"scaler": self.scaler.to_dict()}

    @classmethod
    def from_dict(cls, values: dict) -> Preprocessor:
        """Inverse of `to_dict`."""
        roles = Roles(**{role: tuple(columns) for role, columns in values["roles"].items()})
        rules = CleaningRules.from_dict(values.get("cleaning", {}))
        return cls(**values | {"roles": roles, "scaler": Scaler.from_dict(values["scaler"]), "cleaning": rules})

    def read_frame(self, frame: pd.DataFrame, name: object) -> SourceTable:
        """Read new data with the columns of the training data."""
        config = DataSection(
            source="csv",
            timestamp_column=self.timestamp_column,
            timestamp_format=self.timestamp_format,
            on_duplicate=self.on_duplicate,
            timezone=self.cleaning.timezone,
            item_id_column=self.item_id_column,
            columns_as=self.columns_as,
            target_columns=None if self.columns_as == "items" else list(self.roles.target),
            conditional_columns=list(self.roles.conditional),
            control_columns=list(self.roles.control),
        )
        return table_from_frame(frame, config, name)


@dataclass(frozen=True)
class PreparedData:
    """A panel, how it was cut, and the windows of each part."""

    panel: Panel
    split: Split
    preprocessor: Preprocessor
    windows: dict[str, WindowDataset]
    manifest: dict

    @property
    def train(self) -> WindowDataset:
        """Training windows."""
        return self.windows["train"]

    @property
    def validation(self) -> WindowDataset:
        """Validation windows."""
        return self.windows["validation"]

    @property
    def test(self) -> WindowDataset:
        """Test windows."""
        return self.windows["test"]

    @property
    def unseen_items(self) -> tuple[str, ...]:
        """Items that are tested although nothing of theirs was trained on (cold start)."""
        return tuple(self.manifest["unseen_items"])


def prepare_data(
    config: DataSection, context_length: int, prediction_length: int, table: SourceTable | None = None, seed: int = 0
) -> PreparedData:
    """Source → panel → split → windows → scaler from train → leak check.

    Args:
        config: the `data` section of a run.
        context_length: past steps of a window.
        prediction_length: future steps of a window.
        table: readings to use instead of the configured source.
        seed: draw of a uniform few-shot part.

    Raises:
        ConfigError, DataError: naming what is wrong with the configuration or the data.
        LeakError: the parts of the split are not apart.
    """
    rules = CleaningRules.from_config(config)
    table = clean_table(load_source(config) if table is None else table, rules)
    max_gap = table.max_gap if config.max_gap is None else config.max_gap
    panel = build_panel(table, config.frequency, max_gap)
    if to_steps(max_gap, panel.frequency, "data.max_gap") >= context_length:
        raise ConfigError(
            f"data.max_gap={max_gap} is not shorter than model.context_length={context_length}: "
            "a context could be nothing but interpolation"
        )
    split = split_panel(panel, config.split, table.standard_borders)
    strides = {"train": config.train_stride, "validation": config.validation_stride, "test": config.test_stride}
    windows = {}
    for part in PARTS:
        fraction = config.train_fraction if part == "train" and config.train_fraction_from != "uniform" else 1.0
        ranges = window_ranges(
            panel, split, part, context_length, prediction_length, strides[part], fraction, config.train_fraction_from
        )
        require_windows(ranges, panel, split, part, context_length + prediction_length)
        chosen = None
        if part == "train" and config.train_fraction < 1 and config.train_fraction_from == "uniform":
            count = max(1, int(ranges.num_windows * config.train_fraction))
            chosen = np.sort(np.random.default_rng(seed).choice(ranges.num_windows, count, replace=False))
        windows[part] = WindowDataset(panel, ranges, context_length, prediction_length, chosen)
    preprocessor = Preprocessor(
        roles=table.roles,
        frequency=panel.frequency,
        max_gap=max_gap,
        scaler=fit_scaler(panel, split, config.scaling),
        unit=table.unit,
        timestamp_column=config.timestamp_column,
        timestamp_format=config.timestamp_format,
        item_id_column=config.item_id_column,
        columns_as=config.columns_as,
        on_duplicate=config.on_duplicate,
        cleaning=rules.for_new_data(table),
    )
    manifest = checked_manifest(config, table, panel, split, windows, preprocessor.scaler)
    return PreparedData(panel, split, preprocessor, windows, manifest)


def context_windows(table: SourceTable, preprocessor: Preprocessor, context_length: int) -> tuple[Panel, np.ndarray]:
    """The last `context_length` steps of every item, for a forecast of what follows.

    Long gaps inside the context stay missing (masked), they do not stop a forecast.

    Returns:
        the panel and [items] the row at which each item's context starts.

    Raises:
        DataError: naming the first item whose history is too short.
    """
    table = clean_table(table, preprocessor.cleaning)
    panel = build_panel(table, preprocessor.frequency, preprocessor.max_gap, cut=False)
    short = np.flatnonzero(panel.segment_length < context_length)
    if short.size:
        item = int(short[0])
        raise DataError(
            f"series {panel.item_ids[panel.segment_item[item]]!r} has {panel.segment_length[item]} steps of "
            f"{panel.frequency}; a forecast needs a history of {context_length} (model.context_length)"
        )
    return panel, panel.segment_start[1:] - context_length
