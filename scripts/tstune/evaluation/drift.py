"""Has a stream changed: what a model reads and how wrong it is, hour by hour, by adaptive windows (ADWIN of river).

A. Bifet and R. Gavaldà, Learning from time-changing data with adaptive windowing, SIAM Data Mining 2007.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from tstune.data.table import ITEM, TIMESTAMP

ERROR = "error"
"""First word of the signals of which only a rise is a drift: a model that became better needs nobody."""
INPUT = "input/"
"""Beginning of the columns of a table of kept forecasts that hold the other channels a model reads."""

_HOUR = pd.Timedelta("1h")
_SMALL = 1e-3  # of the usual; smaller values are alike
_FEWEST = 20  # values of the reference: among fewer the place of a value says little


@dataclass(frozen=True)
class DriftRule:
    """When a stream counts as changed.

    Attributes:
        reference_days: the first days of a series say how each of its signals usually is.
        confidence: delta of ADWIN for all signals of all series together; each gets its share. It was chosen on other
            simulated people than those of `benchmarks/monitoring.py`.
    """

    reference_days: float = 30.0
    confidence: float = 1e-3


@dataclass(frozen=True)
class Drift:
    """A change of one signal of one series.

    Attributes:
        item_id: of the series.
        signal: ``error of glucose``, ``level of insulin``, …
        found: end of the hour in which it was noticed.
        since: where it is placed.
        before, after: mean place of the values there, among those of the reference; 0.5 is as usual.
    """

    item_id: str
    signal: str
    found: pd.Timestamp
    since: pd.Timestamp
    before: float
    after: float


def hourly_signals(table: pd.DataFrame, forecast: str, rule: DriftRule) -> pd.DataFrame:
    """What is watched, in each hour that is over (each step, where steps are longer).

    Of a target: its error, as a share of what is usual at that lead time (logarithm of the RMS), its level, how much it
    moves from reading to reading (logarithm), and the share of readings that are missing. Of an input: its level.

    Args:
        table: one row per series, time and target: `item_id`, `timestamp`, `target`, `step`, `truth`, `input/…`.
        forecast: its column of forecasts.
        rule: how long the reference is.

    Returns:
        a column per signal, by series and beginning of the hour; NaN where an hour says nothing.
    """
    table = table.sort_values([ITEM, TIMESTAMP], kind="stable")
    found: dict[str, pd.Series] = {}
    for target, own in table.groupby("target", observed=True, sort=False):
        item, truth = own[ITEM].astype(str), own["truth"]
        hour = [item.rename(ITEM), own[TIMESTAMP].dt.floor(_HOUR).rename("hour")]
        early = own[TIMESTAMP] - own.groupby(item)[TIMESTAMP].transform("min") < pd.Timedelta(days=rule.reference_days)
        square = (own[forecast] - truth) ** 2
        usual = square.where(early).groupby([item, own["step"]]).transform("mean")
        moves = truth.groupby(item).diff().abs()
        scale = moves.where(early).groupby(item).transform("mean")
        found |= {
            f"{ERROR} of {target}": _logarithm((square / usual.where(usual > 0)).groupby(hour).mean()) / 2,
            f"level of {target}": _by_day(truth, hour),
            f"movement of {target}": _logarithm((moves / scale.where(scale > 0)).groupby(hour).mean()),
            f"gaps of {target}": truth.isna().groupby(hour).mean(),
        }
        for column in own.columns[own.columns.str.startswith(INPUT)]:
            found.setdefault(f"level of {column.removeprefix(INPUT)}", _by_day(own[column], hour))
    signals = pd.DataFrame(found)
    last = table.dropna(subset="truth").groupby(ITEM, observed=True)[TIMESTAMP].max()
    items, hours = (signals.index.get_level_values(level) for level in (ITEM, "hour"))
    return signals[hours + _HOUR <= last.reindex(items).to_numpy()]


def _by_day(values: pd.Series, hour: list[pd.Series]) -> pd.Series:
    """The mean of each day, in its last hour: the level of an hour is much like that of the hour before it."""
    item, hours = hour
    days = values.groupby([item, hours.dt.floor("1D")]).transform("mean")
    return days.groupby(hour).first().groupby(level=ITEM, group_keys=False).apply(_last_of_day)


def _last_of_day(days: pd.Series) -> pd.Series:
    day = days.index.get_level_values("hour").floor("1D")
    return days[np.append(day[1:] != day[:-1], True)]


def _logarithm(values: pd.Series) -> pd.Series:
    return np.log(values + _SMALL)


def find_drift(signals: pd.DataFrame, rule: DriftRule) -> list[Drift]:
    """Changes of every signal of every series, the earliest first.

    A value counts by its place among those of the reference (0 the lowest, 1 the highest): ADWIN's bound is for values
    between 0 and 1, and outliers weigh as much as any other. It looks once a day.

    Args:
        signals: see `hourly_signals`.
        rule: the reference, and how sure a change must be.
    """
    from river.drift import ADWIN

    found = []
    watched = signals.shape[1] * signals.index.get_level_values(ITEM).nunique()
    for item, own in signals.groupby(level=ITEM):
        hours = own.index.get_level_values("hour")
        usual = hours < hours[0] + pd.Timedelta(days=rule.reference_days)
        for signal in own:
            known = own[signal].notna().to_numpy()
            reference = np.sort(own[signal].to_numpy()[known & usual])
            if len(reference) < _FEWEST or reference[0] == reference[-1]:
                continue
            times, places = hours[known], _places(own[signal].to_numpy()[known], reference)
            begin, detector = 0, None
            clock = max(1, round(pd.Timedelta("1D") / pd.Series(times).diff().median()))  # values of a day
            for number, place in enumerate(places):
                detector = detector or ADWIN(delta=rule.confidence / watched, clock=clock)
                detector.update(place)
                if not detector.drift_detected:
                    continue
                border, before, after = _change_point(places[begin : number + 1])
                if after > before or not signal.startswith(f"{ERROR} "):
                    found.append(Drift(item, signal, times[number] + _HOUR, times[begin + border], before, after))
                begin, detector = number + 1, None
    return sorted(found, key=lambda one: one.found)


def _places(values: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """[values] share of the reference below each; of equal ones half."""
    below, up_to = (np.searchsorted(reference, values, side) for side in ("left", "right"))
    return (below + up_to) / 2 / len(reference)


def _change_point(places: np.ndarray) -> tuple[int, float, float]:
    """Where the means before and after differ most, in standard errors, and both means."""
    size = np.arange(1, len(places))
    total = np.cumsum(places)
    before, after = total[:-1] / size, (total[-1] - total[:-1]) / size[::-1]
    best = int(np.argmax(np.abs(after - before) * np.sqrt(size * size[::-1])))
    return best + 1, float(before[best]), float(after[best])
