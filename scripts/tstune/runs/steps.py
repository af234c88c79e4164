"""The steps that every run with a model shares: weights, trackers, the loop, the end of a run."""

from __future__ import annotations

import json
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from tstune.config.schema import RunConfig
from tstune.errors import ConfigError, RegistryError
from tstune.models.contract import ForecastModel
from tstune.registry import open_registry
from tstune.runs.folder import ENVIRONMENT, HISTORY, MANIFEST, README, VERDICT, RunFolder
from tstune.runs.life import Run
from tstune.runtime.distributed import DistributedManager
from tstune.runtime.environment import describe_environment, set_seed
from tstune.runtime.logs import logger, setup_logging
from tstune.runtime.memory import GPUManager, estimate_training_memory
from tstune.tracking.composite import CompositeTracker, build_tracker, guarded
from tstune.tracking.interfaces import ExperimentTracker, new_run_id
from tstune.tracking.run import TrackedRun
from tstune.training.callbacks import Callback, load_callbacks
from tstune.training.checkpoint import Checkpoints, find_checkpoint, require_same_run
from tstune.training.loop import TrainingResult


class ModelRun(Run, ABC):
    """A run that trains a model; a kind of run adds the steps of its own between these.

    A run that was stopped is gone on with where it stood: `has("judged")` is then True on entering if only the end is
    left to do. The arguments are as in `BaseTimeSeriesFoundationModel.fit`.

    Attributes:
        data: what it is trained on, once prepared.
        parameters: how many there are and how many learn, once built.
        training: what training did, None before it and without it.
        tracked: the run in its trackers, once begun.
        results: what the caller gets.
    """

    data: object

    def __init__(
        self,
        model: ForecastModel,
        output_dir: str | Path | None = None,
        overwrite: bool = False,
        resume: str | None = None,
        manager: DistributedManager | None = None,
        tracker: ExperimentTracker | None = None,
        callbacks: Sequence[Callback] = (),
    ) -> None:
        setup_logging()
        precision = model.config.training.mixed_precision
        model.take_training_arguments(output_dir)
        if output_dir is not None:  # the config.yaml of a folder names it
            model.config = model.config.model_copy(update={"output_dir": str(output_dir)})
        config = model.config
        if manager is not None and config.training.mixed_precision != precision:
            raise ConfigError("_create_training_arguments changes mixed_precision of processes that run already")
        manager = manager or DistributedManager.for_run(config)
        logger.info(manager.describe())
        inputs = {"model.pretrained": config.model.pretrained, "data.path": config.data.path}
        for number, member in enumerate(getattr(config.model, "members", ())):
            place = member if isinstance(member, str) else member["model"].get("pretrained")
            inputs[f"model.members.{number}"] = place
        super().__init__(config, output_dir, overwrite, resume, manager, inputs)
        self.model = model
        self.gpu = GPUManager(manager.device)
        self.gpu.allow_tf32(config.training.tf32)
        self.training: TrainingResult | None = None
        self.tracked: TrackedRun | None = None
        self.results: dict = {}
        self._tracker = tracker
        self._callbacks = [*load_callbacks(config.training.callbacks), *callbacks]
        self._fitted_before = False
        self._begin = time.perf_counter()
        self._inside = ExitStack()
        self.check()

    @abstractmethod
    def check(self) -> None:
        """Refuse settings that this kind of run cannot follow."""

    def __exit__(self, error_type: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        try:
            self._inside.__exit__(error_type, error, trace)  # the trackers end before the folder is given up
        finally:
            super().__exit__(error_type, error, trace)

    def build(self) -> None:
        """Weights, tuning mode, and what learns."""
        set_seed(self.config.seed)
        self.model.trained = {}
        self.model.build(self.data.preprocessor)
        self.model.to(self.manager.device)
        self.parameters = self.model.get_model_info()  # as trained: adapters are merged afterwards

    def start_tracking(self) -> None:
        """Begin the run in its trackers, or go on with it."""
        if self.run_id is None:
            self.note(run_id=new_run_id())  # on disk before a tracker knows it: a restart goes on with the same run
        tracker = _composite(self._tracker, self.config, self.manager)
        self.tracked = self._inside.enter_context(TrackedRun(tracker, self.config, self.run_id))

    def run_training(self, data: object, readings: str) -> None:
        """The loop: checkpoints, callbacks, and the weights of the lowest validation loss; the run then is trained.

        A checkpoint of data with another fingerprint than `readings` is refused.
        """
        history = self.folder / HISTORY if self.folder else None
        with self.gpu.phase("training"):
            checkpoints = self.checkpoints(readings)
            if self.model.module is None:
                self._fit(data, history, checkpoints)
            else:
                self._prepare_memory()
                callbacks = [self.tracked, *self._callbacks]
                self.training = self.model.train_on(data, self.manager, history, checkpoints, callbacks)
        self.advance("trained")
        self.stop.check()

    def _fit(self, data: object, history: Path | None, checkpoints: Checkpoints | None) -> None:
        """In closed form, by trees or by a service: no steps to watch, and one checkpoint, of what came of it."""
        if checkpoints is None or not self.model.learns:
            self.training = self.model.train_on(data, self.manager, history)
            return
        identity = {"num_processes": self.manager.num_processes, **checkpoints.identity}
        found = find_checkpoint(checkpoints.resume, checkpoints.store) if checkpoints.resume else None
        if found is not None:
            require_same_run(found, identity)
            self.model.load_weights(found)
            self.model.to(self.manager.device)
            self._fitted_before = True
            logger.info("fitted before (%s)", found)
            return

        def write(folder: Path) -> None:
            if self.manager.is_main:
                self.model.save_weights(folder)
                (folder / "run.json").write_text(json.dumps(identity, indent=2), encoding="utf-8")

        self.training = self.model.train_on(data, self.manager, history)
        checkpoints.store.save(0, 0, write)

    def take_results(self, folder: RunFolder | None = None, **found: object) -> None:
        """Set `results`: what was found, and what all runs have; of a run that was finished before, from its folder."""
        self.results = found | {
            "parameters": self.parameters if folder is None else folder.read_json(ENVIRONMENT)["parameters"],
            "training": self.training,
            "output_dir": self.final and str(self.final),
            "run_id": self.tracked.run_id if folder is None else folder.run_id,
        }

    def environment(self) -> dict:
        """Values for `environment.json`: versions, hardware, time and memory."""
        found = describe_environment(self.manager.device, self.manager.num_processes)
        found["seconds"] = round(time.perf_counter() - self._begin, 2)
        found |= {"peak_memory_mb": self.gpu.peak_memory(), "hardware": self.gpu.report(), "phases": self.gpu.phases}
        left_out = ("history", "lr_curve")
        training = self.training and {name: v for name, v in vars(self.training).items() if name not in left_out}
        found["precision"] = self.manager.accelerator.mixed_precision
        return found | {"parameters": self.parameters, "training": training}

    def commit(self) -> None:
        """Put the finished run folder in its place; a restart that finds it there takes model and results from it."""
        super().commit()
        if not self.results and self.final is not None:
            self.manager.wait()  # until the main process has put it there
            folder = RunFolder(self.final)
            vars(self.model).update(vars(type(self.model).load(folder.path)))
            self.recall(folder)
        elif self._fitted_before:  # members of a stack lie in the checkpoint, which goes away
            self.manager.wait()
            self.model.load_weights(self.final)
            self.model.to(self.manager.device)

    @abstractmethod
    def recall(self, folder: RunFolder) -> None:
        """Fill `results` from a folder that was finished before this start."""

    def track(self) -> None:
        """Send the finished folder to the trackers."""
        if self.folder is not None and not self.has("tracked"):
            if self.tracked is None:  # a restart with nothing else left to do
                self.start_tracking()
            folder = self.folder
            manifest, verdict = folder.read_json(MANIFEST), folder.read_optional(VERDICT)
            self.tracked.log_findings(manifest, folder.read_text(README), verdict)
            self.tracked.log_folder(self.folder.path)
        if not self.has("tracked"):
            self.advance("tracked")

    def register(self) -> None:
        """Put the finished run into the model registry if the configuration names a model.

        The run is done and stays, so a registry that fails now is a warning.
        """
        tracking = self.config.tracking
        if tracking.register_as is not None and self.folder is not None and not self.has("registered"):
            try:
                registry = open_registry(tracking.registry)
                version = registry.register_once(self.folder.path, tracking.register_as).reference
            except RegistryError as error:
                again = f"python scripts/manage_registry.py register {self.final} --name {tracking.register_as}"
                logger.warning("not registered (%s); try again: %s", error, again)
            else:
                logger.info("registered as %s", version)
                self.note(version=version)
        self.advance("registered")
        self.results["version"] = self.version
        self.manager.wait_for_main()

    def _prepare_memory(self) -> None:
        """Say what training will hold, and spend time for memory where asked."""
        training, manager = self.config.training, self.manager
        if training.gradient_checkpointing:
            self.gpu.enable_gradient_checkpointing(self.model.network)
        strategy = f"zero{manager.zero_stage}" if manager.zero_stage else manager.strategy
        precision = manager.accelerator.mixed_precision
        estimate = estimate_training_memory(
            self.model.module, training.optimizer, strategy, manager.num_processes, precision
        )
        logger.info("memory for training: %s", estimate.describe())


def _composite(tracker: ExperimentTracker | None, config: RunConfig, manager: DistributedManager) -> CompositeTracker:
    """Trackers that cannot stop the run, on the main process; none elsewhere."""
    if tracker is None or not manager.is_main:
        return build_tracker(config.tracking, manager.is_main)
    return tracker if isinstance(tracker, CompositeTracker) else guarded([tracker], config.tracking)
