"""What every experiment tracker must offer, so that the training code never knows which one is in use."""

from __future__ import annotations

import secrets
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch import nn

    from tstune.config.schema import TrackingSection

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
        from tstune.tracking.child import PrefixedTracker

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
