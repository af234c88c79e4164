"""A run's life: who owns its output_dir, which states are on disk, and what a restart still has to do.

States, each on disk before the next begins::

    begun → trained → judged → committed → tracked → registered

While a run lives, everything of it lies in ``<output_dir>.checkpoints``: `lock` (who owns it), `state.json`, the
checkpoints ``step-…``, and `folder`, the run folder to be. `output_dir` appears whole, by one rename, at *committed*;
what is left beside it goes away once the run is registered. So one rule serves every start: a run that died is gone
on with from the last state on disk, and nothing is done twice.
"""

from __future__ import annotations

import fcntl
import itertools
import json
import os
import shutil
import socket
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, get_args

import psutil
from pydantic import TypeAdapter

from tstune.config.names import dotted
from tstune.config.schema import RunConfig
from tstune.errors import ConfigError, Interrupted, OutputError, Preempted, TstuneError
from tstune.foreign_files import damage, read_object
from tstune.runs.folder import (
    CHECKPOINTS,
    CONFIG,
    RunFolder,
    make_parents,
    named,
    put_in_place,
    recover_replaced,
    refuse_to_clobber,
    remove_empty_parents,
    writing,
)
from tstune.runtime.children import is_alive
from tstune.runtime.distributed import DistributedManager
from tstune.runtime.files import aside, sync
from tstune.runtime.logs import logger
from tstune.runtime.signals import StopSignal
from tstune.training.checkpoint import Checkpoints, CheckpointStore

State = Literal["begun", "trained", "judged", "committed", "tracked", "registered"]
_ORDER: tuple[State, ...] = get_args(State)

_LOCK, _STATE, _FOLDER, _REPLACED = "lock", "state.json", "folder", "replaced"
_HEARTBEAT_SECONDS = 10.0
_SILENCE_SECONDS = 45.0
"""A lock of another machine that is not touched for so long, as seen from here, is a dead one's."""

_MAY_MOVE = (
    "output_dir",
    "overwrite",
    "tracking.",
    "distributed.",
    "data.cache",
    "training.checkpoint_every_steps",
    "training.checkpoint_every_minutes",
    "training.keep_checkpoints",
    "training.resume_from_checkpoint",
    "training.auto_batch_size",
    "training.num_workers",
    "training.log_every_steps",
    "training.precision_fallback",
)
"""Settings (or sections) that do not change what comes out: they may differ when a run goes on."""
_COMPARED_THEMSELVES = ("data.path", "model.pretrained")
"""Places that may move between two starts: the readings and the weights found there are compared instead."""
_JUDGING_ONLY = (
    "evaluation.horizons",
    "evaluation.seasonality",
    "evaluation.baselines",
    "evaluation.metrics",
    "evaluation.num_plots",
    "evaluation.report",
    "forecast.",
)
"""Settings that training does not see: a checkpoint is gone on from whatever they are."""


