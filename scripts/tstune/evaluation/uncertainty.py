"""All methods on the same windows: how often their intervals held, how wide they are, what they score."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch

from tstune.config.schema import ForecastSection
from tstune.data.prepared import PreparedData
from tstune.data.windows import Batch, WindowDataset
from tstune.errors import DataError
from tstune.evaluation.backtest import Scores
from tstune.evaluation.bootstrap import Blocks
from tstune.evaluation.intervals import METHODS, UncertaintyMethod, configured_name, make_method, scores_needed
from tstune.evaluation.metrics import (
    available_intervals,
    calibration_error,
    central_interval,
    crossing,
    crps_from_quantiles,
    interval_coverage,
    mean_weighted_quantile_loss,
    pinball_loss,
    pit_histogram,
    reliability_table,
)
from tstune.evaluation.record import further_metrics
from tstune.evaluation.scored_windows import ScoredWindows, masked_mean, observed_like
from tstune.models.contract import ForecastModel, context_spread
from tstune.runtime.logs import logger


def with_evidence(
    windows: ScoredWindows, dataset: WindowDataset, model: ForecastModel, adapt: Callable[[Batch], Batch] | None = None
) -> ScoredWindows:
    """The windows with `spread` and, where the network has a quantile head, its `quantiles` and `levels`.

    Args:
        windows: as `Backtest.score` leaves them: [windows, steps, targets] and `start`.
        dataset: any part of the same panel with the same lengths.
        adapt: makes batches of the dataset into those of the model, for one of other lengths or another unit.
    """
    if windows.start is None:
        raise DataError("uncertainty: the windows carry no start; take them from Backtest.score")
    (steps, num_targets), levels = windows.truth.shape[1:], model.native_levels
    size = model.evaluation_batch_size(torch.device("cpu"))
    spread, quantiles = [], []
    for begin in range(0, len(windows.start), size):
        batch = dataset.gather(windows.start[begin : begin + size])
        batch = batch if adapt is None else adapt(batch)
        spread.append(context_spread(batch, num_targets).numpy())
        if levels:
            with torch.inference_mode():
                quantiles.append(model.native_quantiles(batch)[:, :steps].cpu().numpy())
    found = {"spread": np.concatenate(spread)}
    if levels:
        found |= {"quantiles": np.concatenate(quantiles), "levels": np.asarray(levels)}
    return replace(windows, **found)


def with_quantiles(
    windows: ScoredWindows,
    dataset: WindowDataset,
    model: ForecastModel,
    adapt: Callable[[Batch], Batch] | None = None,
    factor: float = 1.0,
) -> ScoredWindows:
    """The windows with the quantiles of a finished model, in whose unit one of theirs is `factor`; nothing is
    calibrated.
    """
    scale = {"truth": windows.truth * factor, "forecast": windows.forecast * factor}
    evidence = with_evidence(replace(windows, **scale, quantiles=None, levels=None), dataset, model, adapt)
    quantiles = evidence.quantiles if model.uncertainty is None else model.uncertainty.backtest(evidence)
    return replace(windows, quantiles=quantiles / factor, levels=np.asarray(model.quantile_levels))


def configured_metrics(scores: Scores, dataset: WindowDataset, model: ForecastModel) -> dict[str, float]:
    """Metrics of every scoreboard, those of `evaluation.metrics` and the model's own; scored on these windows."""
    windows, names = scores.windows, model.config.evaluation.metrics
    if windows is None or not (names or model.own_metrics):
        return scores.metrics
    if model.quantile_levels:
        windows = with_quantiles(windows, dataset, model)
    return scores.metrics | further_metrics(names, windows, model.own_metrics) | scores.metrics


STEPS_INTERVAL = 0.8
"""The interval whose coverage is told step by step."""


@dataclass(frozen=True)
class JudgedUncertainty:
    """What the methods did on the test windows."""

    report: dict  # the ``uncertainty`` object of `evaluation.json`
    # [windows, steps, targets, levels] of the configured method on the test windows, original units
    quantiles: np.ndarray
    method: UncertaintyMethod  # the configured method, fitted; what the model is saved with


