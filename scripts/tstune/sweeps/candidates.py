"""What a search for the best forecaster tries, and the run of one candidate."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import optuna
from optuna.trial import TrialState

from tstune.config.schema import RunConfig
from tstune.config.section import AUTO
from tstune.config.validation import validate
from tstune.data.defaults import BUILTIN, SHIPPED, default_baselines
from tstune.data.prepared import PreparedData
from tstune.domains import domain_of
from tstune.evaluation.learning_curve import block_squares
from tstune.models.registry import available_models, model_class
from tstune.runs.finetune import FineTuning
from tstune.runs.judging import Judge
from tstune.runtime.distributed import DistributedManager
from tstune.sweeps.leaderboard import Row
from tstune.training.callbacks import Callback, TrainingState

MODES = (
    *(("decoder", 1e-3), ("full", 3e-4), ("lora", 1e-3), ("head", 1e-3), ("decoder", 3e-4), ("full", 1e-3)),
    *(("lora", 3e-3), ("decoder", 3e-3), ("full", 1e-4), ("bias", 1e-3)),
)
"""What is tuned and the peak learning rate, the most promising first."""


@dataclass(frozen=True)
class Candidate:
    """A model that may be the best."""

    name: str  # its row, and its folder
    config: RunConfig  # its run
    # kind, how: as of `Row`
    kind: str
    how: str = ""
    made_of: tuple[str, ...] = ()  # names of what it is made of, if it was made up on the way

    @property
    def slot(self) -> str:
        """What has a number in the study: what is made up on the way goes by how it is made."""
        return self.how if self.made_of else self.name


class Halving(Callback):
    """Ends a training when its time is up, or when those before it were better after as many validations.

    Losses of the trainings of a study can be compared; None compares none. `until` is by `time.monotonic`.
    """

    def __init__(self, study: optuna.Study | None, until: float) -> None:
        self.losses: list[float] = []
        self.pruned = False
        self._study, self._until = study, until
        self._trial: optuna.Trial | None = None

    def on_step_end(self, state: TrainingState) -> None:
        """Look at the clock."""
        state.should_stop = state.should_stop or time.monotonic() > self._until

    def on_validation(self, state: TrainingState, loss: float) -> None:
        """Compare."""
        if not state.step or state.should_stop:
            return
        self.losses.append(loss)
        if self._study is not None:
            self._trial = self._trial or self._study.ask()
            self._trial.report(loss, len(self.losses))
            if self._trial.should_prune():
                self.pruned = state.should_stop = True

    def on_train_end(self, state: TrainingState) -> None:
        """What was compared stays, for those to come."""
        if self._trial is not None:
            self._study.tell(self._trial, state=TrialState.PRUNED)


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

    def until_trained(self, row: Row) -> dict[str, float]:
        """Train; fills the row but for its score, and returns metrics on the validation windows."""
        self.prepare()
        self.build()
        self.start_tracking()
        begun = time.perf_counter()
        self.train()
        if self.config.tuning.per_item:
            self.tune_items()
        trained = time.perf_counter()
        data = self.data.with_calibration_apart() if self.config.forecast.quantiles else self.data
        judge = Judge(data, self.config, self.manager, "validation")
        judge.score("fine_tuned", self.model.for_items(data.panel.item_ids))
        row.fit_seconds, row.predict_seconds = trained - begun, time.perf_counter() - trained
        row.squares = block_squares(judge.scores["fine_tuned"], judge.test.windows)
        row.parameters = int(self.parameters.get("total") or 0)
        judge.add_quantiles(self.model)
        judge.add_metrics(self.model.own_metrics)
        metrics = judge.scores["fine_tuned"].metrics
        self.tracked.log_scores("validation", {"fine_tuned": metrics})
        self._inside.close()  # its trackers: it has ended well
        return metrics


def list_candidates(base: RunConfig, data: PreparedData, weights: Sequence[str]) -> list[Candidate]:
    """What is tried, in its order: simple ones, weights as they are, LightGBM, tuning, at last from random weights."""
    size, names, found = lengths(base), base.evaluation.baselines, []
    listed = default_baselines(base.evaluation.seasonality, base.model.context_length) if names == AUTO else names

    def closed(name: str) -> Candidate:
        return Candidate(name, changed(base, model={"type": name} | size, tuning=None, lora=None), "baseline")

    found += [closed(name) for name in dict.fromkeys([*listed, "ridge"]) if name != "lightgbm"]
    bases = _bases(base, data, weights)
    untuned = without_inputs(base) if data.panel.roles.has_covariates else base  # for them layers would start random
    for label, model in bases.items():
        config = changed(untuned, model=model, tuning={"mode": "zero_shot"}, lora=None)
        found.append(Candidate(f"{label}zero_shot", config, "zero_shot"))
    found.append(closed("lightgbm"))
    own = [] if base.tuning.mode in ("zero_shot", "from_scratch") else [(base.tuning.mode, base.training.learning_rate)]
    for mode, rate in dict.fromkeys([*own, *MODES]):
        for label, model in bases.items():
            config = changed(base, model=model, tuning={"mode": mode}, training={"learning_rate": rate})
            found.append(Candidate(f"{label}{mode}.{rate:g}", config, "tuned", mode))
    fresh = next(iter(bases.values())) | {"pretrained": None}
    config = changed(base, model=fresh, tuning={"mode": "from_scratch"}, training={"learning_rate": 1e-3}, lora=None)
    return [*found, Candidate("from_scratch.0.001", config, "tuned", "from_scratch")]


def _bases(base: RunConfig, data: PreparedData, weights: Sequence[str]) -> dict[str, dict[str, object]]:
    """Label -> `model` section of all weights at hand: the run's own, those that ship, and those that are named."""
    found, own, shipped = {}, base.model.pretrained, []
    if own is None or own in SHIPPED:
        domain = domain_of(data.preprocessor.unit)
        known = None if domain is None or data.panel.roles.control else domain.weights.get(data.panel.frequency)
        shipped = [name for name in (known, BUILTIN) if name is not None]
    for spec in dict.fromkeys([*([own] if own else []), *shipped, *weights]):
        family, colon, place = spec.partition(":")
        family, place = (family, place) if colon and family in available_models() else (base.model.type, spec)
        model = base.model.model_dump() if place == own else {"type": family} | lengths(base)
        label = f"{Path(place).name.replace(':', '_')}." if found else ""
        while label in found:  # two folders of one name
            label = f"{label[:-1]}_{len(found)}."
        found[label] = model | {"pretrained": place}
    return found


