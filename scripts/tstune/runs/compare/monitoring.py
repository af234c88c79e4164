"""A model in use: what it forecasts is kept, scored when the truth arrives, and watched for drift; and its page."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from tstune.data.fingerprints import CHECK, LEARNED
from tstune.data.frequency import fixed_step, parse_frequency
from tstune.data.panel import MISSING, OBSERVED, Panel
from tstune.data.scaler import category_codes
from tstune.data.splits import WindowRanges
from tstune.data.table import ITEM, TIMESTAMP, Roles, SourceTable
from tstune.data.windows import WindowDataset
from tstune.domains import domain_of
from tstune.errors import DataError, FolderError
from tstune.evaluation.drift import INPUT, Drift, DriftRule, find_drift, hourly_signals
from tstune.evaluation.intervals import AdaptiveConformal
from tstune.evaluation.record import KeptForecasts
from tstune.foreign_files import CHECKSUMS, sha256_of
from tstune.models.contract import ForecastModel, context_spread, require_numbers
from tstune.models.predict import Forecasts, forecast_batch, future_timestamps, known_future
from tstune.models.registry import load_model
from tstune.registry.model_registry import PREFIX, open_registry, saved_folder
from tstune.runs.folder import MANIFEST, METRICS, PREPROCESSOR, VERDICT, RunFolder
from tstune.runs.life import owning
from tstune.runs.report.blocks import Cells, Fact, Facts, Figure, LegendEntry, ReportSection, Table, Text
from tstune.runs.report.charts import Axes, Line, both, line_chart
from tstune.runs.report.render import as_html, write_page
from tstune.runs.report.words import measured
from tstune.runtime.files import aside, without_formulas
from tstune.runtime.logs import logger

RESULT, PAGE, AHEAD = "monitor.json", "monitor.html", "ahead.csv"
LEVELS = (0.1, 0.5, 0.9)
"""Of the intervals where the model has none of its own."""
_ORIGIN, _FORECAST, _SPREAD = "origin", "forecast/", "spread"
_DAY, _LONGEST_PAUSE, _PAUSE_STEPS = pd.Timedelta("1D"), pd.Timedelta(days=183), 100
"""Both longer than half a year and than so many usual steps: no pause of a series, but a wrong date."""


@dataclass(frozen=True)
class Monitored:
    """What is known of a model in use.

    Attributes:
        name: run folder, or version of the registry.
        table: every forecast that was kept, with the truth as far as it is there; see `forecasts_table`.
        unit: of the targets.
        promised: RMSE on the test windows of its run.
        rule: what a drift is.
        drifts: the earliest first.
        ahead: what comes after the readings, as `predict` gives it, with quantiles that follow the stream.
        levels: of quantiles.
        weeks: one row per week: readings, RMSE, MAE, share of readings inside the interval, as calibrated and adapted.
        is_news: this call scored or forecast something.
    """

    name: str
    table: pd.DataFrame
    unit: str | None
    promised: float | None
    rule: DriftRule
    drifts: tuple[Drift, ...]
    ahead: pd.DataFrame
    levels: tuple[float, ...]
    weeks: pd.DataFrame
    is_news: bool

    @property
    def scored(self) -> pd.DataFrame:
        """Rows whose truth is there."""
        return self.table.dropna(subset="truth")

    @property
    def days(self) -> int:
        """Watched of the series that was watched longest: of a pause, its first day."""
        times = self.scored[[ITEM, TIMESTAMP]].drop_duplicates()
        steps = times.groupby(ITEM, observed=True)[TIMESTAMP].diff()
        watched = steps.clip(upper=max(_DAY, steps.median())).groupby(times[ITEM]).sum()
        return watched.max().days if steps.notna().any() else 0

    def sentence(self) -> str:
        """What a reader should know first."""
        if not self.drifts and self.days < self.rule.reference_days:
            return f"{self.name}: day {self.days} of the {self.rule.reference_days:g} that show how it usually is."
        if not self.drifts:
            return f"{self.name}: no drift in {self.days} days."
        first = self.drifts[0]
        others = f", and {len(self.drifts) - 1} more" if len(self.drifts) > 1 else ""
        return f"{self.name}: drift of the {first.signal} of {first.item_id!r} since {first.since}{others}."

    def to_dict(self) -> dict:
        """Values for `monitor.json`."""
        drifts = [asdict(one) | {"found": str(one.found), "since": str(one.since)} for one in self.drifts]
        rule, weeks = asdict(self.rule), self.weeks.assign(week=self.weeks["week"].astype(str))
        return {"model": self.name, "rule": rule, "drifts": drifts, "weeks": weeks.to_dict("records")}


def monitor(
    spec: str,
    readings: pd.DataFrame | str | Path,
    folder: str | Path,
    *,
    future: pd.DataFrame | None = None,
    rename: Mapping[str, str] | None = None,
    overrides: Sequence[str] = (),
    registry: str | None = None,
    rule: DriftRule | None = None,
    trust_code: bool = False,
) -> Monitored:
    """Score what was forecast before, forecast what comes, look for drift; the folder keeps what the next call needs.

    Each call may bring the readings since the last one, or all there are: the numbers are the same, if each brings the
    context of its first forecast too. Forecasts begin one horizon apart, so that each time is forecast once; times that
    the model learned from are left out. Each version has its own file: after a promotion, its watch begins anew.

    Args:
        spec: run folder, ``registry:name@alias`` or ``registry:name:version``.
        readings: table as of `predict`; up to the present.
        folder: kept forecasts, `ahead.csv`, `monitor.json`, `monitor.html`.
        future: for models with known-future columns, their values over the forecasts to come; without it they forecast
            where `readings` has them.
        rename: name of the model -> column of the table.
        overrides: ``data.key=value`` where the table is written otherwise than that of the training.
        registry: where ``registry:…`` looks; None takes the default.
        rule: what a drift is.
        trust_code: import code that the model names.

    Raises:
        DataError: nothing could be forecast.
        OutputError: another process has the folder, or it cannot be written.
    """
    rule, folder = rule or DriftRule(), Path(folder)
    name = Path(spec).resolve().name
    if spec.startswith(PREFIX):  # an alias is a version from here on
        name = open_registry(registry).get(spec.removeprefix(PREFIX)).reference
        spec = f"{PREFIX}{name}"
    with saved_folder(spec, registry) as place:
        run = RunFolder(place)
        model = load_model(run.path, trust_code)
        learned, promised = _learned_until(run), _promised(run)
        made_by = sha256_of(run / (CHECKSUMS if run.has(CHECKSUMS) else PREPROCESSOR))
    model.preprocessor = model.preprocessor.changed(overrides)
    if not isinstance(readings, pd.DataFrame):
        model.preprocessor = model.preprocessor.for_file(Path(readings), rename)
    state = folder / f"forecasts-{name.replace(':', '-')}.parquet"
    with owning(folder, "--output"):
        kept = _kept(state, name)
        if kept is not None and kept.attrs.get("made_by", made_by) != made_by:
            raise DataError(f"{state} is of another model than {spec}; choose another --output")
        table, fresh = _kept_and_new(model, readings, future, kept, learned, name)
        table.attrs["made_by"] = made_by
        stream = pd.concat([table, fresh], ignore_index=True)
        stream.attrs = table.attrs
        levels = tuple(model.quantile_levels) or LEVELS
        method = AdaptiveConformal(levels, model.config.forecast.adaptation_rate)
        intervals, calibrated = _adapted(stream, name, method, rule)
        signals = hourly_signals(table, f"{_FORECAST}{name}", rule)
        found = Monitored(
            name=name,
            table=table,
            unit=model.preprocessor.unit,
            promised=promised,
            rule=rule,
            drifts=tuple(find_drift(signals, rule)),
            ahead=_ahead(stream, name, intervals, levels),
            levels=levels,
            weeks=_by_week(table, name, calibrated[: len(table)], intervals[: len(table)]),
            is_news=kept is None or bool(table.count().sum() != kept.count().sum()),
        )
        _write(found, folder, state)
    return found


def _kept(state: Path, name: str) -> pd.DataFrame | None:
    """What earlier calls kept."""
    if not state.is_file():
        return None
    kept = RunFolder(state.parent).read_table(state.name)
    try:
        _ = KeptForecasts.of(kept).windows[name], kept.attrs["timezone"], kept[[_ORIGIN, _SPREAD]]
    except (DataError, KeyError) as error:
        raise FolderError(f"{state} is damaged, choose another --output: {error}") from None
    return kept


def _learned_until(run: RunFolder) -> dict[str, np.datetime64]:
    """Series -> the last time that chose or trained the weights."""
    series = (run.read_optional(MANIFEST).get(CHECK) or {}).get("series", [])
    ends = {one[ITEM]: [np.datetime64(one[part]["to"]) for part in LEARNED if one[part]] for one in series}
    return {item: max(times) for item, times in ends.items() if times}


def _promised(run: RunFolder) -> float | None:
    if not run.has(VERDICT) or not run.has(METRICS):
        return None
    return run.metrics.get("test", {}).get(run.read_json(VERDICT)["model"], {}).get("rmse")


def _kept_and_new(
    model: ForecastModel,
    readings: pd.DataFrame | str | Path,
    future: pd.DataFrame | None,
    kept: pd.DataFrame | None,
    learned: Mapping[str, np.datetime64],
    name: str,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The kept table with what arrived: truth and inputs of its rows, and forecasts that begin behind them.

    The second are forecasts that begin with the first step after the readings and are not kept.
    """
    how = model.preprocessor
    source = how.read_new(readings)
    if how.columns_as == "channels":
        source = _named_as_before(source, learned if kept is None else kept[ITEM].unique())
    if kept is not None:
        source = _in_step(source, kept, how.frequency)
    held = source.frame.dropna(subset=list(how.roles.target), how="all")
    before = [] if kept is None else [kept.dropna(subset="truth")]
    refuse_long_pause(pd.concat([*before, held]), learned)
    panel = how.panel_of(source)
    empty = float((panel.status[:, : how.roles.num_targets] == MISSING).mean())
    if empty > 0.5:
        logger.warning("%.0f %% of the steps of %s hold no reading, and are masked", 100 * empty, how.frequency)
    of_all = set(learned) <= set(panel.item_ids)
    if told := how.other_scale(_readings(panel)[:, : how.roles.num_targets], of_all):
        logger.warning("%s", told)
    last = {} if kept is None else kept.groupby(ITEM, observed=True)[_ORIGIN].max().to_dict()
    categories = category_codes(source, how.roles, panel.item_ids)
    windows, starts, fresh = _windows(model, panel, future, categories, last, learned)
    tables = [] if kept is None else [kept]
    if len(starts):
        tables.append(_forecasts(model, windows, starts, name))
    if not tables:
        needed = how.min_context or windows.context_length
        raise DataError(
            f"nothing to forecast: {len(panel.item_ids)} series of at most {int(panel.segment_length.max())} steps; a "
            f"forecast needs a history of {needed}, and begins behind what the model learned from"
        )
    table = pd.concat(tables, ignore_index=True)
    table = table.sort_values([ITEM, _ORIGIN, "step", "target"], kind="stable", ignore_index=True)
    table.attrs = {
        "num_steps": windows.prediction_length,
        "unit": how.unit,
        "target_std": how.scaler.std[: how.roles.num_targets].tolist(),
        "windows_at_once": 1024,
        "timezone": source.zone,
    }
    fresh = _forecasts(model, windows, fresh, name) if len(fresh) else table.iloc[:0]
    return _with_truth(table, panel), fresh


def _named_as_before(source: SourceTable, known: Collection[str]) -> SourceTable:
    """The only series of a table without names as the only one that is known: else it is named by its file."""
    (name, *others), (new, *more) = source.frame[ITEM].unique(), list(known) or [None]
    if others or more or new in (None, name) or source.read_as.get("item_id_column", name) is not None:
        return source
    logger.warning("series %r is taken for %r; if it is another one, say so in a column item_id", name, new)
    statics = None if source.statics is None else source.statics.rename(index={name: new})
    return replace(source, frame=source.frame.assign(**{ITEM: new}), statics=statics)


def _in_step(source: SourceTable, kept: pd.DataFrame, frequency: str) -> SourceTable:
    """Readings at the nearest steps of those that were kept: a new sensor may begin at another minute."""
    zones = source.zone, kept.attrs["timezone"]
    if (zones[0] is None) != (zones[1] is None):
        known = ["no zone" if zone is None else f"the zone {zone}" for zone in zones]
        raise DataError(f"the times have {known[0]}, those before them had {known[1]}: write them as before")
    step, frame = fixed_step(parse_frequency(frequency)), source.frame
    if step is None:
        return source
    first = frame[ITEM].map(kept.groupby(ITEM, observed=True)[TIMESTAMP].min())
    nearest = first + ((frame[TIMESTAMP] - first) / step).round() * step
    return replace(source, frame=frame.assign(**{TIMESTAMP: nearest.fillna(frame[TIMESTAMP])}))


