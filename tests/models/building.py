"""A forecaster before any training, windows for it, and names of its parameters."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from support import tiny

from tstune.config.validation import validate
from tstune.data.prepared import PreparedData, prepare_data
from tstune.models.base import BaseTimeSeriesFoundationModel
from tstune.models.registry import model_class
from tstune.models.ttm import TTMForecaster

Make = Callable[..., tuple[BaseTimeSeriesFoundationModel, PreparedData]]


def built(model: TTMForecaster) -> TTMForecaster:
    """The model with its weights; how data are read does not depend on its lengths."""
    torch.manual_seed(0)
    model.build(prepare_data(model.config.data, tiny.CONTEXT, tiny.PREDICTION).preprocessor)
    return model


def plain(names: Iterable[str]) -> set[str]:
    """Parameter names as granite-tsfm has them, without our wrapper's prefix."""
    return {name.removeprefix("network.") for name in names}


def built_on_windows(
    family: str, folder: Path, pretrained: Path, **sections: object
) -> tuple[BaseTimeSeriesFoundationModel, PreparedData]:
    """A model of any family on `folder`/series.csv, and the windows of it."""
    base = {"model": {"type": family}, "tuning": {"mode": "full"}}
    base["evaluation"] = {"baselines": [], "num_plots": 0, "report": False, "horizons": ["2h"]}
    values = tiny.recipe(folder / "series.csv", folder / "unused", pretrained, **base)
    model = model_class(family)(validate(tiny.merged(values, sections), "test"))
    data = model.prepare()
    torch.manual_seed(1)  # the checkpoints are made with 0
    model.build(data.preprocessor)
    return model, data


def four_windows(data: PreparedData, gaps: bool = False) -> dict[str, torch.Tensor]:
    """Four test windows; with gaps some readings are missing, before, inside and at the end."""
    batch = data.test.__getitems__([0, 5, 9, 14])
    if gaps:
        batch["past_observed_mask"][0, :13] = False
        batch["past_observed_mask"][1, 10:19] = False
        batch["past_observed_mask"][2, -2:, 0] = False
    return batch


def train_losses(history: list[dict]) -> list[float]:
    """The training losses of a history, step by step."""
    return [row["train_loss"] for row in history if "train_loss" in row]
