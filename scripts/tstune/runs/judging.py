"""Every forecast of a run on exactly the same windows, and what follows from them: scoreboard, verdict, record."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import torch

from tstune.config.schema import RunConfig
from tstune.config.section import AUTO
from tstune.config.validation import validate
from tstune.data.defaults import default_baselines, season_of
from tstune.data.describe import write_cohort
from tstune.data.frequency import fixed_step, parse_frequency
from tstune.data.prepared import PreparedData
from tstune.domains import domain_of, domains
from tstune.errors import ConfigError
from tstune.evaluation.backtest import Backtest, Scores
from tstune.evaluation.metrics import builtin_metric, find_metric
from tstune.evaluation.record import evaluation_record, forecasts_table, further_metrics, windows_table
from tstune.evaluation.scored_windows import ScoredWindows
from tstune.evaluation.uncertainty import fit_uncertainty, judge_uncertainty
from tstune.evaluation.verdict import Verdict
from tstune.models.combined import AveragedForecasts, RememberedForecasts, fitted
from tstune.models.contract import Forecaster, ForecastModel
from tstune.models.registry import model_class
from tstune.runs.folder import EVALUATION, FORECASTS, MANIFEST, METRICS, VERDICT, WINDOWS, RunFolder
from tstune.runs.refit import SUFFIX, check_refit, refit_moments, refitted
from tstune.runtime.distributed import DistributedManager
from tstune.runtime.logs import logger

MOST_QUANTILES = 200_000_000
"""Quantile forecasts of the test windows are judged up to this number, some 4 GB of memory at work."""


class Judge:
    """Scores forecasts on the test windows and, where something is chosen from them, on validation windows.

    N ranks give the numbers of one. Readings that cannot be in their unit are a `DataError`.

    Attributes:
        test: the windows that are judged.
        scores: name of a forecast -> its scores, in the order they were added.
        validation_windows: name -> forecasts of validation windows, where something is chosen from them.
        models: name -> seconds to fit and to forecast the test windows, RMSE on validation windows, as far as known.
        uncertainty: coverage and calibration of the run's quantiles, if it has any.
    """

    def __init__(self, data: PreparedData, config: RunConfig, manager: DistributedManager, part: str = "test") -> None:
        check_refit(config.evaluation, data, manager)
        self.data, self.config, self.manager = data, config, manager
        self.test = Backtest(data, config.evaluation, manager, part)
        self.scores: dict[str, Scores] = {}
        self.validation_windows: dict[str, ScoredWindows] = {}
        self.models: dict[str, dict[str, float]] = {}
        self.uncertainty: dict | None = None
        self._remembered: dict[str, RememberedForecasts] = {}
        self._validation: Backtest | None = None
        self.domain = domain_of(data.preprocessor.unit, data.panel.roles.num_targets)
        if self.domain and self.test.keeps_forecasts:
            happened = self.test.happened
            self.domain.check_readings(happened.truth[happened.observed], happened.unit)
        asks = config.forecast.quantiles or self.domain
        if asks and len(data.validation) and self.test.keeps_forecasts and part == "test":
            # as far apart as the test windows, so that an alarm has the same chances to be raised
            every = max(1, round(data.test.ranges.stride / data.validation.ranges.stride))
            limit = config.forecast.calibration_windows
            self._validation = Backtest(data, config.evaluation, manager, "validation", every, limit)

    def score(self, name: str, forecaster: Forecaster, remember: bool = False) -> None:
        """Add a forecast as a row of the scoreboard; `remember` keeps its values, for an average with others."""
        on_test = forecaster
        if remember:
            budget = self.config.training.feature_cache_gb * 1e9 / 2
            on_test = self._remembered[name] = RememberedForecasts(forecaster, self.test.windows, budget)
        begin = time.perf_counter()
        self.scores[name] = self.test.score(on_test, name)
        self.models[name] = {"forecast_seconds": round(time.perf_counter() - begin, 6)}
        if self._validation is not None:
            on_validation = self._validation.score(forecaster, name)
            self.validation_windows[name] = on_validation.windows
            self.models[name]["validation_rmse"] = on_validation.metrics["rmse"]

    def score_tuned(self, model: ForecastModel, untrained: ForecastModel) -> None:
        """Add the tuned model, `untrained` fitted anew where asked, and the mean with the weights before, if judged."""
        self.score("fine_tuned", model, remember=True)
        self.score_refitted("fine_tuned", untrained)
        if "zero_shot" in self.scores:
            both = self._remembered["zero_shot"], self._remembered["fine_tuned"]
            self.scores["average"] = self.test.score(AveragedForecasts(*both))

    def score_baselines(self, model: ForecastModel) -> None:
        """Train and score the configured baselines; one that cannot exist for these lengths is left out with a line."""
        begin = time.perf_counter()
        for name, baseline in build_baselines(model, self.data, self.manager):
            seconds = round(time.perf_counter() - begin, 3)
            self.score(name, baseline)
            self.models[name]["fit_seconds"] = seconds
            self.score_refitted(name, baseline)
            begin = time.perf_counter()

    def score_refitted(self, name: str, model: ForecastModel) -> None:
        """Add the forecast of a model that is fitted anew as `evaluation.refit` asks, if it is fitted at all."""
        if self.config.evaluation.refit == "none" or not model.learns:
            return
        moments = refit_moments(self.config.evaluation, self.test.windows)
        forecaster, costs = refitted(model, self.data, moments, self.manager)
        row = name + SUFFIX
        self.score(row, forecaster)
        self.models[row] |= {"fit_seconds": round(sum(one["seconds"] for one in costs), 3), "refits": costs}

    def add_quantiles(self, model: ForecastModel) -> None:
        """Calibrate the configured quantiles, judge them beside the other methods, and leave them with the model."""
        section = self.config.forecast
        if not section.quantiles:
            return
        name = next(row for row in ("per_item", "fine_tuned", "zero_shot") if row in self.scores)
        forecaster, limit = model.for_items(self.data.panel.item_ids), section.calibration_windows
        part = "calibration" if "calibration" in self.data.windows else "validation"
        backtest = Backtest(self.data, self.config.evaluation, self.manager, part, max_windows=limit)
        calibration, test = backtest.score(forecaster).windows, self.scores[name].windows
        if calibration is None:
            logger.warning("forecast.quantiles left out: forecasts too large for memory; lower calibration_windows")
            return
        if test is None or test.forecast.size * len(section.quantiles) > MOST_QUANTILES:
            logger.warning("quantiles are calibrated but not judged: too many for memory; raise data.test_stride")
            model.uncertainty = fit_uncertainty(model, section, self.data, calibration)
            return
        judged = judge_uncertainty(model, section, self.data, calibration, test)
        model.uncertainty, self.uncertainty = judged.method, judged.report
        levels = np.asarray(section.quantiles)
        windows = replace(test, quantiles=judged.quantiles, levels=levels)
        self.scores[name] = replace(self.scores[name], windows=windows)

    def add_metrics(self, own: Callable[[ScoredWindows], dict[str, float]] | None = None) -> None:
        """Compute the configured metrics, and `own` ones, each for the forecasts that have what it needs."""
        names = self.config.evaluation.metrics
        for scores in self.scores.values():
            if not names and own is None:
                return
            if scores.windows is None:
                logger.warning("evaluation.metrics left out: the forecasts of a model are too large for memory")
                return
            scores.metrics.update(further_metrics(names, scores.windows, own) | scores.metrics)

    def save(self, folder: RunFolder, part: str, judged: Verdict) -> None:
        """Write what is known of the forecasts: every number, and where asked the forecasts themselves."""
        folder.write_json(METRICS, {part: {name: scores.metrics for name, scores in self.scores.items()}})
        folder.write_json(VERDICT, judged.to_dict())
        folder.write_json(MANIFEST, self.data.manifest)
        write_cohort(self.data, folder.path)
        folder.write_json(EVALUATION, self.record(judged.model))
        folder.write_table(WINDOWS, windows_table(self.scores, self.data, self.test))
        if self.config.evaluation.keep_forecasts and not self.test.keeps_forecasts:
            logger.warning("evaluation.keep_forecasts left out: too large for memory; raise data.test_stride")
        elif self.config.evaluation.keep_forecasts:
            names = self.data.panel.item_ids, self.data.panel.roles.target
            folder.write_table(FORECASTS, forecasts_table(self.scores, self.test, *names))

    def record(self, judged: str) -> dict:
        """Values for `evaluation.json`; `judged` is the run's own row of the scoreboard."""
        domain, part = self.domain if self.test.keeps_forecasts else None, None
        unseen = set(self.data.unseen_items)
        if domain:
            part = domain.part(
                {name: scores.windows for name, scores in self.scores.items()},
                self.validation_windows,
                self.test.horizons,
                self.data.panel.item_ids,
                [item for item in self.data.panel.item_ids if item not in unseen] if unseen else None,
                np.timedelta64(fixed_step(parse_frequency(self.data.panel.frequency)).value, "ns"),
                judged,
            )
        return evaluation_record(self.scores, self.data, self.test, judged, self.uncertainty, domain, part)


