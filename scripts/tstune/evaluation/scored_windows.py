"""What a metric is computed from: the windows of a test with forecasts, and means over what was really observed."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import numpy as np

from tstune.errors import DataError

Axis = int | tuple[int, ...] | None


def observed_like(observed: np.ndarray, values: np.ndarray) -> np.ndarray:
    """The mask, [windows, steps] or the shape of `values`, as bool in the shape of `values`."""
    observed, shape = np.asarray(observed, dtype=bool), np.shape(values)
    if observed.ndim == 2 and len(shape) == 3 and observed.shape == shape[:2]:
        observed = np.broadcast_to(observed[..., None], shape)
    if observed.shape != shape:
        raise DataError(
            f"the observed mask has shape {observed.shape}, the readings {shape}: give one mask per reading"
        )
    return observed


def paired(truth: np.ndarray, forecast: np.ndarray, observed: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Truth and forecast as float64, 0 where nothing was observed, and the mask in their shape.

    Raises:
        DataError: truth, forecast and mask do not belong together.
    """
    truth, forecast = np.asarray(truth, dtype=np.float64), np.asarray(forecast, dtype=np.float64)
    if truth.shape != forecast.shape:
        raise DataError(f"the forecast has shape {forecast.shape}, the truth {truth.shape}: they must be the same")
    observed = observed_like(observed, truth)
    return np.where(observed, truth, 0.0), np.where(observed, forecast, 0.0), observed


def masked_mean(values: np.ndarray, observed: np.ndarray, axis: Axis = None) -> np.ndarray | float:
    """Mean of `values` where `observed`; NaN where nothing was. A NaN that counts makes the mean NaN."""
    count = observed.sum(axis=axis)
    total = np.where(observed, values, 0.0).sum(axis=axis)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = total / count
    return float(mean) if np.ndim(mean) == 0 else mean


@dataclass(frozen=True)
class ScoredWindows:
    """Windows with what happened and what was forecast, in original units, counted from `level`.

    Raises:
        DataError: shapes that do not belong together.
    """

    # truth, forecast: [windows, steps] or [windows, steps, targets]
    truth: np.ndarray
    forecast: np.ndarray
    observed: np.ndarray  # bool, [windows, steps] or as `truth`: only these readings are scored
    item: np.ndarray | None = None  # [windows] item number
    timestamps: np.ndarray | None = None  # [windows, steps] datetime64 of the forecast steps, local time
    # [windows] last reading known at the forecast origin, NaN where there is none. It must not be interpolated towards
    # a later one: the end of `past_values` of a batch is held, the panel's value is not.
    last_reading: np.ndarray | None = None
    # quantiles, levels: [windows, steps, quantiles] (or with targets before the quantiles), and [quantiles]
    quantiles: np.ndarray | None = None
    levels: np.ndarray | None = None
    mase_scale: np.ndarray | None = None  # [windows] or [windows, targets], see `metrics.mase`
    start: np.ndarray | None = None  # [windows] panel row of each window's first step, ascending
    # [windows, targets] standard deviation of the readings in each context, see `context_spread`
    spread: np.ndarray | None = None
    unit: str | None = None  # unit of the readings
    # [windows, targets] what all values are counted from, see `tstune.data.panel`; None for 0
    level: np.ndarray | None = None

    def __post_init__(self) -> None:
        if np.shape(self.forecast) != np.shape(self.truth):
            raise DataError(f"the forecast has shape {np.shape(self.forecast)}, the truth {np.shape(self.truth)}")
        observed_like(self.observed, self.truth)
        for name in _PER_WINDOW[3:]:
            value = getattr(self, name)
            if value is not None and len(value) != len(self.truth):
                raise DataError(f"{name} has {len(value)} entries for {len(self.truth)} windows")

    def counted_from_zero(self) -> ScoredWindows:
        """The same with the level in every value, in double precision, for metrics that ask how large a value is."""
        if self.level is None:
            return self
        level = self.level[:, None] if np.ndim(self.truth) == 3 else self.level[:, :1]
        values = {name: getattr(self, name) + level for name in ("truth", "forecast")}
        if self.quantiles is not None:
            values["quantiles"] = self.quantiles + level[..., None]
        if self.last_reading is not None:
            values["last_reading"] = self.last_reading + self.level[:, 0]
        return replace(self, **values, level=None)

    def squares(self) -> np.ndarray:
        """[windows, steps] squared errors, summed over the observed targets."""
        truth, forecast, _ = paired(self.truth, self.forecast, self.observed)
        error = (forecast - truth) ** 2
        return error.sum(axis=2) if error.ndim == 3 else error

    def one_target(self) -> ScoredWindows:
        """The same without the axis of targets: [windows, steps]."""
        if np.ndim(self.truth) == 2:
            return self
        if self.truth.shape[2] != 1:
            raise DataError(f"this is defined for one target, these windows have {self.truth.shape[2]}")
        return self.first_target()

    def first_target(self) -> ScoredWindows:
        """The first of the targets, [windows, steps]."""
        chosen = {n: getattr(self, n)[:, :, 0] for n in _PER_TARGET if getattr(self, n) is not None}
        by_window = ("mase_scale", "spread")
        chosen |= {name: getattr(self, name)[:, 0] for name in by_window if np.ndim(getattr(self, name)) == 2}
        chosen |= {} if self.level is None else {"level": self.level[:, :1]}
        return replace(self, **chosen)

    def select(self, windows: np.ndarray) -> ScoredWindows:
        """Only some windows, [windows] bool or indices, for example a stratum."""
        return replace(self, **{n: getattr(self, n)[windows] for n in _PER_WINDOW if getattr(self, n) is not None})

    def steps(self, steps: slice) -> ScoredWindows:
        """Only some steps, for example `slice(11, 12)` AT step 12 or `slice(12)` up to it."""
        return replace(self, **{n: getattr(self, n)[:, steps] for n in _PER_STEP if getattr(self, n) is not None})


_PER_TARGET = ("truth", "forecast", "observed", "quantiles")
_PER_STEP = ("truth", "forecast", "observed", "timestamps", "quantiles")
_PER_WINDOW = tuple(field.name for field in fields(ScoredWindows) if field.name not in ("levels", "unit"))