def judge_uncertainty(
    model: ForecastModel, section: ForecastSection, data: PreparedData, calibration: ScoredWindows, test: ScoredWindows
) -> JudgedUncertainty:
    """Fit every method on the calibration windows and score it on the test windows.

    Args:
        model: the tuned model that made the forecasts in `calibration` and `test`.
        calibration, test: `Backtest.score(...).windows` on `PreparedData.calibration` and on the test part.
    """
    calibration = with_evidence(calibration, data.calibration, model)
    test = with_evidence(test, data.test, model)
    _warn_if_few(calibration, section.quantiles)
    chosen = configured_name(section)
    rows, quantiles, method = {}, None, None
    native = calibration.levels is not None and np.array_equal(calibration.levels, section.quantiles)
    for name, kind in METHODS.items():
        if kind.uses_native and not native:  # it needs the network's quantiles at these levels
            continue
        fitted = make_method(name, section).fit(calibration)
        found = fitted.backtest(test)
        rows[name] = scored(test, found, section.quantiles)
        if name == chosen:
            quantiles, method = found, fitted
    report = {
        "method": chosen,
        "levels": list(section.quantiles),
        "calibration": {
            "part": "later validation" if "calibration" in data.windows else "validation",
            "num_windows": len(calibration.truth),
        },
        "methods": rows,
    } | details(test, quantiles, section.quantiles)
    return JudgedUncertainty(report, quantiles, method)


def fit_uncertainty(
    model: ForecastModel, section: ForecastSection, data: PreparedData, calibration: ScoredWindows
) -> UncertaintyMethod:
    """The configured method alone, fitted, where there are no test windows to judge it on."""
    calibration = with_evidence(calibration, data.calibration, model)
    return make_method(configured_name(section), section).fit(calibration)


def scored(test: ScoredWindows, quantiles: np.ndarray, levels: list[float]) -> dict:
    """One row of the comparison; lengths in the unit of the readings."""
    truth, observed = test.truth, test.observed
    seen = observed_like(observed, truth)
    blocks = dependent_windows(test)
    intervals = []
    for nominal in available_intervals(levels):
        lower, upper = central_interval(quantiles, levels, nominal)
        intervals.append(vars(interval_coverage(truth, lower, upper, observed, nominal, blocks)))
    return {
        "wql": mean_weighted_quantile_loss(truth, quantiles, levels, observed),
        "crps": float(crps_from_quantiles(truth, quantiles, levels, observed)),
        "pinball": float(pinball_loss(truth, quantiles, levels, observed).mean()),
        "calibration_error": calibration_error(truth, quantiles, levels, observed),
        "crossing": float(masked_mean(crossing(quantiles), seen)),
        "intervals": intervals,
    }


def details(test: ScoredWindows, quantiles: np.ndarray, levels: list[float]) -> dict:
    """Coverage by step, PIT and reliability of one method, as lists for `evaluation.json`."""
    truth, observed = test.truth, observed_like(test.observed, test.truth)
    by_step = None
    if STEPS_INTERVAL in available_intervals(levels):
        lower, upper = central_interval(quantiles, levels, STEPS_INTERVAL)
        inside = masked_mean((lower <= truth) & (truth <= upper), observed, axis=(0, 2))
        by_step = {"nominal": STEPS_INTERVAL, "values": inside.tolist()}
    found = {"pit": pit_histogram, "reliability": reliability_table}
    tables = {name: table(truth, quantiles, levels, observed) for name, table in found.items()}
    return {"coverage_by_step": by_step} | {
        name: {column: values.tolist() for column, values in table.items()} for name, table in tables.items()
    }


def dependent_windows(windows: ScoredWindows) -> np.ndarray:
    """[windows] block of each window: its item where there are enough of them, else its block of days."""
    path = windows.timestamps[0, -1] - windows.timestamps[0, 0]
    blocks = Blocks.by_day(windows.item, windows.timestamps[:, 0], path)
    return blocks.item if blocks.speaks_of_other_items else blocks.block


def _warn_if_few(calibration: ScoredWindows, levels: list[float]) -> None:
    fewest = int(observed_like(calibration.observed, calibration.truth).sum(axis=0).min())
    lacking = [level for level in levels if fewest < scores_needed(level)]
    if lacking:
        logger.warning(
            "forecast.quantiles: %s need %d validation windows, a step has %d: the largest error is taken, coverage is "
            "not promised; lower data.validation_stride, enlarge data.split.validation or leave these levels out",
            ", ".join(f"{level:g}" for level in lacking),
            max(map(scores_needed, lacking)),
            fewest,
        )
