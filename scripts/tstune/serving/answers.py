"""What the server says, as JSON."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd

from tstune.data.table import ITEM, TIMESTAMP
from tstune.serving.refusals import RequestError, shown
from tstune.serving.served_model import ServedModel


def forecast_answer(forecast: pd.DataFrame, served: ServedModel) -> bytes:
    """Body of an answer: the rows of `predict` and what they are.

    Raises:
        RequestError: a forecast that is not a number.
    """
    values = forecast.columns[2:]
    finite = np.isfinite(forecast[values].to_numpy()).all(axis=1)
    if not finite.all():
        item = forecast[ITEM].iloc[int((~finite).argmax())]
        raise RequestError(f"the forecast of series {shown(item)} is not a number; check its readings")
    columns = {name: forecast[name].tolist() for name in forecast.columns}
    columns[TIMESTAMP] = _times(forecast[TIMESTAMP])
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    about = {
        "model": model_name(served),
        "unit": served.preprocessor.unit,
        "frequency": served.preprocessor.frequency,
        "columns": list(values),
        "forecast": rows,
    }
    return json.dumps(about, allow_nan=False).encode()


def model_name(served: ServedModel) -> dict:
    """Which model answers."""
    return {"name": served.name, "version": served.version, "type": served.model.model_type}


def _times(stamps: pd.Series) -> list[str]:
    values = stamps.to_numpy("datetime64[ns]")
    whole = values == values.astype("datetime64[s]")
    return np.datetime_as_string(values, unit="s" if whole.all() else "ns").tolist()
