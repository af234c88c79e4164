"""The JSON schemas of requests and answers, for OpenAPI."""

from __future__ import annotations

from tstune.data.table import ITEM, TIMESTAMP
from tstune.serving.columns import Column, RequestColumns
from tstune.serving.limits import ServingLimits
from tstune.serving.reading import FUTURE, ROWS
from tstune.serving.served_model import ServedModel

ERROR = {
    "type": "object",
    "properties": {"error": {"type": "string", "description": "what is wrong, where, and how to put it right"}},
    "required": ["error"],
    "additionalProperties": False,
}
_TEXT, _NUMBER, _COUNT = {"type": "string"}, {"type": "number"}, {"type": "integer", "minimum": 0}
_MAYBE_TEXT = {"anyOf": [_TEXT, {"type": "null"}]}
_NAME = {
    "type": "object",
    "properties": {"name": _TEXT, "version": _TEXT, "type": _TEXT},
    "required": ["name", "version", "type"],
    "additionalProperties": False,
}


def request_schema(served: ServedModel, limits: ServingLimits) -> dict:
    """Body of `POST /forecast`."""
    columns = RequestColumns.of(served.preprocessor.roles)
    fields = {ROWS: _rows(columns.rows, limits, "the history, a row per series and time, in any order")}
    if columns.future:
        fields[FUTURE] = _rows(columns.future, limits, "what is known of every step of the forecast", known=True)
    return _object(fields)


def forecast_schema(served: ServedModel) -> dict:
    """Answer of `POST /forecast`."""
    model, targets = served.model, served.preprocessor.roles.target
    names = [*targets, *(f"{name}_q{level:g}" for name in targets for level in model.quantile_levels)]
    row = _object({ITEM: _TEXT, TIMESTAMP: _TEXT} | dict.fromkeys(names, _NUMBER))
    return _object(
        {
            "model": _NAME,
            "unit": _MAYBE_TEXT,
            "frequency": _TEXT,
            "columns": {"type": "array", "items": {"type": "string", "enum": names}},
            "forecast": {"type": "array", "items": row, "minItems": model.config.model.prediction_length},
        }
    )


def health_schema() -> dict:
    """Answer of `GET /health`."""
    truth = {"type": "boolean"}
    return _object({"live": truth, "ready": truth, "model": _TEXT, "version": _TEXT, "loaded": _TEXT})


def model_schema(served: ServedModel, limits: ServingLimits) -> dict:
    """Answer of `GET /model`."""
    columns = {"type": "array", "items": _object({"name": _TEXT, "role": _TEXT, "meaning": _TEXT})}
    return _object(
        {
            "model": _NAME,
            "unit": _MAYBE_TEXT,
            "frequency": _TEXT,
            "timezone": _MAYBE_TEXT,
            "context_length": _COUNT,
            "shortest_history": _COUNT,
            "prediction_length": _COUNT,
            "quantile_levels": {"type": "array", "items": _NUMBER},
            "items": _TEXT,
            "rows": columns,
            "future": columns,
            "limits": {"type": "object", "additionalProperties": _NUMBER},
            "example": {"anyOf": [request_schema(served, limits), {"type": "null"}]},
        }
    )


def _rows(columns: tuple[Column, ...], limits: ServingLimits, description: str, known: bool = False) -> dict:
    row = _object({column.name: column.schema(known) for column in columns})
    return {"type": "array", "minItems": 1, "maxItems": limits.max_rows, "items": row, "description": description}


def _object(properties: dict) -> dict:
    """Every property is required and there are no others."""
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }
