"""A time budget and some data, the best forecaster: baselines, weights as they are, then tuning by successive halving.

Every candidate is a run of this one process, stopped once it is trained and scored on the validation windows. What is
known of it lies in ``candidates/<name>.json``, so the same call goes on after a kill. The best one is then finished as
any run is, and only this looks at the test windows.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import shutil
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

import optuna
import yaml
from omegaconf import OmegaConf

from tstune.config.managers import SimpleConfigManager, check_override, parse_override
from tstune.config.schema import RunConfig
from tstune.config.section import AUTO
from tstune.config.validation import validate
from tstune.data.cleaning.rules import CleaningRules
from tstune.data.defaults import BUILTIN, default_baselines
from tstune.data.describe import describe
from tstune.data.frequency import to_steps
from tstune.data.panel_store import read_panel
from tstune.data.prepared import PreparedData, prepare_data
from tstune.domains import domain_of
from tstune.errors import ConfigError, OutputError, TstuneError
from tstune.evaluation.metric_registry import builtin_metric
from tstune.models.registry import available_models, model_class
from tstune.runs.finetune import FineTuning
from tstune.runs.judging import Judge, check_metrics
from tstune.runs.life import is_finished, unfinished
from tstune.runs.report.blocks import Cells, ReportSection, Table, Text
from tstune.runs.report.render import as_html, as_markdown, write_page
from tstune.runtime.distributed import DistributedManager, refuse_ranks
from tstune.runtime.environment import set_seed
from tstune.runtime.files import aside
from tstune.runtime.logs import logger, setup_logging
from tstune.runtime.memory import is_out_of_memory
from tstune.sweeps.report import save_recipe
from tstune.sweeps.storage import quiet_optuna
from tstune.training.callbacks import Callback, TrainingState

MODES = (
    *(("decoder", 1e-3), ("full", 3e-4), ("lora", 1e-3), ("head", 1e-3), ("decoder", 3e-4), ("full", 1e-3)),
    *(("lora", 3e-3), ("decoder", 3e-3), ("full", 1e-4), ("bias", 1e-3)),
)
"""What is tuned and the peak learning rate, the most promising first."""
MOST_WINDOWS = {"validation": 1_024, "test": 4_096}
"""Windows of a part where the recipe leaves their distance open: every candidate is scored on all of them."""
STEPS, EVERY = 500, 25
"""Optimizer steps of a candidate, and between two validations, where no recipe says it."""
SHARE = 3
"""A training may take one part in so many of the time that is left, before its last validation and its score."""
FINISH_SECONDS, FINISH_SHARE = 6.0, 0.05
"""Kept for plots, report and files at the end: so many seconds and so much of the budget."""
JUDGING_SHARE = 0.25
"""Of the budget, the most that is kept for the test windows."""
INTERPOLATE_FROM = 0.4
"""With less than this share of the time left to search, the best tuning is tried with `tuning.interpolate=auto`."""
_SIGNED = ("bias", "coverage", "width", "profile", "num_windows")


class _Trained(Exception):
    """A candidate is trained and scored; raised through its run, which so keeps what a restart would need."""


class OutOfTime(Exception):
    """A candidate took longer than it may."""


@dataclass(frozen=True)
class Candidate:
    """A model that may be the best.

    Attributes:
        name: its row, and its folder.
        config: its run.
        kind: ``baseline``, ``zero_shot`` or ``tuned``.
    """

    name: str
    config: RunConfig
    kind: str


@dataclass
class Row:
    """What came of a candidate.

    Attributes:
        name, kind: of the candidate.
        state: ``finished``, ``pruned`` (ended early, as others were better after as many steps), ``stopped`` (out of
            time) or ``failed``.
        score: the metric on the validation windows; None of a failed one.
        fit_seconds, predict_seconds: to train, and to forecast the validation windows.
        seconds: all in all.
        parameters: of the model, 0 where it has none.
        losses: validation after validation, what halving compares.
        reason: why it failed.
    """

    name: str
    kind: str
    state: str = "finished"
    score: float | None = None
    fit_seconds: float = 0.0
    predict_seconds: float = 0.0
    seconds: float = 0.0
    parameters: int = 0
    losses: list[float] = field(default_factory=list)
    reason: str | None = None


@dataclass(frozen=True)
class Autotuned:
    """What a search found.

    Attributes:
        winner: the best candidate by the validation windows.
        rows: all of them, the best first.
        not_tried: name -> why.
        test: row of the winner's scoreboard -> metrics on the test windows.
        sentence: the verdict of the winner's run.
        folder: with `best` (the winner's run folder), `best.yaml`, `leaderboard.json`, `report.html`.
    """

    winner: Row
    rows: list[Row]
    not_tried: dict[str, str]
    test: dict[str, dict[str, float]]
    sentence: str
    folder: Path


class Halving(Callback):
    """Ends a training when its time is up, or when those before it were better after as many validations."""

    def __init__(self, study: optuna.Study, until: float) -> None:
        self.losses: list[float] = []
        self.pruned = False
        self._study, self._until = study, until
        self._trial = study.ask()

    def on_step_end(self, state: TrainingState) -> None:
        """Look at the clock."""
        state.should_stop = state.should_stop or time.monotonic() > self._until

    def on_validation(self, state: TrainingState, loss: float) -> None:
        """Compare."""
        if state.step and not state.should_stop:
            self.losses.append(loss)
            self._trial.report(loss, len(self.losses))
            if self._trial.should_prune():
                self.pruned = state.should_stop = True


class CandidateRun(FineTuning):
    """A run on data that is prepared already; `halving` watches its training."""

    def __init__(
        self,
        config: RunConfig,
        data: PreparedData,
        place: Path,
        manager: DistributedManager,
        halving: Halving | None = None,
    ) -> None:
        model = model_class(config.model.type)(config)
        callbacks = [halving] if halving else []
        super().__init__(model, place, resume="auto", manager=manager, callbacks=callbacks)
        self._prepared = data

    def prepare(self, *_: object) -> None:
        """Take the data as it is; weights that were trained on it are refused."""
        self.data = self.model._checked(self._prepared)
        self.config = self.model.config
        self.judge = Judge(self.data, self.config, self.manager)

    def until_trained(self) -> tuple[dict[str, float], float, float]:
        """Train; returns metrics on the validation windows, and the seconds to train and to forecast them."""
        self.prepare()
        self.build()
        self.start_tracking()
        begin = time.perf_counter()
        self.train()
        trained = time.perf_counter()
        data = self.data.with_calibration_apart() if self.config.forecast.quantiles else self.data
        judge = Judge(data, self.config, self.manager, "validation")
        judge.score("fine_tuned", self.model)
        forecast = time.perf_counter() - trained
        judge.add_quantiles(self.model)
        judge.add_metrics(self.model.own_metrics)
        metrics = judge.scores["fine_tuned"].metrics
        self.tracked.log_scores("validation", {"fine_tuned": metrics})
        self._inside.close()  # its trackers: it has ended well
        return metrics, trained - begin, forecast


class Search:
    """Candidates one after the other, until the time is up.

    Args:
        base: the run that every candidate is a change of, lengths and split settled.
        data: its windows.
        weights: of further models, ``folder`` or ``family:folder``.
        metric: column of the scoreboard that chooses, on the validation windows.
        higher: a higher value of it is better.
        folder: where everything lies.
        seconds: budget, all starts together.
        begun: when this start began, by `time.monotonic`.
    """

    def __init__(
        self,
        base: RunConfig,
        data: PreparedData,
        weights: Sequence[str],
        metric: str,
        higher: bool,
        folder: Path,
        seconds: float,
        begun: float,
    ) -> None:
        self.base, self.data, self.metric, self.higher, self.folder = base, data, metric, higher, folder
        self.manager = DistributedManager.for_run(base)
        self.budget, self.rows, self.not_tried = seconds, {}, {}
        self.candidates = candidates(base, data, weights)
        self._studies: dict[str, optuna.Study] = {}
        for path in sorted((folder / "candidates").glob("*.json")):
            row = Row(**json.loads(path.read_text(encoding="utf-8")))
            self.rows[row.name] = row
            self._remember(row)
        self._end = begun + seconds - sum(row.seconds for row in self.rows.values())

    @property
    def left(self) -> float:
        """Seconds of the budget."""
        return self._end - time.monotonic()

    @property
    def left_to_search(self) -> float:
        """The same without what the end will take: the winner and the baselines on the test windows, plots, files."""
        best, scored = self.best, [row for row in self.rows.values() if row.score is not None]
        again = {row.name: row for row in scored if row.kind != "tuned" and row.name != "lightgbm"}
        again |= {best.name: best} if best else {}
        fits = sum(row.fit_seconds for row in again.values() if row.kind == "baseline")
        windows = (len(self.data.test) + len(self.data.validation)) / max(1, len(self.data.validation))
        forecasts = windows * sum(row.predict_seconds for row in again.values())
        judging = min(fits + forecasts, JUDGING_SHARE * self.budget)  # the first forecast loads libraries too
        return self.left - FINISH_SECONDS - FINISH_SHARE * self.budget - judging

    @property
    def ranked(self) -> list[Row]:
        """The best first, failed ones last."""
        sign = -1 if self.higher else 1
        return sorted(self.rows.values(), key=lambda row: (row.score is None, sign * (row.score or 0.0)))

    @property
    def best(self) -> Row | None:
        """By the validation windows."""
        return next((row for row in self.ranked if row.score is not None), None)

    def config_of(self, name: str) -> RunConfig:
        """The run of a candidate, also of one that an earlier start made up on the way."""
        tuned = name.removesuffix(".interpolated")
        config = next(one.config for one in self.candidates if one.name == tuned)
        return config if tuned == name else _changed(config, tuning={"interpolate": "auto"})

    def run(self) -> None:
        """Try what there is time for; rows are on disk one by one."""
        print(_line(["candidate", self.metric, "seconds", "best so far", "left"]), flush=True)
        waiting = [one for one in self.candidates if one.name not in self.rows]
        whole = max(1.0, self.left_to_search)
        while waiting or self._interpolated() is not None:
            extra = self._interpolated()
            late = self.left_to_search < INTERPOLATE_FROM * whole or not waiting
            candidate = extra if extra is not None and late else waiting.pop(0) if waiting else None
            if candidate is None:
                break
            if candidate.kind != "baseline" and (why := self._too_late(candidate)) is not None:
                self.not_tried[candidate.name] = why
                if candidate is extra:
                    self.not_tried |= dict.fromkeys((one.name for one in waiting), why)
                    break
                continue
            self._try(candidate)

    def _interpolated(self) -> Candidate | None:
        """The best tuning once more, going only as far from the weights at its start as validation likes."""
        found = (row for row in self.ranked if row.kind == "tuned" and row.score is not None)
        tuned = next((row for row in found if self.config_of(row.name).tuning.mode != "from_scratch"), None)
        if tuned is None or any(name.endswith(".interpolated") for name in (*self.rows, *self.not_tried)):
            return None
        name = f"{tuned.name}.interpolated"
        return Candidate(name, self.config_of(name), "tuned")

    def _too_late(self, candidate: Candidate) -> str | None:
        """Why there is no time for it: half of what the quickest of its kind took must be left."""
        same = [row for row in self.rows.values() if row.kind == candidate.kind]
        known = [row.seconds / 2 for row in same if row.score is not None]
        known += [row.seconds for row in same if row.state == "stopped"]
        if self.left_to_search < max(2.0, min(known, default=0.0)):
            return f"no time left of the {self.budget / 60:g} minutes"
        return None

    def _try(self, candidate: Candidate) -> None:
        begin, row, losses = time.monotonic(), Row(candidate.name, candidate.kind), []
        seconds = max(2.0, self.left_to_search)
        place = self.folder / "candidates" / candidate.name
        halving = Halving(self._study(candidate.config), begin + seconds / SHARE)
        try:
            limit = seconds / 2 if candidate.name == "lightgbm" else seconds
            with _at_most(limit if self.rows else math.inf), _quiet(), suppress(_Trained):
                set_seed(candidate.config.seed)
                run = CandidateRun(candidate.config, self.data, place, self.manager, halving)
                with run:
                    metrics, row.fit_seconds, row.predict_seconds = run.until_trained()
                    row.score, row.parameters = self._score(metrics), int(run.parameters.get("total") or 0)
                    row.state, losses = "pruned" if halving.pruned else "finished", halving.losses
                    raise _Trained
        except (TstuneError, OutOfTime, RuntimeError, MemoryError) as error:
            if isinstance(error, RuntimeError) and not is_out_of_memory(error):
                raise
            row.state = "stopped" if isinstance(error, OutOfTime) else "failed"
            row.score, row.reason = None, f"{' '.join(str(error).split()):.300}"
        row.losses, row.seconds = losses, round(time.monotonic() - begin, 2)
        self.rows[row.name] = row
        with aside(place.with_suffix(".json")) as file:
            file.write_text(json.dumps(asdict(row)), encoding="utf-8")
        self._keep_only_best()
        best = self.best
        score = row.state if row.score is None else f"{row.score:.5g}"
        so_far = "none" if best is None else f"{best.name} {best.score:.5g}"
        print(_line([row.name, score, f"{row.seconds:.1f}", so_far, f"{max(0.0, self.left):.0f} s"]), flush=True)
        if row.reason:
            print(f"  {row.reason}", flush=True)

    def _score(self, metrics: dict[str, float]) -> float:
        found = metrics.get(self.metric)
        if found is None:
            raise ConfigError(
                f"--metric {self.metric} is no column of these scores: {', '.join(metrics)}; a metric that is not "
                "always there is asked for by evaluation.metrics=[…]"
            )
        if not math.isfinite(found):
            raise ConfigError(f"its {self.metric} is not a number")
        return float(found)

    def _study(self, config: RunConfig) -> optuna.Study:
        """Halving among the candidates of one family: losses of two families are of different things."""
        if config.model.type not in self._studies:
            quiet_optuna()
            pruner = optuna.pruners.SuccessiveHalvingPruner(min_resource=2, reduction_factor=2)
            self._studies[config.model.type] = optuna.create_study(pruner=pruner)
        return self._studies[config.model.type]

    def _remember(self, row: Row) -> None:
        """A training of an earlier start is one that later ones are compared with."""
        if row.losses:
            before = self._study(self.config_of(row.name)).ask()
            for count, loss in enumerate(row.losses, start=1):
                before.report(loss, count)
                before.should_prune()  # notes the loss of each rung

    def _keep_only_best(self) -> None:
        """Weights of others are of no use any more."""
        for place in (self.folder / "candidates").glob("*.checkpoints"):
            if self.best is None or place.name != f"{self.best.name}.checkpoints":
                shutil.rmtree(place, ignore_errors=True)

    def finish(self) -> dict:
        """Finish the run of the winner: the one look at the test windows; returns its results."""
        best, place = self.best, self.folder / "best"
        if best is None:
            reasons = "; ".join(f"{row.name}: {row.reason}" for row in self.rows.values())
            raise ConfigError(f"none of the {len(self.rows)} candidates could be had: {reasons}")
        config = self.config_of(best.name).model_copy(update={"tracking": self.base.tracking})
        save_recipe(config.model_copy(update={"output_dir": f"{self.folder}/again"}), self.folder / "best.yaml")
        trained = unfinished(self.folder / "candidates" / best.name)
        if trained.is_dir() and not unfinished(place).is_dir():
            trained.replace(unfinished(place))
        if not is_finished(config, place):
            set_seed(config.seed)
        with CandidateRun(config, self.data, place, self.manager) as run:
            if run.has("registered"):
                run.recall(run.folder)
            return run.results or run.to_the_end()


def autotune(
    data: str | Path,
    horizon: str | int | None = None,
    minutes: float = 30.0,
    overrides: Sequence[str] = (),
    weights: Sequence[str] = (),
    metric: str = "rmse",
    higher: bool = False,
    output: str | Path | None = None,
    begun: float | None = None,
) -> Autotuned:
    """Find the best forecaster for some data in some minutes; see `scripts/autotune.py`.

    Args:
        data: a file or folder of series, or a recipe (``.yaml``).
        horizon: how far to forecast, as ``2h`` or in steps; None follows the recipe or the data.
        minutes: budget, reading and judging included.
        overrides: ``key=value`` of a recipe that are known.
        weights: folders of further pretrained weights, also ``family:folder``.
        metric: column of the scoreboard that chooses, on the validation windows.
        higher: a higher value of it is better.
        output: folder for everything; None takes ``runs/autotune/<name of the data>``.
        begun: when the budget began, by `time.monotonic`; None is now.

    Raises:
        TstuneError: the data or the settings need a change, or nothing at all could be trained.
    """
    begun = time.monotonic() if begun is None else begun
    refuse_ranks("scripts/autotune.py", "several would try the same candidates")
    setup_logging()
    if metric.partition("@")[0] in _SIGNED:
        raise ConfigError(f"--metric {metric}: neither a higher nor a lower value is better; take rmse, mae or wql")
    folder = Path(output or Path("runs/autotune") / Path(data).resolve().name.split(".")[0])
    base, prepared = _settled(Path(data), horizon, overrides, metric)
    _check_same(base, folder, {"metric": metric, "weights": list(weights)})
    search = Search(base, prepared, weights, metric, higher, folder, 60 * minutes, begun)
    if not (folder / "best").is_dir():
        search.run()
    results = search.finish()
    test = {name: dict(values) for name, values in results["metrics"].items()}
    found = Autotuned(search.best, search.ranked, search.not_tried, test, results["verdict"].sentence, folder)
    _write(found, search, time.monotonic() - begun)
    return found


def candidates(base: RunConfig, data: PreparedData, weights: Sequence[str]) -> list[Candidate]:
    """What is tried, in its order: simple ones, weights as they are, LightGBM, tuning, at last from random weights."""
    lengths = {name: getattr(base.model, name) for name in ("context_length", "prediction_length")}
    names, found = base.evaluation.baselines, []
    listed = default_baselines(base.evaluation.seasonality, lengths["context_length"]) if names == AUTO else names

    def closed(name: str) -> Candidate:
        return Candidate(name, _changed(base, model={"type": name} | lengths, tuning=None, lora=None), "baseline")

    found += [closed(name) for name in dict.fromkeys([*listed, "ridge"]) if name != "lightgbm"]
    bases = {}
    for spec in dict.fromkeys([base.model.pretrained or BUILTIN, *weights]):
        family, colon, place = spec.partition(":")
        family, place = (family, place) if colon and family in available_models() else (base.model.type, spec)
        own = base.model.model_dump() if place == base.model.pretrained else {"type": family} | lengths
        bases["" if not bases else f"{Path(place).name}."] = own | {"pretrained": place}
    for label, model in bases.items():
        config = _changed(base, model=model, tuning={"mode": "zero_shot"}, lora=None)
        found.append(Candidate(f"{label}zero_shot", config, "zero_shot"))
    found.append(closed("lightgbm"))
    for mode, rate in MODES:
        for label, model in bases.items():
            config = _changed(base, model=model, tuning={"mode": mode}, training={"learning_rate": rate})
            found.append(Candidate(f"{label}{mode}.{rate:g}", config, "tuned"))
    fresh = next(iter(bases.values())) | {"pretrained": None}
    config = _changed(base, model=fresh, tuning={"mode": "from_scratch"}, training={"learning_rate": 1e-3}, lora=None)
    return [*found, Candidate("from_scratch.0.001", config, "tuned")]


def _changed(config: RunConfig, **sections: dict | None) -> RunConfig:
    """The same with keys of sections changed; None takes a section's defaults, and `model` is replaced."""
    values = config.model_dump()
    for name, change in sections.items():
        if change is None:
            values[name] = {}
        else:
            values[name] = change if name == "model" else values[name] | change
    return validate(values, origin="autotune")


def _settled(
    path: Path, horizon: str | int | None, overrides: Sequence[str], metric: str
) -> tuple[RunConfig, PreparedData]:
    """The run that all candidates share, and its data."""
    for override in overrides:
        check_override(override)
    if path.suffix in (".yaml", ".yml"):
        config = SimpleConfigManager().load_config(path, overrides)
        panel, _ = read_panel(config.data, CleaningRules.from_config(config.data))
    else:
        given = {}
        for one in (word for word in overrides if word.startswith("data.")):
            given |= OmegaConf.to_container(parse_override(one.removeprefix("data.")))
        found = describe(str(path), given)
        print(found.text(), flush=True)
        values = yaml.safe_load(found.recipe())
        values["training"] = {"max_steps": STEPS, "num_epochs": 50, "eval_every_steps": EVERY}
        values["training"] |= {"early_stopping_patience": 6}
        tree = OmegaConf.merge(values, *(parse_override(one) for one in overrides if not one.startswith("data.")))
        config, panel = validate(OmegaConf.to_container(tree), origin="the command line"), found.panel
    if horizon is not None:
        ahead = to_steps(int(horizon) if str(horizon).isdigit() else horizon, panel.frequency, "--horizon")
        config = config.model_copy(update={"model": config.model.model_copy(update={"prediction_length": ahead})})
    metrics = config.evaluation.metrics
    if builtin_metric(metric) is not None and metric not in ("rmse", "mae", "mase", *metrics):
        evaluation = config.evaluation.model_copy(update={"metrics": [*metrics, metric]})
        config = config.model_copy(update={"evaluation": evaluation})
    data = _windows(config)
    strides = {}
    for part, most in MOST_WINDOWS.items():
        key, windows = f"{part}_stride", len(data.windows[part])
        if getattr(config.data, key) == AUTO and windows > most:
            strides[key] = getattr(data.config, key) * -(-windows // most)
    if strides:
        config = config.model_copy(update={"data": config.data.model_copy(update=strides)})
        data = _windows(config)
    config = data.settle(config)
    check_metrics(config, data.preprocessor.unit)
    tracking = config.tracking.model_copy(update={"register_as": None, "run_name": None})
    return config.model_copy(update={"tracking": tracking, "overwrite": False}), data


def _windows(config: RunConfig) -> PreparedData:
    lengths = config.model.context_length, config.model.prediction_length
    known = model_class(config.model.type)(config).known_lengths() if AUTO in lengths else ()
    return prepare_data(config.data, *lengths, seed=config.seed, known_lengths=known)


def _check_same(base: RunConfig, folder: Path, asked: dict[str, object]) -> None:
    """Refuse to mix two searches in one folder."""
    values = asked | {"run": base.model_dump(mode="json", exclude={"output_dir", "tracking"})}
    made_from = hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
    try:
        (folder / "candidates").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"--output {folder} cannot be written: {error.strerror}") from None
    note = folder / "search.json"
    if note.is_file() and json.loads(note.read_text(encoding="utf-8")).get("made_from") != made_from:
        raise OutputError(
            f"--output {folder} holds a search of other data or settings; take another --output, or give the command "
            "that it was begun with"
        )
    if not note.is_file():
        with aside(note) as file:
            file.write_text(json.dumps({"made_from": made_from} | values), encoding="utf-8")


def _write(found: Autotuned, search: Search, seconds: float) -> None:
    """`leaderboard.json`, `report.html` and `report.md`."""
    best, test = found.winner, found.test
    own = next(name for name in ("fine_tuned", "zero_shot") if name in test)
    measured = {best.name: own} | {row.name: row.name for row in found.rows if row.name in test}
    for row in found.rows:  # the untuned weights of the winner are a row of its scoreboard
        if row.kind == "zero_shot" and "zero_shot" in test and _weights(search, row) == _weights(search, best):
            measured.setdefault(row.name, "zero_shot")
    scores = [test[measured[row.name]].get(search.metric) if row.name in measured else None for row in found.rows]
    rows = [asdict(row) | {"test": score} for row, score in zip(found.rows, scores, strict=True)]
    about = {"winner": best.name, "metric": search.metric, "not_tried": found.not_tried, "rows": rows}
    with aside(found.folder / "leaderboard.json") as file:
        file.write_text(json.dumps(about, indent=2), encoding="utf-8")
    columns = [
        Cells.text("Candidate", [row.name for row in found.rows]),
        Cells.number(f"{search.metric}, validation", [row.score for row in found.rows]),
        Cells.number(f"{search.metric}, test", scores),
        Cells.decimal("Train (s)", [row.fit_seconds for row in found.rows], 1),
        Cells.decimal("Predict validation (s)", [row.predict_seconds for row in found.rows], 2),
        Cells.count("Parameters", [row.parameters for row in found.rows]),
        Cells.text("State", [row.reason or row.state for row in found.rows]),
    ]
    said = [
        f"The winner, chosen on the validation windows by {search.metric}: {best.name}.",
        f"{found.sentence}",
        "The test windows were forecast once, by the winner and the simple forecasts beside it. The whole report of "
        "the winner is best/report.html; best.yaml runs it again.",
        f"{seconds:.0f} seconds in this start, of {search.budget:.0f} in all.",
    ]
    untried = [Text(f"{name}: {why}.") for name, why in found.not_tried.items()]
    never = "Not part of this search: adapters per item, a stack of several models, weights of the Hub."
    sections = [
        ReportSection("winner", "Winner", [Text(line) for line in said]),
        ReportSection("leaderboard", "Leaderboard", [Table("All candidates", columns, frozenset({0}))]),
        ReportSection("not-tried", "What was not tried", [*untried, Text(never)]),
    ]
    domain = domain_of(search.data.preprocessor.unit, search.data.panel.roles.num_targets)
    page = "The best forecaster in the time", sections, domain.warning if domain else None
    write_page(found.folder / "report.html", as_html(*page))
    write_page(found.folder / "report.md", as_markdown(*page))


def _weights(search: Search, row: Row) -> str | None:
    return search.config_of(row.name).model.pretrained


def _line(cells: Sequence[str]) -> str:
    return f"{cells[0]:<28} {cells[1]:>12} {cells[2]:>8}   {cells[3]:<36} {cells[4]:>7}"


@contextmanager
def _at_most(seconds: float) -> Iterator[None]:
    """Raise `OutOfTime` inside after so many seconds; in the main thread only, where Python hears an alarm."""
    if not math.isfinite(seconds) or threading.current_thread() is not threading.main_thread():
        yield
        return

    def ring(*_: object) -> None:
        raise OutOfTime(f"stopped after the {seconds:.0f} seconds that were left for it")

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@contextmanager
def _quiet() -> Iterator[None]:
    """What every run says of itself is not said for every candidate."""
    before = logger.handlers[0].level
    logger.handlers[0].setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.handlers[0].setLevel(before)
