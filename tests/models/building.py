"""A forecaster before any training, and names of its parameters."""

from __future__ import annotations

from collections.abc import Iterable

import tiny
import torch

from tstune.data.pipeline import prepare_data
from tstune.models.ttm import TTMForecaster


def built(model: TTMForecaster) -> TTMForecaster:
    """The model with its weights; how data are read does not depend on its lengths."""
    torch.manual_seed(0)
    model.build(prepare_data(model.config.data, tiny.CONTEXT, tiny.PREDICTION).preprocessor)
    return model


def plain(names: Iterable[str]) -> set[str]:
    """Parameter names as granite-tsfm has them, without our wrapper's prefix."""
    return {name.removeprefix("ttm.") for name in names}