def refuse_long_pause(rows: pd.DataFrame, learned: Mapping[str, np.datetime64] | None = None) -> None:
    """Stop where dates jump by years: forecasts would fill them, and readings of the present would come too late.

    Args:
        rows: readings with `item_id` and `timestamp`.
        learned: item -> time up to which nothing is asked.
    """
    times = rows[[ITEM, TIMESTAMP]].astype({ITEM: str})
    times = times[~(times[TIMESTAMP] <= pd.to_datetime(times[ITEM].map(learned or {})))]
    times = times.drop_duplicates().sort_values([ITEM, TIMESTAMP], ignore_index=True)
    pause = times.groupby(ITEM)[TIMESTAMP].diff()
    longest = times.loc[(pause > max(_LONGEST_PAUSE, _PAUSE_STEPS * pause.median()))]
    if len(longest):
        item, until = longest.iloc[0]
        since = until - pause[longest.index[0]]
        raise DataError(
            f"series {item!r} has no reading from {since} to {until}: correct its dates, or, if they are right, "
            "give the readings since then alone, and another --output"
        )


def _windows(
    model: ForecastModel,
    panel: Panel,
    future: pd.DataFrame | None,
    categories: np.ndarray | None,
    last: Mapping[str, pd.Timestamp],
    learned: Mapping[str, np.datetime64],
) -> tuple[WindowDataset, np.ndarray, np.ndarray]:
    """Windows that begin one horizon apart, up to the end of each series, where nothing is known of their future.

    The second starts are of windows between these that forecast what comes after the last reading.
    """
    lengths = model.config.model.context_length, model.config.model.prediction_length
    needed = model.preprocessor.min_context or lengths[0]
    step = parse_frequency(panel.frequency)
    roomy = panel if panel.roles.control and future is None else _with_room(model, panel, future)
    starts, fresh = [], []
    for item, item_id in enumerate(panel.item_ids):
        begin, end = roomy.segment_start[item : item + 2]
        rows = np.arange(begin + needed, end - lengths[1] + 1)
        rows = rows[roomy.timestamps[rows] > learned.get(item_id, np.datetime64(0, "ns"))]
        if not len(rows):
            continue
        first, until = last.get(item_id, roomy.timestamps[rows[0]]), roomy.timestamps[rows[-1]]
        moments = pd.date_range(first, until, freq=step * lengths[1])
        moments = moments[moments > last[item_id]] if item_id in last else moments
        is_due = np.isin(roomy.timestamps[rows], moments.to_numpy("datetime64[ns]"))
        starts.append(rows[is_due] - lengths[0])
        if not is_due[-1] and until > first:
            fresh.append(rows[-1:] - lengths[0])
    ranges = WindowRanges(roomy.segment_start[:-1], np.ones(len(panel.item_ids), np.int64), 1)
    windows = WindowDataset(roomy, ranges, *lengths, min_context=needed, categories=categories)

    def planned(found: list[np.ndarray]) -> np.ndarray:
        """Those whose known future is there."""
        found = np.concatenate([np.zeros(0, np.int64), *found])
        plan = roomy.status[found[:, None] + lengths[0] + np.arange(lengths[1])][..., _controls(panel.roles)]
        return found[(plan != MISSING).all(axis=(1, 2))]

    return windows, planned(starts), planned(fresh)


