"""Runs that are published and exported: one per kind of model, trained once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from support import tiny, tiny_weights

from tstune.config.validation import validate
from tstune.models.registry import model_class

CHANNELS = {
    "conditional_columns": ["dose"],
    "control_columns": ["plan"],
    "static_real_columns": ["age"],
    "static_categorical_columns": ["site"],
    "time_features": ["hour_of_day"],
}
LEVELS = [0.1, 0.5, 0.9]
KINDS = {
    "plain": ("ttm", {"data": {"max_gap": 3, "frequency": "h"}, "tuning": {"mode": "decoder"}}),
    "covariates": ("ttm", {"data": CHANNELS | {"max_gap": 2}, "tuning": {"mode": "full"}}),
    "lora": ("ttm", {"tuning": {"mode": "lora"}, "forecast": {"quantiles": LEVELS}}),
    "quantile_head": ("ttm", {"forecast": {"quantiles": LEVELS, "method": "quantile_head"}}),
    "per_item": ("ttm", {"tuning": {"mode": "decoder", "per_item": True, "per_item_epochs": 2}}),
    "chronos_bolt": ("chronos_bolt", {"tuning": {"mode": "head"}, "forecast": {"quantiles": LEVELS}}),
    "chronos2": (
        "chronos2",
        {"tuning": {"mode": "head"}, "data": {"conditional_columns": ["dose"], "control_columns": ["plan"]}},
    ),
}
"""Name -> family and the sections of its recipe; another name is a family, tuned by LoRA."""


@pytest.fixture(scope="session")
def run_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Run folder of a kind, made when it is first asked for."""
    folder = tmp_path_factory.mktemp("sharing-runs")
    table = tiny.series()
    table["age"], table["site"] = table["item_id"].map({"a": 30.0, "b": 50.0}), table["item_id"] + "x"
    gaps = np.random.default_rng(3).random(len(table)) < 0.02
    table.loc[gaps, "load"] = np.nan
    table.to_csv(folder / "readings-of-patients.csv", index=False)
    made: dict[str, Path] = {}

    def make(kind: str) -> Path:
        if kind not in made:
            family, sections = KINDS.get(kind, (kind.partition(":")[2], {"tuning": {"mode": "lora"}}))
            checkpoint = folder / "private-weights" / family
            if not checkpoint.exists():
                tiny_weights.WRITERS[family](checkpoint)
            quick = {
                "model": {"type": family},
                "data": {"max_gap": 3},
                "training": {"max_steps": 4, "eval_every_steps": 2},
                "evaluation": {"baselines": ["persistence"], "report": False},
            }
            csv = folder / "readings-of-patients.csv"
            values = tiny.merged(tiny.recipe(csv, folder / kind, checkpoint, **quick), sections)
            model_class(family)(validate(values, "test")).fit(output_dir=folder / kind)
            made[kind] = folder / kind
        return made[kind]

    return make


@pytest.fixture(scope="session")
def readings() -> pd.DataFrame:
    """New readings of two series with short and long gaps in every column; the last row is whole."""
    table = tiny.series(rows=tiny.CONTEXT, seed=5)
    table["age"], table["site"] = table["item_id"].map({"a": 30.0, "b": 50.0}), table["item_id"] + "x"
    for number, column in enumerate(("load", "dose", "plan")):
        table.loc[4 + number : 5 + number, column] = np.nan
        table.loc[14 + number : 22 + number, column] = np.nan
        table.loc[tiny.CONTEXT + 8 + number, column] = np.nan
    return table
