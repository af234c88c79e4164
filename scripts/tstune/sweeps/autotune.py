"""A time budget and some data, the best forecaster: baselines, weights as they are, then tuning by successive halving.

Every candidate is a run of this one process, stopped once it is trained and scored on the validation windows. What is
known of it lies in a study, as the trials of a sweep: the same call goes on after a kill, and several processes share
one search, each candidate once. The best is then finished as any run is, and only this looks at the test windows.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import asdict
from functools import cached_property
from pathlib import Path

import numpy as np
import optuna
import yaml
from omegaconf import OmegaConf
from optuna.exceptions import StorageInternalError
from optuna.storages import RDBStorage
from optuna.trial import TrialState

from tstune.config.managers import SimpleConfigManager, check_override, parse_override
from tstune.config.names import merged
from tstune.config.schema import RunConfig
from tstune.config.section import AUTO
from tstune.config.validation import validate
from tstune.data.cleaning.rules import CleaningRules
from tstune.data.describe import asked_by_horizon, describe, steps_ahead
from tstune.data.panel_store import read_panel
from tstune.data.plan import NoWindow
from tstune.data.prepared import PreparedData
from tstune.domains import domain_of
from tstune.errors import ConfigError, OutputError, Preempted, failure
from tstune.evaluation.backtest import ALWAYS_SCORED, scored_columns
from tstune.evaluation.learning_curve import Foretold, foretell
from tstune.evaluation.metrics import builtin_metric
from tstune.evaluation.verdict import Verdict
from tstune.foreign_files import read_object
from tstune.runs.compare.evaluate import configured_data
from tstune.runs.folder import VERDICT, RunFolder, refuse_full, writing
from tstune.runs.judging import check_metrics
from tstune.runs.life import is_finished, unfinished
from tstune.runtime.distributed import DistributedManager, refuse_ranks
from tstune.runtime.environment import set_seed
from tstune.runtime.files import aside
from tstune.runtime.logs import quiet, setup_logging
from tstune.sweeps.candidates import (
    Candidate,
    CandidateRun,
    Halving,
    as_member,
    as_share,
    changed,
    latest,
    lengths,
    list_candidates,
    without_inputs,
)
from tstune.sweeps.leaderboard import Autotuned, Row, brought, is_simple, live_line, may_win, ranked, write
from tstune.sweeps.report import save_recipe
from tstune.sweeps.storage import (
    Point,
    begin,
    end,
    explained,
    give_up_the_dead,
    open_storage,
    points,
    quiet_optuna,
    storage_url,
)

SHARES = {"on_5_percent": 0.05, "on_20_percent": 0.2, "on_50_percent": 0.5}
"""Trainings for the learning curve, before the expensive part; a share that would take too long is left out."""
CURVE_TIME = 0.1
"""Of the time left to search, the most that one of them may take to train."""
TREES = "trees"
"""LightGBM that reads the best untuned forecast beside its lags; it follows LightGBM, as it takes little more."""
MADE = ("interpolated", "per_item", "stack")
"""What is made of the best, late, as it depends on what was found."""
MADE_FROM = 0.4
"""With less than this share of the time left to search, they come next."""
STACKED = 3
"""Members of the stack."""
MOST_WINDOWS = {"validation": 1_024, "test": 4_096}
"""Windows of a part where the recipe leaves their distance open: every candidate is scored on all of them."""
STEPS, EVERY = 500, 25
"""Optimizer steps of a candidate, and between two validations, where no recipe says it."""
SHARE = 3
"""A training may take one part in so many of the time that is left, before its last validation and its score."""
FINISH_SECONDS, FINISH_SHARE, FINISH_MOST = 6.0, 0.05, 0.15
"""Kept for plots, report and files at the end: so many seconds, or what the start took up to a share (the last) of all,
and a share of all besides."""
WAIT_SECONDS, GRACE_SECONDS = 0.5, 30.0
"""Between two looks at what other processes do; after which a candidate without a first sign of life is another's."""
_SIGNED = ("bias", "coverage", "width", "profile", "num_windows")


class _Trained(Exception):
    """A candidate is trained and scored; raised through its run, which so keeps what a restart would need."""


class OutOfTime(BaseException):
    """A candidate took longer than it may; no `except Exception` on the way holds it up."""


