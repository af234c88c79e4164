"""What every experiment tracker must offer, so that the training code never knows which one is in use."""

from __future__ import annotations

import inspect
import json
import math
import re
import secrets
import shutil
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from tstune.config.names import dotted
from tstune.config.section import without_credentials
from tstune.errors import ConfigError, TrackingError
from tstune.named_code import import_named, resolve

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch import nn

    from tstune.config.schema import TrackingSection

HEADLINE = "at_a_glance"
"""Group of the few metrics that people look at first, ``at_a_glance/rmse``: by its name ahead of the others."""
RunStatus = Literal["FINISHED", "FAILED", "KILLED"]

_RUN_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,127}")


def first_line(error: BaseException) -> str:
    """Kind and first line of an error, at most 200 characters."""
    lines = without_credentials(str(error)).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__


def check_run_id(run_id: str | None) -> str:
    """Return the id, if it is usable, or a new one."""
    run_id = run_id or new_run_id()
    if not _RUN_ID.fullmatch(run_id):
        raise TrackingError(
            f"tracking: run id {run_id!r} is not usable; use up to 128 letters, digits, '.', '_' and '-', "
            "beginning with a letter or digit"
        )
    return run_id


def new_run_id() -> str:
    """Sortable, unique."""
    return f"{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}-{secrets.token_hex(4)}"


def inside(folder: Path, name: str, what: str = "the name") -> Path:
    """Place of `name` below a folder (`TrackingError`: it is the folder itself, or outside it)."""
    target = folder / name
    if not name or "\0" in name or folder.resolve() not in target.resolve().parents:
        raise TrackingError(f"tracking: {what} {name!r} leads out of {folder}; use a plain name")
    return target


def numbers(metrics: Mapping[str, float | None]) -> dict[str, float]:
    """The same as floats; null is NaN."""
    return {name: math.nan if value is None else float(value) for name, value in metrics.items()}


def call(method: Callable[..., object], *arguments: object, **optional: object) -> object:
    """Call a method of a tracker without the optional keywords that it does not take."""
    known = inspect.signature(method).parameters.values()
    takes_any = any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in known)
    names = {parameter.name for parameter in known}
    return method(*arguments, **{name: value for name, value in optional.items() if takes_any or name in names})


