"""FlowState's scale factor: its base season of 24 steps over the season of the data in steps."""

from __future__ import annotations

import pandas as pd

from tstune.data.frequency import fixed_step, parse_frequency
from tstune.errors import ConfigError

BASE_SEASON = 24.0
"""Steps of the season that FlowState was trained on at a factor of 1: the hours of a day."""

_MINUTE, _DAY = pd.Timedelta("1min"), pd.Timedelta("1D")
_STEPS_PER_YEAR = {"M": 12.0, "Q": 4.0}


def scale_factor(frequency: str) -> float:
    """`BASE_SEASON` / (steps of a season), as `get_fixed_factor` of granite-tsfm has it without a domain.

    The season is an hour for steps below a minute, a day for steps below a day, and a year for all longer ones. A
    weekly season of daily data is for the user to name: 24 / 7.

    Raises:
        ConfigError: steps whose season is not known.
    """
    offset = parse_frequency(frequency)
    step = fixed_step(offset)
    if step is None:
        kind = offset.name[0] if offset.name[:2] not in ("BM", "BQ") else offset.name[1]
        if kind not in _STEPS_PER_YEAR:
            raise ConfigError(
                f"model.scale_factor: no season is known for steps of {frequency!r}; set it to 24 / (steps of a season)"
            )
        return BASE_SEASON / _STEPS_PER_YEAR[kind] * offset.n
    season = 60 * _MINUTE if step < _MINUTE else _DAY if step < _DAY else 365 * _DAY
    return BASE_SEASON / (season / step)