class Search:
    """Candidates one after the other, until the time is up; any number of processes on one study.

    Every candidate is a change of `base`, whose lengths and split are settled. The budget are the `seconds` of all
    starts together; this one `begun` by `time.monotonic`. The other arguments are as in `autotune`.
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
        study: optuna.Study,
        storage: RDBStorage,
    ) -> None:
        self.base, self.data, self.metric, self.higher, self.folder = base, data, metric, higher, folder
        self.manager = DistributedManager.for_run(base)
        self.budget = seconds
        self.not_tried: dict[str, str] = {}  # by its slot: what this process leaves out, and why
        self.candidates = {one.name: one for one in list_candidates(base, data, weights)}
        self.foretold: Foretold | None = None
        self._study, self._storage = study, storage
        slots = [*self.candidates, TREES, *SHARES, *MADE, "finish"]
        self._numbers = {slot: number for number, slot in enumerate(slots)}
        self._halving: dict[str, optuna.Study] = {}
        self._points: dict[int, Point] = {}
        self.rows: dict[str, Row] = {}
        self.look()
        self._start_seconds = time.monotonic() - begun  # tells how slow the machine is
        self._end = begun + seconds - _seconds_of([point for point in self._points.values() if point.is_done])

    @property
    def left(self) -> float:
        """Seconds of the budget."""
        return self._end - time.monotonic()

    @property
    def left_to_search(self) -> float:
        """The same without what the end will take."""
        return self.left - self._end_seconds(self.best)

    @property
    def best(self) -> Row | None:
        """By the validation windows."""
        return next(filter(may_win, ranked(self.rows.values(), self.higher)), None)

    def look(self) -> None:
        """What all processes have done so far."""
        give_up_the_dead(self._study, GRACE_SECONDS)
        self._points = {point.number: point for point in points(self._study)}
        self.rows = {}
        for name, number in self._numbers.items():
            point = self._points.get(number)
            if name != "finish" and point is not None and point.is_done:
                row = Row(name, "tuned", state="failed", reason=point.reason)  # it killed its processes
                row = Row(**point.last.user_attrs.get("row", asdict(row)))
                self.rows[row.name] = row

    def config_of(self, name: str) -> RunConfig:
        """The run of a candidate, also of one that was made up on the way."""
        candidate = self.candidates.get(name) or self._made(self.rows[name].how, self.rows[name].made_of)
        return candidate.config

    def run(self) -> None:
        """Try what there is time for."""
        print(live_line(["candidate", self.metric, "seconds", "best so far", "left"]), flush=True)
        whole = max(1.0, self.left_to_search)
        while True:
            self.look()
            candidate = self._next(whole)
            if candidate is not None:
                self._try(candidate)
            elif self.left_to_search > 0 and any(point.state == "running" for point in self._points.values()):
                time.sleep(WAIT_SECONDS)  # what others find may make more of; what they leave behind is tried again
            else:
                break

    def _next(self, whole: float) -> Candidate | None:
        """The most promising that nobody has begun; None where there is none, or no time."""
        waiting = [one for name, one in self.candidates.items() if self._is_open(name)]
        quick = [one for one in waiting if one.kind != "tuned"]
        for one in quick:
            if self._has_time(one) or (one.kind == "baseline" and one.name != "lightgbm"):
                return one
        trees = self._of_the_best(TREES) if self._is_open(TREES) else None
        if trees is not None and self._has_time(trees):
            return trees
        for name in filter(self._is_open, SHARES):
            one = self._learning(name)
            if one is not None and self._has_time(one):
                return one
        self._foretell()
        slow = [one for one in waiting if one.kind == "tuned" and self._can_start(one)]
        best = self._best_weights  # those that are best untuned are tuned first
        slow.sort(key=lambda one: one.config.model.pretrained != best)
        late = self.left_to_search < MADE_FROM * whole or not slow
        made = [self._of_the_best(name) for name in MADE if late and self._is_open(name)]
        return next((one for one in [*filter(None, made), *slow] if self._has_time(one)), None)

    @property
    def _best_weights(self) -> str | None:
        """Value of `model.pretrained` that is best as it is."""
        untuned = (row for row in ranked(self.rows.values(), self.higher) if row.kind == "zero_shot" and may_win(row))
        return next((self.config_of(row.name).model.pretrained for row in untuned), None)

    def _state(self, slot: str) -> str:
        """As of `Point`; ``waiting`` also before it was begun."""
        point = self._points.get(self._numbers[slot])
        return "waiting" if point is None else point.state

    def _is_open(self, slot: str) -> bool:
        """It is not left out, and nobody has begun it, or whoever did is dead."""
        return slot not in self.not_tried and self._state(slot) == "waiting"

    def _can_start(self, candidate: Candidate) -> bool:
        """False where its weights could not be had as they are."""
        failed = [name for name in self._same_weights(candidate.name) if self.rows[name].score is None]
        if failed:
            self.not_tried[candidate.slot] = f"{failed[0]} could not be had"
        return not failed

    def _has_time(self, candidate: Candidate) -> bool:
        """Half of what the quickest of its kind took must be left, and all that what it is made of took."""
        same = [row for row in self.rows.values() if row.kind == candidate.kind and not row.made_of]
        known = [row.seconds / 2 for row in same if row.score is not None]
        known += [row.seconds for row in same if row.state == "stopped"]
        needed = max(2.0, min(known, default=0.0))
        parts = [self.rows[name] for name in candidate.made_of if name in self.rows]
        if candidate.kind == "tuned" and parts:
            needed = max(needed, sum(row.fit_seconds + row.predict_seconds for row in parts))
        if self.left_to_search < needed:
            self.not_tried[candidate.slot] = f"no time left of the {self.budget / 60:g} minutes"
            return False
        return True

    def _learning(self, name: str) -> Candidate | None:
        """A training on a share of the data, from the best weights as they are, in the first of the modes."""
        before = [row for row in self.rows.values() if row.kind == "share"]
        if before:
            takes = before[-1].seconds * SHARES[name] / SHARES[before[-1].how]
            if len(before) > 1 and takes > CURVE_TIME * self.left_to_search:
                self.not_tried[name] = "it would have taken too long before the search"
                return None
            return self._made(name, before[0].made_of)
        weights = self._best_weights
        tuned = [one for one in self.candidates.values() if one.kind == "tuned"]
        tuned = [one for one in tuned if one.config.model.pretrained == weights]
        if weights is None or not tuned:
            self.not_tried[name] = "no weights could be had to tune"
            return None
        faster = max(tuned[:2], key=lambda one: one.config.training.learning_rate)  # these trainings are short
        return self._made(name, [faster.name])

    def _of_the_best(self, how: str) -> Candidate | None:
        """What is made of the best so far; None where there is nothing to make it of."""
        found = [row for row in ranked(self.rows.values(), self.higher) if may_win(row)]
        if how == TREES:
            untuned = next((row.name for row in found if row.kind == "zero_shot" and self._reads_all(row.name)), None)
            trees = self.rows.get("lightgbm")
            known = untuned is not None and trees is not None and trees.score is not None
            return self._made(how, [untuned, trees.name]) if known else None
        found = [row for row in found if not row.made_of or row.how == TREES]
        tuned = [row.name for row in found if row.tunes_weights and not row.made_of]
        if how != "stack":
            alone = how == "per_item" and len(self.data.panel.item_ids) < 2
            return self._made(how, tuned[:1]) if tuned and not alone else None
        unlike: dict[tuple, str] = {}  # the best of each family and start: what is alike has the same errors
        for row in found:
            model = self.config_of(row.name).model
            if self._reads_all(row.name):
                unlike.setdefault((model.type, row.kind, model.pretrained), row.name)
        members = list(unlike.values())[:STACKED]
        return self._made(how, members) if len(members) > 1 else None

    def _reads_all(self, name: str) -> bool:
        """It reads the same columns as the run that all are a change of."""
        return not self.config_of(name).data.targets_only or self.base.data.targets_only

    def _made(self, how: str, of: Sequence[str]) -> Candidate:
        """What is made of these, as one of `SHARES` or `MADE`."""
        name, kind = f"{of[0]}.{how}", "tuned"
        if how in ("stack", TREES):
            names = of if how == "stack" else of[:1]
            model = {"type": "stack", "members": [as_member(self.config_of(one)) for one in names]} | lengths(self.base)
            name, model = (how, model) if how == "stack" else (name, model | {"combiner": "lightgbm"})
            config = changed(self.base, model=model, tuning=None, lora=None)
        elif how in SHARES:
            kind, config = "share", as_share(self.config_of(of[0]), SHARES[how])
        else:
            change = {"interpolated": {"interpolate": "auto"}, "per_item": {"per_item": True}}[how]
            config = changed(self.config_of(of[0]), tuning=change)
        return Candidate(name, config, kind, how, tuple(of))

    def _foretell(self) -> None:
        """Say what tuning will bring, once, as soon as the trainings are there that tell."""
        scored = [row for row in self.rows.values() if row.squares]
        shares = [row for row in scored if row.kind == "share"]
        alike = [row for row in shares if row.made_of == shares[0].made_of]  # two processes may begin with others
        if self.foretold is not None or len(alike) < 2 or any(self._state(name) == "running" for name in SHARES):
            return
        untuned = next(self.rows[name] for name in self._same_weights(alike[0].made_of[0]))
        without = [row for row in scored if is_simple(row) or row.kind == "zero_shot"]
        reference = min(without, key=lambda row: sum(row.squares))
        ridge = next((row for row in without if row.name == "ridge"), None)
        facts = {
            "series": len(self.data.panel.item_ids),
            "steps": int(np.diff(self.data.split.bounds("train"), axis=0).sum()),
            "windows": len(self.data.train),
            "untuned_against_ridge": (sum(untuned.squares) / sum(ridge.squares)) ** 0.5 - 1 if ridge else None,
        }
        squares = {SHARES[row.how]: row.squares for row in alike}
        beside = [(row.name, row.squares) for row in (untuned, reference)]
        self.foretold = foretell(beside[0], squares, beside[1], facts, self.base.seed)
        print(f"\n{self.foretold.sentence}\n", flush=True)

    def _end_seconds(self, winner: Row | None) -> float:
        """What the end takes: winner and baselines on the test windows, plots, files; more with more to train again."""
        again = list(filter(is_simple, self.rows.values()))
        if winner is not None and winner not in again:
            again.append(winner)
        fits = sum(row.fit_seconds for row in again if row.kind == "baseline" or row.how == "per_item")
        windows = (len(self.data.test) + len(self.data.validation)) / max(1, len(self.data.validation))
        times = {"tuned": 2}  # beside its untuned weights
        forecasts = windows * sum(times.get(row.kind, 1) * row.predict_seconds for row in again)
        files = max(FINISH_SECONDS, min(self._start_seconds, FINISH_MOST * self.budget))
        return files + FINISH_SHARE * self.budget + fits + forecasts

    def _try(self, candidate: Candidate) -> None:
        number = self._numbers[candidate.slot]
        trial = begin(self._study, self._storage, self._points.get(number, number), (), {})
        if trial is None:  # another process was quicker
            return
        try:
            row = self._tried(candidate)
        except BaseException:
            end(self._study, trial, TrialState.FAIL, interrupted=True)
            raise
        told = {"row": asdict(row)} | ({} if row.reason is None else {"reason": row.reason})
        if row.score is None:
            end(self._study, trial, TrialState.FAIL, **told)
        else:
            end(self._study, trial, TrialState.COMPLETE, row.score, **told)
        self.look()
        self._keep_only_best()
        best = self.best
        score = row.state if row.score is None else f"{row.score:.5g}"
        so_far = "none" if best is None else f"{best.name} {best.score:.5g}"
        print(live_line([row.name, score, f"{row.seconds:.1f}", so_far, f"{max(0.0, self.left):.0f} s"]), flush=True)
        if row.reason:
            print(f"  {row.reason}", flush=True)

    def _tried(self, candidate: Candidate) -> Row:
        begun, seconds = time.monotonic(), max(2.0, self.left_to_search)
        row = Row(candidate.name, candidate.kind, candidate.how, list(candidate.made_of), process=os.getpid())
        compared = candidate.kind == "tuned" and not candidate.made_of
        part = CURVE_TIME if candidate.kind == "share" else 1 / SHARE
        halving = Halving(self._comparable(candidate.config) if compared else None, begun + part * seconds)
        try:
            data = self._data_of(candidate)
            limit = seconds / SHARE if candidate.name == "lightgbm" else seconds
            with _at_most(limit if self.rows else math.inf), quiet(), suppress(_Trained):
                set_seed(candidate.config.seed)
                with CandidateRun(candidate.config, data, self._place(row), self.manager, halving) as run:
                    metrics = run.until_trained(row)
                    row.losses, row.state = halving.losses, "pruned" if halving.pruned else "finished"
                    row.score = self._score(metrics, run)
                    raise _Trained
            needed = self._end_seconds(row)
            if may_win(row) and not is_simple(row) and self.best is not None and needed > self.left:
                raise OutOfTime(f"the test windows would take it {needed:.0f} s, and {self.left:.0f} s are left")
        except StorageInternalError:  # nothing more can be written down
            raise
        except (Exception, OutOfTime) as error:
            late = isinstance(error, OutOfTime)
            row.state, row.score = "stopped" if late else "failed", None
            row.reason = str(error) if late else failure(error)
        row.seconds = round(time.monotonic() - begun, 2)
        return row

    def _place(self, row: Row) -> Path:
        return self.folder / "candidates" / row.name

    def _data_of(self, candidate: Candidate) -> PreparedData:
        data = self._without_inputs if candidate.config.data.targets_only else self.data
        return data if candidate.kind != "share" else latest(data, SHARES[candidate.how])

    @cached_property
    def _without_inputs(self) -> PreparedData:
        """The same windows for weights that know no inputs."""
        if self.data.config.targets_only:
            return self.data
        return configured_data(without_inputs(self.base))

    def _score(self, metrics: Mapping[str, float], run: CandidateRun) -> float:
        found = metrics.get(self.metric)
        if found is None:
            raise ConfigError(
                f"--metric {self.metric} is no column of these scores: {', '.join(metrics)}; a metric that is not "
                "always there is asked for by evaluation.metrics=[…]"
            )
        if not math.isfinite(found):
            raise ConfigError(f"its {self.metric} is not a number")
        judged = getattr(run.model, "validation_rmse", {}).get(getattr(run.model, "combiner", None))
        if judged and metrics["mse_scaled"] > 0:  # weights fitted on these windows: as good as on folds left out
            worse = max(1.0, judged / math.sqrt(metrics["mse_scaled"]))
            found = found / worse if self.higher else found * worse
        return float(found)

    def _comparable(self, config: RunConfig) -> optuna.Study:
        """Halving among the candidates of one family: losses of two families are of different things."""
        family = config.model.type
        if family not in self._halving:
            pruner = optuna.pruners.SuccessiveHalvingPruner(min_resource=2, reduction_factor=2)
            name = f"{self._study.study_name} {family}"
            self._halving[family] = optuna.create_study(
                storage=self._storage, study_name=name, pruner=pruner, load_if_exists=True
            )
        return self._halving[family]

    def _keep_only_best(self) -> None:
        """Weights of others that are done are of no use any more."""
        for row in self.rows.values():
            if self.best is None or row.name != self.best.name:
                shutil.rmtree(unfinished(self._place(row)), ignore_errors=True)

    def finish(self) -> Autotuned:
        """Finish the run of the winner, the one look at the test windows, or wait for the process that does."""
        number = self._numbers["finish"]
        while True:
            self.look()
            point = self._points.get(number)
            if point is not None and point.state == "finished":
                return self._found(point.last.user_attrs["winner"])
            if point is None or point.state != "running":
                trial = begin(self._study, self._storage, number if point is None else point, (), {})
                if trial is not None:
                    return self._finished(trial, point)
            time.sleep(WAIT_SECONDS)

    @property
    def is_over(self) -> bool:
        """True once a process has begun to finish a winner."""
        point = self._points.get(self._numbers["finish"])
        return point is not None and "winner" in point.last.user_attrs

    def _finished(self, trial: optuna.Trial, before: Point | None) -> Autotuned:
        try:
            if self.best is None:
                reasons = "; ".join(f"{row.name}: {row.reason}" for row in self.rows.values())
                raise ConfigError(f"none of the {len(self.rows)} candidates could be had: {reasons}")
            winner = before.last.user_attrs.get("winner") if before else None
            winner = winner or self.best.name  # what a process that died had begun to finish is finished
            trial.set_user_attr("winner", winner)
            self._finish_run(self.rows[winner])
            found = self._found(winner)
            unit = self.data.preprocessor.unit
            domain = domain_of(unit, self.data.panel.roles.num_targets)
            took = f"{self.budget - self.left:.0f} of {self.budget:.0f} seconds, all starts together."
            write(found, self.metric, self._same_weights(winner), took, domain.warning if domain else None)
        except BaseException:
            end(self._study, trial, TrialState.FAIL, interrupted=True)
            raise
        end(self._study, trial, TrialState.COMPLETE, 0.0)
        return found

    def _finish_run(self, best: Row) -> None:
        place = self.folder / "best"
        config = self.config_of(best.name).model_copy(update={"tracking": self.base.tracking})
        save_recipe(config.model_copy(update={"output_dir": f"{self.folder}/again"}), self.folder / "best.yaml")
        trained = unfinished(self._place(best))
        if trained.is_dir() and not unfinished(place).is_dir():
            trained.replace(unfinished(place))
        if not is_finished(config, place):
            set_seed(config.seed)
        data = self._without_inputs if config.data.targets_only else self.data
        with CandidateRun(config, data, place, self.manager) as run:
            run.called = best.name
            if run.has("registered"):
                run.recall(run.folder)
            if not run.results:
                run.to_the_end()

    def _found(self, winner: str) -> Autotuned:
        folder, rows = RunFolder(self.folder / "best"), ranked(self.rows.values(), self.higher)
        best = self.rows[winner]
        rows = [best, *(row for row in rows if row.name != winner)]
        test, judged = folder.metrics["test"], Verdict.from_dict(folder.read_json(VERDICT))
        self._foretell()
        found = {} if self.foretold is None else brought(rows, self.foretold, judged)
        untried = {slot: why for slot, why in self.not_tried.items() if self._state(slot) == "waiting"}
        return Autotuned(best, rows, untried, test, judged.sentence, self.foretold, found, self.folder)

    def _same_weights(self, name: str) -> list[str]:
        """Candidates of the same weights as they are."""
        weights = self.config_of(name).model.pretrained
        untuned = (row.name for row in self.rows.values() if row.kind == "zero_shot")
        return [one for one in untuned if self.config_of(one).model.pretrained == weights]


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
    storage: str | None = None,
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
        storage: database of the search, as of a sweep; None takes a file in the output.

    Raises:
        TstuneError: the data or the settings need a change, or nothing at all could be trained.
    """
    begun = time.monotonic() if begun is None else begun
    refuse_ranks("scripts/autotune.py", "start it several times with one --output to share the work")
    setup_logging()
    if metric.partition("@")[0] in _SIGNED:
        raise ConfigError(f"--metric {metric}: neither a higher nor a lower value is better; take rmse, mae or wql")
    folder = Path(output or Path("runs/autotune") / Path(data).resolve().name.split(".")[0])
    refuse_full("--output", folder, overwrite=True)
    place = storage_url(storage, folder)
    base, prepared = settled(Path(data), horizon, overrides, metric)
    asked = {"metric": metric, "weights": list(weights)}
    with writing(folder, "--output"):
        (folder / "candidates").mkdir(parents=True, exist_ok=True)
    quiet_optuna()
    database = open_storage(place, max(60, math.ceil(60 * minutes)))
    with explained(database):
        name = f"autotune {folder.resolve().name}"
        study = optuna.create_study(storage=database, study_name=name, load_if_exists=True)
        _check_same(study, base, folder, asked)
        search = Search(base, prepared, weights, metric, higher, folder, 60 * minutes, begun, study, database)
        try:
            if search.is_over:
                print(f"{folder} holds this search already; another --output begins a new one", flush=True)
            else:
                search.run()
            return search.finish()
        except (Preempted, KeyboardInterrupt) as stop:  # of the candidate, which knows of itself only
            raise type(stop)(f"what was found is in {folder}; the same command goes on") from None


