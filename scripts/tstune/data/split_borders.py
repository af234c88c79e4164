"""Where the parts of a split end in time: shares, steps, or dates."""

from __future__ import annotations

import itertools

import numpy as np

from tstune.config.moments import end_of
from tstune.config.schema import SplitSection
from tstune.data.frequency import fixed_step, parse_frequency
from tstune.data.panel import Panel
from tstune.data.panel_rows import item_rows, position_of, time_of
from tstune.data.split_presets import PRESETS
from tstune.errors import ConfigError, DataError


def place_borders(panel: Panel, config: SplitSection, standard_borders: tuple[int, int, int] | None) -> np.ndarray:
    """[items, 3] steps from each item's first row to the end of train, validation and test.

    Raises:
        ConfigError: `standard` borders for a source that has none.
        DataError: borders beyond the end of the series, or dates on one side of all readings.
    """
    moments = PRESETS[config.preset].borders_at if config.preset else config.borders_at
    if moments is not None:
        return _at_moments(panel, moments, "data.split.preset" if config.preset else "data.split.borders_at")
    borders = standard_borders if config.borders == "standard" else config.borders
    if config.borders == "standard" and borders is None:
        raise ConfigError("data.split.borders=standard: this source has no published borders; give three numbers")
    if borders is None:
        # rounding first keeps 0.7 * 90 = 62.999… from moving a border by one step
        ends = np.cumsum([config.train, config.validation, config.test])
        return np.floor(np.round(panel.item_length[:, None] * ends[None, :], 6)).astype(np.int64)
    short = np.flatnonzero(panel.item_length < borders[2])
    if short.size:
        item = int(short[0])
        raise DataError(
            f"data.split.borders end at step {borders[2]} but series {panel.item_ids[item]!r} "
            f"has {panel.item_length[item]} steps"
        )
    return np.tile(np.asarray(borders, dtype=np.int64), (len(panel.item_ids), 1))


def _at_moments(panel: Panel, moments: tuple[str, str, str | None], key: str) -> np.ndarray:
    starts, step = item_rows(panel), fixed_step(parse_frequency(panel.frequency))
    ends = np.tile(panel.item_length[:, None], (1, 3)).astype(np.int64)
    for column, moment in enumerate(moments):
        if moment is None:
            continue
        end = np.datetime64(end_of(moment)).astype("datetime64[ns]")
        border = np.array([np.count_nonzero(panel.timestamps[a:b] < end) for a, b in itertools.pairwise(starts)])
        if column == 0 and border.sum() in (0, panel.num_rows):
            begin, end = (time_of(panel, int(at)) for at in (panel.timestamps.argmin(), panel.timestamps.argmax()))
            where = "after" if border.any() else "before"
            raise DataError(f"{key}: train ends on {moment}, {where} every reading ({begin} to {end})")
        border += starts[:-1]
        goes_on = border < starts[1:]  # a series that is over by then is left whole
        rows = border[goes_on]
        # the row after a long gap lies later than the border, which is somewhere in that gap
        late = 0 if step is None else (panel.timestamps[rows] - end) // step.to_timedelta64()
        ends[goes_on, column] = np.maximum(position_of(panel, rows) - late, 0)
    return ends
