"""A sweep: a study that any number of jobs work on, one trial after the other, until all its points are done."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import optuna
from optuna.trial import Trial

from tstune.config.dotted import dotted
from tstune.config.schema import RunConfig
from tstune.errors import ConfigError, OutputError, Preempted, TrainingError, TstuneError
from tstune.runtime.logs import logger
from tstune.sweeps.attempts import (
    Point,
    Surplus,
    claim,
    note_failure,
    note_interruption,
    note_processes,
    note_pruning,
    points,
    tidy,
)
from tstune.sweeps.checks import METRIC, changed_measure
from tstune.sweeps.files import SweepFolder
from tstune.sweeps.launch import Launch
from tstune.sweeps.report import Report, best_point, written
from tstune.sweeps.samplers import PrunerName, SamplerName, build_pruner, build_sampler
from tstune.sweeps.space import Dimension, Value, as_override, as_text
from tstune.sweeps.stop import StopRequest
from tstune.sweeps.storage import GRACE_INTERVALS, explained, open_storage
from tstune.sweeps.trial import TrialFailed, TrialLost, TrialProcess, ValidationLosses, read_loss
from tstune.tracking.composite import build_tracker
from tstune.tracking.interfaces import new_run_id
from tstune.tracking.run import TrackedRun

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


class _Interrupted(Exception):
    """The program was asked to stop; the trial it was at is queued again."""


@dataclass(frozen=True)
class SweepPlan:
    """What a sweep does.

    Attributes:
        name: of the study.
        compose: ``key=value`` overrides on top of the recipe -> configuration.
        space: what is varied.
        folder: where results go; all jobs of the study see it.
        launch: how each trial is launched.
        sampler: how points are chosen.
        pruner: which trials are stopped early.
        trials: points of the whole study.
        startup_trials: finished trials before TPE and the pruner judge.
        prune_after: validations every trial may take.
        keep_all: keep the weights of every trial, not only of the best.
        heartbeat_seconds: how often a job says that its trial is alive.
    """

    name: str
    compose: Callable[[Sequence[str]], RunConfig]
    space: Sequence[Dimension]
    folder: SweepFolder
    launch: Launch
    sampler: SamplerName
    pruner: PrunerName
    trials: int
    startup_trials: int = 5
    prune_after: int = 1
    keep_all: bool = False
    heartbeat_seconds: int = 60


def run_sweep(plan: SweepPlan, storage_url: str) -> str:
    """Work on the study until its points are done, and return the table of the result.

    Raises:
        TstuneError: the study cannot be worked on, or every trial failed.
        Preempted: SIGTERM came; the same command goes on.
        KeyboardInterrupt: Ctrl-C came; the same command goes on.
    """
    base = plan.compose([])
    made_from = _made_from(plan, base)
    plan.folder.make()
    storage = open_storage(storage_url, plan.heartbeat_seconds)
    with explained(storage), StopRequest() as stop:
        study = optuna.create_study(
            study_name=plan.name,
            storage=storage,
            load_if_exists=True,
            direction="minimize",
            sampler=build_sampler(plan.sampler, list(plan.space), base.seed, plan.startup_trials),
            pruner=build_pruner(plan.pruner, plan.startup_trials, plan.prune_after),
        )
        _check_study(study, made_from, plan.folder)
        sweep = _Sweep(plan, base, study, stop)
        with sweep.tracked:
            try:
                sweep.run()
            except _Interrupted:
                _stop(stop, plan.folder)
            return sweep.result()


class _Sweep:
    def __init__(self, plan: SweepPlan, base: RunConfig, study: optuna.Study, stop: StopRequest) -> None:
        self.plan, self.base, self.study, self.stop = plan, base, study, stop
        self.report = Report(plan.folder, base, plan.space, plan.launch, plan.sampler, plan.trials)
        self._grace_seconds = GRACE_INTERVALS * plan.heartbeat_seconds
        trackers = base.tracking.trackers
        # trials are followed through the files of this tracker
        self._added_files = "file" not in trackers
        self._tracking = base.tracking.model_copy(
            update={
                "trackers": [*trackers, "file"] if self._added_files else trackers,
                "run_name": plan.name,
                "register_as": None,  # trials are no versions of a model
            }
        )
        if _PARENT_RUN not in study.user_attrs:
            study.set_user_attr(_PARENT_RUN, new_run_id())
        own = base.model_copy(update={"tracking": self._tracking, "output_dir": str(plan.folder.path)})
        self.tracked = TrackedRun(build_tracker(self._tracking), own, study.user_attrs[_PARENT_RUN])

    def run(self) -> None:
        """Attempt points until none is left for this job."""
        waiting_since = None
        while True:
            if self.stop.requested:
                raise _Interrupted
            tidy(self.study, self._grace_seconds)
            found = points(self.study)
            states = [point.state for point in found]
            if "waiting" in states or len(found) < self.plan.trials:
                waiting_since = None
                self._attempt_one()
            elif "running" in states and (waiting_since is None or self._may_wait(waiting_since)):
                # another job has the last points: take them over if it is dead
                waiting_since = waiting_since or time.monotonic()
                time.sleep(WAIT_SECONDS)
            else:
                break
        self.report.write(self.study)

    def result(self) -> str:
        """The table, and what to do next.

        Raises:
            TrainingError: every trial failed.
        """
        found = points(self.study)
        best, folder = best_point(found), self.plan.folder
        for file in written(folder.path):
            self.tracked.tracker.log_artifact(file, file.name)
        failed = [point for point in found if point.state == "failed"]
        if found and len(failed) == len(found):
            raise TrainingError(
                f"all {len(found)} trials failed, the first one: {failed[0].reason}; see {folder.path / 'README.md'}"
            )
        lines = [self.report.table(found), ""]
        if best is not None:
            lines += [f"best: trial {best.number}, {METRIC} {best.loss:.6g}"]
            lines += [f"recipe: {folder.best_recipe}"]
        running = sum(not point.is_done for point in found)
        if running:
            lines += [f"{running} trials are still under way in other jobs; should they die, the same command goes on"]
        return "\n".join(lines)

    def _may_wait(self, since: float) -> bool:
        return time.monotonic() - since <= self._grace_seconds + self.plan.heartbeat_seconds

    def _attempt_one(self) -> None:
        try:
            self.study.optimize(self._objective, n_trials=1, catch=(Surplus, TrialFailed, TrialLost))
        except _Interrupted:
            tidy(self.study, self._grace_seconds)
            self.report.write(self.study)
            raise
        self._tell(self.report.write(self.study))
        if not self.plan.keep_all:
            self._remove_weights()

    def _objective(self, trial: Trial) -> float:
        number = claim(self.study, trial, self.plan.trials)
        values = {dimension.key: dimension.suggest(trial) for dimension in self.plan.space}
        logger.info("trial %d: %s", number, " ".join(as_override(key, value) for key, value in values.items()))
        try:
            loss = self._run(trial, number, values)
        except TrialFailed as failure:
            note_failure(trial, str(failure))
            logger.warning("trial %d failed: %s", number, failure)
            raise
        except TrialLost:
            logger.warning("trial %d was ended from outside; it is made again", number)
            raise
        logger.info("trial %d finished: %s %.6g", number, METRIC, loss)
        self.tracked.tracker.log_metrics({METRIC: loss}, step=number)
        return loss

    def _run(self, trial: Trial, number: int, values: dict[str, Value]) -> float:
        folder = self.plan.folder
        config = self._configure(number, values)
        losses = ValidationLosses(config)
        if not folder.holds(config):  # it does if this job's predecessor died between the end of a run and its record
            folder.save_recipe(config, folder.recipe(number))
            with TrialProcess(self.plan.launch.command(folder.recipe(number)), folder.log(number)) as process:
                note_processes(trial, process.pid)
                self._follow(trial, number, process, losses)
        for count, _, loss in losses.new():
            trial.report(loss, count)
        if self._added_files and losses.run_folder is not None:
            folder.remove_models(losses.run_folder)
        return read_loss(folder.run(number))

    def _follow(self, trial: Trial, number: int, process: TrialProcess, losses: ValidationLosses) -> None:
        """Wait for the end of a trial, and end it where it must or should not go on."""
        while not process.has_ended:
            for count, step, loss in losses.new():
                trial.report(loss, count)
                if trial.should_prune() and not process.has_ended:
                    process.end()
                    note_pruning(trial, step)
                    logger.info("trial %d pruned at step %d: %s %.6g", number, step, METRIC, loss)
                    raise optuna.TrialPruned
            if self.stop.requested:
                process.end()
            else:
                time.sleep(POLL_SECONDS)
        try:
            process.check()
        except TrialLost:
            time.sleep(POLL_SECONDS)  # a scheduler signals the whole job: our own signal is on its way
            if not self.stop.requested:
                raise
            note_interruption(trial)
            raise _Interrupted from None

    def _configure(self, number: int, values: dict[str, Value]) -> RunConfig:
        try:
            config = self.plan.compose([as_override(key, value) for key, value in values.items()])
        except TstuneError as error:
            self.plan.folder.log(number).write_text(f"error: {error}\n", encoding="utf-8")
            raise TrialFailed(" ".join(str(error).split())) from None
        changed = changed_measure(self.base, config)
        if changed:
            raise TrialFailed(f"{', '.join(changed)} would make its validation loss one of something else")
        tracking = {"run_name": f"{self.plan.name}-{number}", "parent_run": self.tracked.run_id}
        return config.model_copy(
            update={
                "output_dir": str(self.plan.folder.run(number)),
                "overwrite": False,
                "training": config.training.model_copy(update={"resume_from_checkpoint": "auto"}),
                "tracking": self._tracking.model_copy(update=tracking),
            }
        )

    def _tell(self, best: Point | None) -> None:
        if best is not None:
            logger.info("best so far: trial %d, %s %.6g", best.number, METRIC, best.loss)
            self.tracked.tracker.log_metrics({f"best_{METRIC}": best.loss}, step=len(points(self.study)))

    def _remove_weights(self) -> None:
        found = points(self.study)
        best = best_point(found)
        for point in found:
            if point.is_done and point is not best:
                self.plan.folder.remove_weights(point.number)


def _made_from(plan: SweepPlan, base: RunConfig) -> dict[str, str]:
    """Everything that must be the same for all trials of a study, as flat texts."""
    values = dict(dotted(base.model_dump(mode="json", exclude={"tracking"})))
    kept = {key: as_text(value) for key, value in values.items() if key not in _FREE_TO_CHANGE}
    launched = {key: as_text(value) for key, value in plan.launch.settings().items()}
    swept = {f"sweep of {dimension.key}": str(dimension) for dimension in plan.space}
    order = {"order of the grid": ", ".join(dimension.key for dimension in plan.space)}
    return kept | launched | {"--sampler": plan.sampler} | swept | (order if plan.sampler == "grid" else {})


def _check_study(study: optuna.Study, made_from: dict[str, str], folder: SweepFolder) -> None:
    """Refuse to mix two sweeps."""
    holds_trials = any(folder.trials.iterdir())  # first: whoever made them has signed the study before
    name, found = study.study_name, points(study)
    before = study.user_attrs.get(_MADE_FROM)
    if before is None:
        if found:
            raise ConfigError(f"study {name} was not made by sweep_hparams.py; choose another --study")
        if holds_trials:
            raise OutputError(f"--output {folder.path} holds trials of another study; choose another --output")
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
    for point in found:
        if point.state == "finished" and not folder.run(point.number).is_dir():
            raise OutputError(
                f"--output {folder.path} does not hold trial {point.number} of study {name}; "
                "give the --output it was begun with"
            )


def _stop(stop: StopRequest, folder: SweepFolder) -> None:
    if stop.came_from_terminal:
        raise KeyboardInterrupt
    raise Preempted(f"the state of the sweep is in {folder.path} and its study; the same command goes on")
