"""Every forecast of a run in one table, and metrics computed from it: the old ones again, new ones without a rerun."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from tstune.errors import DataError
from tstune.evaluation.backtest import Backtest, ErrorSums, Scores
from tstune.evaluation.metric_registry import compute_metrics, missing_for
from tstune.evaluation.scored_windows import ScoredWindows

FORECASTS_FILE = "forecasts.parquet"
_FORECAST, _QUANTILE = "forecast/", "quantile/"


def forecasts_table(
    scores: Mapping[str, Scores], backtest: Backtest, item_ids: Sequence[str], targets: Sequence[str]
) -> pd.DataFrame:
    """One row per window, step and target, in original units, counted from the `level` of the series (mostly 0).

    Columns: `item_id`, `origin` (time of the first forecast step), `step` (from 1 on), `timestamp`, `target`, `truth`
    (missing where nothing was read), `level`, `last_reading` and `mase_scale` of the window, then for every model
    `forecast/<model>` and, where it has quantiles, `quantile/<model>/<level>`. What metrics need beyond is in the
    table's `attrs`, which Parquet keeps.
    """
    windows = backtest.happened
    shape = windows.truth.shape
    grid = np.indices(shape).reshape(3, -1)
    columns = {
        "item_id": pd.Categorical.from_codes(windows.item[grid[0]], list(item_ids)),
        "origin": windows.timestamps[grid[0], 0],
        "step": grid[1].astype(np.int32) + 1,
        "timestamp": windows.timestamps[grid[0], grid[1]],
        "target": pd.Categorical.from_codes(grid[2], list(targets)),
        "truth": np.where(windows.observed, windows.truth, np.nan).reshape(-1),
        "level": 0.0 if windows.level is None else windows.level[grid[0], grid[2]],
        "last_reading": windows.last_reading[grid[0]],
        "mase_scale": windows.mase_scale[grid[0], grid[2]],
    }
    for name, one in scores.items():
        columns[f"{_FORECAST}{name}"] = one.windows.forecast.reshape(-1)
        for number, level in enumerate(() if one.windows.quantiles is None else one.windows.levels):
            columns[f"{_QUANTILE}{name}/{level:g}"] = one.windows.quantiles[..., number].reshape(-1)
    table, std = pd.DataFrame(columns), backtest.target_std
    table.attrs = {
        "num_steps": shape[1],
        "frequency": backtest.windows.panel.frequency,
        "unit": windows.unit,
        "target_std": (std if std.ndim == 1 else std[pd.unique(windows.item)]).tolist(),
        "windows_at_once": backtest.windows_at_once,  # sums in this order have the same last digit
    }
    return table


@dataclass(frozen=True)
class KeptForecasts:
    """What `forecasts_table` kept.

    Attributes:
        windows: row of the scoreboard -> its forecasts with what happened.
        target_std: [targets] training deviation of each target, or [items, targets].
        windows_at_once: how many were added up at a time.
    """

    windows: dict[str, ScoredWindows]
    target_std: np.ndarray
    windows_at_once: int

    @classmethod
    def of(cls, table: pd.DataFrame) -> KeptForecasts:
        """Read the table.

        Raises:
            DataError: it is another one, or some of its rows are missing.
        """
        try:
            target_std = np.asarray(table.attrs["target_std"])
            steps, targets = int(table.attrs["num_steps"]), target_std.shape[-1]
            shape = (len(table) // (steps * targets), steps, targets)
            if np.prod(shape) != len(table):
                raise ValueError(f"{len(table)} rows are not whole windows of {steps} steps and {targets} targets")
            values = {name: table[name].to_numpy().reshape(shape) for name in table if "/" in name or name == "truth"}
            truth, level = values["truth"], table["level"].to_numpy().reshape(shape)[:, 0]
            happened = ScoredWindows(
                truth=np.nan_to_num(truth),
                forecast=truth,
                observed=~np.isnan(truth),
                item=pd.factorize(table["item_id"])[0].reshape(shape)[:, 0, 0],
                timestamps=table["timestamp"].to_numpy("datetime64[ns]").reshape(shape)[..., 0],
                last_reading=table["last_reading"].to_numpy().reshape(shape)[:, 0, 0],
                mase_scale=table["mase_scale"].to_numpy().reshape(shape)[:, 0],
                start=np.arange(shape[0]),
                unit=table.attrs["unit"],
                level=level if level.any() else None,
            )
        except (KeyError, ValueError) as error:
            raise DataError(f"these are no kept forecasts of a run: {error}") from None
        windows = {}
        for name in (column.removeprefix(_FORECAST) for column in values if column.startswith(_FORECAST)):
            own = [column for column in values if column.startswith(f"{_QUANTILE}{name}/")]
            quantiles = np.stack([values[column] for column in own], axis=-1) if own else None
            levels = np.array([float(column.rpartition("/")[2]) for column in own]) if own else None
            windows[name] = replace(happened, forecast=values[f"{_FORECAST}{name}"], quantiles=quantiles, levels=levels)
        return cls(windows, target_std, int(table.attrs["windows_at_once"]))

    def metrics(self, horizons: Mapping[str, int], names: Iterable[str]) -> dict[str, dict[str, float]]:
        """Row of the scoreboard -> metric -> value, as a run computes them.

        Args:
            horizons: label -> step.
            names: further metrics, see `metric_registry`; one that needs quantiles is left out where there are none.
        """
        found = {}
        for model, windows in self.windows.items():
            by_item = np.zeros((windows.item.max() + 1, self.target_std.shape[-1]))
            by_item[windows.item] = windows.mase_scale
            sums = ErrorSums(windows.truth.shape[1], self.target_std, by_item)
            for begin in range(0, len(windows.truth), self.windows_at_once):
                part = windows.select(np.arange(begin, min(begin + self.windows_at_once, len(windows.truth))))
                sums.add(part.forecast, part.truth, part.observed, part.item, part.start)
            found[model] = sums.scores(horizons).metrics
            further = further_metrics(names, windows)
            found[model] |= {column: value for column, value in further.items() if column not in found[model]}
        return found


def further_metrics(
    names: Iterable[str], windows: ScoredWindows, own: Callable[[ScoredWindows], dict[str, float]] | None = None
) -> dict[str, float]:
    """Those of the configured metrics for which the windows have what they need, and `ForecastModel.own_metrics`."""
    others = {} if own is None else own(windows)
    if windows.truth.shape[2] == 1:  # metrics of a domain are about one target
        windows = windows.one_target()
    return compute_metrics([name for name in names if not missing_for(name, windows)], windows) | others