def _controls(roles: Roles) -> slice:
    """Channels whose future is known."""
    return slice(len(roles.target) + len(roles.conditional), len(roles.columns))


def _with_room(model: ForecastModel, panel: Panel, future: pd.DataFrame | None) -> Panel:
    """Each series with the rows of a forecast behind its last one, of which only what can be known is."""
    steps = model.config.model.prediction_length
    stamps, ends = future_timestamps(panel, steps), np.repeat(panel.segment_start[1:], steps)
    known = known_future(model, future, panel, stamps).reshape(len(ends), -1)
    is_known = np.arange(known.shape[1]) >= _controls(panel.roles).start
    status = np.broadcast_to(np.where(is_known, OBSERVED, MISSING).astype(np.uint8), known.shape)
    return replace(
        panel,
        values=np.insert(panel.values, ends, known, axis=0),
        status=np.insert(panel.status, ends, status, axis=0),
        timestamps=np.insert(panel.timestamps, ends, stamps.reshape(-1)),
        segment_start=panel.segment_start + steps * np.arange(len(panel.segment_start)),
    )


def _forecasts(model: ForecastModel, windows: WindowDataset, starts: np.ndarray, name: str) -> pd.DataFrame:
    """Rows of the kept table, without truth: the columns of `KeptForecasts`, the spread of each context, inputs."""
    panel, targets = windows.panel, windows.panel.roles.target
    points, spreads, quantiles = [], [], []
    size = model.evaluation_batch_size(torch.device("cpu"))
    for begin in range(0, len(starts), size):
        batch = windows.gather(starts[begin : begin + size])
        point, levels = forecast_batch(model, batch, panel.item_ids)
        points.append(point.numpy())
        spreads.append(context_spread(batch, len(targets)).numpy())
        if levels is not None:
            quantiles.append(levels.numpy())
    origin = starts + windows.context_length
    item = panel.segment_item[windows.segment_of(starts)]
    point, spread = np.concatenate(points).astype(np.float64), np.concatenate(spreads)
    require_numbers(point, [panel.item_ids[one] for one in item], panel.timestamps[origin], name)
    window, step, target = np.indices(point.shape).reshape(3, -1)
    level = 0.0 if panel.level is None else panel.level[item[window], target]
    columns = {
        ITEM: np.asarray(panel.item_ids, object)[item[window]],
        _ORIGIN: panel.timestamps[origin[window]],
        "step": step.astype(np.int32) + 1,
        TIMESTAMP: panel.timestamps[origin[window] + step],
        "target": np.asarray(targets, object)[target],
        "truth": np.nan,
        "level": 0.0,
        "last_reading": np.nan,
        "mase_scale": np.nan,
        _SPREAD: spread[window, target],
        f"{_FORECAST}{name}": point.reshape(-1) + level,
    }
    for number, one in enumerate(model.quantile_levels):
        columns[f"quantile/{name}/{one:g}"] = np.concatenate(quantiles)[..., number].reshape(-1) + level
    return pd.DataFrame(columns | {f"{INPUT}{column}": np.nan for column in panel.roles.columns[len(targets) :]})