def _seconds_of(done: Sequence[Point]) -> float:
    """Time that went by while these were tried; what several processes did at once counts once."""
    spans = sorted((point.last.datetime_start, point.last.datetime_complete) for point in done)
    total, until = 0.0, None
    for start, stop in spans:
        if until is not None:
            start = max(start, until)
        total += max(0.0, (stop - start).total_seconds())
        until = stop if until is None else max(until, stop)
    return total


def settled(
    path: Path, horizon: str | int | None, overrides: Sequence[str], metric: str
) -> tuple[RunConfig, PreparedData]:
    """The run that data, horizon and metric lead to, see `autotune`, and its windows."""
    for override in overrides:
        check_override(override)
    if path.suffix in (".yaml", ".yml"):
        config, said = SimpleConfigManager().load_config(path, overrides), nullcontext()
        panel, _ = read_panel(config.data, CleaningRules.from_config(config.data))
    else:
        further = OmegaConf.to_container(OmegaConf.merge({}, *map(parse_override, overrides)))
        found = describe(str(path), further.pop("data", None), further, horizon)
        print(found.text(), flush=True)
        values = yaml.safe_load(found.recipe())
        values["training"] |= {"max_steps": STEPS, "num_epochs": 50, "eval_every_steps": EVERY}
        values["training"] |= {"early_stopping_patience": 6}
        config, panel = validate(merged(values, further), origin="the command line"), found.panel
        said = quiet()  # of the same data again
    if horizon is not None:
        config = config.changing("model", prediction_length=steps_ahead(horizon, panel.frequency))
    metrics = config.evaluation.metrics
    if builtin_metric(metric) is not None and metric not in (*ALWAYS_SCORED, *metrics):
        config = config.changing("evaluation", metrics=[*metrics, metric])
    try:
        with said:
            data = configured_data(config)
    except NoWindow as error:
        raise asked_by_horizon(error, horizon) from None
    strides = {}
    for part, most in MOST_WINDOWS.items():
        key, windows = f"{part}_stride", len(data.windows[part])
        if getattr(config.data, key) == AUTO and windows > most:
            strides[key] = getattr(data.config, key) * -(-windows // most)
    if strides:
        config = config.changing("data", **strides)
        data = configured_data(config)
    config = data.settle(config)
    check_metrics(config, data.preprocessor.unit)
    columns = scored_columns(config.evaluation.horizons)
    if metric not in columns and not config.evaluation.metrics:
        raise ConfigError(
            f"--metric {metric} is no column of these scores: {', '.join(columns)}; others are named by "
            "evaluation.metrics=[…], as docs/judging.md lists them"
        )
    alone = config.changing("tracking", register_as=None, run_name=None)
    return alone.model_copy(update={"overwrite": False}), data


def _check_same(study: optuna.Study, base: RunConfig, folder: Path, asked: dict[str, object]) -> None:
    """Refuse to mix two searches in one folder or one study."""
    values = asked | {"run": base.model_dump(mode="json", exclude={"output_dir", "tracking"})}
    made_from = hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
    note = folder / "search.json"
    in_folder = read_object(note, OutputError).get("made_from") if note.is_file() else None
    in_study = study.user_attrs.get("made_from")  # after the note, which is written after it
    if in_folder is None and (folder / "best").exists():
        raise OutputError(f"--output {folder} holds {folder / 'best'} of something else; take another --output")
    if (in_folder is not None and in_study is None) or {in_folder, in_study} - {None, made_from}:
        raise OutputError(
            f"--output {folder} holds a search of other data, settings or --storage; take another --output, or give "
            "the command that it was begun with"
        )
    study.set_user_attr("made_from", made_from)
    if in_folder is None:
        with aside(note) as file:
            file.write_text(json.dumps({"made_from": made_from} | values), encoding="utf-8")


@contextmanager
def _at_most(seconds: float) -> Iterator[None]:
    """Raise `OutOfTime` inside after so many seconds; in the main thread only, where Python hears an alarm."""
    if not math.isfinite(seconds) or threading.current_thread() is not threading.main_thread():
        yield
        return

    def ring(*_: object) -> None:
        raise OutOfTime(f"stopped after the {seconds:.0f} seconds that were left for it")

    def unheard(told: sys.UnraisableHookArgs) -> None:
        if isinstance(told.exc_value, OutOfTime):  # it rang while an object was taken away, where nothing can be raised
            signal.setitimer(signal.ITIMER_REAL, 0.05)
        else:
            hook(told)

    before, hook = signal.signal(signal.SIGALRM, ring), sys.unraisablehook
    sys.unraisablehook = unheard
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        sys.unraisablehook = hook
