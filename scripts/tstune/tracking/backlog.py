"""What a dead tracker missed: kept on disk call by call, and sent when it answers again, here or later."""

from __future__ import annotations

import json
import os
import shutil
import socket
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import psutil

from tstune.errors import ConfigError, TrackingError
from tstune.runtime.logs import logger
from tstune.tracking.interfaces import (
    MODEL_FILES,
    ExperimentTracker,
    State,
    first_line,
    remove_empty,
    state_of,
    tracker_class,
)

_PATHS = ("model_path", "path", "figure")


@dataclass(frozen=True)
class Header:
    """First line of a backlog: whose calls follow, and all it takes to send them from another process.

    Attributes:
        tracker: class, as ``package.module:Class``.
        settings: keywords of its constructor.
        experiment, run_id, config: what `start_experiment` needs to begin the run or go on with it.
        host, process, process_started: who writes the file.
    """

    tracker: str
    settings: dict[str, object]
    experiment: str
    run_id: str
    config: dict
    host: str = field(default_factory=socket.gethostname)
    process: int = field(default_factory=os.getpid)
    process_started: float = field(default_factory=lambda: psutil.Process().create_time())

    def writer_lives(self) -> bool:
        """True if another process of this machine is still writing."""
        if self.host != socket.gethostname() or self.process == os.getpid():
            return False
        try:
            return abs(psutil.Process(self.process).create_time() - self.process_started) < 1
        except psutil.Error:
            return False


@dataclass(frozen=True)
class MissedCall:
    """A ``log_…`` or `end_experiment` call that did not get through.

    Attributes:
        method: name of the method of `ExperimentTracker`.
        keywords: JSON values; paths are absolute, as text.
        files: state of the file or folder it names, to notice that something else lies there now.
    """

    method: str
    keywords: dict[str, object]
    files: State | None = None

    @classmethod
    def of(cls, method: str, keywords: Mapping[str, object]) -> MissedCall:
        """Describe a call in a way that outlives this process."""
        kept = {name: str(value.resolve()) if isinstance(value, Path) else value for name, value in keywords.items()}
        paths = [value for value in keywords.values() if isinstance(value, Path)]
        return cls(method, kept, _state(method, paths[0]) if paths else None)

    def arguments(self) -> dict[str, object]:
        """Keywords as the method takes them."""
        return {name: Path(value) if name in self._paths else value for name, value in self.keywords.items()}

    def lost_file(self) -> str | None:
        """The file or folder it names, if that is not there any more as it was."""
        for name in self._paths:
            path = Path(str(self.keywords[name]))
            now = _state(self.method, path) or {}
            if self.files is None or any(now.get(file) != state for file, state in self.files.items()):
                return str(path)
        return None

    @property
    def _paths(self) -> list[str]:
        return [name for name in _PATHS if isinstance(self.keywords.get(name), str)]