class Run:
    """Context manager: this process owns `output_dir` inside, and leaves it as the rules say, however it ends.

    `overwrite` replaces a run folder, or forgets an unfinished run. `resume` is ``auto``, the path of a checkpoint, or
    None. `inputs` are what the run reads, by key: none may lie in a folder that is replaced. What ends it early
    (`OutputError`, `Preempted`, `Interrupted`) says what is on disk, or who owns the folder.

    Attributes:
        state: the last state on disk, the same on every rank.
        folder: the run folder, to write into until *committed*; None where nothing is to be written.
        store_folder: where checkpoints lie; None without an output_dir.
        run_id: of the trackers, from the first start on.
        version: of the model registry, once registered.
        stop: SIGTERM, as the training loop looks at it.
    """

    def __init__(
        self,
        config: RunConfig,
        output_dir: str | Path | None,
        overwrite: bool,
        resume: str | None,
        manager: DistributedManager,
        inputs: Mapping[str, str | None] | None = None,
    ) -> None:
        if output_dir is None and resume == "auto":
            raise ConfigError("training.resume_from_checkpoint=auto needs an output_dir, the checkpoints lie beside it")
        self.config, self.manager, self.resume = config, manager, resume
        self.final = None if output_dir is None else Path(output_dir)
        self.store_folder = None if output_dir is None else unfinished(self.final)
        self.folder: RunFolder | None = None
        self.stop = StopSignal()
        self._overwrite, self._inputs = overwrite, inputs or {}
        self._owns = self.final is not None and manager.is_main
        self._note = _Note()
        self._lock: _Lock | None = None
        self._parents: list[Path] = []

    @property
    def state(self) -> State:
        """The last state on disk."""
        return self._note.state

    @property
    def run_id(self) -> str | None:
        """Of the trackers."""
        return self._note.run_id

    @property
    def version(self) -> str | None:
        """Of the model registry."""
        return self._note.version

    def has(self, state: State) -> bool:
        """True if this state is on disk: what leads to it need not be done again."""
        return _ORDER.index(self._note.state) >= _ORDER.index(state)

    def __enter__(self) -> Run:
        self.stop.__enter__()
        try:
            if self._owns:
                self._open()
            if self.final is not None:
                self._note = _Note(**self.manager.from_main(asdict(self._note)))
        except BaseException as error:
            self.__exit__(type(error), error, None)
            raise
        return self

    def __exit__(self, error_type: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        with self.stop.uninterrupted():
            done = error is None
            left = self._close(done or isinstance(error, Exception), done)
        self.stop.__exit__()
        if isinstance(error, Preempted):
            raise Preempted(left) from None
        if isinstance(error, KeyboardInterrupt):
            raise Interrupted(left) from None

    def advance(self, state: State, **noted: object) -> None:
        """Note that a state is reached, and with it `run_id` or `version`; it is on disk when this returns."""
        self._note = _Note(**(asdict(self._note) | noted | {"state": state}))
        if self._lock is not None:
            self._note.write(self.store_folder)

    def note(self, **noted: object) -> None:
        """Note something without a new state."""
        self.advance(self.state, **noted)

    def checkpoints(self, readings: str) -> Checkpoints | None:
        """How the loop writes checkpoints and goes on from one of the same readings; None without an output_dir."""
        if self.store_folder is None:
            return None
        training = self.config.training
        return Checkpoints(
            CheckpointStore(self.store_folder, training.keep_checkpoints, self.manager),
            training.checkpoint_every_steps,
            training.checkpoint_every_minutes,
            self.resume,
            training_identity(self.config) | {"readings": readings},
            self.stop,
        )

    def commit(self) -> None:
        """Put the finished run folder in its place, in one rename; the checkpoints of the run go into it."""
        if self.folder is not None and not self.has("committed"):
            refuse_to_clobber(self.final, self._overwrite, self._inputs)
            with self.stop.uninterrupted():
                put_in_place(self.store_folder / _FOLDER, self.final, self.store_folder / _REPLACED)
                self.advance("committed")
                self._keep_checkpoints()
            self.folder = RunFolder(self.final)
        else:
            self.advance("committed")
        self.stop.check()

    # How it begins and ends, on the main process

    def _open(self) -> None:
        place = self.store_folder
        with writing(self.final, "output_dir"):
            is_no_folder = self.final.is_symlink() or self.final.is_file()
        if is_no_folder:
            refuse_to_clobber(self.final, self._overwrite, self._inputs)
        self._parents = make_parents(self.final)
        with writing(self.final, "output_dir"):
            place.mkdir(exist_ok=True)
            self._lock = _Lock.take(place / _LOCK, self.final)
            recover_replaced(self.final, place / _REPLACED)
        self._note = _Note.read(place)
        if self.state == "judged" and not (place / _FOLDER).is_dir() and self.final.is_dir():
            self.advance("committed")  # killed between the rename and its note: the disk knows
        for partial in place.glob(".step-*.partial"):
            shutil.rmtree(partial)
        if self.resume is None:
            self._begin_anew()
        elif self.has("committed") and self.final.is_dir() and is_same_run(self.config, RunFolder(self.final).config):
            self._keep_checkpoints()  # killed between the rename and this
            self.folder = RunFolder(self.final)
            return
        elif not _whole_checkpoints(place) and not self.has("judged") and is_finished(self.config, self.final):
            self._note = _Note(state="registered")
            self.folder = RunFolder(self.final)
            return
        if self.has("committed") or (self.has("judged") and not self._is_judged_alike()):
            self._note = _Note(run_id=self._note.run_id)
        if not self.has("judged"):
            refuse_to_clobber(self.final, self._overwrite, self._inputs)
            shutil.rmtree(place / _FOLDER, ignore_errors=True)
            with writing(self.final, "output_dir"):
                (place / _FOLDER).mkdir()
        self.folder = RunFolder(place / _FOLDER)
        self._note.write(place)

    def _begin_anew(self) -> None:
        """Without `resume`: an unfinished run is not mixed in by accident."""
        place = self.store_folder
        if not self._overwrite:
            auto = "set training.resume_from_checkpoint=auto to go on, or overwrite=true to begin anew"
            if self.has("committed") and self.final.is_dir():
                raise OutputError(f"{self.final} is complete but not yet tracked or registered: {auto}")
            if _whole_checkpoints(place) or self.has("judged"):
                raise OutputError(f"{place} holds checkpoints of an unfinished run: {auto}")
        for path in place.iterdir():
            if path.name != _LOCK:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        self._note = _Note()

    def _is_judged_alike(self) -> bool:
        """True if the folder that waits for its rename was judged as this start would judge it."""
        folder = RunFolder(self.store_folder / _FOLDER)
        try:
            return folder.has(CONFIG) and is_same_run(self.config, folder.config)
        except TstuneError:
            return False

    def _keep_checkpoints(self) -> None:
        training, place = self.config.training, self.store_folder
        whole = _whole_checkpoints(place)
        if not (training.checkpoint_every_steps or training.checkpoint_every_minutes):
            for path in whole:  # of the finished training, for a restart that did not come
                shutil.rmtree(path)
        elif whole:
            with writing(self.final, "output_dir"):
                kept = self.final / CHECKPOINTS
                kept.mkdir(exist_ok=True)
                for path in whole:
                    path.rename(kept / path.name)

    def _close(self, may_clear: bool, done: bool) -> str:
        """Leave what is worth going on with, and nothing else; returns what that is, in words."""
        place, auto = self.store_folder, "start the same command with training.resume_from_checkpoint=auto"
        if self._lock is None:
            if self._owns:
                remove_empty_parents(self._parents)
            return f"nothing is lost; {auto}" if self.final is not None else "nothing was written"
        whole = _whole_checkpoints(place)
        recover_replaced(self.final, place / _REPLACED)
        if not self.has("judged"):
            shutil.rmtree(place / _FOLDER, ignore_errors=True)
        for partial in place.glob(".step-*.partial"):
            shutil.rmtree(partial, ignore_errors=True)
        if self.has("committed") and not done:
            left = f"{self.final} is complete; {auto} to track and register it"
        elif self.has("judged") and not done:
            left = f"the finished run is in {place}; {auto}"
        elif whole and not done:
            left = f"checkpoint of step {int(whole[-1].name.removeprefix('step-'))} is in {place}; {auto}"
        else:
            left = "nothing was written; the same command begins anew"
            if may_clear or self._note.run_id is None:
                shutil.rmtree(place, ignore_errors=True)
        self._lock.release()
        remove_empty_parents(self._parents)
        return left


def unfinished(output_dir: str | Path) -> Path:
    """Where a run with this output_dir keeps what it has until it is done."""
    return Path(f"{output_dir}.checkpoints")


def noted_run_id(output_dir: str | Path) -> str | None:
    """Id in the trackers of a run that is not done; None where there is none."""
    try:
        return _Note.read(unfinished(output_dir)).run_id
    except TstuneError:
        return None


def training_identity(config: RunConfig) -> dict[str, object]:
    """Settings that make a training what it is: a checkpoint is gone on from with the same ones only."""
    free = (*_MAY_MOVE, *_COMPARED_THEMSELVES, *_JUDGING_ONLY)
    identity = {name: value for name, value in dotted(config.model_dump(mode="json")) if not _among(name, free)}
    if config.forecast.quantiles:  # part of validation is set apart, and the loss of a quantile head needs the levels
        by_head = config.forecast.method == "quantile_head"
        identity["forecast.quantiles"] = config.forecast.quantiles if by_head else True
    return identity


def is_same_run(config: RunConfig, other: RunConfig) -> bool:
    """True if both configurations give the same run folder: what one leaves open, it became in the other."""
    one, two = (
        {name: value for name, value in dotted(found.model_dump(mode="json")) if not _among(name, _MAY_MOVE)}
        for found in (config.settled(other.setting), other)
    )
    return one == two


def is_finished(config: RunConfig, output_dir: str | Path | None = None) -> bool:
    """True if the run of this configuration is done: its folder is there, whole, and of the same settings."""
    folder = RunFolder(output_dir or config.output_dir)
    return folder.has(CONFIG) and is_same_run(config, folder.config)


def own_folder(config: RunConfig, taken: Iterable[Path] = ()) -> str:
    """`output_dir`, or the first of ``output_dir-2``, ``-3``, … that holds no finished run and nothing of `taken`.

    A run that overwrites another or goes on stays where it was put.
    """
    first = Path(config.output_dir)
    if config.overwrite or config.training.resume_from_checkpoint is not None:
        return config.output_dir
    others = [path.resolve() for path in taken]
    places = itertools.chain([first], (first.with_name(f"{first.name}-{number}") for number in itertools.count(2)))
    return str(
        next(
            place
            for place in places
            if not (place / CONFIG).is_file() and not any(other.is_relative_to(place.resolve()) for other in others)
        )
    )


def _among(name: str, keys: tuple[str, ...]) -> bool:
    return any(name == key or (key.endswith(".") and name.startswith(key)) for key in keys)


def _whole_checkpoints(place: Path) -> list[Path]:
    return sorted(place.glob("step-*"))


@dataclass(frozen=True)
class _Note:
    """What `state.json` says."""

    state: State = "begun"  # the last one reached
    run_id: str | None = None  # of the trackers
    version: str | None = None  # of the registry

    @classmethod
    def read(cls, place: Path) -> _Note:
        path = place / _STATE
        with damage(path, OutputError, "is damaged, set overwrite=true to begin anew"):
            return TypeAdapter(cls).validate_python(read_object(path, OutputError)) if path.exists() else cls()

    def write(self, place: Path) -> None:
        with aside(place / _STATE) as path:
            path.write_text(json.dumps(asdict(self)), encoding="utf-8")
            sync(path)


class _Lock:
    """Owns a file that says who owns the folder: host, process and when that process began.

    On one machine a dead owner is told from a live one at once. On another machine only the file's time of change tells
    (the owner touches it every few seconds): it is watched from here, so clocks need not agree, but the file system
    must show changes of other machines within `_SILENCE_SECONDS` (NFS with default caching does).
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._released = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="run lock", daemon=True)
        self._thread.start()

    @classmethod
    def take(cls, path: Path, final: Path, key: str = "output_dir") -> _Lock:
        """Take the lock, or say who has it (`OutputError`: a live process has it)."""
        with _exclusive(path) as stream:
            owner = _read_owner(stream)
            if owner is not None and _is_alive(owner, path):
                raise OutputError(
                    f"{named(key, final)} belongs to a run that is going on (process {owner.get('pid')} on "
                    f"{owner.get('host')}); wait for it, or choose another {key}"
                )
            stream.seek(0)
            stream.truncate()
            began = psutil.Process().create_time()
            try:
                json.dump({"host": socket.gethostname(), "pid": os.getpid(), "began": began}, stream)
                stream.flush()
                os.fsync(stream.fileno())
            except OSError:
                _remove_lock(path)
                raise
        return cls(path)

    def release(self) -> None:
        """Give the folder up; it goes away if the lock is all it holds."""
        self._released.set()
        self._thread.join()
        _remove_lock(self._path)

    def _beat(self) -> None:
        while not self._released.wait(_HEARTBEAT_SECONDS):
            try:
                os.utime(self._path)
            except OSError as error:
                logger.debug("%s cannot be touched: %s", self._path, error)


@contextmanager
def owning(folder: Path, key: str) -> Iterator[None]:
    """Own a folder, which `key` names, as a run owns its own; it is made, and goes if nothing was put there."""
    parents = make_parents(folder, key)
    try:
        with writing(folder, key):
            lock = _Lock.take(folder / _LOCK, folder, key)
        try:
            for partial in folder.glob(".*.partial"):  # of a process that was killed
                partial.unlink()
            yield
        finally:
            lock.release()
    finally:
        remove_empty_parents(parents)


def _remove_lock(path: Path) -> None:
    path.unlink(missing_ok=True)
    place = path.parent
    if place.is_dir() and not any(place.iterdir()):
        place.rmdir()


@contextmanager
def _exclusive(path: Path) -> Iterator[object]:
    """The lock file, open, while no other process of this machine reads or writes it."""
    while True:
        path.parent.mkdir(exist_ok=True)
        try:
            stream = path.open("a+", encoding="utf-8")
        except FileNotFoundError:  # its owner took the folder away just now
            continue
        with stream:
            fcntl.flock(stream, fcntl.LOCK_EX)
            try:
                is_the_same = os.path.samestat(os.fstat(stream.fileno()), path.stat())
            except FileNotFoundError:
                continue
            if is_the_same:
                yield stream
                return


def _read_owner(stream: object) -> dict | None:
    stream.seek(0)
    try:
        owner = json.loads(stream.read())
    except ValueError:
        return None
    return owner if isinstance(owner, dict) else None


def _is_alive(owner: dict, path: Path) -> bool:
    if owner.get("host") != socket.gethostname():
        before, until = path.stat().st_mtime_ns, time.monotonic() + _SILENCE_SECONDS
        logger.info("%s is of another machine (%s): watching whether it is alive", path, owner.get("host"))
        while time.monotonic() < until:
            time.sleep(1.0)
            if not path.exists() or path.stat().st_mtime_ns != before:
                return path.exists()
        return False
    try:
        return is_alive(owner["pid"], owner["began"])
    except (KeyError, TypeError, ValueError):
        return False
