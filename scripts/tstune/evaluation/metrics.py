"""Errors of point forecasts and scores of quantile forecasts, over the whole path, per step or per window.

Every metric takes truth and forecast [windows, steps] or [windows, steps, targets] in original units, a mask of
what was observed, and `axis` as in NumPy: None pools everything, 0 gives one number per step, 1 one per window.
With e = forecast - truth over observed readings:

    rmse = sqrt(mean e²)         mae = mean |e|            bias = mean e, above 0 for forecasts that are too high
    mape = 100 mean |e / truth|  smape = 200 mean |e| / (|truth| + |forecast|), 0 to 200, 0 where both are 0
    mase = mean |e| / scale      mard = mape of a quantity that is positive, such as glucose

Sources: RMSE, MAE, bias, MAPE, sMAPE, MASE: Hyndman & Koehler 2006, doi:10.1016/j.ijforecast.2006.03.001 (sMAPE as in
the M3 and M4 competitions). MARD: Reiterer et al. 2017, doi:10.1177/1932296816662047.

Quantile forecasts are [windows, steps, quantiles], or [windows, steps, targets, quantiles]: the levels lie on the last
axis, ascending and between 0 and 1. Truth and mask have the same shape without that axis. Only observed readings count.
Below them: are the quantiles as sure as they should be, by coverage, width, PIT and reliability.

A metric by name, in `evaluation.metrics`, is a function of one `ScoredWindows` that returns a number, or several by
name. Register none of your own: name the function, for example

    def worst_error(windows):
        return float(abs(windows.forecast - windows.truth)[windows.observed].max())

in `my_metrics.py` on PYTHONPATH, as `my_metrics:worst_error`; its column is `worst_error`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real

import numpy as np

from tstune.domains import domains
from tstune.errors import ConfigError, DataError
from tstune.evaluation.scored_windows import Axis, ScoredWindows, masked_mean, observed_like, paired
from tstune.named_code import import_named

Result = np.ndarray | float
PointMetric = Callable[..., Result]


def rmse(truth: np.ndarray, forecast: np.ndarray, observed: np.ndarray, axis: Axis = None) -> Result:
    """Root mean squared error, in the unit of the truth."""
    truth, forecast, observed = paired(truth, forecast, observed)
    return masked_mean((forecast - truth) ** 2, observed, axis) ** 0.5


def mae(truth: np.ndarray, forecast: np.ndarray, observed: np.ndarray, axis: Axis = None) -> Result:
    """Mean absolute error, in the unit of the truth."""
    truth, forecast, observed = paired(truth, forecast, observed)
    return masked_mean(np.abs(forecast - truth), observed, axis)


def bias(truth: np.ndarray, forecast: np.ndarray, observed: np.ndarray, axis: Axis = None) -> Result:
    """Mean error, in the unit of the truth; above 0 for forecasts that are too high."""
    truth, forecast, observed = paired(truth, forecast, observed)
    return masked_mean(forecast - truth, observed, axis)


def mape(truth: np.ndarray, forecast: np.ndarray, observed: np.ndarray, axis: Axis = None) -> Result:
    """Mean absolute percentage error; infinite or NaN where an observed reading is 0."""
    truth, forecast, observed = paired(truth, forecast, observed)
    with np.errstate(invalid="ignore", divide="ignore"):
        return masked_mean(100 * np.abs((forecast - truth) / truth), observed, axis)


def smape(truth: np.ndarray, forecast: np.ndarray, observed: np.ndarray, axis: Axis = None) -> Result:
    """Symmetric mean absolute percentage error, 0 to 200 as in M4 (utilsforecast reports 1/200 of it)."""
    truth, forecast, observed = paired(truth, forecast, observed)
    size = np.abs(truth) + np.abs(forecast)
    ratio = np.divide(np.abs(forecast - truth), size, out=np.zeros_like(size), where=size != 0)
    return masked_mean(200 * ratio, observed, axis)


def mard(truth: np.ndarray, forecast: np.ndarray, observed: np.ndarray, axis: Axis = None) -> Result:
    """Mean absolute relative difference in percent.

    Raises:
        DataError: an observed reading is not above 0.
    """
    truth, forecast, observed = paired(truth, forecast, observed)
    wrong = observed & ~(truth > 0)
    if wrong.any():
        raise DataError(f"MARD needs readings above 0, found {truth[wrong][0]:g}: use MAE or sMAPE instead")
    return mape(truth, forecast, observed, axis)


def mase(truth: np.ndarray, forecast: np.ndarray, observed: np.ndarray, scale: np.ndarray, axis: Axis = None) -> Result:
    """Mean absolute scaled error.

    The scale, [windows] or [windows, targets], is the mean absolute seasonal difference of the item's training part, as
    `seasonal_scale(...)[item]`. A window whose scale is NaN is left out.
    """
    truth, forecast, observed = paired(truth, forecast, observed)
    scale = np.asarray(scale, dtype=np.float64)
    if truth.ndim == 3 and scale.ndim == 1:
        scale = scale[:, None]
    if scale.shape != truth.shape[:1] + truth.shape[2:]:
        raise DataError(f"MASE: the scale has shape {scale.shape}, {truth.shape} needs one per window and target")
    scale = np.broadcast_to(scale[:, None], truth.shape)
    return masked_mean(np.abs(forecast - truth) / scale, observed & np.isfinite(scale), axis)


def at_horizons(
    metric: PointMetric,
    truth: np.ndarray,
    forecast: np.ndarray,
    observed: np.ndarray,
    horizons: Mapping[str, int],
    **more: np.ndarray,
) -> dict[str, float]:
    """The metric AT each horizon, that is at one step, 1 the first; `more` is what else it takes, such as `scale`."""
    found = {}
    for name, step in horizons.items():
        if not 1 <= step <= truth.shape[1]:
            raise DataError(f"horizon {name} is step {step}, but the forecast has {truth.shape[1]} steps")
        at = slice(step - 1, step)
        found[name] = metric(truth[:, at], forecast[:, at], observed[:, at], **more)
    return found


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
    """How many minutes earlier the forecast at `step` tells what comes than the readings do; NaN without enough pairs.

    A forecast for time t looks like the truth some time before t: that delay is where their correlation is highest, and
    the temporal gain is the horizon less the delay. Persistence repeats the reading at the origin, its delay is the
    horizon and its gain 0; a perfect forecast gains the whole horizon. NaN too where no delay stands out: the forecast
    (yesterday's readings, a mean) resembles the truth less, at any delay, than the reading at the origin resembles the
    one at the horizon. Gani et al. 2009, doi:10.1109/TBME.2008.2005937; used by Zecchin et al. 2016,
    doi:10.1177/1932296816654161. Arguments as in `lag_correlations`; of equally good lags the shortest counts.
    """
    correlation = lag_correlations(truth, forecast, observed, last_reading, step)
    both = np.isfinite(last_reading) & paired(truth, forecast, observed)[2][:, step - 1]
    held = _correlation(np.asarray(last_reading, dtype=np.float64)[both], np.asarray(truth, np.float64)[both, step - 1])
    if np.isnan(correlation).all() or np.nanmax(correlation) < held:
        return float("nan")
    return float((step - np.nanargmax(correlation)) * step_minutes)


def _correlation(first: np.ndarray, second: np.ndarray) -> float:
    if len(first) < _FEWEST_PAIRS or first.std() == 0 or second.std() == 0:
        return float("nan")
    return float(np.corrcoef(first, second)[0, 1])


Levels = Sequence[float] | np.ndarray


def checked_quantiles(
    truth: np.ndarray, quantiles: np.ndarray, levels: Levels, observed: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Truth as float64, 0 where it was not observed; quantiles; levels; the mask in the shape of the truth."""
    levels = checked_levels(levels, quantiles)
    truth, quantiles = np.asarray(truth, dtype=np.float64), np.asarray(quantiles)
    if quantiles.shape[:-1] != truth.shape:
        raise DataError(
            f"the quantile forecasts have shape {quantiles.shape}, the truth {truth.shape}: "
            "quantiles belong on one more axis, the last"
        )
    observed = observed_like(observed, truth)
    return np.where(observed, truth, 0.0), quantiles, levels, observed


def checked_levels(levels: Levels, quantiles: np.ndarray) -> np.ndarray:
    """[quantiles] levels as float64."""
    levels = np.asarray(levels, dtype=np.float64)
    ascending = levels.ndim == 1 and len(levels) and (np.diff(levels, prepend=0.0, append=1.0) > 0).all()
    if not ascending:
        raise DataError(f"quantile levels {levels.tolist()} must ascend between 0 and 1, for example 0.1, 0.5, 0.9")
    if np.shape(quantiles)[-1] != len(levels):
        raise DataError(f"{np.shape(quantiles)[-1]} quantile forecasts for {len(levels)} levels: give one per level")
    return levels


def pinball(truth: np.ndarray, quantile: np.ndarray, level: float) -> np.ndarray:
    """Pinball loss of each reading at one level, unmasked.

    It is level * (y - q) for a reading above the quantile and (1 - level) * (q - y) for one below.
    Koenker & Bassett 1978, doi:10.2307/1913643.
    """
    error = truth - quantile
    return np.maximum(level * error, (level - 1) * error)


def pinball_loss(
    truth: np.ndarray, quantiles: np.ndarray, levels: Levels, observed: np.ndarray, axis: Axis = None
) -> np.ndarray:
    """Mean pinball loss in the unit of the truth, over all axes [quantiles], over axis 0 [steps, quantiles]."""
    truth, quantiles, levels, observed = checked_quantiles(truth, quantiles, levels, observed)
    by_level = zip(np.moveaxis(quantiles, -1, 0), levels, strict=True)  # one at a time: all at once is a lot of memory
    return np.stack([masked_mean(pinball(truth, *one), observed, axis) for one in by_level], axis=-1)


def weighted_quantile_loss(
    truth: np.ndarray, quantiles: np.ndarray, levels: Levels, observed: np.ndarray
) -> np.ndarray:
    """[quantiles] WQL of each level in the GluonTS definition: 2 * sum of pinball / sum of |truth|.

    `gluonts.ev.metrics.WeightedSumQuantileLoss`; Salinas et al. 2020, doi:10.1016/j.ijforecast.2019.07.001. Its mean
    over levels is `mean_weighted_quantile_loss`. It has no unit; NaN where all observed readings are 0.
    """
    truth, quantiles, levels, observed = checked_quantiles(truth, quantiles, levels, observed)
    total = np.abs(truth).sum()
    by_level = zip(np.moveaxis(quantiles, -1, 0), levels, strict=True)
    loss = [np.where(observed, pinball(truth, *one), 0.0).sum() for one in by_level]
    return 2 * np.array(loss) / (total if total else np.nan)


def mean_weighted_quantile_loss(
    truth: np.ndarray, quantiles: np.ndarray, levels: Levels, observed: np.ndarray
) -> float:
    """WQL: the mean over levels, `gluonts.ev.metrics.MeanWeightedSumQuantileLoss`."""
    return float(weighted_quantile_loss(truth, quantiles, levels, observed).mean())


def crps_from_quantiles(
    truth: np.ndarray, quantiles: np.ndarray, levels: Levels, observed: np.ndarray, axis: Axis = None
) -> np.ndarray | float:
    """CRPS as twice the mean pinball loss over levels, in the unit of the truth.

    Berrisch & Ziel 2023, doi:10.1016/j.jeconom.2021.11.008 (as `scoringrules.crps_quantile`). Every level weighs the
    same, so it is close to the CRPS only for evenly spread levels, and comparable only between models with the same.
    """
    return 2 * pinball_loss(truth, quantiles, levels, observed, axis).mean(axis=-1)


def crossing(quantiles: np.ndarray) -> np.ndarray:
    """[...] bool: where a higher level has a lower forecast; quantiles [..., quantiles] with ascending levels."""
    return (np.diff(quantiles, axis=-1) < 0).any(axis=-1)


def sort_quantiles(quantiles: np.ndarray) -> np.ndarray:
    """Quantiles [..., quantiles] rearranged in ascending order; the pinball loss never gets worse.

    Chernozhukov, Fernández-Val & Galichon 2010, doi:10.3982/ECTA7880.
    """
    return np.sort(quantiles, axis=-1)


CENTRAL_INTERVALS = (0.5, 0.8, 0.95)
_SAME_LEVEL = 1e-6  # 0.1 and (1 - 0.8) / 2 are different floats


@dataclass(frozen=True)
class Coverage:
    """How often an interval held the reading, and how sure that is."""

    nominal: float  # what it promises, for example 0.8
    coverage: float  # share of observed readings inside, borders included
    # low, high: confidence interval of `coverage`; NaN with fewer than two blocks
    low: float
    high: float
    width: float  # mean width, in the unit of the truth
    num_readings: int
    num_blocks: int  # blocks with a reading


def central_interval(quantiles: np.ndarray, levels: Levels, nominal: float) -> tuple[np.ndarray, np.ndarray]:
    """Lower and upper end of the central interval, each without the axis of quantiles."""
    levels = checked_levels(levels, quantiles)
    wanted = np.array([(1 - nominal) / 2, (1 + nominal) / 2])
    nearest = np.abs(levels[:, None] - wanted).argmin(axis=0)
    if not np.allclose(levels[nearest], wanted, rtol=0, atol=_SAME_LEVEL):
        given = ", ".join(f"{level:g}" for level in levels)
        raise DataError(
            f"the {nominal:.0%} interval needs the quantiles {wanted[0]:g} and {wanted[1]:g}, forecast were {given}"
        )
    return quantiles[..., nearest[0]], quantiles[..., nearest[1]]


def available_intervals(levels: Levels) -> tuple[float, ...]:
    """Those of `CENTRAL_INTERVALS` whose two levels were forecast."""
    levels = np.asarray(levels, dtype=np.float64)
    return tuple(
        nominal
        for nominal in CENTRAL_INTERVALS
        if all(np.abs(levels - (1 + side * nominal) / 2).min() <= _SAME_LEVEL for side in (-1, 1))
    )


def interval_coverage(
    truth: np.ndarray,
    lower: np.ndarray,
    upper: np.ndarray,
    observed: np.ndarray,
    nominal: float,
    blocks: np.ndarray | None = None,
    confidence: float = 0.95,
) -> Coverage:
    """Coverage and mean width of an interval, with a confidence interval that knows readings come in blocks.

    Readings of one person resemble each other, and so do overlapping windows: the blocks, not the readings, are
    counted as independent. The coverage is a ratio of sums over blocks; its variance is that of cluster sampling
    (Cochran 1977, Sampling Techniques, 3rd ed., ch. 9A), with Student's t of blocks - 1 degrees of freedom on the
    logit scale, so that the interval stays within 0 and 1. Where all or none are covered it is Clopper-Pearson's with
    one trial per block.

    Args:
        truth, lower, upper: [windows, steps] or [windows, steps, targets] in original units.
        observed: bool, which readings are real.
        nominal: what the interval promises.
        blocks: [windows] whole numbers, windows of one block are dependent: items, or blocks of days. None takes
            every window for itself, which only fits windows that do not overlap.
        confidence: of the interval of the coverage.
    """
    truth, lower, observed = paired(truth, lower, observed)
    upper = paired(truth, upper, observed)[1]
    inside = observed & (lower <= truth) & (truth <= upper)
    blocks = np.arange(len(truth)) if blocks is None else np.asarray(blocks)
    if blocks.shape != truth.shape[:1]:
        raise DataError(f"blocks have shape {blocks.shape}: give one whole number for each of {len(truth)} windows")
    block = np.unique(blocks, return_inverse=True)[1]
    per_window = tuple(range(1, truth.ndim))
    readings = np.bincount(block, weights=observed.sum(axis=per_window))
    covered = np.bincount(block, weights=inside.sum(axis=per_window))
    covered, readings = covered[readings > 0], readings[readings > 0]
    share = float(covered.sum() / readings.sum()) if len(readings) else float("nan")
    low, high = _ratio_interval(covered, readings, confidence)
    width = masked_mean(upper - lower, observed)
    return Coverage(nominal, share, low, high, width, int(readings.sum()), len(readings))


def _ratio_interval(covered: np.ndarray, readings: np.ndarray, confidence: float) -> tuple[float, float]:
    """Confidence interval of sum(covered) / sum(readings), both [blocks]."""
    from scipy.special import betaincinv, expit, logit, stdtrit

    blocks, tail = len(readings), (1 - confidence) / 2
    if blocks < 2:
        return float("nan"), float("nan")
    share = covered.sum() / readings.sum()
    if share in (0.0, 1.0):
        edge = float(betaincinv(blocks, 1, tail))  # Clopper-Pearson, all of `blocks` trials the same
        return (edge, 1.0) if share else (0.0, 1 - edge)
    residual = covered - share * readings
    variance = blocks / (blocks - 1) * (residual**2).sum() / readings.sum() ** 2
    reach = stdtrit(blocks - 1, 1 - tail) * variance**0.5 / (share * (1 - share))
    return float(expit(logit(share) - reach)), float(expit(logit(share) + reach))


def pit_histogram(
    truth: np.ndarray, quantiles: np.ndarray, levels: Levels, observed: np.ndarray
) -> dict[str, np.ndarray]:
    """Histogram of the probability integral transform, with the levels as edges: nothing is guessed between them.

    Gneiting, Balabdaoui & Raftery 2007, doi:10.1111/j.1467-9868.2007.00587.x. A U shape means intervals that are too
    narrow. A reading on a quantile counts below it. Quantiles must not cross.

    Returns:
        ``edges`` [bins + 1] 0, the levels, 1 · ``share`` [bins] of the observed readings · ``expected`` [bins] share
        that a calibrated forecast has, the distance between the levels.
    """
    truth, quantiles, levels, observed = checked_quantiles(truth, quantiles, levels, observed)
    which = sum((quantiles[..., i] < truth).astype(np.int64) for i in range(len(levels)))
    count = np.bincount(which[observed], minlength=len(levels) + 1)
    edges = np.concatenate([[0.0], levels, [1.0]])
    with np.errstate(invalid="ignore"):
        return {"edges": edges, "share": count / count.sum(), "expected": np.diff(edges)}


def reliability_table(
    truth: np.ndarray, quantiles: np.ndarray, levels: Levels, observed: np.ndarray
) -> dict[str, np.ndarray]:
    """Reliability of every level (quantile calibration; Kuleshov et al. 2018, arXiv:1807.00263).

    Returns:
        [quantiles] each: ``levels`` as promised · ``observed`` share of readings at or below the quantile · ``pinball``
        mean loss, in the unit of the truth.
    """
    loss = pinball_loss(truth, quantiles, levels, observed)
    truth, quantiles, levels, observed = checked_quantiles(truth, quantiles, levels, observed)
    below = [masked_mean(truth <= quantiles[..., i], observed) for i in range(len(levels))]
    return {"levels": levels, "observed": np.array(below), "pinball": loss}


def calibration_error(truth: np.ndarray, quantiles: np.ndarray, levels: Levels, observed: np.ndarray) -> float:
    """Mean |observed - promised| share over the levels, the mean absolute calibration error (MACE)."""
    table = reliability_table(truth, quantiles, levels, observed)
    return float(np.abs(table["observed"] - table["levels"]).mean())


Metric = Callable[[ScoredWindows], float | Mapping[str, float]]


@dataclass(frozen=True)
class BuiltinMetric:
    """A metric of ours."""

    compute: Metric
    needs: tuple[str, ...] = ()  # attributes of `ScoredWindows` that must be there
    domain: str | None = None  # name of the domain whose readings it is about; None for any


def _point(metric: PointMetric) -> BuiltinMetric:
    return BuiltinMetric(lambda windows: metric(windows.truth, windows.forecast, windows.observed))


def _quantile(metric: Callable[..., float]) -> BuiltinMetric:
    return BuiltinMetric(
        lambda windows: metric(windows.truth, windows.quantiles, windows.levels, windows.observed),
        ("quantiles", "levels"),
    )


def _coverage(windows: ScoredWindows) -> dict[str, float]:
    found = {}
    for nominal in available_intervals(windows.levels):
        ends = central_interval(windows.quantiles, windows.levels, nominal)
        one = interval_coverage(windows.truth, *ends, windows.observed, nominal, windows.item)
        found |= {f"coverage_{100 * nominal:g}": one.coverage, f"width_{100 * nominal:g}": one.width}
    return found


METRICS: dict[str, BuiltinMetric] = {
    **{metric.__name__: _point(metric) for metric in (rmse, mae, bias, mape, smape, mard)},
    "mase": BuiltinMetric(
        lambda windows: mase(windows.truth, windows.forecast, windows.observed, windows.mase_scale), ("mase_scale",)
    ),
    "pinball": _quantile(lambda *windows: float(pinball_loss(*windows).mean())),
    "wql": _quantile(mean_weighted_quantile_loss),
    "crps": _quantile(crps_from_quantiles),
    "coverage": BuiltinMetric(_coverage, ("quantiles", "levels")),
    "calibration_error": _quantile(calibration_error),
}
"""Name -> metric of any series. Those that give several numbers name each, as `coverage` gives `coverage_80`."""


def builtin_metrics() -> dict[str, BuiltinMetric]:
    """`METRICS`, and those of every domain."""
    return METRICS | {name: metric for domain in domains() for name, metric in domain.metrics().items()}


def builtin_metric(name: str) -> BuiltinMetric | None:
    """The metric of that name; None for one of the user's, or none at all."""
    if name in METRICS or ":" in name:
        return METRICS.get(name)
    return builtin_metrics().get(name)


def find_metric(name: str) -> Metric:
    """The function behind the name of a built-in metric or behind ``package.module:function``.

    Raises:
        ConfigError: unknown, not importable, or no function.
    """
    metric = builtin_metric(name)
    if metric is not None:
        return metric.compute
    module_name, _, function_name = name.partition(":")
    if not module_name or not function_name:
        raise ConfigError(
            f"evaluation.metrics: unknown metric {name!r}; use {', '.join(builtin_metrics())}, "
            "or your own function as package.module:function"
        )
    found = import_named("evaluation.metrics:", name)
    if not callable(found):
        raise ConfigError(f"evaluation.metrics: {name} is not a function of {module_name}")
    return found


def compute_metrics(names: Iterable[str], windows: ScoredWindows) -> dict[str, float]:
    """Column -> value of all metrics, in the order of the names.

    Raises:
        ConfigError: an unknown metric, one that needs what the windows do not have, one that gives no numbers, or two
            that give the same column.
    """
    found: dict[str, float] = {}
    windows = windows.counted_from_zero()
    for name in names:
        compute = find_metric(name)
        if missing := missing_for(name, windows):
            raise ConfigError(f"evaluation.metrics: {name} needs {', '.join(missing)}, which these windows do not have")
        for column, value in _columns(name, compute(windows)).items():
            if column in found:
                raise ConfigError(f"evaluation.metrics: {column!r} is computed twice, again by {name}; name it once")
            found[column] = value
    return found


def missing_for(name: str, windows: ScoredWindows) -> tuple[str, ...]:
    """What a built-in metric needs and the windows do not have; a user's metric says so itself."""
    metric = builtin_metric(name)
    return tuple(need for need in (metric.needs if metric else ()) if getattr(windows, need) is None)


def _columns(name: str, value: float | Mapping[str, float]) -> dict[str, float]:
    by_column = value if isinstance(value, Mapping) else {name.rpartition(":")[2]: value}
    for column, number in by_column.items():
        if not isinstance(number, Real):
            raise ConfigError(
                f"evaluation.metrics: {name} gave {type(number).__name__} for {column!r}; "
                "a metric returns a number, or numbers by name"
            )
    return {str(column): float(number) for column, number in by_column.items()}
