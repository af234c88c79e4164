"""What a dead tracker missed: kept on disk call by call, and sent when it answers again, here or later."""

from __future__ import annotations

import json
import os
import shutil
import socket
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated

import psutil
from pydantic import Field, TypeAdapter

from tstune.errors import ConfigError, TrackingError
from tstune.foreign_files import damage, read_rows
from tstune.named_code import foreign
from tstune.runtime.children import is_alive
from tstune.runtime.logs import logger
from tstune.tracking.interfaces import MODEL_FILES, ExperimentTracker, call, first_line, tracker_class

_PATHS = ("model_path", "path", "figure")


@dataclass(frozen=True)
class Header:
    """First line of a backlog: whose calls follow, and all it takes to send them from another process."""

    tracker: str  # class, as ``package.module:Class``
    settings: dict[str, object]  # keywords of its constructor
    # what `start_experiment` needs to begin the run or go on with it
    experiment: str
    run_id: str
    config: dict
    # who writes the file
    host: str = field(default_factory=socket.gethostname)
    process: int = field(default_factory=os.getpid)
    process_started: float = field(default_factory=lambda: psutil.Process().create_time())

    def begin(self, tracker: ExperimentTracker) -> object:
        """Begin the run in a tracker, or go on with it; returns the id that the tracker gives it."""
        return call(tracker.start_experiment, self.experiment, self.config, run_id=self.run_id)

    def writer_lives(self) -> bool:
        """True if another process of this machine is still writing."""
        is_other = self.host == socket.gethostname() and self.process != os.getpid()
        return is_other and is_alive(self.process, self.process_started)


@dataclass(frozen=True)
class MissedCall:
    """A ``log_…`` or `end_experiment` call that did not get through."""

    # name of the method of `ExperimentTracker`: no other is called, whatever a file says
    method: Annotated[str, Field(pattern=r"^(log_\w+|end_experiment)$")]
    keywords: dict[str, object]  # JSON values; paths are absolute, as text
    # path -> size and time of change of the file, or of the files in the folder, that it names: to notice that
    # something else lies there now
    files: dict[str, list[int]] | None = None

    @classmethod
    def of(cls, method: str, keywords: Mapping[str, object]) -> MissedCall:
        """Describe a call in a way that outlives this process."""
        kept = {name: str(value.resolve()) if isinstance(value, Path) else value for name, value in keywords.items()}
        paths = [value for value in keywords.values() if isinstance(value, Path)]
        return cls(method, kept, _state(method, paths[0]) if paths else None)

    @property
    def logs(self) -> bool:
        """True if the run can do without it."""
        return self.method.startswith("log_")

    def send(self, tracker: ExperimentTracker) -> None:
        """Make the call."""
        paths = {name: Path(str(self.keywords[name])) for name in self._paths}
        call(getattr(tracker, self.method), **self.keywords | paths)

    def lost_file(self) -> str | None:
        """The file or folder it names, if that is not there any more as it was."""
        for name in self._paths:
            path = Path(str(self.keywords[name]))
            now = _state(self.method, path) or {}
            if not self.files or any(now.get(file) != state for file, state in self.files.items()):
                return str(path)
        return None

    @property
    def _paths(self) -> list[str]:
        return [name for name in _PATHS if isinstance(self.keywords.get(name), str)]


class Backlog:
    """A JSONL file of calls, in order, below a header. It exists as long as something is waiting, `calls`.

    A disk that refuses it is a warning, and no reason to stop: what waits is in memory too.
    """

    def __init__(self, path: Path, header: Header) -> None:
        self.path, self.header = path, header
        self.calls: deque[MissedCall] = deque()
        self._num_written: int | None = None  # the first so many; None without a file
        self._is_refused = False

    @classmethod
    def read(cls, path: Path) -> Backlog:
        """The backlog a run left behind (`TrackingError`: not a backlog)."""
        with damage(path, TrackingError, "is not a backlog of a tracker"):
            header, *calls = read_rows(path, TrackingError, torn=True)
            backlog = cls(path, TypeAdapter(Header).validate_python(header))
            backlog.calls.extend(map(TypeAdapter(MissedCall).validate_python, calls))
        backlog._num_written = len(backlog.calls)
        return backlog

    def take_over(self) -> None:
        """Go on with what an earlier process could not send for the same run; begin and end are this one's to say."""
        try:
            self.calls.extend(missed for missed in Backlog.read(self.path).calls if missed.logs)
        except TrackingError as error:
            damaged = self.path.replace(self.path.with_suffix(".damaged"))
            logger.warning("%s; renamed to %s", first_line(error), damaged.name)
        self.write()

    def add(self, missed: MissedCall) -> None:
        """Append a call; it is on disk when this returns."""
        self.calls.append(missed)
        if self._num_written is None and not self._is_refused:
            self.write()
        elif self._num_written == len(self.calls) - 1:
            with self._writing(), self.path.open("a", encoding="utf-8") as stream:
                stream.write(_line(missed))
                self._num_written += 1

    def replay(self, tracker: ExperimentTracker, skip: Callable[[MissedCall, str], object]) -> list[str]:
        """Send every waiting call in order, and return their methods; what went through is not sent again.

        A call that can never succeed is handed to `skip` with the reason, so that it does not hold up the rest: its
        file is gone, the tracker refuses it (`TrackingError`), or it fails again while the call after it goes through.
        What a tracker raises that is still away comes out.
        """
        before, calls, sent = len(self.calls), self.calls, []
        suspect: MissedCall | None = None
        is_there = False  # something went through since the suspect failed
        try:
            while calls:
                missed = calls[0]
                try:
                    if lost := missed.lost_file():
                        skip(missed, f"{lost} is gone or changed")
                    else:
                        missed.send(tracker)
                        sent.append(missed.method)
                        is_there = True
                except Exception as error:
                    if not missed.logs or isinstance(error, OSError):
                        raise
                    if isinstance(error, TrackingError) or (missed is suspect and is_there):
                        skip(missed, first_line(error))
                    elif suspect is None and len(calls) > 1:
                        suspect, is_there = missed, False
                        calls[0], calls[1] = calls[1], missed  # is it this call, or the tracker?
                        continue
                    else:
                        raise
                calls.popleft()
                suspect = None if missed is suspect else suspect
        finally:
            if suspect is not None and len(calls) > 1 and calls[1] is suspect:
                calls[0], calls[1] = suspect, calls[0]
            if len(calls) < before or not before:
                self.write()
        return sent

    def write(self, keep: bool = False) -> None:
        """Write the header and all that waits; where nothing does, there is no file unless told to `keep` one."""
        aside = self.path.with_name(f".{self.path.name}.partial")
        with self._writing():
            self._num_written = None
            try:
                if not (self.calls or keep):
                    self.path.unlink(missing_ok=True)
                    return
                self.path.parent.mkdir(parents=True, exist_ok=True)
                with aside.open("w", encoding="utf-8") as stream:
                    stream.writelines(map(_line, (self.header, *self.calls)))
                aside.replace(self.path)
            except OSError:  # a disk that is full takes no copy, but lets go of what it has
                aside.unlink(missing_ok=True)
                self.path.unlink(missing_ok=True)
                raise
            self._num_written = len(self.calls)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if not self._is_refused:
                logger.warning("%s cannot be written (%s): kept in memory", self.path, first_line(error))
            self._is_refused = True
        else:
            self._is_refused = False