def _readings(panel: Panel) -> np.ndarray:
    """[rows, columns] what was read; NaN where nothing was."""
    columns = slice(0, len(panel.roles.columns))
    values = panel.values[:, columns] + panel.level_of(panel.row_item(), columns)
    return np.where(panel.status[:, columns] == OBSERVED, values, np.nan)


def _with_truth(table: pd.DataFrame, panel: Panel) -> pd.DataFrame:
    """What was read since, in the rows that wait for it; what stands there already stays."""
    columns, values = panel.roles.columns, _readings(panel)
    index = pd.MultiIndex.from_arrays([np.asarray(panel.item_ids, object)[panel.row_item()], panel.timestamps])
    place = index.get_indexer(pd.MultiIndex.from_frame(table[[ITEM, TIMESTAMP]].astype({ITEM: object})))
    here = pd.DataFrame(np.where((place >= 0)[:, None], values[place], np.nan), columns=list(columns))
    for target in panel.roles.target:
        mine = table["target"] == target
        table["truth"] = table["truth"].where(~mine | table["truth"].notna(), here[target])
    for column in columns[panel.roles.num_targets :]:
        table[f"{INPUT}{column}"] = table[f"{INPUT}{column}"].fillna(here[column])
    return table


def _adapted(
    table: pd.DataFrame, name: str, method: AdaptiveConformal, rule: DriftRule
) -> tuple[np.ndarray, np.ndarray]:
    """([rows, levels], [rows, levels]) quantiles that follow the stream, and those that were calibrated once.

    Conformal offsets are fitted to the reference; the rows of the reference itself have none, nor has a shorter stream.
    """
    nothing = np.full((len(table), len(method.levels)), np.nan)
    since = table[_ORIGIN] - table.groupby(ITEM, observed=True)[_ORIGIN].transform("min")
    shape = -1, table.attrs["num_steps"], len(table.attrs["target_std"])
    is_early = (since < pd.Timedelta(days=rule.reference_days)).to_numpy().reshape(shape)[:, 0, 0]
    windows = KeptForecasts.of(table).windows[name]
    windows = replace(windows, spread=table[_SPREAD].to_numpy().reshape(shape)[:, 0])
    if is_early.all() or not windows.observed[is_early].any(axis=(0, 1)).all():
        return nothing, nothing
    method.fit(windows.select(is_early))
    found = method.backtest(windows)
    once = method.quantiles(windows.forecast, windows.spread) if windows.quantiles is None else windows.quantiles
    return tuple(np.where(is_early[:, None, None, None], np.nan, one).reshape(nothing.shape) for one in (found, once))


