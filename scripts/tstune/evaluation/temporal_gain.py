"""How much earlier a forecast tells what comes than the readings themselves do.

A forecast for time t looks like the truth some time before t: that delay is where their correlation is highest, and
the temporal gain is the horizon less the delay. Persistence repeats the reading at the origin, its delay is the
horizon and its gain 0; a perfect forecast gains the whole horizon. Gani et al. 2009, doi:10.1109/TBME.2008.2005937;
used by Zecchin et al. 2016, doi:10.1177/1932296816654161.
"""

from __future__ import annotations

import numpy as np

from tstune.errors import DataError
from tstune.evaluation.masking import paired

_FEWEST_PAIRS = 10


def lag_correlations(
    truth: np.ndarray, forecast: np.ndarray, observed: np.ndarray, last_reading: np.ndarray, step: int
) -> np.ndarray:
    """[step + 1] correlation, over windows, of the forecast at `step` with the truth 0, 1, … `step` steps earlier.

    Every window brings its own earlier readings, so windows need not follow one another without a gap. A lag with
    fewer than 10 pairs, or without variation, is NaN.

    Args:
        truth, forecast, observed: [windows, steps] of one item: pooled people correlate by their means alone.
        last_reading: [windows] last reading known at the forecast origin, NaN where there is none.
        step: horizon; 1 is the first forecast step.

    Raises:
        DataError: a horizon beyond the forecast.
    """
    if not 1 <= step <= truth.shape[1]:
        raise DataError(f"horizon step {step} is beyond the {truth.shape[1]} steps of the forecast")
    made = np.asarray(forecast, dtype=np.float64)[:, step - 1]  # also where the reading at the step itself is missing
    truth, _, observed = paired(truth, forecast, observed)
    origin = np.asarray(last_reading, dtype=np.float64)
    earlier = np.concatenate([origin[:, None], truth[:, :step]], axis=1)[:, ::-1]  # column d is d steps earlier
    known = np.concatenate([np.isfinite(origin)[:, None], observed[:, :step]], axis=1)[:, ::-1]
    return np.array([_correlation(made[known[:, d]], earlier[known[:, d], d]) for d in range(step + 1)])


def temporal_gain(
    truth: np.ndarray,
    forecast: np.ndarray,
    observed: np.ndarray,
    last_reading: np.ndarray,
    step: int,
    step_minutes: float,
) -> float:
    """Temporal gain in minutes of the forecast at `step`; NaN where no lag has enough pairs.

    Arguments as in `lag_correlations`; of equally good lags the shortest counts.
    """
    correlation = lag_correlations(truth, forecast, observed, last_reading, step)
    if np.isnan(correlation).all():
        return float("nan")
    return float((step - np.nanargmax(correlation)) * step_minutes)


def _correlation(first: np.ndarray, second: np.ndarray) -> float:
    if len(first) < _FEWEST_PAIRS or first.std() == 0 or second.std() == 0:
        return float("nan")
    return float(np.corrcoef(first, second)[0, 1])
