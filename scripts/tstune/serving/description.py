"""What a model expects of a request, in words and by example."""

from __future__ import annotations

import math
from dataclasses import asdict

import numpy as np
import pandas as pd

from tstune.data.table import ITEM, TIMESTAMP
from tstune.domains import domain_of
from tstune.serving.answers import model_name
from tstune.serving.columns import Column, RequestColumns
from tstune.serving.limits import ServingLimits
from tstune.serving.reading import FUTURE, ROWS
from tstune.serving.served_model import ServedModel

_ITEM = "example"
_LAST = pd.Timestamp("2024-01-31")
_MEANINGS = {
    "item_id": "text; which series the row belongs to",
    "timestamp": "ISO 8601 text; with a time zone in all rows (read as UTC) or in none",
    "target": "number, null where there is no reading; is forecast",
    "conditional": "number, null where there is no reading; known in the past only",
    "control": "number, null where there is no reading; known in the future too: also a column of future",
    "static_real": "number; the same in all rows of a series",
    "static_categorical": "text or null; the same in all rows of a series; may be one that training did not see",
}


def describe(served: ServedModel, limits: ServingLimits, example: dict | None) -> dict:
    """Body of `GET /model`."""
    model, preprocessor = served.model, served.preprocessor
    columns, lengths = RequestColumns.of(preprocessor.roles), model.config.model
    return {
        "model": model_name(served),
        "unit": preprocessor.unit,
        "frequency": preprocessor.frequency,
        "timezone": preprocessor.cleaning.timezone,
        "context_length": lengths.context_length,
        "shortest_history": shortest_history(served),
        "prediction_length": lengths.prediction_length,
        "quantile_levels": list(model.quantile_levels),
        "items": _items(served),
        "rows": [asdict(column) | {"meaning": _MEANINGS[column.role]} for column in columns.rows],
        "future": [asdict(column) | {"meaning": _future_meaning(column.role)} for column in columns.future],
        "limits": asdict(limits),
        "example": example,
    }


def shortest_history(served: ServedModel) -> int:
    """Grid steps from the first to the last reading that a forecast needs."""
    shortest = served.preprocessor.min_context
    return served.model.config.model.context_length if shortest is None else shortest


def example_request(served: ServedModel) -> dict:
    """A complete request: one series of whole length around the mean of the training data."""
    preprocessor, lengths = served.preprocessor, served.model.config.model
    columns, roles = RequestColumns.of(preprocessor.roles), preprocessor.roles
    length = lengths.context_length
    stamps = pd.date_range(end=_LAST, periods=length, freq=preprocessor.frequency)
    wave = np.sin(np.arange(length + lengths.prediction_length) / 12)
    values = {TIMESTAMP: [stamp.isoformat() for stamp in stamps], ITEM: [_ITEM] * length}
    for column in columns.rows[2:]:
        if column.role == "static_categorical":
            known = roles.categories[roles.static_categorical.index(column.name)]
            values[column.name] = [known[0] if known else None] * length
            continue
        mean, std = _centre(served, column)
        values[column.name] = [_rounded(mean + (0 if column.role == "static_real" else std * one)) for one in wave]
    names = [column.name for column in columns.rows]
    request = {ROWS: [{name: values[name][row] for name in names} for row in range(length)]}
    if columns.future:
        later = pd.date_range(stamps[-1], periods=lengths.prediction_length + 1, freq=preprocessor.frequency)[1:]
        request[FUTURE] = [
            {ITEM: _ITEM, TIMESTAMP: stamp.isoformat()}
            | {column.name: values[column.name][length + step] for column in columns.future[2:]}
            for step, stamp in enumerate(later)
        ]
    return request


def _items(served: ServedModel) -> str:
    adapters = served.model.item_adapters
    if adapters is None:
        return "each series is forecast by itself; item_id may be any name"
    return (
        f"{len(adapters.adapters)} series have an adapter of their own, found by item_id; every other one is forecast "
        "by the base"
    )


def _future_meaning(role: str) -> str:
    return "number; at every step of the forecast" if role == "control" else _MEANINGS[role]


def _centre(served: ServedModel, column: Column) -> tuple[float, float]:
    """Mean and standard deviation of a column; those of its domain, whose cleaning may refuse readings at 0."""
    preprocessor = served.preprocessor
    domain = domain_of(preprocessor.unit)
    typical = domain.typical(preprocessor.unit) if domain and column.role == "target" else None
    if typical is not None:
        return typical
    place = preprocessor.roles.channels.index(column.name)
    return float(preprocessor.scaler.mean[place]), float(preprocessor.scaler.std[place])


def _rounded(value: float) -> float:
    """Four digits, which is how readings look."""
    return 0.0 if value == 0 else round(value, 3 - math.floor(math.log10(abs(value))))