def _by_week(table: pd.DataFrame, name: str, calibrated: np.ndarray, adapted: np.ndarray) -> pd.DataFrame:
    """Of the readings of each week: how many, RMSE, MAE, and the share inside the outermost interval."""
    truth, known = table["truth"], table["truth"].notna()
    error = table[f"{_FORECAST}{name}"] - truth
    cells = {"readings": known.astype(int), "square": error**2, "mae": error.abs()}
    for column, found in (("calibrated", calibrated), ("adapted", adapted)):
        inside = (found[:, 0] <= truth) & (truth <= found[:, -1])
        cells[column] = inside.astype(float).where(known & ~np.isnan(found[:, 0]))
    week = table[TIMESTAMP].dt.to_period("W").dt.start_time.rename("week")
    grouped = pd.DataFrame(cells)[known].groupby(week[known])
    found = grouped.mean().assign(readings=grouped["readings"].sum())
    return found.assign(rmse=np.sqrt(found.pop("square"))).reset_index()


def _write(found: Monitored, folder: Path, state: Path) -> None:
    """The state last: a call that was stopped before is made again."""
    with aside(folder / AHEAD) as file:
        without_formulas(found.ahead).to_csv(file, index=False)
    with aside(folder / RESULT) as file:
        RunFolder(folder).write_json(file.name, found.to_dict())
    domain = domain_of(found.unit)
    write_page(folder / PAGE, as_html(f"Monitor: {found.name}", _sections(found), domain.warning if domain else None))
    with aside(state) as file:
        found.table.to_parquet(file, index=False)


def _ahead(table: pd.DataFrame, name: str, intervals: np.ndarray, levels: tuple[float, ...]) -> pd.DataFrame:
    """The last forecast of every series, as `predict` gives it, with the adapted quantiles."""
    attrs = table.attrs
    rows = np.flatnonzero(table[_ORIGIN] == table.groupby(ITEM, observed=True)[_ORIGIN].transform("max"))
    shape = -1, attrs["num_steps"], len(attrs["target_std"])
    last, intervals = table.iloc[rows], intervals[rows]
    forecasts = Forecasts(
        forecasts=last[f"{_FORECAST}{name}"].to_numpy().reshape(shape),
        timestamps=last[TIMESTAMP].to_numpy().reshape(shape)[..., 0],
        timezone=attrs["timezone"],
        item_ids=tuple(dict.fromkeys(last[ITEM])),
        targets=tuple(dict.fromkeys(last["target"])),
        quantiles=None if np.isnan(intervals).any() else intervals.reshape(*shape, len(levels)),
        quantile_levels=levels,
    )
    return forecasts.to_frame().sort_values([ITEM, TIMESTAMP], ignore_index=True)


