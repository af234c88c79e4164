"""A table in, a table or a picture out, without a recipe: what comes, and what would have been forecast before."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from tstune.config.schema import DataSection, RunConfig
from tstune.config.section import AUTO, DEFAULT_FAMILY, FAMILIES
from tstune.config.validation import validate
from tstune.data.defaults import BUILTIN, SHIPPED
from tstune.data.describe import recognised_columns
from tstune.data.files import read_table
from tstune.data.frame import id_texts, table_from_frame
from tstune.data.frequency import fixed_step, parse_frequency, to_steps
from tstune.data.panel import position_of
from tstune.data.panel_store import frequency_of
from tstune.data.prepared import PreparedData
from tstune.data.preprocess import Preprocessor
from tstune.data.splits import last_steps
from tstune.data.table import ITEM, TIMESTAMP, SourceTable
from tstune.errors import ConfigError, DataError
from tstune.evaluation.backtest import Backtest
from tstune.evaluation.record import forecasts_table
from tstune.evaluation.uncertainty import fit_uncertainty
from tstune.models.contract import ForecastModel
from tstune.models.predict import forecast_table, in_zone
from tstune.models.registry import available_models, model_class
from tstune.registry import load_saved_model
from tstune.registry.model_registry import PREFIX
from tstune.runs.compare.candidates import open_candidates
from tstune.runs.compare.evaluate import configured_data, evaluate_models, with_lengths
from tstune.runs.folder import PREPROCESSOR
from tstune.runs.plots import save
from tstune.runs.refit import SUFFIX
from tstune.runtime.distributed import DistributedManager

LEVELS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
CALIBRATION_WINDOWS = 512
"""Windows of the history, at most, whose errors become the intervals of weights that forecast points."""
CUTOFF = "cutoff"


def forecast(
    frame: pd.DataFrame | str | Path,
    horizon: int | str,
    model: str = BUILTIN,
    *,
    quantiles: Sequence[float] = LEVELS,
    future: pd.DataFrame | None = None,
    id_col: str | None = None,
    time_col: str | None = None,
    target_col: str | None = None,
) -> pd.DataFrame:
    """Forecast what follows every series of a table.

    Weights that forecast points get conformal intervals from their errors in the history of this table, on which
    nothing was trained. A run folder gives the quantiles that it was trained or calibrated with.

    Args:
        frame: long table or file: a column of series, if there are several, one of times, one or more of numbers.
        horizon: steps, or a time such as ``8h``.
        model: ``builtin``, ``builtin:glucose``, a run folder, ``registry:name@alias``, a family with weights of its
            own, a folder of weights or Hub id (of another family than TTM as ``family:weights``), ``seasonal_naive``, …
        quantiles: levels; none gives the forecast alone.
        future: for a run folder with known-future columns, their values over the forecast.
        id_col, time_col, target_col: columns where they are not recognised; without a target every number is one.

    Returns:
        one row per series and step: series and time under their names in `frame`, in its time zone, one column per
        target, and one per target and level (``y_q0.1``).

    Raises:
        ConfigError, DataError: naming what is wrong with the table, the model or the horizon.
    """
    frame = _frame(frame, time_col)
    ready = make_ready(frame, horizon, model, quantiles, id_col=id_col, time_col=time_col, target_cols=target_col)
    return ready.forecast(frame, future)


@dataclass(frozen=True)
class Ready:
    """A model that forecasts tables like the one that it was made ready with."""

    model: ForecastModel  # with its weights, and with intervals where it has any
    steps: int  # of a forecast
    quantiles: bool  # False leaves them out
    # columns of series and times
    item: str | None
    time: str | Sequence[str]

    def forecast(self, frame: pd.DataFrame, future: pd.DataFrame | None = None) -> pd.DataFrame:
        """As `forecast` returns it."""
        found = forecast_table(self.model, frame, future)
        kept = {key: getattr(found, key)[:, : self.steps] for key in ("forecasts", "timestamps")}
        kept["quantiles"] = found.quantiles[:, : self.steps] if self.quantiles and found.quantiles is not None else None
        return _Names.of(frame, self.item, self.time).put(replace(found, **kept).to_frame())


def make_ready(
    frame: pd.DataFrame,
    horizon: int | str,
    model: str,
    quantiles: Sequence[float],
    *,
    seasonality: int | None = None,
    id_col: str | None = None,
    time_col: str | None = None,
    target_cols: str | Sequence[str] | None = None,
    registry: str | None = None,
) -> Ready:
    """A model for tables like this one, whose history gives the intervals where the model has none; see `forecast`.

    `seasonality` is for `seasonal_naive` and its like; None follows the frequency.
    """
    if model.startswith(PREFIX) or (Path(model) / PREPROCESSOR).is_file():
        loaded = load_saved_model(model, registry)
        own = loaded.preprocessor
        steps = _steps(horizon, own.frequency)
        _require_reach(model, loaded.config.model.prediction_length, horizon, steps)
        item, time = id_col or own.item_id_column or ITEM, time_col or own.timestamp_column
        return Ready(loaded, steps, bool(quantiles), item, time)
    read = _Series.of(frame, id_col, time_col, target_cols)
    steps = _steps(horizon, read.frequency)
    loaded = _as_it_is(model, read, horizon, steps, list(quantiles), seasonality)
    return Ready(loaded, steps, bool(quantiles), read.names.item, read.names.time)


def cross_validation(
    frame: pd.DataFrame | str | Path,
    h: int | str,
    n_windows: int = 1,
    step_size: int = 1,
    models: Sequence[str] | Mapping[str, str] = (BUILTIN, "seasonal_naive"),
    *,
    val_size: int | None = None,
    context_length: int | str = AUTO,
    refit: str = "none",
    quantiles: Sequence[float] = (),
    id_col: str | None = None,
    time_col: str | None = None,
    target_col: str | None = None,
) -> pd.DataFrame:
    """What models would have said before the last `n_windows` cutoffs of every series, as neuralforecast has it.

    The windows and the numbers are those of `scripts/eval_forecast.py` on the same split. Baselines that learn, such as
    ridge, are fitted once, to what lies before the first cutoff and `val_size`.

    Args:
        frame, id_col, time_col: as of `forecast`.
        h: steps of each forecast, or a time.
        n_windows, step_size: cutoffs, and the steps between two of them; the last forecast ends with the series.
        models: as of `forecast`, or ``name: model``.
        val_size: steps before the first cutoff that nothing is fitted to; None: as many as are forecast.
        context_length: past steps that the models see; ``auto`` as the weights know it.
        refit: `evaluation.refit`: what learns is fitted anew, to what lies before, in columns ``<model>_refit``.
        quantiles: levels of models that forecast quantiles by themselves.
        target_col: the one column to forecast.

    Returns:
        one row per series, cutoff and step: series, time, ``cutoff`` (the last step that was known), the reading, one
        column per model, ``<model>_q0.1`` and so on behind it. `attrs["seconds"]` says what each model took.
    """
    read = _Series.of(_frame(frame, time_col), id_col, time_col, target_col)
    if len(read.table.roles.target) > 1:
        raise ConfigError(f"several columns of numbers ({', '.join(read.table.roles.target)}): name one in target_col")
    if n_windows < 1 or step_size < 1:
        raise ConfigError(f"n_windows={n_windows} and step_size={step_size} must be 1 or more")
    named = models if isinstance(models, Mapping) else {None: None}
    specs = list(models.values()) if isinstance(models, Mapping) else list(models)
    steps = _steps(h, read.frequency)
    test = steps + step_size * (n_windows - 1)
    with_weights = next((one for one in specs if _has_weights(one)), "persistence")
    config = read.run(with_weights, steps, test, list(quantiles), context_length=context_length)
    config = config.changing("evaluation", refit=refit)

    def prepare(config: RunConfig) -> PreparedData:
        data = configured_data(config, read.table)
        context, panel = data.test.context_length, data.panel
        split = last_steps(panel, test, test if val_size is None else val_size, (context, steps))
        data = data.with_split(split, config.seed)
        origin = data.test.starts(np.arange(len(data.test))) + context
        item = panel.segment_item[data.test.segment_of(origin - context)]
        left = panel.item_length[item] - position_of(panel, origin) - steps
        aligned = data.test.only(np.flatnonzero(left % step_size == 0))
        return replace(data, windows=data.windows | {"test": aligned})

    evaluation = evaluate_models(specs, config, prepare=prepare, flag="model")
    judge = evaluation.judge
    if not judge.test.keeps_forecasts:
        raise DataError(f"{len(judge.test.windows):,} windows are too many for one table; lower n_windows")
    data, about, found_seconds = judge.data, evaluation.environment["models"], {}
    table = forecasts_table(judge.scores, judge.test, data.panel.item_ids, data.panel.roles.target)
    cutoff = data.panel.timestamps[judge.test.happened.start + data.test.context_length - 1].repeat(steps)
    zone, target = read.table.zone, data.panel.roles.target[0]
    found = pd.DataFrame({ITEM: table[ITEM].astype(object), TIMESTAMP: in_zone(table[TIMESTAMP], zone)})
    found[CUTOFF], found[target] = in_zone(cutoff, zone), table["truth"] + table["level"]
    labels = {values.get("spec"): name for name, values in about.items()}
    labels = {labels[spec]: label for label, spec in named.items() if label is not None}
    for name in judge.scores:
        once = name.removesuffix(SUFFIX)
        label = labels.get(once, once) + name[len(once) :]
        found[label] = table[f"forecast/{name}"] + table["level"]
        found_seconds[label] = about[name].get("seconds", about[name].get("fit_seconds"))
        for column in table.columns[table.columns.str.startswith(f"quantile/{name}/")]:
            found[f"{label}_q{column.rpartition('/')[2]}"] = table[column] + table["level"]
    found = read.names.put(found)
    found.attrs = {"seconds": found_seconds}
    return found


def plot_series(
    frame: pd.DataFrame | str | Path,
    forecasts: pd.DataFrame | None = None,
    *,
    ids: Sequence[object] | None = None,
    models: Sequence[str] | None = None,
    start: object = None,
    end: object = None,
    most: int = 6,
    path: str | Path | None = None,
    id_col: str | None = None,
    time_col: str | None = None,
    target_col: str | None = None,
) -> Figure:
    """Draw series, and beside them what `forecast` or `cross_validation` said, with the outermost interval there is.

    Args:
        frame, id_col, time_col: as of `forecast`.
        forecasts: what one of the two returned.
        ids: series to draw; None: the first ones, at most `most`.
        models: columns of `forecasts` to draw; None: all.
        start, end: first and last time to draw; None: everything.
        most: series at most where `ids` says none.
        path: picture to write (.png, .svg, .pdf).
        target_col: what to draw where there are several columns of numbers; None: the first.
    """
    read = _Series.of(_frame(frame, time_col), id_col, time_col, target_col)
    item, time, target = read.names.item or ITEM, read.names.time, read.table.roles.target[0]
    history = read.names.put(
        read.table.frame.assign(**{TIMESTAMP: in_zone(read.table.frame[TIMESTAMP], read.table.zone)})
    )
    tables = [history, pd.DataFrame(columns=[item, time]) if forecasts is None else forecasts]
    tables = [table if item in table else table.assign(**{item: ""}) for table in tables]
    ids = list(dict.fromkeys(tables[0][item]))[:most] if ids is None else list(ids)
    unknown = [one for one in ids if one not in set(tables[0][item])]
    if unknown or not ids:
        raise ConfigError(f"ids: no series {unknown[0]!r} in the table" if unknown else "ids names no series")
    beside = [name for name in tables[1].columns if name not in (item, time, CUTOFF)]
    drawn = [name for name in beside if "_q" not in name and (CUTOFF not in tables[1] or name != target)]
    if models is not None and (lacking := [name for name in models if name not in drawn]):
        raise ConfigError(f"models: no forecast {lacking[0]!r}; there are {', '.join(drawn)}")
    shown = slice(*(None if bound is None else str(bound) for bound in (start, end)))
    figure = Figure(figsize=(9, 2.6 * len(ids)), layout="constrained")
    for axes, one in zip(figure.subplots(len(ids), 1, squeeze=False)[:, 0], ids, strict=True):
        own = (table[table[item] == one].set_index(time).sort_index() for table in tables)
        past, ahead = (table[shown] if len(table) else table for table in own)
        axes.plot(past.index, past[target], color="black", linewidth=1, label=target)
        for number, name in enumerate(drawn if models is None else models):
            levels = [column for column in beside if column.startswith(f"{name}_q")]
            pieces = ahead.groupby(CUTOFF) if CUTOFF in ahead else [(None, ahead)]
            for place, (_, piece) in enumerate(pieces):
                label = None if place else "forecast" if name == target else name
                axes.plot(piece.index, piece[name], color=f"C{number}", linewidth=1.6, label=label)
                if len(levels) > 1:
                    band = piece[levels[0]], piece[levels[-1]]
                    axes.fill_between(piece.index, *band, color=f"C{number}", alpha=0.2, linewidth=0)
        axes.set_title(str(one), fontsize=10)
        axes.legend(fontsize=8, loc="best")
    if path is not None:
        save(figure, Path(path))
    return figure


@dataclass(frozen=True)
class _Names:
    """What the table calls its series and times."""

    item: str | None  # column of the series; None where there is none
    time: str  # column of the times
    ids: dict[str, object]  # name of a series as text -> as it is written in the table

    @classmethod
    def of(cls, frame: pd.DataFrame, item: str | None, time: str | Sequence[str]) -> _Names:
        """Of a table; several columns of times become one."""
        item = item if item in frame else None
        ids = {} if item is None else dict(zip(id_texts(frame[item]), frame[item], strict=True))
        return cls(item, time if isinstance(time, str) and time in frame else TIMESTAMP, ids)

    def put(self, found: pd.DataFrame) -> pd.DataFrame:
        """A table of ours in the names of theirs."""
        if self.item is None:
            return found.drop(columns=ITEM).rename(columns={TIMESTAMP: self.time})
        found[ITEM] = pd.Series([self.ids[name] for name in found[ITEM]], found.index).infer_objects()
        return found.rename(columns={ITEM: self.item, TIMESTAMP: self.time})


@dataclass(frozen=True)
class _Series:
    """A table as it was read."""

    section: DataSection  # keys that read it so
    table: SourceTable  # its series
    names: _Names  # what it calls them

    @classmethod
    def of(cls, frame: pd.DataFrame, item: str | None, time: str | None, target: str | Sequence[str] | None) -> _Series:
        targets = [target] if isinstance(target, str) else target and list(target)
        given = {"item_id_column": item, "timestamp_column": time, "target_columns": targets}
        given = recognised_columns({key: value for key, value in given.items() if value is not None}, frame, True)
        given = {key: value for key, value in given.items() if key not in ("conditional_columns", "fill")}
        section = DataSection(source="csv", **given)
        table = table_from_frame(frame, section, "frame")
        names = _Names.of(frame, table.read_as["item_id_column"], table.read_as["timestamp_column"])
        return cls(section, table, names)

    @property
    def frequency(self) -> str:
        """Grid step, the most common one."""
        return frequency_of([self.table])

    @property
    def longest(self) -> int:
        """Steps of the longest series."""
        times, step = self.table.frame.groupby(ITEM)[TIMESTAMP], fixed_step(parse_frequency(self.frequency))
        return int(times.nunique().max()) if step is None else int((times.max() - times.min()).max() / step) + 1

    def run(
        self, model: str, steps: int, kept: int, quantiles: Sequence[float], context_length: int | str = AUTO
    ) -> RunConfig:
        """A run that trains nothing, with all readings in the test; a history too short for the weights is padded.

        The weights of the model choose the context; `kept` steps at the end of each series are none.
        """
        family, place = family_of(model)
        section = {"type": family, "prediction_length": steps, "context_length": context_length}
        values = {
            "model": section | ({"pretrained": place} if place else {}),
            "data": self.section.model_dump() | {"split": {"by": "none", "mode": "deployment"}},
            "tuning": {"mode": "zero_shot"} if place else {},
            "forecast": {"quantiles": list(quantiles), "calibration_windows": CALIBRATION_WINDOWS},
            "evaluation": {"baselines": [], "report": False},
        }
        config = validate(values, origin=model)
        known = [context for context, _ in model_class(family)(config).known_lengths()]
        shortest = context_length if context_length != AUTO else min(known, default=4)
        if self.longest <= kept:
            raise DataError(f"the longest series has {self.longest} steps; {kept} steps to forecast leave no history")
        if self.longest - kept >= shortest:
            return config
        return config.changing("data", min_context=max(1, (self.longest - kept + 1) // 2))


def _as_it_is(
    model: str, read: _Series, horizon: int | str, steps: int, quantiles: list[float], seasonality: int | None
) -> ForecastModel:
    """Weights as they are, or a baseline, with intervals from the history where it gives none by itself."""
    config = read.run(model, steps, steps, quantiles)
    known = model_class(config.model.type)(config).known_lengths()
    _require_reach(model, max((ahead for _, ahead in known if ahead is not None), default=steps), horizon, steps)
    if known and all(ahead is None for _, ahead in known):  # any context: as much of the history as it reads
        longest = min(max(context for context, _ in known), read.longest)
        config = read.run(model, steps, steps, quantiles, context_length=max(4, longest))
    config = config.changing("evaluation", seasonality=seasonality)
    manager = DistributedManager(mixed_precision="no")
    with ExitStack() as stack:
        candidates = open_candidates([model], config, None, stack, "model")
        data = configured_data(with_lengths(config, candidates), read.table)
        config = data.settle(config)
        ready = candidates[0].make(data, config, manager)
    ready.to(manager.device)
    if quantiles and not ready.native_levels:
        backtest = Backtest(data, config.evaluation, manager, max_windows=CALIBRATION_WINDOWS)
        ready.uncertainty = fit_uncertainty(ready, config.forecast, data, backtest.score(ready, model).windows)
    ready.preprocessor = replace(ready.preprocessor, min_context=1)  # what a history lacks is masked
    return ready


def _frame(frame: pd.DataFrame | str | Path, time_col: str | None) -> pd.DataFrame:
    """A table with its times in a column."""
    if not isinstance(frame, pd.DataFrame):
        return read_table(Path(frame))
    if isinstance(frame.index, pd.DatetimeIndex):
        return frame.reset_index(names=time_col or frame.index.name or TIMESTAMP)
    return frame


def _steps(horizon: int | str, frequency: str) -> int:
    steps = to_steps(int(horizon) if str(horizon).isdigit() else horizon, frequency, "horizon")
    if steps < 1:
        raise ConfigError(f"horizon={horizon} is no step of {frequency}; give 1 or more")
    return steps


def _require_reach(model: str, own: int, horizon: int | str, steps: int) -> None:
    if steps > own:
        raise ConfigError(
            f"horizon={horizon} is {steps} steps, and {model} forecasts {own} at most; set horizon={own} or less, or "
            "take another model"
        )


def family_of(model: str) -> tuple[str, str | None]:
    """Family and weights of a model as a user writes it; a run folder is weights of its family, unless it has none."""
    if (Path(model) / PREPROCESSOR).is_file():
        family = Preprocessor.read(Path(model))[0]
        return family, None if model_class(family).is_baseline else model
    family, colon, place = model.partition(":")
    if model in SHIPPED or family not in available_models():
        return DEFAULT_FAMILY, model
    return family, place if colon else FAMILIES[family].model_fields["pretrained"].default


def _has_weights(model: str) -> bool:
    family, place = family_of(model)
    is_run = model.startswith(PREFIX) or (Path(model) / PREPROCESSOR).is_file()
    return not is_run and (place is not None or not model_class(family).is_baseline)
