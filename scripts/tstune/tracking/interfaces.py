"""What every experiment tracker must offer, so that the training code never knows which one is in use."""

from __future__ import annotations

import importlib
import re
import secrets
import shutil
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Literal

from tstune.config.section import dotted
from tstune.errors import ConfigError, TrackingError

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch import nn

    from tstune.config.schema import TrackingSection


_CREDENTIALS = re.compile(r"(?<=://)[^/@\s'\"]+@")


def without_credentials(text: str) -> str:
    """The same without the ``user:password@`` of any URL in it."""
    return _CREDENTIALS.sub("", text)


def first_line(error: BaseException) -> str:
    """Kind and first line of an error, at most 200 characters."""
    lines = without_credentials(str(error)).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__


_RUN_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,127}")


def check_run_id(run_id: str) -> str:
    """Return the id.

    Raises:
        TrackingError: not letters, digits, ``.``, ``_`` and ``-``, at most 128 of them.
    """
    if not _RUN_ID.fullmatch(run_id):
        raise TrackingError(
            f"tracking: run id {run_id!r} is not usable; use up to 128 letters, digits, '.', '_' and '-', "
            "beginning with a letter or digit"
        )
    return run_id


def check_relative(name: str) -> str:
    """Return the name of a logged thing as a clean relative path.

    Raises:
        TrackingError: it is empty or leads out of the run's folder.
    """
    path = PurePosixPath(name)
    if not path.parts or path.is_absolute() or ".." in path.parts or "\0" in name:
        raise TrackingError(
            f"tracking: the name {name!r} leads out of the run's folder; use one such as plots/loss.png"
        )
    return str(path)


def inside(folder: Path, name: str, what: str) -> Path:
    """Place of `name` below a folder.

    Raises:
        TrackingError: it is the folder itself, or outside it.
    """
    target = folder / name
    if not name or "\0" in name or folder.resolve() not in target.resolve().parents:
        raise TrackingError(f"tracking: {what} {name!r} leads out of {folder}; use a plain name")
    return target


def run_name_of(config: Mapping[str, object], given: str | None, run_id: str) -> str:
    """Name people read: the given one, else that of the run's output folder, else the run id."""
    output_dir = config.get("output_dir")
    return given or (Path(output_dir).name if isinstance(output_dir, str) else "") or run_id


RunStatus = Literal["FINISHED", "FAILED", "KILLED"]


class ExperimentTracker(ABC):
    """Writes one run down. Used by the main process only.

    The order of calls is `start_experiment`, any of the ``log_…`` methods, `end_experiment`. A method that
    cannot do its work raises: `TrackingError` for a call that can never succeed, anything else for a back end
    that is away. `CompositeTracker` turns both into warnings, and keeps for later what a back end missed.
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
        """Begin a run, or go on with one.

        Args:
            experiment_name: what runs are grouped under.
            config: the resolved configuration, nested.
            run_id: id of the run. If the tracker knows it, it goes on with that run (a preempted one);
                null makes a new id.

        Returns:
            the run id.
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
    def log_artifact(self, path: Path, name: str | None = None) -> None:
        """Log a file, or a folder with all it holds, as `name` (a relative path; null is the name it has)."""

    @abstractmethod
    def log_figure(self, figure: Figure | Path, name: str) -> None:
        """Log a picture: a matplotlib figure or a PNG file. `name` is a relative path, such as ``plots/loss.png``."""

    @abstractmethod
    def end_experiment(self, status: RunStatus = "FINISHED") -> str:
        """End the run and return its id."""

    def watch_model(self, module: nn.Module) -> None:  # noqa: B027  nothing to do is a fine answer
        """See the network just before its first training step, for example to hook gradients."""

    def child(self, name: str) -> ExperimentTracker:
        """A tracker for a part of this run (an item's adapter): here, the same run with prefixed names."""
        return PrefixedTracker(self, name)


def new_run_id() -> str:
    """Sortable, unique: the UTC time to the second and four random bytes."""
    return f"{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}-{secrets.token_hex(4)}"


def write_figure(figure: Figure | Path, path: Path) -> Path:
    """A picture as PNG file at `path`; a file that is one already stays where it is."""
    if isinstance(figure, Path):
        return figure
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="png")
    return path