def _state(method: str, path: Path) -> dict[str, list[int]] | None:
    """State of a file or of all files in a folder, of those of a model for `log_model`; None if it is gone."""
    roots = [path / name for name in MODEL_FILES] if method == "log_model" else [path]
    files = [file for root in roots for file in ([root] if root.is_file() else sorted(root.rglob("*")))]
    try:
        found = {str(file.relative_to(path)): file.stat() for file in files if file.is_file()}
    except OSError:
        return None
    return {name: [stat.st_size, stat.st_mtime_ns] for name, stat in found.items()} or None


def _line(part: Header | MissedCall) -> str:
    return json.dumps(asdict(part), default=str) + "\n"


def find_backlogs(places: Iterable[Path]) -> list[Path]:
    """Backlog files, and those anywhere below folders, the oldest run first (`TrackingError`: a place holds none)."""
    found: list[Path] = []
    for place in places:
        files = sorted(place.rglob("*.jsonl"), key=lambda file: (file.parent.name, file.name))
        if not place.exists() or (place.is_dir() and not files):
            raise TrackingError(f"no backlog in {place}; they lie in <tracking.folder>/backlog")
        found += files if place.is_dir() else [place]
    return found


def replay_backlog(path: Path) -> int:
    """Go on with the run a backlog belongs to, send every call, end the run, remove the file; returns how many calls.

    A run that was killed before it could say how it ended is ended as KILLED. Where its run is still going on, or the
    tracker does not take it, that is a `TrackingError`, and what went through is not in the file any more.
    """
    backlog = Backlog.read(path)
    if backlog.header.writer_lives():
        raise TrackingError(
            f"{path}: its run is still going on (process {backlog.header.process}) and sends this itself; "
            "wait for its end"
        )
    foreign(backlog.header.tracker, path)
    tracker = restore_tracker(backlog.header)

    def skip(missed: MissedCall, reason: str) -> None:
        logger.warning("%s: %s left out: %s", path, missed.method, reason)

    try:
        backlog.header.begin(tracker)
        sent = backlog.replay(tracker, skip)
        if "end_experiment" not in sent:
            call(tracker.end_experiment, status="KILLED")
    except TrackingError:
        raise
    except Exception as error:
        raise TrackingError(
            f"{path}: tracker {tracker.name} does not take it ({first_line(error)}); {len(backlog.calls)} calls are "
            "left, try again when it answers"
        ) from error
    if path.parent.name == backlog.header.run_id and not any(path.parent.glob("*.jsonl")):
        tidy(path.parent, path.parents[1])
    return len(sent)


def tidy(run: Path, top: Path) -> None:
    """Remove the pictures that were kept for the backlogs of a run, and then its folders, up to `top`, if empty."""
    if (run / "figures").is_dir():
        shutil.rmtree(run / "figures")
    for place in (run, *run.parents):
        if not place.is_relative_to(top) or not place.is_dir() or any(place.iterdir()):
            break
        place.rmdir()


def restore_tracker(header: Header) -> ExperimentTracker:
    """The tracker a backlog was written for; a `TrackingError` if it cannot be built from its settings."""
    try:
        return tracker_class(header.tracker)(**header.settings)
    except (ConfigError, TypeError) as error:
        raise TrackingError(
            f"tracker {header.tracker} cannot be built again: {error}; its class must be importable, and its "
            "settings() must return the keywords of its constructor"
        ) from None
