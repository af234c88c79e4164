"""A sweep: a study that any number of jobs work on, one trial after the other, until all its points are done."""

from __future__ import annotations

import json
import math
import os
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import optuna
from optuna.pruners import MedianPruner, NopPruner
from optuna.samplers import TPESampler
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, Trial, TrialState

from tstune.config.names import dotted
from tstune.config.schema import RunConfig
from tstune.errors import ConfigError, OutputError, Preempted, TrainingError, TstuneError
from tstune.runs.folder import ENVIRONMENT, RunFolder
from tstune.runs.life import is_finished, noted_run_id
from tstune.runtime.children import ENDED, Child, StopRequest, sign_of_life
from tstune.runtime.logs import logger
from tstune.sweeps.report import FILES, SweepPlan, as_table, best_point, save_recipe, write_report
from tstune.sweeps.space import METRIC, Value, as_override, as_text, changed_measure, grid
from tstune.sweeps.storage import (
    ENVIRONMENT_VARIABLE,
    Point,
    begin,
    end,
    explained,
    give_up_the_dead,
    open_storage,
    points,
)
from tstune.tracking.composite import build_tracker
from tstune.tracking.interfaces import new_run_id
from tstune.tracking.run import TrackedRun


class FollowedMetric:
    """A metric of a run, followed as it appears in `file` of its file tracker, once the run has begun."""

    def __init__(self, config: RunConfig, metric: str) -> None:
        self._metric = metric
        self.file: Path | None = None
        self._output_dir = Path(config.output_dir)
        self._runs = Path(config.tracking.folder) / "files" / config.tracking.experiment
        self._offset, self._last_step, self._count = 0, -1, 0

    def new(self) -> Iterator[tuple[int, int, float]]:
        """Yield (number, optimizer step, value) of each measurement since the last call.

        Number 0 are the weights the training starts from, if they are measured; then the measurements are counted.
        """
        self.file = self.file or self._find()
        if self.file is None or not self.file.exists():
            return
        with self.file.open("rb") as stream:
            stream.seek(self._offset)
            for line in stream:
                if not line.endswith(b"\n"):  # it is being written
                    return
                self._offset += len(line)
                row = json.loads(line)
                step, value = row["step"], row.get(self._metric)
                if value is not None and step > self._last_step:  # a run that goes on repeats some steps
                    self._last_step = step
                    self._count += step > 0
                    yield self._count, step, value

    def _find(self) -> Path | None:
        """The run notes its id beside its checkpoints while it goes on, and in its folder at the end."""
        run_id = noted_run_id(self._output_dir) or RunFolder(self._output_dir).run_id
        return None if run_id is None else self._runs / run_id / "metrics.jsonl"


POLL_SECONDS = 0.2
WAIT_SECONDS = 1
_MADE_FROM, _PARENT_RUN = "made_from", "parent_run"
_FREE_TO_CHANGE = (
    "output_dir",
    "overwrite",
    "training.checkpoint_every_steps",
    "training.checkpoint_every_minutes",
    "training.keep_checkpoints",
    "training.num_workers",
)
"""Settings that may differ from start to start: they do not change what a trial finds."""


class TrialFailed(Exception):
    """The trial ended by itself without a result; the message is the reason."""


class TrialLost(Exception):
    """The trial was ended from outside."""


class SeededByTrial(TPESampler):
    """A seed for each trial: with one for the whole study every job, and every new start, would draw the same points.

    It draws at random before `startup_trials` have finished; None stands for always.
    """

    def __init__(self, seed: int, startup_trials: int | None) -> None:
        self._of_study, self._startup = seed, sys.maxsize if startup_trials is None else startup_trials
        super().__init__(seed=seed, n_startup_trials=self._startup)

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        """Begin anew with the trial's seed."""
        seed = int(np.random.SeedSequence([self._of_study, trial.number]).generate_state(1)[0])
        super().__init__(seed=seed, n_startup_trials=self._startup)