def check_metrics(config: RunConfig, unit: str | None) -> None:
    """Refuse metrics that do not exist or cannot be computed, before anything is trained."""
    for name in config.evaluation.metrics:
        find_metric(name)
        metric, domain = builtin_metric(name), domain_of(unit)
        if metric is None:
            continue
        if "quantiles" in metric.needs and not config.forecast.quantiles:
            raise ConfigError(
                f"evaluation.metrics: {name} is about quantiles; set forecast.quantiles, for example [0.1, 0.5, 0.9]"
            )
        if metric.domain and (domain is None or domain.name != metric.domain):
            about = next(one.about for one in domains() if one.name == metric.domain)
            raise ConfigError(f"evaluation.metrics: {name} is about {about}; data.unit is {unit!r}")


def untuned(model: ForecastModel, data: PreparedData) -> Forecaster | None:
    """The weights as they are, built and not yet tuned; None where they are worth nothing.

    Layers for inputs that the weights do not know start random: such a model is judged without those inputs, so that
    what tuning and inputs are worth can be told.
    """
    config, roles = model.config, data.preprocessor.roles
    if model.starts_from_weights():
        return model
    if config.model.pretrained is None or config.tuning.mode == "from_scratch" or not roles.has_covariates:
        return None
    values = config.model_dump() | {"tuning": {"mode": "zero_shot"}, "lora": {}, "forecast": {}}
    alone = model_class(config.model.type)(validate(values, origin="zero_shot"))
    with torch.random.fork_rng():  # the training draws what it would have drawn
        try:
            alone.build(data.preprocessor.targets_only())
        except ConfigError:  # more is missing from the weights than the inputs
            return None
    alone.to(next(model.module.parameters()).device)
    inputs = ", ".join([*roles.channels[roles.num_targets :], *roles.static_categorical])
    logger.info("zero_shot forecasts %s without %s", ", ".join(roles.target), inputs)
    lengths = data.test.context_length, data.test.prediction_length
    return fitted(alone, "zero_shot", *lengths, data.panel.item_ids, data.preprocessor)


