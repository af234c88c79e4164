"""Lengths, split and windows of a data set, where the configuration leaves them to the data; no reading is fetched."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from tstune.config.schema import FOLLOW_THE_DATA, DataSection, RunConfig
from tstune.config.section import AUTO
from tstune.data.defaults import ENOUGH, default_baselines, default_horizons, default_stride, lengths_to_try, season_of
from tstune.data.frequency import StepError, to_steps
from tstune.data.panel import Panel
from tstune.data.preprocess import longest_gap
from tstune.data.splits import PARTS, Split, WindowIndex, WindowRanges, split_panel, window_ranges
from tstune.data.table import SourceTable
from tstune.errors import ConfigError, DataError
from tstune.runtime.logs import logger


@dataclass(frozen=True)
class WindowPlan:
    """Which windows a panel gives."""

    config: DataSection  # the `data` section with what `auto` became
    split: Split
    max_gap: str | int  # longest gap that was interpolated
    min_context: int | None  # steps of a training context that must be there; None: all
    windows: dict[str, WindowIndex]


def plan_windows(
    config: DataSection,
    context_length: int | str,
    prediction_length: int | str,
    panel: Panel,
    table: SourceTable,
    known_lengths: Sequence[tuple[int, int]] = (),
    seed: int = 0,
    split: Split | None = None,
) -> WindowPlan:
    """Choose what the configuration leaves open and list the windows of each part.

    Args:
        table: the source's advice: its standard borders and longest gap.
        known_lengths: (context, longest forecast) pairs of the weights; empty: any.
        seed: draw of a uniform few-shot part.
        split: where the parts lie, if that is not for the configuration to say.
    """
    split = split_panel(panel, config.split, table.standard_borders) if split is None else split
    cut = _Cut(config, panel, split, known_lengths)
    context, ahead = cut.lengths(context_length, prediction_length)
    max_gap = longest_gap(table, panel.frequency, config.max_gap)
    if to_steps(max_gap, panel.frequency, "data.max_gap") >= context:
        raise ConfigError(
            f"data.max_gap={max_gap} is not shorter than model.context_length={context}: "
            "a context could be nothing but interpolation"
        )
    shortest = config.min_context
    if shortest is not None:
        shortest = steps_within(shortest, context, panel.frequency, "data.min_context")
    padding = 0 if shortest is None else context - shortest
    mode = cut.mode(context, ahead)
    split, strides, windows = replace(cut.split, mode=mode), {}, {}
    for part in PARTS:
        padded = padding if part == "train" else 0
        stride = getattr(config, f"{part}_stride")
        ranges = cut.ranges(part, mode, context, ahead, padded, 1 if stride == AUTO else stride)
        if stride == AUTO:
            stride = default_stride(ranges.num_windows, part)
            ranges = ranges if stride == 1 else cut.ranges(part, mode, context, ahead, padded, stride)
        strides[f"{part}_stride"] = stride
        if not ranges.num_windows and padding > padded:  # readings that come in short pieces: better so than not at all
            padded = padding
            ranges = cut.ranges(part, mode, context, ahead, padded, stride)
            if ranges.num_windows:
                logger.info("no whole %s window: histories are padded there too (data.min_context)", part)
        if not ranges.num_windows and cut.split.has(part):
            raise cut.no_window(part, mode, context, ahead, padded)
        chosen = None
        if part == "train" and config.train_fraction < 1 and config.train_fraction_from == "uniform":
            count = max(1, int(ranges.num_windows * config.train_fraction))
            chosen = np.sort(np.random.default_rng(seed).choice(ranges.num_windows, count, replace=False))
        windows[part] = WindowIndex(panel, ranges, context, ahead, chosen, shortest if padded else None)
    settled = {"split": config.split.model_copy(update={"mode": mode}), "max_gap": max_gap, **strides}
    return WindowPlan(config.model_copy(update=settled), split, max_gap, shortest, windows)


def steps_within(duration: str | int, context_length: int, frequency: str, key: str) -> int:
    """Steps of a part of a context."""
    steps = to_steps(duration, frequency, key)
    if not 1 <= steps <= context_length:
        raise ConfigError(
            f"{key}={duration} is {steps} steps of {frequency}; it must be from 1 to "
            f"model.context_length={context_length}"
        )
    return steps


def wrong_durations(config: RunConfig, frequency: str) -> tuple[list[str], dict[str, str]]:
    """(what is wrong with the durations that are no number of steps, key -> what always fits)."""
    data, judged = config.data, config.evaluation
    horizons = judged.horizons if isinstance(judged.horizons, list) else []
    given = [("data.max_gap", data.max_gap, "null"), ("data.min_context", data.min_context, "null")]
    given += [("data.split.purge", data.split.purge, "0"), ("evaluation.context_steps", judged.context_steps, "null")]
    given += [("evaluation.horizons", horizon, "auto") for horizon in horizons]
    wrong, instead = [], {}
    for key, duration, other in given:
        try:
            to_steps(0 if duration in (None, AUTO) else duration, frequency, key)
        except StepError as error:
            wrong.append(str(error))
            instead[key] = other
    return wrong, instead


def settle(config: RunConfig, plan: DataSection, windows: WindowIndex, frequency: str) -> RunConfig:
    """The run with what its open settings became by the settled `plan`, which is printed; what it says stays."""
    context, ahead = windows.context_length, windows.prediction_length
    season = season_of(config.evaluation.seasonality, frequency)
    became = (
        *(context, ahead, plan.max_gap, plan.split.mode),
        *(plan.train_stride, plan.validation_stride, plan.test_stride),
        *(default_horizons(frequency, ahead), season, default_baselines(season, context)),
    )
    values = dict(zip(FOLLOW_THE_DATA, became, strict=True))
    left_open = config.open_settings()
    if not left_open:
        return config
    said = " ".join(f"{key}={_written(values[key])}" for key in left_open)
    logger.info("settings that follow the data: %s", said)
    return config.settled(values.__getitem__)


def _written(value: object) -> str:
    return f"[{','.join(map(str, value))}]" if isinstance(value, list) else str(value)


class NoWindow(DataError):
    """A part has no window, and `why`; with the settings `works` all have some, it is empty if there are none.

    `option` is what asked for the length of the forecasts on the command line.
    """

    def __init__(self, why: str, works: Mapping[str, object], option: str = "model.prediction_length=") -> None:
        asked = {"model.prediction_length": option}
        remedy = f"this works: {' '.join(asked.get(key, f'{key}=') + str(works[key]) for key in works)}"
        nothing = "no context length works: more readings are needed, or other parts (data.split)"
        super().__init__(f"{why}; {remedy if works else nothing}")
        self.why, self.works = why, works


@dataclass(frozen=True)
class _Cut:
    """A panel and its parts, asked how many windows which lengths would give."""

    config: DataSection
    panel: Panel
    split: Split
    known_lengths: Sequence[tuple[int, int]]

    def ranges(self, part: str, mode: str, context: int, ahead: int, padding: int = 0, stride: int = 1) -> WindowRanges:
        """Windows of a part."""
        split, how = replace(self.split, mode=mode), self.config.train_fraction_from
        fraction = self.config.train_fraction if part == "train" and how != "uniform" else 1.0
        return window_ranges(self.panel, split, part, context, ahead, stride, fraction, how, padding)

    def mode(self, context: int, ahead: int) -> str:
        """`data.split.mode`; ``auto`` lets contexts look back where else half of the series or more would be lost."""
        if self.config.split.mode != AUTO:
            return self.config.split.mode
        for part in ("validation", "test"):
            ranges = [self.ranges(part, mode, context, ahead) for mode in ("strict", "deployment")]
            has = [WindowIndex(self.panel, found, context, ahead).by_item() > 0 for found in ranges]
            if 2 * has[0].sum() <= has[1].sum() and has[1].any():
                return "deployment"
        return "strict"

    def lengths(self, context_length: int | str, prediction_length: int | str) -> tuple[int, int]:
        """The longest context from which a fifth of the training steps begins a window, or what comes closest."""
        if AUTO not in (context_length, prediction_length):
            return context_length, prediction_length
        tried = lengths_to_try(
            context_length, prediction_length, self.known_lengths, self.panel.frequency, self._room()
        )
        learned = self.split.fitted_on
        steps = max(1, self.ranges(learned, "strict", 0, 1).num_windows)
        best, most = tried[-1], 0
        for context, ahead in tried:
            if not self.is_possible(context, ahead):
                continue
            count = self.ranges(learned, "strict", context, ahead).num_windows
            if count >= ENOUGH * steps:
                return context, ahead
            if count > most:
                best, most = (context, ahead), count
        return best

    def is_possible(self, context: int, ahead: int, mode: str | None = None) -> bool:
        """True if every part has a window."""
        mode = mode or self.mode(context, ahead)
        gap = self.config.max_gap
        if gap is not None and to_steps(gap, self.panel.frequency, "data.max_gap") >= context:
            return False
        return all(self.ranges(part, mode, context, ahead).num_windows for part in PARTS if self.split.has(part))

    def no_window(self, part: str, mode: str, context: int, ahead: int, padding: int) -> NoWindow:
        """Why a part has no window, and settings that work when they are pasted."""
        panel, split = self.panel, self.split
        length = context + ahead - padding
        begin, end = split.bounds(part)
        key = "data.min_context" if padding else "model.context_length"
        needed = f"a window needs {length} steps ({key} + model.prediction_length)"
        if int(panel.item_length.max()) < length:
            what = f"series too short: {needed}, the longest series has {int(panel.item_length.max())}"
        elif (longest := int(panel.segment_length.max(initial=0))) < length:
            what = f"no window without a long gap: {needed}, the longest stretch has {longest}; raise data.max_gap"
        else:
            spans = int((end - begin).max(initial=0))
            what = f"the {part} part has no window: {needed}, the part spans {spans} steps at most"
            what += "; enlarge it" if spans < length else ", with long gaps between; raise data.max_gap, or enlarge it"
            what += f", or lower data.split.purge (here {split.purge} steps)" if split.purge else ""
            what += ", or hold out other series" if split.held_out.any() else ""
        return NoWindow(what, self._remedy(mode, context, ahead))

    def _remedy(self, mode: str, context: int, ahead: int) -> dict[str, object]:
        looks_back = {mode: {}, "deployment": {} if mode == "deployment" else {"data.split.mode": "deployment"}}
        if mode == "strict" and self.is_possible(context, ahead, "deployment"):
            return looks_back["deployment"]
        attempts = [({}, self.known_lengths)]
        if self.known_lengths:
            attempts.append(({"model.pretrained": "null", "tuning.mode": "from_scratch"}, ()))
        for start, known in attempts:
            if start and (padded := self._padded_remedy(looks_back, context, ahead)):
                return padded
            shorter = lengths_to_try(AUTO, AUTO, known, self.panel.frequency, min(self._room(), ahead))
            for length, steps in shorter:
                for change, words in looks_back.items():
                    if length < context and self.is_possible(length, steps, change):
                        lengths = {"model.context_length": length, "model.prediction_length": steps}
                        return start | words | lengths | {"evaluation.horizons": AUTO}
        return {}

    def _padded_remedy(self, looks_back: Mapping[str, dict], context: int, ahead: int) -> dict[str, object]:
        """Where gaps leave short pieces, weights of a fixed length can do with a history that is masked in part."""
        if self.config.min_context is not None or len(self.panel.segment_item) == len(self.panel.item_ids):
            return {}
        for shortest in (context // 2, context // 4, context // 8):
            for change, words in looks_back.items():
                if all(self.ranges(part, change, context, ahead, context - shortest).num_windows for part in PARTS):
                    return words | {"data.min_context": shortest}
        return {}

    def _room(self) -> int:
        """Steps of the validation or test part of a typical series, whichever is shorter."""
        rooms = []
        for part in ("validation", "test"):
            begin, end = self.split.bounds(part)
            has = (end - begin)[end > begin]
            if self.split.has(part):
                rooms.append(int(np.median(has)) if has.size else 0)
        return min(rooms)
