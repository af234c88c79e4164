"""What a metric is computed from: the windows of a test, with forecasts and everything known about them."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import numpy as np

from tstune.errors import DataError
from tstune.evaluation.masking import observed_like


@dataclass(frozen=True)
class ScoredWindows:
    """Windows with what happened and what was forecast, in original units.

    Attributes:
        truth, forecast: [windows, steps] or [windows, steps, targets].
        observed: bool, [windows, steps] or as `truth`: only these readings are scored.
        item: [windows] item number.
        timestamps: [windows, steps] datetime64 of the forecast steps, local time.
        last_reading: [windows] last reading known at the forecast origin, NaN where there is none. It must not be
            interpolated towards a later one: the end of `past_values` of a batch is held, the panel's value is not.
        quantiles, levels: [windows, steps, quantiles] (or with targets before the quantiles), and [quantiles].
        mase_scale: [windows] or [windows, targets], see `point_metrics.mase`.
        start: [windows] panel row of each window's first step, ascending.
        spread: [windows, targets] standard deviation of the readings in each context, see `context_spread`.
        unit: unit of the readings.

    Raises:
        DataError: shapes that do not belong together.
    """

    truth: np.ndarray
    forecast: np.ndarray
    observed: np.ndarray
    item: np.ndarray | None = None
    timestamps: np.ndarray | None = None
    last_reading: np.ndarray | None = None
    quantiles: np.ndarray | None = None
    levels: np.ndarray | None = None
    mase_scale: np.ndarray | None = None
    start: np.ndarray | None = None
    spread: np.ndarray | None = None
    unit: str | None = None

    def __post_init__(self) -> None:
        if np.shape(self.forecast) != np.shape(self.truth):
            raise DataError(f"the forecast has shape {np.shape(self.forecast)}, the truth {np.shape(self.truth)}")
        observed_like(self.observed, self.truth)
        for name in _PER_WINDOW[3:]:
            value = getattr(self, name)
            if value is not None and len(value) != len(self.truth):
                raise DataError(f"{name} has {len(value)} entries for {len(self.truth)} windows")

    def one_target(self) -> ScoredWindows:
        """The same without the axis of targets: [windows, steps].

        Raises:
            DataError: there are several targets.
        """
        if np.ndim(self.truth) == 2:
            return self
        if self.truth.shape[2] != 1:
            raise DataError(f"this is defined for one target, these windows have {self.truth.shape[2]}")
        return self.target(0)

    def target(self, number: int) -> ScoredWindows:
        """One of the targets, [windows, steps]; the last reading is that of the first."""
        chosen = {n: getattr(self, n)[:, :, number] for n in _PER_TARGET if getattr(self, n) is not None}
        by_window = ("mase_scale", "spread")
        chosen |= {name: getattr(self, name)[:, number] for name in by_window if np.ndim(getattr(self, name)) == 2}
        return replace(self, **chosen)

    def select(self, windows: np.ndarray) -> ScoredWindows:
        """Only some windows, for example a stratum.

        Args:
            windows: [windows] bool, or indices.
        """
        return replace(self, **{n: getattr(self, n)[windows] for n in _PER_WINDOW if getattr(self, n) is not None})

    def steps(self, steps: slice) -> ScoredWindows:
        """Only some steps, for example `slice(11, 12)` AT step 12 or `slice(12)` up to it."""
        return replace(self, **{n: getattr(self, n)[:, steps] for n in _PER_STEP if getattr(self, n) is not None})


_PER_TARGET = ("truth", "forecast", "observed", "quantiles")
_PER_STEP = ("truth", "forecast", "observed", "timestamps", "quantiles")
_PER_WINDOW = tuple(field.name for field in fields(ScoredWindows) if field.name not in ("levels", "unit"))