def _sections(found: Monitored) -> list[ReportSection]:
    """The page."""
    unit, scored = found.unit or "", found.scored
    rmse = float(np.sqrt(((scored[f"{_FORECAST}{found.name}"] - scored["truth"]) ** 2).mean()))
    facts = [
        Fact("RMSE", measured(rmse, unit)),
        Fact("RMSE, test windows of its run", measured(found.promised, unit)),
        Fact("Readings scored", f"{len(scored):,}", note=f"{scored[ITEM].nunique():,} series"),
        Fact("Drifts", f"{len(found.drifts):,}"),
    ]
    return [
        ReportSection("summary", "Is it as it was", [Text(found.sentence()), Facts(facts)]),
        ReportSection("drift", "Drift", [_drifts(found), Text(_how(found.rule), note=True)]),
        ReportSection("errors", "Errors", [_errors(found)]),
        ReportSection("intervals", "Intervals", [_coverage(found)]),
    ]


def _how(rule: DriftRule) -> str:
    return (
        "Errors, movement and gaps of each series hour by hour, levels day by day. The first "
        f"{rule.reference_days:g} days say what is usual; ADWIN (delta {rule.confidence:g} over all of them) says when "
        "that has changed. Of errors only a rise counts. Places are among the values of the reference, 0.5 is as usual."
    )


def _drifts(found: Monitored) -> Table | Text:
    if not found.drifts:
        return Text("None was found.")
    drifts = found.drifts
    return Table.capped(
        "What changed",
        [
            Cells.text("Series", [one.item_id for one in drifts]),
            Cells.text("Signal", [one.signal for one in drifts]),
            Cells.text("Found", [one.found for one in drifts]),
            Cells.text("Since", [one.since for one in drifts]),
            Cells.decimal("Place before", [one.before for one in drifts], 2),
            Cells.decimal("Place after", [one.after for one in drifts], 2),
        ],
    )


def _errors(found: Monitored) -> Figure:
    weeks, unit = found.weeks, f" ({found.unit})" if found.unit else ""
    rmse = weeks["rmse"].tolist()
    cells = [
        Cells.count("Readings (count)", weeks["readings"]),
        Cells.number(f"RMSE{unit}", rmse),
        Cells.number(f"MAE{unit}", weeks["mae"].tolist()),
    ]
    caption = "" if found.promised is None else "Dashed: RMSE on the test windows of its run. "
    lines = {"rmse": ("RMSE", rmse)}
    return _weekly(found, "errors-plot", ("RMSE of each week", f"RMSE{unit}"), lines, found.promised, cells, caption)


def _coverage(found: Monitored) -> Figure | Text:
    nominal, lines, cells = 100 * (found.levels[-1] - found.levels[0]), {}, []
    if found.weeks["adapted"].isna().all():
        return Text("There are none yet: they are fitted to the reference.")
    for key, label in (("adapted", "adapted to the stream"), ("calibrated", "as calibrated")):
        shares = [None if np.isnan(one) else one for one in found.weeks[key]]
        cells.append(Cells.percent(f"{label}, inside (%)", shares))
        lines[key] = label, [one and 100 * one for one in shares]
    titles = f"Readings inside the {nominal:.0f} % interval", "inside (%)"
    return _weekly(found, "intervals-plot", titles, lines, nominal, cells, "Dashed: what they promise. ")


def _weekly(
    found: Monitored,
    key: str,
    titles: tuple[str, str],
    lines: dict[str, tuple[str, list[float | None]]],
    expected: float | None,
    cells: list[Cells],
    caption: str,
) -> Figure:
    """Lines over weeks, with an upright line where a series was first found to drift; titles of plot and y axis."""
    weeks, first = found.weeks["week"], min((one.found for one in found.drifts), default=None)
    days = ((weeks - weeks.min()) / _DAY).tolist()
    marks = () if first is None else [((first - weeks.min()) / _DAY, "drift found")]
    ends = None if expected is None else ((days[0], expected), (days[-1], expected))
    axes = Axes(days, "day", titles[1], marks=marks, expected=ends, y_limits=[] if expected is None else [expected])
    drawn = [Line(name, f"c{number}", values, points=True) for number, (name, (_, values)) in enumerate(lines.items())]
    legend = [LegendEntry(one.key, lines[one.key][0], one.style) for one in drawn]
    plots = both(lambda width: line_chart(axes, drawn, width, titles[0]))
    table = Table.capped(titles[0], [Cells.text("Week of", weeks.dt.date), *cells])
    return Figure(key, titles[0], plots, table, caption, legend)