class PrefixedTracker(ExperimentTracker):
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

    def log_params(self, params: Mapping[str, object]) -> None:
        """Log to the parent what is not its own configuration."""
        nothing = object()
        own = {name: value for name, value in params.items() if self._known.get(name, nothing) != value}
        if own:
            self._parent.log_params({f"{self._prefix}/{name}": value for name, value in own.items()})

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Log to the parent."""
        self._parent.log_metrics({f"{self._prefix}/{name}": value for name, value in metrics.items()}, step)

    def log_model(self, model_path: Path, model_name: str) -> None:
        """Log to the parent."""
        self._parent.log_model(model_path, f"{self._prefix}/{model_name}")

    def log_artifact(self, path: Path, name: str | None = None) -> None:
        """Log to the parent."""
        self._parent.log_artifact(path, f"{self._prefix}/{name or path.name}")

    def log_figure(self, figure: Figure | Path, name: str) -> None:
        """Log to the parent."""
        self._parent.log_figure(figure, f"{self._prefix}/{name}")

    def end_experiment(self, status: RunStatus = "FINISHED") -> str:
        """Only the parent ends its run."""
        return self._run_id


State = dict[str, list[int]]
"""Relative path of each file -> its size and time of change in ns."""

MODEL_FILES = (
    "model",
    "adapter",
    "adapters",
    "preprocessor.json",
    "config.yaml",
    "uncertainty.json",
    "uncertainty.safetensors",
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
    """Copy what `load_model` needs of a run folder.

    Raises:
        TrackingError: it holds no model.
    """
    if not (run_folder / "preprocessor.json").is_file():
        raise TrackingError(f"tracking: {run_folder} holds no model: preprocessor.json is missing")
    target.mkdir(parents=True, exist_ok=True)
    for name in MODEL_FILES:
        if (run_folder / name).exists():
            copy(run_folder / name, target / name)


def state_of(path: Path, names: tuple[str, ...] = ()) -> State | None:
    """State of a file or of all files in a folder, or only of those under some names in it; None if it is gone."""
    roots = [path / name for name in names] or [path]
    files = [file for root in roots for file in ([root] if root.is_file() else sorted(root.rglob("*")))]
    try:
        found = {str(file.relative_to(path)): file.stat() for file in files if file.is_file()}
    except OSError:
        return None
    return {name: [stat.st_size, stat.st_mtime_ns] for name, stat in found.items()} or None


def remove_empty(folder: Path, top: Path) -> None:
    """Remove a folder and those above it, up to and with `top`, as far as they hold nothing."""
    for place in (folder, *folder.parents):
        if not place.is_relative_to(top) or not place.is_dir() or any(place.iterdir()):
            break
        place.rmdir()


TRACKERS = {
    "file": "tstune.tracking.simple_tracker:SimpleExperimentTracker",
    "mlflow": "tstune.tracking.mlflow_tracker:MLflowExperimentTracker",
    "wandb": "tstune.tracking.wandb_tracker:WandbExperimentTracker",
    "tensorboard": "tstune.tracking.tensorboard_tracker:TensorBoardExperimentTracker",
}
"""Name -> class."""


def tracker_class(name: str) -> type[ExperimentTracker]:
    """The class behind a name of `TRACKERS` or behind ``package.module:Class``.

    Raises:
        ConfigError: unknown, not importable, or not an `ExperimentTracker`.
    """
    place = TRACKERS.get(name, name)
    module_name, _, class_name = place.partition(":")
    if not module_name or not class_name:
        raise ConfigError(
            f"tracking.trackers: unknown tracker {name!r}; use {', '.join(TRACKERS)}, "
            "or your own class as package.module:Class"
        )
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise ConfigError(
            f"tracking.trackers: {name} cannot be imported ({error}); is its folder on PYTHONPATH?"
        ) from None
    found = getattr(module, class_name, None)
    if not (isinstance(found, type) and issubclass(found, ExperimentTracker)):
        raise ConfigError(f"tracking.trackers: {name} is not a class derived from tstune's ExperimentTracker")
    return found