def run_sweep(plan: SweepPlan, storage_url: str) -> str:
    """Work on the study until its points are done, and return the table of the result.

    After SIGTERM or Ctrl-C the same command goes on.
    """
    base = plan.compose([])
    made_from = _made_from(plan, base)
    try:
        (plan.folder / "trials").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"--output {plan.folder} cannot be written: {error.strerror}") from None
    storage = open_storage(storage_url, plan.heartbeat_seconds)
    pruner = NopPruner() if plan.pruner == "none" else MedianPruner(plan.startup_trials, plan.prune_after)
    sampler = SeededByTrial(base.seed, None if plan.sampler == "random" else plan.startup_trials)
    with explained(storage), StopRequest() as stop:
        study = optuna.create_study(
            storage=storage, sampler=sampler, pruner=pruner, study_name=plan.name, load_if_exists=True
        )
        _check_study(study, made_from, plan)
        sweep = _Sweep(plan, base, study, storage, stop)
        with sweep.tracked:
            sweep.run()
            return sweep.result()


class _Sweep:
    def __init__(
        self, plan: SweepPlan, base: RunConfig, study: optuna.Study, storage: RDBStorage, stop: StopRequest
    ) -> None:
        self.plan, self.base, self.study, self.storage, self.stop = plan, base, study, storage, stop
        self._grid = grid(plan.space) if plan.sampler == "grid" else None
        self._grace_seconds = 2 * plan.heartbeat_seconds
        # trials are followed through the files of this tracker; they are no versions of a model
        self._added_files = "file" not in base.tracking.trackers
        trackers = [*base.tracking.trackers, *(["file"] if self._added_files else [])]
        changes = {"trackers": trackers, "run_name": plan.name, "register_as": None}
        self._tracking = base.tracking.model_copy(update=changes)
        if _PARENT_RUN not in study.user_attrs:
            study.set_user_attr(_PARENT_RUN, new_run_id())
        own = base.model_copy(update={"tracking": self._tracking, "output_dir": str(plan.folder)})
        self.tracked = TrackedRun(build_tracker(self._tracking), own, study.user_attrs[_PARENT_RUN])

    def run(self) -> None:
        """Attempt points until none is left for this job."""
        waiting_since = None
        while True:
            self._leave_if_asked()
            give_up_the_dead(self.study, self._grace_seconds)
            found = points(self.study)
            lost = [point for point in found if point.state == "waiting"]
            if lost or len(found) < self.plan.trials:
                self._attempt(lost[0] if lost else len(found))
                waiting_since = None
                continue
            waiting_since = waiting_since or time.monotonic()
            patience = self._grace_seconds + self.plan.heartbeat_seconds
            if all(point.is_done for point in found) or time.monotonic() - waiting_since > patience:
                break
            time.sleep(WAIT_SECONDS)  # another job has the last points: take them over if it is dead
        write_report(self.plan, self.base, self.study)

    def result(self) -> str:
        """The table, and what to do next; an error if every trial failed."""
        found = points(self.study)
        best, folder = best_point(found), self.plan.folder
        for file in filter(Path.is_file, (folder / name for name in FILES)):
            self.tracked.tracker.log_artifact(file, file.name)
        if found and all(point.state == "failed" for point in found):
            first = found[0].reason
            raise TrainingError(f"all {len(found)} trials failed, the first one: {first}; see {folder / 'README.md'}")
        lines = [as_table(self.plan.space, found), ""]
        if best is not None:
            lines += [f"best: trial {best.number}, {METRIC} {best.loss:.6g}", f"recipe: {folder / 'best.yaml'}"]
        running = sum(not point.is_done for point in found)
        if running:
            lines += [f"{running} trials are still under way in other jobs; should they die, the same command goes on"]
        return "\n".join(lines)

    def _attempt(self, point: Point | int) -> None:
        fixed = {} if self._grid is None or isinstance(point, Point) else self._grid[point]
        trial = begin(self.study, self.storage, point, self.plan.space, fixed)
        if trial is None:
            return
        number = trial.user_attrs["point"]
        try:
            loss = self._run(trial, number)
        except optuna.TrialPruned as pruned:
            end(self.study, trial, TrialState.PRUNED, stopped_at_step=pruned.args[0])
        except TrialFailed as failure:
            end(self.study, trial, TrialState.FAIL, reason=str(failure))
            logger.warning("trial %d failed: %s", number, failure)
        except TrialLost:
            end(self.study, trial, TrialState.FAIL)
            logger.warning("trial %d was ended from outside; it is made again", number)
        except (KeyboardInterrupt, Preempted):
            end(self.study, trial, TrialState.FAIL, interrupted=True)
            write_report(self.plan, self.base, self.study)
            raise
        else:
            end(self.study, trial, TrialState.COMPLETE, loss)
            logger.info("trial %d finished: %s %.6g", number, METRIC, loss)
            self.tracked.tracker.log_metrics({METRIC: loss}, step=number)
        best, found = write_report(self.plan, self.base, self.study), points(self.study)
        if best is not None:
            logger.info("best so far: trial %d, %s %.6g", best.number, METRIC, best.loss)
            self.tracked.tracker.log_metrics({f"best_{METRIC}": best.loss}, step=len(found))
        for point in found:
            if point.is_done and not self.plan.keep_all and (best is None or point.number != best.number):
                _remove_weights(self.plan.run(point.number))

    def _run(self, trial: Trial, number: int) -> float:
        values = {dimension.key: dimension.suggest(trial) for dimension in self.plan.space}
        logger.info("trial %d: %s", number, " ".join(as_override(key, value) for key, value in values.items()))
        run = self.plan.run(number)
        config = self._configure(number, values)
        losses = FollowedMetric(config, METRIC)
        if not is_finished(config):  # it is if this job's predecessor died between the end of a run and its record
            recipe = run.with_name(f"{number}.yaml")
            save_recipe(config, recipe)
            with self.plan.launch.start(recipe, run.with_name(f"{number}.log"), [ENVIRONMENT_VARIABLE]) as child:
                trial.set_user_attr("workers", sign_of_life(os.getpid(), child.pid))
                self._follow(trial, number, child, losses)
        for count, _, loss in losses.new():
            trial.report(loss, count)
        if self._added_files and losses.file is not None:  # nobody asked for the copies of models it keeps
            shutil.rmtree(losses.file.parent / "models", ignore_errors=True)
        return read_loss(run)

    def _follow(self, trial: Trial, number: int, child: Child, losses: FollowedMetric) -> None:
        """Wait for the end of a trial, and end it where it must or should not go on."""
        last_sign = time.monotonic()
        while not child.has_ended:
            if time.monotonic() - last_sign > self.plan.heartbeat_seconds:
                last_sign = time.monotonic()
                self.storage.record_heartbeat(trial._trial_id)
            for count, step, loss in losses.new():
                trial.report(loss, count)
                if trial.should_prune() and not child.has_ended:
                    child.end()
                    logger.info("trial %d pruned at step %d: %s %.6g", number, step, METRIC, loss)
                    raise optuna.TrialPruned(step)
            if self.stop.signal is not None:
                child.end()
            else:
                time.sleep(POLL_SECONDS)
        try:
            check_ended(child)
        except TrialLost:
            time.sleep(POLL_SECONDS)  # a scheduler signals the whole job: our own signal is on its way
            self._leave_if_asked()
            raise

    def _leave_if_asked(self) -> None:
        if self.stop.signal is not None:
            self.stop.leave(f"the state of the sweep is in {self.plan.folder} and its study; the same command goes on")

    def _configure(self, number: int, values: dict[str, Value]) -> RunConfig:
        run = self.plan.run(number)
        try:
            config = self.plan.compose([as_override(key, value) for key, value in values.items()])
        except TstuneError as error:
            run.with_name(f"{number}.log").write_text(f"error: {error}\n", encoding="utf-8")
            raise TrialFailed(" ".join(str(error).split())) from None
        changed = changed_measure(self.base, config)
        if changed:
            raise TrialFailed(f"{', '.join(changed)} would make its validation loss one of something else")
        tracking = {"run_name": f"{self.plan.name}-{number}", "parent_run": self.tracked.run_id}
        changes = {"output_dir": str(run), "overwrite": False, "tracking": self._tracking.model_copy(update=tracking)}
        return config.changing("training", resume_from_checkpoint="auto").model_copy(update=changes)


