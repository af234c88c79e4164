"""What a run gets: everything between a configuration and windows, in order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pandas as pd
from torch.utils.data import DataLoader

from tstune.config.schema import DataSection, RunConfig
from tstune.config.section import AUTO
from tstune.data.cleaning import CleaningRules
from tstune.data.fingerprints import bin_levels, hash_readings, kept_rate, training_record
from tstune.data.frame import table_from_frame
from tstune.data.frequency import to_steps
from tstune.data.leaks import check_leaks, extents
from tstune.data.manifest import describe_data
from tstune.data.panel import OBSERVED, Origin, Panel, rows_between
from tstune.data.panel_store import read_panel
from tstune.data.parts import join_parts, named_data
from tstune.data.plan import WindowPlan, plan_windows, settle, steps_within
from tstune.data.preprocess import READ_AS, Preprocessor, longest_gap
from tstune.data.scaler import Scaler, fit_scaler, learn_categories
from tstune.data.sources import load_source
from tstune.data.splits import PARTS, Split
from tstune.data.table import ITEM, TIMESTAMP, SourceTable
from tstune.data.windows import WindowDataset
from tstune.errors import ConfigError, DataError
from tstune.runtime.logs import logger

_MOST_STRETCHES = 1 << 15
"""Hashed stretches to look for duplicates with: enough to find some 130 shared readings among a million."""


@dataclass(frozen=True)
class PreparedData:
    """A panel, how it was cut, the windows of each part, and the settings they came of, with what `auto` became."""

    panel: Panel
    split: Split
    preprocessor: Preprocessor
    windows: dict[str, WindowDataset]
    manifest: dict
    config: DataSection

    @property
    def train(self) -> WindowDataset:
        """Training windows."""
        return self.windows["train"]

    @property
    def validation(self) -> WindowDataset:
        """Validation windows: what chooses weights and settings."""
        return self.windows["validation"]

    @property
    def calibration(self) -> WindowDataset:
        """Windows that intervals are calibrated on; see `with_calibration_apart`."""
        return self.windows.get("calibration", self.validation)

    @property
    def test(self) -> WindowDataset:
        """Test windows."""
        return self.windows["test"]

    def judged_on(self, context_steps: str | int | None) -> PreparedData:
        """The same with all but the last so many steps of validation and test contexts masked; None: as it is."""
        if context_steps is None:
            return self
        steps = steps_within(context_steps, self.train.context_length, self.panel.frequency, "evaluation.context_steps")
        if to_steps(self.preprocessor.max_gap, self.panel.frequency, "data.max_gap") >= steps:
            raise ConfigError(
                f"data.max_gap={self.preprocessor.max_gap} is not shorter than evaluation.context_steps={context_steps}"
                ": what is left of a context could be nothing but interpolation"
            )
        windows = {part: windows.showing(steps) for part, windows in self.windows.items() if part != "train"}
        return replace(self, windows=self.windows | windows)

    def with_calibration_apart(self) -> PreparedData:
        """The same with validation in two: each item's earlier half chooses, the later half calibrates intervals.

        Errors on windows that chose the weights are smaller than those to come (Vovk, Gammerman & Shafer 2005, ch. 4.1:
        the proper training set and the calibration set are disjoint). What the first half forecasts ends before the
        second begins.
        """
        if "calibration" in self.windows:
            return self
        windows, numbers = self.validation, np.arange(len(self.validation))
        starts = windows.starts(numbers)
        item = self.panel.segment_item[windows.segment_of(starts)]
        border = np.zeros(len(self.panel.item_ids), np.int64)
        for one in np.unique(item):
            border[one] = np.median(starts[item == one])
        later = starts >= border[item]
        earlier = starts + windows.prediction_length <= border[item]
        if not earlier.any():
            logger.warning(
                "validation part too short to cut: intervals are calibrated on the windows that choose the weights, "
                "and may hold less than they promise; enlarge data.split.validation"
            )
            return self
        chosen = numbers if windows.chosen is None else windows.chosen
        halves = {"validation": windows.only(chosen[earlier]), "calibration": windows.only(chosen[later])}
        return replace(self, windows=self.windows | halves)

    def settle(self, config: RunConfig) -> RunConfig:
        """The run with what its `auto` settings became here."""
        return settle(config, self.config, self.train, self.panel.frequency)

    def with_split(self, split: Split, seed: int = 0) -> PreparedData:
        """The same readings with other borders between the parts, which windows and scaler follow."""
        train, shown = self.train, self.test.visible_steps
        nothing = SourceTable(pd.DataFrame(), self.panel.roles)  # borders and longest gap are settled
        lengths = train.context_length, train.prediction_length
        plan = plan_windows(self.config, *lengths, self.panel, nothing, seed=seed, split=split)
        windows = _windows_of(plan, self.panel, train.categories)
        windows |= {part: windows[part].showing(shown) for part in ("validation", "test")}
        scaler = fit_scaler(self.panel, plan.split, self.config.scaling)
        preprocessor = replace(self.preprocessor, scaler=scaler)
        return _linked(replace(self, split=plan.split, windows=windows, preprocessor=preprocessor))

    def as_judged(self) -> PreparedData:
        """The same with training contexts as short as those of the test, for baselines."""
        return replace(self, windows=self.windows | {"train": self.train.showing(self.test.visible_steps)})

    @property
    def unseen_items(self) -> tuple[str, ...]:
        """Items that are tested although nothing of theirs was trained on (cold start)."""
        return tuple(self.manifest["unseen_items"])


def prepare_data(
    config: DataSection,
    context_length: int | str,
    prediction_length: int | str,
    table: SourceTable | None = None,
    seed: int = 0,
    known_lengths: Sequence[tuple[int, int]] = (),
    others: Mapping[str, SourceTable] | None = None,
) -> PreparedData:
    """Source → panel → split → windows → scaler from train → leak check.

    Args:
        context_length, prediction_length: steps, or ``auto``.
        table: readings to use instead of the configured source.
        seed: draw of a uniform few-shot part.
        others: ``validation``, ``test`` -> readings that are that part, instead of one of the source or table.

    Raises:
        ConfigError, DataError: naming what is wrong with the configuration or the data.
        LeakError: the parts of the split are not apart.
    """
    rules = CleaningRules.from_config(config)
    tables = {"train": load_source(config) if table is None else table, **others} if others else {}

    def read(section: DataSection) -> tuple[Panel, Origin, Split | None]:
        found, origin, split = (
            join_parts(section, rules, tables) if tables else (*read_panel(section, rules, table), None)
        )
        return (found.targets_only(), origin.targets_only(), split) if section.targets_only else (found, origin, split)

    panel, origin, given = read(config)
    usual = longest_gap(origin.table, panel.frequency, config.max_gap)
    follows = config.max_gap is None and origin.table.max_gap is None
    if follows and context_length != AUTO and usual >= context_length:  # a context is never interpolation alone
        config = config.model_copy(update={"max_gap": context_length // 2})
        panel, origin, given = read(config)
    table = origin.table
    asked = (*config.static_categorical_columns, *config.static_real_columns)
    if asked and not config.targets_only and (asked != table.roles.statics or table.statics is None):
        raise ConfigError(
            f"source {config.source} reads no static columns such as {asked[0]!r}; take csv or parquet, or leave out "
            "data.static_categorical_columns and data.static_real_columns"
        )
    plan = plan_windows(config, context_length, prediction_length, panel, table, known_lengths, seed, given)
    split, unlike = plan.split, config.columns_as == "items" and config.scaling == "standard"
    roles, categories = learn_categories(table, panel, split)
    windows = _windows_of(plan, panel, categories)
    preprocessor = Preprocessor(
        roles=roles,
        frequency=panel.frequency,
        max_gap=plan.max_gap,
        scaler=fit_scaler(panel, split, config.scaling, unlike),
        unit=table.unit,
        **{name: getattr(config, name) for name in READ_AS} | dict(table.read_as),
        cleaning=rules.for_new_data(table),
        fill=dict(table.fill),
        min_context=plan.min_context,
        levels={
            panel.item_ids[item]: panel.level[item].tolist()
            for item in np.flatnonzero(() if panel.level is None else panel.level.any(axis=1))
        },
    )
    manifest = _checked_manifest(plan.config, origin, panel, split, windows, preprocessor.scaler)
    return _linked(PreparedData(panel, split, preprocessor, windows, manifest, plan.config))


def _windows_of(plan: WindowPlan, panel: Panel, categories: np.ndarray | None) -> dict[str, WindowDataset]:
    windows = {}
    for part, one in plan.windows.items():
        lengths, shortest = (one.context_length, one.prediction_length), one.context_length - one.padding
        windows[part] = WindowDataset(panel, one.ranges, *lengths, one.chosen, shortest, categories)
    return windows


def _linked(prepared: PreparedData) -> PreparedData:
    """The same, which each of its windows knows."""
    for part in prepared.windows.values():
        part.prepared = prepared
    return prepared


@dataclass(frozen=True)
class UnfittedPreprocessor:
    """How a run reads its data, before there is any: `get_datasets` makes a `Preprocessor` by it.

    It is `self.preprocessor` of a model while `_prepare_data` is called.
    """

    config: DataSection = field(default_factory=DataSection)
    context_length: int | str = 512
    prediction_length: int | str = 96
    seed: int = 0
    known_lengths: Sequence[tuple[int, int]] = ()


def get_datasets(
    data: SourceTable | pd.DataFrame | str, preprocessor: UnfittedPreprocessor | None = None
) -> tuple[WindowDataset, WindowDataset, WindowDataset]:
    """Windows to train, validate and test on.

    Args:
        data: `get_loader(…).processed_data`, a table, a file or the name of a source.
        preprocessor: lengths, columns, split; None takes the defaults of a recipe.
    """
    how = preprocessor or UnfittedPreprocessor()
    table = table_of(data, how.config, "train")
    lengths = how.context_length, how.prediction_length
    return tuple(prepare_data(how.config, *lengths, table, how.seed, how.known_lengths).windows.values())


def table_of(
    data: SourceTable | pd.DataFrame | PreparedData | str | Path, config: DataSection, part: str
) -> SourceTable:
    """The readings that are to be one part of a run; of prepared data, those of that part."""
    if isinstance(data, SourceTable):
        return data
    if isinstance(data, str | Path):
        return load_source(named_data(config, data))
    if isinstance(data, PreparedData):
        return _readings_of(data, part)
    name = "train_data" if part == "train" else "val_data" if part == "validation" else "test_data"
    if not isinstance(data, pd.DataFrame):
        raise ConfigError(
            f"{name} is a {type(data).__name__}; give the name of a source, a file, a table or prepared data"
        )
    table = table_from_frame(data, config, name)
    if table.frame[ITEM].eq(name).all():  # one series without a name: it is the same in every part
        table.frame[ITEM] = "train_data"
    return table


def _readings_of(data: PreparedData, part: str) -> SourceTable:
    panel, roles = data.panel, replace(data.panel.roles, time_features=())
    if roles.statics:
        raise ConfigError(f"prepared data with static columns ({roles.statics[0]}) cannot be joined; give its table")
    inside = rows_between(panel, *data.split.bounds(part), slice(0, panel.num_rows))
    columns = slice(0, len(roles.columns))
    seen, item = panel.status[inside, columns] == OBSERVED, panel.row_item()[inside]
    values = panel.values[inside, columns] + panel.level_of(item, columns)
    frame = pd.DataFrame(np.where(seen, values, np.nan), columns=list(roles.columns))
    frame.insert(0, TIMESTAMP, panel.timestamps[inside])
    frame.insert(0, ITEM, np.asarray(panel.item_ids, object)[item])
    frame = frame[seen.any(axis=1)].reset_index(drop=True)
    how = data.preprocessor
    return SourceTable(frame, roles, panel.frequency, how.max_gap, how.unit, fill=how.fill)


def prepared_of(found: object, asked: tuple[int | str, int | str], batch_size: int) -> PreparedData:
    """What `_prepare_data` returned, prepared data, windows or loaders of one `get_datasets`, as data of a run."""
    if isinstance(found, PreparedData):
        return found
    parts = list(found) if isinstance(found, tuple | list) else []
    windows = [getattr(part, "dataset", part) for part in parts]
    prepared = getattr(windows[0], "prepared", None) if len(windows) == len(PARTS) else None
    if prepared is None or any(getattr(one, "prepared", None) is not prepared for one in windows):
        raise ConfigError(
            "_prepare_data must return prepared data, or train, validation and test of one get_datasets(…), or loaders "
            "over these three"
        )
    lengths = windows[0].context_length, windows[0].prediction_length
    if any(steps not in (AUTO, length) for steps, length in zip(asked, lengths, strict=True)):
        raise ConfigError(
            f"_prepare_data gave windows of {lengths[0]} + {lengths[1]} steps, the run asks for {asked[0]} + "
            f"{asked[1]}; pass preprocessor=self.preprocessor to get_datasets"
        )
    if getattr(parts[0], "batch_size", batch_size) != batch_size:
        logger.warning("the loader's batch_size is not used: training.per_device_batch_size=%d is", batch_size)
    counts = {part: len(one) for part, one in zip(PARTS, windows, strict=True)}
    manifest = prepared.manifest | {"windows": counts}
    return replace(prepared, windows=dict(zip(PARTS, windows, strict=True)), manifest=manifest)


def _checked_manifest(
    config: DataSection, origin: Origin, panel: Panel, split: Split, windows: dict[str, WindowDataset], scaler: Scaler
) -> dict:
    """Manifest of a split that has passed the leak checker."""
    levels = bin_levels(panel, origin.table.unit)
    rate = kept_rate(panel.num_rows * panel.roles.num_targets, _MOST_STRETCHES)
    stretches = hash_readings(panel, origin.table.unit, levels, rate).identifying()
    allowed = check_leaks(panel, split, windows, scaler, config.scaling, stretches, config.split.allow_overlap)
    for finding in allowed:
        logger.warning("data.split.allow_overlap: %s", finding)
    record = training_record(panel, origin.table.unit, extents(panel, windows), levels, stretches)
    return describe_data(config, origin, panel, split, windows, allowed, record)


def data_of_loader(loader: DataLoader, part: str) -> PreparedData:
    """The data that the windows of a loader belong to, with these windows as that part."""
    windows = loader.dataset
    if getattr(windows, "prepared", None) is None:
        raise ConfigError(
            f"evaluate: the loader is over a {type(windows).__name__}; give one over windows of get_datasets(…) or of "
            "prepared data, or the data itself"
        )
    return replace(windows.prepared, windows=windows.prepared.windows | {part: windows})


def context_windows(table: SourceTable, preprocessor: Preprocessor, context_length: int) -> tuple[Panel, np.ndarray]:
    """The last `context_length` steps of every item, for a forecast of what follows.

    Long gaps inside the context stay missing (masked), they do not stop a forecast. With `preprocessor.min_context` a
    shorter history will do: its context begins before its first row, see `padded_context`.

    Returns:
        the panel and [items] the row at which each item's context starts.
    """
    panel = preprocessor.panel_of(table)
    needed = context_length if preprocessor.min_context is None else preprocessor.min_context
    short = np.flatnonzero(panel.segment_length < needed)
    if short.size:
        item = int(short[0])
        key = "model.context_length" if needed == context_length else "data.min_context of its training"
        raise DataError(
            f"series {panel.item_ids[panel.segment_item[item]]!r} has {panel.segment_length[item]} steps of "
            f"{panel.frequency}; a forecast needs a history of {needed} ({key})"
        )
    return panel, panel.segment_start[1:] - context_length