class Backlog:
    """A JSONL file of calls, in order, below a header. It exists as long as something is waiting."""

    def __init__(self, path: Path, header: Header) -> None:
        self.path, self.header = path, header
        self._on_disk = 0
        self._in_memory: list[MissedCall] = []  # later than those on disk, which was full

    @classmethod
    def read(cls, path: Path) -> Backlog:
        """The backlog a run left behind.

        Raises:
            TrackingError: not a backlog.
        """
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
            backlog = cls(path, Header(**json.loads(lines[0])))
            backlog._on_disk = sum(1 for _ in backlog._calls())
        except FileNotFoundError:
            raise TrackingError(f"backlog {path} does not exist") from None
        except (OSError, ValueError, TypeError, IndexError, AttributeError) as error:
            raise TrackingError(f"{path} is not a backlog of a tracker: {first_line(error)}") from None
        return backlog

    def __len__(self) -> int:
        return self._on_disk + len(self._in_memory)

    def __iter__(self) -> Iterator[MissedCall]:
        return self._calls()

    def take_over(self, earlier: Backlog) -> None:
        """Go on with what an earlier process could not send for the same run; begin and end are this one's to say."""
        self._rewrite([call for call in earlier if call.method.startswith("log_")])

    def create(self) -> None:
        """Write the header if there is no file yet.

        Raises:
            OSError: the disk refuses it.
        """
        if not self.path.exists():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.write_text(_line(asdict(self.header)), encoding="utf-8")

    def add(self, method: str, keywords: Mapping[str, object]) -> None:
        """Append a call; it is on disk when this returns.

        Raises:
            OSError: the disk refuses it; it is kept in memory.
        """
        call = MissedCall.of(method, keywords)
        if self._in_memory:
            self._in_memory.append(call)
            return
        try:
            self.create()
            with self.path.open("a", encoding="utf-8") as stream:
                stream.write(_line(asdict(call)))
        except OSError:
            self._in_memory.append(call)
            raise
        self._on_disk += 1

    def replay(self, send: Callable[[MissedCall], object], skip: Callable[[MissedCall, str], object]) -> None:
        """Send every waiting call in order; what went through is not sent again, whatever happens after it.

        A call that can never succeed is handed to `skip` with the reason, so that it does not hold up the rest:
        its file is gone, the tracker refuses it (`TrackingError`), or it fails again while the call after it
        goes through.

        Raises:
            Exception: what the tracker raised; it is still away.
        """
        calls, before, through = self._calls(), len(self), 0
        current: MissedCall | None = None
        suspect: tuple[MissedCall, Exception] | None = None
        try:
            for current in calls:
                try:
                    if lost := current.lost_file():
                        skip(current, f"{lost} is gone or changed")
                    else:
                        send(current)
                        if suspect is not None:  # it was not the tracker that failed, it was that call
                            current, suspect = suspect[0], None
                            through += 1
                            _send_or_skip(current, send, skip)
                except Exception as error:
                    if not current.method.startswith("log_"):
                        raise
                    if isinstance(error, TrackingError):
                        skip(current, first_line(error))
                    elif suspect is None and not isinstance(error, OSError):
                        suspect, current = (current, error), None
                        continue
                    else:
                        raise
                current = None
                through += 1
            if suspect is not None:
                raise suspect[1]
        finally:
            if through or not before:
                self._rewrite([*([suspect[0]] if suspect else []), *([current] if current else []), *calls])

    def _calls(self) -> Iterator[MissedCall]:
        if self.path.exists():
            with self.path.open(encoding="utf-8") as stream:
                stream.readline()
                for line in stream:
                    if line.endswith("\n"):  # else its writer was killed in the middle of it
                        yield MissedCall(**json.loads(line))
        yield from list(self._in_memory)

    def _rewrite(self, calls: list[MissedCall]) -> None:
        self._on_disk, self._in_memory = 0, []
        if not calls:
            self.path.unlink(missing_ok=True)
            return
        aside = self.path.with_name(f".{self.path.name}.partial")
        try:
            with aside.open("w", encoding="utf-8") as stream:
                stream.writelines(_line(asdict(part)) for part in (self.header, *calls))
            aside.replace(self.path)
        except OSError:  # a disk that is full takes no copy, but lets go of what it has
            aside.unlink(missing_ok=True)
            self.path.unlink(missing_ok=True)
            self._in_memory = calls
            raise
        self._on_disk = len(calls)


def _send_or_skip(
    call: MissedCall, send: Callable[[MissedCall], object], skip: Callable[[MissedCall, str], object]
) -> None:
    try:
        send(call)
    except OSError:
        raise
    except Exception as error:
        skip(call, first_line(error))


def _state(method: str, path: Path) -> State | None:
    return state_of(path, MODEL_FILES if method == "log_model" else ())


def _line(values: Mapping[str, object]) -> str:
    return json.dumps(values, default=str) + "\n"


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