def check_ended(child: Child) -> None:
    """Raise `TrialFailed` with the reason a trial gave, or `TrialLost` if somebody ended it."""
    if child.code == 0:
        return
    if child.code == ENDED or any(line.startswith("preempted: ") for line in child.said()):
        raise TrialLost
    raise TrialFailed(child.why() or f"ended with code {child.code} and without a word; see {child.log}")


def read_loss(folder: Path) -> float:
    """Best validation loss of a finished run; `TrialFailed` if it has none."""
    training = RunFolder(folder).read_json(ENVIRONMENT, "training")["training"]
    if training is None:
        raise TrialFailed("nothing was trained, so there is no validation loss")
    loss = training[f"best_{METRIC}"]
    if loss is None or not math.isfinite(loss):
        raise TrialFailed("its validation loss is not a number")
    return loss


def _remove_weights(run: Path) -> None:
    """Keep what a trial tells, not what it has learnt."""
    for checkpoints in (Path(f"{run}.checkpoints"), run / "checkpoints"):
        shutil.rmtree(checkpoints, ignore_errors=True)
    for file in run.rglob("*.safetensors"):
        file.unlink(missing_ok=True)


def _made_from(plan: SweepPlan, base: RunConfig) -> dict[str, str]:
    """Everything that must be the same for all trials of a study, as flat texts."""
    values = dict(dotted(base.model_dump(mode="json", exclude={"tracking"})))
    kept = {key: as_text(value) for key, value in values.items() if key not in _FREE_TO_CHANGE}
    launched = {key: as_text(value) for key, value in plan.launch.settings().items()}
    swept = {f"sweep of {dimension.key}": dimension.text for dimension in plan.space}
    order = {"order of the grid": ", ".join(dimension.key for dimension in plan.space)}
    return kept | launched | {"--sampler": plan.sampler} | swept | (order if plan.sampler == "grid" else {})


def _check_study(study: optuna.Study, made_from: dict[str, str], plan: SweepPlan) -> None:
    """Refuse to mix two sweeps."""
    # first: whoever made them has signed the study before
    in_folder, in_study = any((plan.folder / "trials").iterdir()), study.get_trials(deepcopy=False)
    name, before = study.study_name, study.user_attrs.get(_MADE_FROM)
    if before is None:
        if in_study:
            raise ConfigError(f"study {name} was not made by sweep_hparams.py; choose another --study")
        if in_folder:
            raise OutputError(f"--output {plan.folder} holds trials of another study; choose another --output")
        study.set_user_attr(_MADE_FROM, made_from)
        return
    differing = [
        f"{key} was {before.get(key, 'not set')}, is {made_from.get(key, 'not set')}"
        for key in before | made_from
        if before.get(key) != made_from.get(key)
    ]
    if differing:
        raise ConfigError(
            f"study {name} is of another sweep: {'; '.join(differing)}; choose another --study and --output, "
            "or give what it was begun with"
        )
    for point in points(study):
        if point.state == "finished" and not plan.run(point.number).is_dir():
            raise OutputError(
                f"--output {plan.folder} does not hold trial {point.number} of study {name}; "
                "give the --output it was begun with"
            )
