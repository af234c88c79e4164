"""Tables, requests and tiny run folders for the tests of the server."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from support import tiny

from tstune.config.validation import validate
from tstune.models.ttm import TTMForecaster

QUIET = {"evaluation": {"baselines": [], "num_plots": 0, "report": False}, "training": {"max_steps": 2}}
STATICS = {"static_categorical_columns": ["site"], "static_real_columns": ["size"]}
ROLES = {"conditional_columns": ["dose"], "control_columns": ["plan"], "time_features": ["hour_of_day"]} | STATICS


def rich_series(**options: object) -> pd.DataFrame:
    """`tiny.series` with a name and a number per series."""
    table = tiny.series(**options)
    places = {"a": ("north", 3.0), "b": ("south", 5.0)}
    table["site"] = [places.get(item, ("south", 4.0))[0] for item in table["item_id"]]
    table["size"] = [places.get(item, ("south", 4.0))[1] for item in table["item_id"]]
    return table


def future_plan(steps: int = tiny.PREDICTION) -> pd.DataFrame:
    """The plan for the hours after `tiny.series`."""
    stamps = pd.date_range("2024-01-17 16:00", periods=steps, freq="h")
    tables = [
        pd.DataFrame({"item_id": item, "timestamp": stamps, "plan": [0.0, 1.0] * (steps // 2)}) for item in tiny.ITEMS
    ]
    return pd.concat(tables, ignore_index=True)


def train(folder: Path, table: pd.DataFrame, **sections: object) -> Path:
    """A run folder of a model of a few steps."""
    csv, checkpoint = folder / "series.csv", tiny.write_checkpoint(folder / "checkpoint")
    table.to_csv(csv, index=False)
    values = tiny.recipe(csv, folder / "run", checkpoint, **tiny.merged(QUIET, sections))
    TTMForecaster(validate(values, "test")).fit(output_dir=folder / "run")
    return folder / "run"


def rows_of(table: pd.DataFrame) -> list[dict]:
    """The rows of a request."""
    table = table.assign(timestamp=table["timestamp"].astype(str)).astype(object)
    return table.where(table.notna(), None).to_dict("records")


def frame_of(answer: dict) -> pd.DataFrame:
    """The forecast of an answer as `predict` returns it."""
    frame = pd.DataFrame(answer["forecast"])
    frame["timestamp"] = frame["timestamp"].astype("datetime64[ns]")
    return frame.astype(dict.fromkeys(answer["columns"], "float32"))