class ExperimentTracker(ABC):
    """Writes one run down. Used by the main process only.

    The order of calls is `start_experiment`, any of the ``log_…`` methods, `end_experiment`. A method that
    cannot do its work raises: `TrackingError` for a call that can never succeed, anything else for a back end
    that is away. `CompositeTracker` turns both into warnings, and keeps for later what a back end missed.

    One of your own needs the five abstract methods; it may leave out `run_id` and `status`. If it has
    ``log_gradients(model)`` or ``log_attention_weights(model)``, they are called with the network before each
    optimizer step that makes a row of the history: gradients are there, on this process, before clipping.
    """

    name: str = "tracker"
    """Short name used in messages."""

    @classmethod
    def from_config(cls, tracking: TrackingSection) -> ExperimentTracker:
        """Build the tracker from the `tracking` section of a run; the default takes no argument."""
        return cls()

    def settings(self) -> dict[str, object]:
        """Keywords of the constructor that build an equal tracker: JSON values, never a credential.

        `scripts/replay_tracking.py` needs them to send in another process what a dead tracker missed.
        """
        return {}

    @abstractmethod
    def start_experiment(self, experiment_name: str, config: dict, run_id: str | None = None) -> str:
        """Begin a run, or go on with the one that has this id, and return its id.

        Args:
            experiment_name: what runs are grouped under.
            config: the resolved configuration, nested.
            run_id: None makes a new one; a tracker that knows it goes on with that run, which was preempted.
        """

    @abstractmethod
    def log_params(self, params: Mapping[str, object]) -> None:
        """Log what was set, as flat dotted names. Later values of a name replace earlier ones where possible."""

    @abstractmethod
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Log numbers of one optimizer step; None for results of the whole run."""

    @abstractmethod
    def log_model(self, model_path: Path, model_name: str) -> None:
        """Log the model of a run folder."""

    @abstractmethod
    def end_experiment(self, status: RunStatus = "FINISHED") -> str:
        """End the run and return its id."""

    def log_metric(self, key: str, value: float, step: int | None = None) -> None:
        """Log one number."""
        self.log_metrics({key: value}, step)

    def log_tags(self, tags: Mapping[str, str]) -> None:  # noqa: B027  nothing to do is a fine answer
        """Log what people look for a run by: ``source``, ``commit``, ``verdict``, …; ``description`` is Markdown."""

    def log_dataset(self, name: str, digest: str, profile: Mapping[str, object]) -> None:
        """Log what was learned from: its name, 16 digits of its checksum, JSON values that describe it; here, a tag."""
        self.log_tags({"dataset": json.dumps({"name": name, "digest": digest} | dict(profile))})

    def log_artifact(self, path: Path, name: str | None = None) -> None:  # noqa: B027
        """Log a file, or a folder with all it holds, as `name` (a relative path; null is the name it has)."""

    def log_figure(self, figure: Figure | Path, name: str) -> None:  # noqa: B027
        """Log a picture: a matplotlib figure or a PNG file. `name` is a relative path, such as ``plots/loss.png``."""

    def watch_model(self, module: nn.Module) -> None:  # noqa: B027
        """See the network just before its first training step, for example to hook gradients."""

    def child(self, name: str) -> ExperimentTracker:
        """A tracker for a part of this run (an item's adapter): here, the same run with prefixed names."""
        return PrefixedTracker(self, name)


class RunTracker(ExperimentTracker):
    """What our own trackers share.

    Attributes:
        run_id: id of the run, once begun.
        run_name: name people read; null takes that of the output folder.
        parent_run: id of the run this one is a part of.
    """

    def __init__(self, run_name: str | None = None, parent_run: str | None = None) -> None:
        self.run_id: str | None = None
        self.run_name, self.parent_run = run_name, parent_run
        self._run: object | None = None
        """What the back end calls a run, while one is going on."""

    def settings(self) -> dict[str, object]:
        """Every argument of the constructor is an attribute of the same name."""
        given = {name: getattr(self, name) for name in inspect.signature(type(self)).parameters}
        return {name: str(value.resolve()) if isinstance(value, Path) else value for name, value in given.items()}

    @property
    def _started(self) -> object:
        if self._run is None:
            raise TrackingError(f"the {self.name} tracker has no run: call start_experiment first")
        return self._run

    def _shown_name(self, config: Mapping[str, object]) -> str:
        output_dir = config.get("output_dir")
        return self.run_name or (Path(output_dir).name if isinstance(output_dir, str) else "") or str(self.run_id)


class PassingTracker(ExperimentTracker):
    """Hands every ``log_…`` call to `take`."""

    @abstractmethod
    def take(self, method: str, **keywords: object) -> None:
        """Do with a call what this tracker does with all of them."""

    def log_params(self, params: Mapping[str, object]) -> None:
        self.take("log_params", params=dict(params))

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        self.take("log_metrics", metrics=dict(metrics), step=step)

    def log_tags(self, tags: Mapping[str, str]) -> None:
        self.take("log_tags", tags=dict(tags))

    def log_dataset(self, name: str, digest: str, profile: Mapping[str, object]) -> None:
        self.take("log_dataset", name=name, digest=digest, profile=dict(profile))

    def log_model(self, model_path: Path, model_name: str) -> None:
        self.take("log_model", model_path=Path(model_path), model_name=model_name)

    def log_artifact(self, path: Path, name: str | None = None) -> None:
        self.take("log_artifact", path=Path(path), name=name)

    def log_figure(self, figure: Figure | Path, name: str) -> None:
        self.take("log_figure", figure=figure, name=name)


class PrefixedTracker(PassingTracker):
    """Logs into another tracker's run, every name as ``prefix/name``.

    The configuration it is started with is taken to be the parent's: its values are not logged once more.
    """

    name = "part"

    def __init__(self, parent: ExperimentTracker, prefix: str) -> None:
        self._parent, self._prefix = parent, prefix
        self._known: dict[str, object] = {}
        self._run_id = ""

    def start_experiment(self, experiment_name: str, config: dict, run_id: str | None = None) -> str:
        """Nothing begins: the parent's run goes on."""
        self._known = dict(dotted(config))
        self._run_id = run_id or self._prefix
        return self._run_id

    def log_tags(self, tags: Mapping[str, str]) -> None:
        """The parent has its own."""

    def log_params(self, params: Mapping[str, object]) -> None:
        """Log to the parent what is not its own configuration."""
        nothing = object()
        own = {name: value for name, value in params.items() if self._known.get(name, nothing) != value}
        if own:
            super().log_params(own)

    def take(self, method: str, **keywords: object) -> None:
        for kind, value in keywords.items():
            if isinstance(value, dict):
                keywords[kind] = {f"{self._prefix}/{name}": inner for name, inner in value.items()}
            elif kind in ("name", "model_name"):
                keywords[kind] = f"{self._prefix}/{value or keywords['path'].name}"
        getattr(self._parent, method)(**keywords)

    def end_experiment(self, status: RunStatus = "FINISHED") -> str:
        """Only the parent ends its run."""
        return self._run_id


MODEL_FILES = (
    "model",
    "adapter",
    "adapters",
    "preprocessor.json",
    "config.yaml",
    "uncertainty.json",
    "uncertainty.safetensors",
    "checksums.json",
)
"""What `load_model` needs of a run folder."""


def copy(source: Path, target: Path) -> None:
    """Copy a file, or a folder with all it holds."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target, dirs_exist_ok=True)
    else:
        shutil.copy2(source, target)


def copy_model(run_folder: Path, target: Path) -> None:
    """Copy what `load_model` needs of a run folder (`TrackingError`: it holds no model)."""
    if not (run_folder / "preprocessor.json").is_file():
        raise TrackingError(f"tracking: {run_folder} holds no model: preprocessor.json is missing")
    target.mkdir(parents=True, exist_ok=True)
    for name in MODEL_FILES:
        if (run_folder / name).exists():
            copy(run_folder / name, target / name)


def write_figure(figure: Figure | Path, path: Path) -> Path:
    """A picture as PNG file at `path`; a file that is one already stays where it is."""
    if isinstance(figure, Path):
        return figure
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="png")
    return path


TRACKERS = {
    "file": "tstune.tracking.simple_tracker:SimpleExperimentTracker",
    "mlflow": "tstune.tracking.mlflow_tracker:MLflowExperimentTracker",
    "wandb": "tstune.tracking.wandb_tracker:WandbExperimentTracker",
    "tensorboard": "tstune.tracking.tensorboard_tracker:TensorBoardExperimentTracker",
}
"""Name -> class."""


def tracker_class(name: str) -> type[ExperimentTracker]:
    """The class behind a name of `TRACKERS` or behind ``package.module:Class``; else a `ConfigError`."""
    if name in (*TRACKERS, *TRACKERS.values()):
        return resolve(TRACKERS.get(name, name))
    module_name, _, class_name = name.partition(":")
    if not module_name or not class_name:
        raise ConfigError(
            f"tracking.trackers: unknown tracker {name!r}; use {', '.join(TRACKERS)}, "
            "or your own class as package.module:Class"
        )
    found = import_named("tracking.trackers:", name)
    if not (isinstance(found, type) and issubclass(found, ExperimentTracker)):
        raise ConfigError(f"tracking.trackers: {name} is not a class derived from tstune's ExperimentTracker")
    return found
