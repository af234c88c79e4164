"""Send, in another process, what a tracker missed while it was dead."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path

from tstune.errors import ConfigError, TrackingError
from tstune.runtime.logs import logger
from tstune.tracking.backlog import Backlog, Header, MissedCall
from tstune.tracking.build import tracker_class
from tstune.tracking.files import remove_empty
from tstune.tracking.interfaces import ExperimentTracker
from tstune.tracking.messages import first_line


def find_backlogs(places: Iterable[Path]) -> list[Path]:
    """Backlog files, and those anywhere below folders, the oldest run first.

    Raises:
        TrackingError: a place holds none.
    """
    found: list[Path] = []
    for place in places:
        files = sorted(place.rglob("*.jsonl"), key=lambda file: (file.parent.name, file.name))
        if not place.exists() or (place.is_dir() and not files):
            raise TrackingError(f"no backlog in {place}; they lie in <tracking.folder>/backlog")
        found += files if place.is_dir() else [place]
    return found


def replay_backlog(path: Path) -> int:
    """Go on with the run a backlog belongs to, send every call, end the run and remove the file.

    A run that was killed before it could say how it ended is ended as KILLED.

    Returns:
        number of calls that were sent.

    Raises:
        TrackingError: not a backlog, its run is still going on, or the tracker does not take it; what went
            through is not in the file any more.
    """
    backlog = Backlog.read(path)
    if backlog.header.writer_lives():
        raise TrackingError(
            f"{path}: its run is still going on (process {backlog.header.process}) and sends this itself; "
            "wait for its end"
        )
    tracker, waiting, skipped, ended = restore_tracker(backlog.header), len(backlog), [], []

    def send(call: MissedCall) -> None:
        getattr(tracker, call.method)(**call.arguments())
        if call.method == "end_experiment":
            ended.append(call)

    def skip(call: MissedCall, reason: str) -> None:
        skipped.append(call)
        logger.warning("%s: %s left out: %s", path, call.method, reason)

    try:
        tracker.start_experiment(backlog.header.experiment, backlog.header.config, backlog.header.run_id)
        backlog.replay(send, skip)
        if not ended:
            tracker.end_experiment("KILLED")
    except TrackingError:
        raise
    except Exception as error:
        raise TrackingError(
            f"{path}: tracker {tracker.name} does not take it ({first_line(error)}); {len(backlog)} calls are left, "
            "try again when it answers"
        ) from error
    _tidy(path, backlog.header)
    return waiting - len(skipped)


def restore_tracker(header: Header) -> ExperimentTracker:
    """The tracker a backlog was written for.

    Raises:
        TrackingError: its class is not there, or cannot be built from its settings.
    """
    try:
        return tracker_class(header.tracker)(**header.settings)
    except (ConfigError, TypeError) as error:
        raise TrackingError(
            f"tracker {header.tracker} cannot be built again: {error}; its class must be importable, and its "
            "settings() must return the keywords of its constructor"
        ) from None


def _tidy(path: Path, header: Header) -> None:
    """Remove the pictures that were kept with a backlog, and its folders, where nothing waits for them any more."""
    folder = path.parent
    if folder.name == header.run_id and not any(folder.glob("*.jsonl")):
        if (folder / "figures").is_dir():
            shutil.rmtree(folder / "figures")
        remove_empty(folder, folder.parent)