def build_baselines(
    model: ForecastModel, data: PreparedData, manager: DistributedManager
) -> Iterator[tuple[str, ForecastModel]]:
    """The configured baselines, trained one after the other; one that cannot exist is left out with a line.

    The one that the model is of itself has its row already.
    """
    config = model.config
    names, seasonality = config.evaluation.baselines, season_of(config.evaluation.seasonality, data.panel.frequency)
    for name in default_baselines(seasonality, data.test.context_length) if names == AUTO else names:
        if name == model.model_type:
            continue
        baseline = model_class(name)(config)
        reason = too_many_windows(baseline, data)
        if name == "seasonal_naive" and seasonality > config.model.context_length:
            reason = f"a season has {seasonality} steps, the context is shorter"
        if reason is not None:
            logger.warning("%s left out: %s", name, reason)
            continue
        baseline.build(data.preprocessor)
        baseline.train_on(data.as_judged(), manager)
        yield name, baseline


def too_many_windows(model: ForecastModel, data: PreparedData) -> str | None:
    """Why the test windows are too many for a model that takes its time with each; None where they are not."""
    most, asked = model.most_windows(data.panel.roles.num_targets), len(data.test)
    if most is None or asked <= most:
        return None
    every = -(-asked * data.test.ranges.stride // most)
    return (
        f"it is fitted to each window anew, to at most {most:,} test windows, and there are {asked:,}; "
        f"data.test_stride={every} gives as few"
    )


def check_baselines(config: RunConfig) -> None:
    """Refuse names that are no baselines, and baselines whose package is not installed."""
    for name in config.evaluation.baselines if config.evaluation.baselines != AUTO else ():
        if not model_class(name).is_baseline:
            raise ConfigError(f"evaluation.baselines: {name} is not a baseline")
        model_class(name).require_packages()
