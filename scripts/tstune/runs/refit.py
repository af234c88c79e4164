"""Rolling origins with refit: models that are fitted anew as time goes on, each to what lies before it."""

from __future__ import annotations

import time

import numpy as np
import pandas as pd
import torch

from tstune.config.schema import EvaluationSection
from tstune.data.frequency import fixed_step, parse_frequency
from tstune.data.prepared import PreparedData
from tstune.data.splits import until
from tstune.data.windows import Batch, WindowDataset, seconds
from tstune.errors import ConfigError
from tstune.models.combined import ChosenForecaster
from tstune.models.contract import ForecastModel
from tstune.runtime.distributed import DistributedManager
from tstune.runtime.environment import set_seed
from tstune.runtime.logs import logger

KEY = "evaluation.refit"
SUFFIX = "_refit"
"""Ending of the rows of models that are fitted anew."""


def check_refit(section: EvaluationSection, data: PreparedData, manager: DistributedManager) -> None:
    """Refuse, before anything is trained, what cannot be refitted."""
    if section.refit == "none":
        return
    _offset(section.refit)
    if data.config.split.by == "item" or not data.split.has("train"):
        raise ConfigError(
            f"{KEY}={section.refit} fits to what came before the test, and data.split.by={data.config.split.by} has no "
            f"before; set {KEY}=none or data.split.by=time"
        )
    if manager.num_processes > 1:
        raise ConfigError(f"{KEY}={section.refit} runs in one process, not {manager.num_processes}; set {KEY}=none")


def refit_moments(section: EvaluationSection, windows: WindowDataset) -> np.ndarray:
    """[fits] datetime64 of every fit: the first origin, and each mark of the calendar until the last one."""
    starts = windows.starts(np.arange(len(windows)))
    origins = windows.panel.timestamps[starts + windows.context_length]
    first, last = pd.Timestamp(origins.min()), pd.Timestamp(origins.max())
    offset = _offset(section.refit)
    begin = first if fixed_step(offset) is not None else first.normalize()
    marks = pd.date_range(begin, last, freq=offset)
    return np.array([first, *marks[marks > first]], "datetime64[ns]")


def refitted(
    model: ForecastModel, data: PreparedData, moments: np.ndarray, manager: DistributedManager
) -> tuple[ChosenForecaster, list[dict]]:
    """Fit once per moment to what lies before it; the last readings before it validate, as many as in the split.

    Each fit begins where the model began, which stays as it is. Returns the forecaster, in which the last fit before
    the origin of a window forecasts it, else the first, and for each fit its moment, seconds and number of windows.
    """
    forecasters, costs, seed = [], [], model.config.seed
    for moment in moments:
        before = data.with_split(until(data.panel, data.split, moment), seed)
        before = before.with_calibration_apart() if "calibration" in data.windows else before
        begin = time.perf_counter()
        set_seed(seed)
        again = type(model)(model.config)
        again.build(before.preprocessor)
        again.to(manager.device)
        again.train_on(before.as_judged() if again.is_baseline else before, manager)
        forecasters.append(again)
        spent = round(time.perf_counter() - begin, 3)
        costs.append({"at": str(pd.Timestamp(moment)), "seconds": spent, "train_windows": len(before.train)})
        logger.info("%s fitted to what lies before %s: %.2f s", model.model_type, costs[-1]["at"], spent)
    begun = torch.from_numpy(seconds(moments))

    def last_before(batch: Batch) -> torch.Tensor:
        return (torch.searchsorted(begun, batch["origin"].cpu(), right=True) - 1).clamp_min(0)

    return ChosenForecaster(forecasters, last_before), costs


def _offset(text: str) -> pd.tseries.offsets.BaseOffset:
    return parse_frequency("MS" if text == "each_month" else text, KEY)
