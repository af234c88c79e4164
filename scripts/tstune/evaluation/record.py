"""What a run leaves for the report and for later comparisons: `evaluation.json`, `windows.parquet` and, if asked for,
every forecast in `forecasts.parquet`, from which metrics are computed: the old ones again, new ones without a rerun.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import pandas as pd

from tstune.data.frequency import fixed_step, parse_frequency
from tstune.data.prepared import PreparedData
from tstune.data.table import Roles
from tstune.data.windows import Batch
from tstune.domains import Domain, domain_names
from tstune.errors import DataError
from tstune.evaluation.backtest import Backtest, ErrorSums, Scores
from tstune.evaluation.bootstrap import rmse_band
from tstune.evaluation.metrics import compute_metrics, missing_for, rmse
from tstune.evaluation.scored_windows import ScoredWindows
from tstune.evaluation.verdict import best_first, metrics_of, window_blocks

WINDOWS_FILE = "windows.parquet"

_HISTORY_SHOWN = 144  # steps of an example's context


def windows_table(scores: Mapping[str, Scores], data: PreparedData, backtest: Backtest) -> pd.DataFrame:
    """One row per window, for paired comparisons with other runs.

    Columns: `item_id`, `origin` (time of the first forecast step), `count` (observed targets), then for every model
    `square/<model>` and `absolute/<model>`, sums over the observed targets of the path in original units.
    """
    any_scores = next(iter(scores.values()))
    origin = any_scores.window_start + backtest.windows.context_length
    columns = {
        "item_id": np.asarray(data.panel.item_ids, dtype=object)[any_scores.window_item],
        "origin": data.panel.timestamps[origin],
        "count": any_scores.window_count.astype(np.int64),
    }
    for name, values in scores.items():
        columns[f"square/{name}"] = values.window_square
        columns[f"absolute/{name}"] = values.window_absolute
    return pd.DataFrame(columns)


def evaluation_record(
    scores: Mapping[str, Scores],
    data: PreparedData,
    backtest: Backtest,
    judged: str,
    uncertainty: dict | None = None,
    domain: Domain | None = None,
    part: dict | None = None,
) -> dict:
    """Values for `evaluation.json`.

    Args:
        scores: row of the scoreboard -> scores, all on the windows of `backtest`.
        uncertainty: coverage and calibration, if there are quantiles.
        domain: of the unit, if it scores such runs.
        part: what it says beyond the rest, under its name.
    """
    panel = data.panel
    step = fixed_step(parse_frequency(panel.frequency))
    order = best_first(metrics_of(scores))
    return {
        "unit": data.preprocessor.unit,
        "frequency": panel.frequency,
        "step_seconds": None if step is None else step.total_seconds(),
        "context_length": backtest.windows.context_length,
        "prediction_length": backtest.windows.prediction_length,
        "targets": list(panel.roles.target),
        "horizons": backtest.horizons,
        "judged": judged,
        "models": order,
        "rmse_by_step": {name: _by_step(scores[name], backtest) for name in order},
        "per_item": _per_item({name: scores[name] for name in order}, data, backtest.horizons),
        "examples": _examples({name: scores[name] for name in order}, judged, data, backtest, domain),
        "uncertainty": uncertainty,
        **(dict.fromkeys(domain_names()) | ({domain.name: part} if domain else {})),
    }


def _by_step(scores: Scores, backtest: Backtest) -> dict:
    band = None
    if scores.windows is not None:
        seen = scores.window_count > 0
        windows = scores.windows.select(seen)
        blocks = window_blocks(scores, backtest.windows, seen)
        band = rmse_band(windows.squares(), windows.observed.sum(axis=2), blocks)
    low, high = (None, None) if band is None else (values.tolist() for values in band)
    return {"values": scores.rmse_by_step.tolist(), "low": low, "high": high}


def _per_item(scores: Mapping[str, Scores], data: PreparedData, horizons: Mapping[str, int]) -> list[dict]:
    num_items = len(data.panel.item_ids)
    columns: dict[str, dict[str, np.ndarray]] = {"rmse": {}, "mae": {}}
    for name, values in scores.items():
        columns["rmse"][name], columns["mae"][name] = values.rmse_by_item, values.mae_by_item
        for label, step in horizons.items() if values.windows is not None else ():
            columns.setdefault(f"rmse@{label}", {})[name] = _rmse_by_item(values.windows, step - 1, num_items)
    unseen = set(data.unseen_items)
    windows = next(iter(scores.values())).windows_by_item
    return [
        {"item": item_id, "seen": item_id not in unseen, "num_windows": int(windows[item])}
        | {
            column: {name: float(values[item]) for name, values in by_model.items()}
            for column, by_model in columns.items()
        }
        for item, item_id in enumerate(data.panel.item_ids)
        if windows[item]
    ]


def _rmse_by_item(windows: ScoredWindows, step: int, num_items: int) -> np.ndarray:
    windows = windows.steps(slice(step, step + 1))
    square = np.bincount(windows.item, weights=windows.squares()[:, 0], minlength=num_items)
    count = np.bincount(windows.item, weights=windows.observed.sum(axis=(1, 2)), minlength=num_items)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.sqrt(square / count)


def choose_examples(windows: ScoredWindows, domain: Domain | None = None) -> list[tuple[str, int]]:
    """(kind, window) of the best, typical and worst RMSE of a window, and of one more that a domain asks for.

    Windows with less than half of their path observed are taken only if there are no others. Typical is the median.
    With several items each of the three is of another one. The domain's is the median of those it names, one that is
    not shown yet if there is any. A kind without a window of its own is left out: only the domain's may come twice.

    Args:
        windows: of the model that is judged, one target.
        domain: of their unit, if any.
    """
    windows = windows.one_target()
    observed = windows.observed.astype(bool)
    share = observed.mean(axis=1) if len(observed) else np.zeros(0)
    eligible = share >= 0.5 if (share >= 0.5).any() else share > 0
    error = np.asarray(rmse(windows.truth, windows.forecast, observed, axis=1))
    order = np.argsort(error, kind="stable")  # a NaN comes last: what diverged is the worst
    order = order[eligible[order]]
    if not len(order):
        return []
    middle = order[np.argsort(np.abs(np.arange(len(order)) - (len(order) - 1) // 2), kind="stable")]
    best = int(order[0])
    worst = _of_another_item(order[::-1], windows.item, [best])
    typical = _of_another_item(middle, windows.item, [best, worst])
    found = {window: kind for kind, window in (("worst", worst), ("best", best), ("typical", typical))}
    kinds = {kind: window for window, kind in found.items()}
    chosen = [(kind, kinds[kind]) for kind in ("best", "typical", "worst") if kind in kinds]
    wanted = domain.example(windows) if domain else None
    if wanted is not None:
        kind, named = wanted
        named = order[named[order]]
        unseen = named[~np.isin(named, list(found))]
        if len(named):
            left = unseen if len(unseen) else named
            chosen.append((kind, int(left[(len(left) - 1) // 2])))  # the median; of two the lower
    return chosen


def _of_another_item(order: np.ndarray, item: np.ndarray | None, taken: Sequence[int]) -> int:
    """The first window of an item that has none yet; where each has one, the first that is not taken, if any is not."""
    free = order[~np.isin(order, taken)]
    others = free if item is None else free[~np.isin(item[free], item[list(taken)])]
    return int((others if len(others) else free if len(free) else order)[0])


def _examples(
    scores: Mapping[str, Scores], judged: str, data: PreparedData, backtest: Backtest, domain: Domain | None
) -> list[dict]:
    windows = scores[judged].windows
    if windows is None:
        return []
    found = []
    for kind, index in choose_examples(windows.first_target(), domain):
        past = backtest.windows.gather(windows.start[index : index + 1])
        usable = past["past_observed_mask"][0, -_HISTORY_SHOWN:, 0].numpy()
        level = np.broadcast_to(data.panel.level_of(int(windows.item[index])), past["past_values"].shape[-1])
        rounded, history = partial(_rounded, level=level[0]), past["past_values"][0, -_HISTORY_SHOWN:, 0].numpy()
        found.append(
            {
                "kind": kind,
                "item": data.panel.item_ids[int(windows.item[index])],
                "origin": str(np.datetime_as_string(windows.timestamps[index, 0], unit="s")),
                "target": data.panel.roles.target[0],
                "history": _with_gaps(rounded(history), usable),
                "inputs": _inputs(past, data.panel.roles, level),
                "truth": _with_gaps(rounded(windows.truth[index, :, 0]), windows.observed[index, :, 0]),
                "forecasts": {n: rounded(v.windows.forecast[index, :, 0]) for n, v in scores.items() if v.windows},
                "quantiles": None
                if windows.quantiles is None
                else {
                    f"{share:g}": rounded(windows.quantiles[index, :, 0, number])
                    for number, share in enumerate(windows.levels)
                },
            }
        )
    return found


def _inputs(batch: Batch, roles: Roles, level: np.ndarray) -> dict[str, list[float | None]]:
    """Of each other column that the model read: the history shown, and the future where it is known ahead."""
    found = {}
    for place, name in enumerate(roles.columns[roles.num_targets :], start=roles.num_targets):
        known = batch["past_observed_mask"][0, -_HISTORY_SHOWN:, place].numpy()
        past = batch["past_values"][0, -_HISTORY_SHOWN:, place].numpy()
        found[name] = _with_gaps(_rounded(past, level[place]), known)
        if name in roles.control:
            known = batch["future_observed_mask"][0, :, place].numpy()
            found[name] += _with_gaps(_rounded(batch["future_values"][0, :, place].numpy(), level[place]), known)
    return found


def _with_gaps(values: Sequence[float], known: np.ndarray) -> list[float | None]:
    return [value if here else None for value, here in zip(values, known, strict=True)]


def _rounded(values: Sequence[float], level: float = 0.0) -> list[float]:
    """For a drawing: six significant digits above the level."""
    return [float(f"{value:.6g}") + float(level) for value in values]


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
    """What `forecasts_table` kept."""

    windows: dict[str, ScoredWindows]  # row of the scoreboard -> its forecasts with what happened
    target_std: np.ndarray  # [targets] training deviation of each target, or [items, targets]
    windows_at_once: int

    @classmethod
    def of(cls, table: pd.DataFrame) -> KeptForecasts:
        """Read the table."""
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
        """Row of the scoreboard -> metric -> value, as a run computes them; none that needs quantiles where there are
        none.
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
