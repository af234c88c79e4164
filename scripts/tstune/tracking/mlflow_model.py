"""The code of a model logged in MLflow: run as a script by MLflow, which stores this file instead of a pickle.

It forecasts with the run folder that is logged with it. The input is a table as `predict` takes it; for models with
known-future columns it goes on after the last reading with rows that hold those columns and no target.
"""

from __future__ import annotations

import pandas as pd
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel, PythonModelContext


class RunFolderModel(PythonModel):
    """A saved model behind MLflow's interface."""

    def load_context(self, context: PythonModelContext) -> None:
        """Load the run folder."""
        from tstune.models.registry import load_model

        # whoever loads this model runs the code beside it already
        self._model = load_model(context.artifacts["run"], trust_code=True)

    def predict(self, context: PythonModelContext, model_input: pd.DataFrame, params: dict | None = None) -> object:
        """One row per series and future step, in original units."""
        roles = self._model.preprocessor.roles
        if not roles.control:
            return self._model.predict(model_input)
        known = _is_known(model_input, list(roles.target), self._model.preprocessor)
        return self._model.predict(model_input[known], future=model_input[~known])


def _is_known(frame: pd.DataFrame, targets: list[str], preprocessor: object) -> pd.Series:
    """True for rows up to the last reading of their series."""
    read = frame[targets].notna().any(axis=1)
    from tstune.data.times import join_time_columns, parse_timestamps

    columns = preprocessor.time_columns
    column = frame[columns[0]] if len(columns) == 1 else join_time_columns(frame, columns)
    stamps = parse_timestamps(column, preprocessor.timestamp_format, "input")
    item = preprocessor.item_id_column
    items = frame[item] if item is not None else pd.Series(0, index=frame.index)
    last = stamps.where(read).groupby(items).transform("max")
    return stamps <= last


set_model(RunFolderModel())