def lengths(config: RunConfig) -> dict[str, int]:
    """Of the `model` section."""
    return {name: getattr(config.model, name) for name in ("context_length", "prediction_length")}


def without_inputs(config: RunConfig) -> RunConfig:
    """The same without inputs."""
    return config.changing("data", targets_only=True)


def as_member(config: RunConfig) -> dict[str, dict]:
    """A run as a member of a stack, which has its lengths and data."""
    model = {name: value for name, value in config.model.model_dump().items() if name not in lengths(config)}
    if model_class(config.model.type).is_baseline:
        return {"model": model}
    adapters = {"lora": config.lora.model_dump()} if config.lora.enabled else {}
    training = {"learning_rate": config.training.learning_rate}
    return {"model": model, "tuning": config.tuning.model_dump(), "training": training} | adapters


def changed(config: RunConfig, **sections: dict | None) -> RunConfig:
    """The same with keys of sections changed; None takes a section's defaults, and `model` is replaced."""
    values = config.model_dump()
    for name, change in sections.items():
        if change is None:
            values[name] = {}
        else:
            values[name] = change if name == "model" else values[name] | change
    return validate(values, origin="autotune")


def as_share(config: RunConfig, share: float) -> RunConfig:
    """The run that learns from a share of the windows: as many passes over them, and the whole of its schedule."""
    steps = config.training.max_steps
    shorter = {} if steps is None else {"max_steps": max(1, round(share * steps))}
    return changed(config, training=shorter, tuning={"interpolate": "auto"})


def latest(data: PreparedData, share: float) -> PreparedData:
    """The same with a share of the training windows, the latest of each item; of one window each, a share of items."""
    windows, numbers = data.train, np.arange(len(data.train))
    starts = windows.starts(numbers)
    item = data.panel.segment_item[windows.segment_of(starts)]
    until = np.cumsum(np.bincount(item, minlength=len(data.panel.item_ids)))  # windows of the items up to each
    kept = np.diff(np.ceil(share * until).astype(int), prepend=0)
    order = np.lexsort((starts, item))
    order = order[until[item[order]] - numbers <= kept[item[order]]]
    chosen = numbers if windows.chosen is None else windows.chosen
    return replace(data, windows=data.windows | {"train": windows.only(chosen[np.sort(order)])})
