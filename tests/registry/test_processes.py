"""Many processes at once, and processes that are killed: no version is lost, none is half there."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import pytest
from registry_runs import FILES, assert_intact, finish, refusal, start, stored, with_large_file, write_run
from support.forks import Fork

from tstune.errors import RegistryError
from tstune.registry import ModelRegistry


def test_processes_register_at_once(registry: ModelRegistry, tmp_path: Path) -> None:
    """Versions 1 to 5 are there, and each holds the run that was told so."""
    runs = [write_run(tmp_path / f"run{number}", weights=bytes([number]) * 100_000) for number in range(5)]
    processes = [start(registry.location, "register", run, "--name", "cgm") for run in runs]
    made = [finish(process).split()[0] for process in processes]
    assert sorted(made) == [f"cgm:{number}" for number in range(1, 6)]
    assert [version.version for version in registry.versions("cgm")] == list(range(1, 6))
    for run, reference in zip(runs, made, strict=True):
        copy = registry.download(reference, tmp_path / "copies" / reference.partition(":")[2])
        assert stored(copy) == stored(run)
    assert registry.clean().count == 0


@contextmanager
def registering(registry: ModelRegistry, run: Path) -> Iterator[Fork]:
    """A registration in a process of its own; killed at the end."""
    process = start(registry.location, "register", run, "--name", "cgm")
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def wait_until(happened: Callable[[], bool], process: Fork) -> None:
    """Look until something is so, while the process runs."""
    deadline = time.monotonic() + 600
    while not happened():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.002)


@contextmanager
def database(registry: ModelRegistry) -> Iterator[sqlite3.Connection]:
    """A connection of our own, which never waits."""
    with closing(sqlite3.connect(registry.root / "registry.db", timeout=0, isolation_level=None)) as connection:
        yield connection


def assert_nothing_half(registry: ModelRegistry, run: Path) -> None:
    """Only version 1 is there; the next registration works; what the killed one left is cleaned."""
    assert_intact(registry, "cgm", [1])
    assert registry.register(run, "cgm").version == 2
    registry.clean()
    assert_intact(registry, "cgm", [1, 2])
    wanted = {file.sha256 for version in registry.versions("cgm") for file in version.files}
    assert {path.name for path in (registry.root / "objects").glob("*/*")} == wanted
    assert list(registry.root.glob("incoming/*")) == []
    assert registry.clean().count == 0


@pytest.fixture
def first(registry: ModelRegistry, tmp_path: Path) -> ModelRegistry:
    """A registry with one version."""
    registry.register(write_run(tmp_path / "first"), "cgm")
    return registry


def test_killed_in_the_middle_of_a_file(first: ModelRegistry, tmp_path: Path) -> None:
    run = with_large_file(write_run(tmp_path / "run"), megabytes=400)

    def half_written() -> bool:
        with suppress(FileNotFoundError):  # a small file, which is in its place by now
            return any(path.stat().st_size > 10_000_000 for path in (first.root / "incoming").glob("*"))
        return False

    with registering(first, run) as process:
        wait_until(half_written, process)
        process.kill()
        process.wait()
    leftover = [path.stat().st_size for path in (first.root / "incoming").glob("*")]
    assert len(leftover) == 1
    assert leftover[0] < 400 << 20, "it was killed within the file"
    assert_nothing_half(first, write_run(tmp_path / "small"))


def test_killed_between_files_and_version(first: ModelRegistry, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", weights=b"other weights")
    number_before = len(list(first.root.glob("objects/*/*")))
    with database(first) as connection:
        connection.execute("BEGIN IMMEDIATE")  # the registration waits for us
        with registering(first, run) as process:
            wait_until(lambda: len(list(first.root.glob("objects/*/*"))) == number_before + 1, process)
            wait_until(lambda: not list(first.root.glob("incoming/*")), process)
            assert process.poll() is None
    assert first.clean().count == 1, "the other files are those of version 1"
    assert_nothing_half(first, run)


def test_killed_within_the_transaction(first: ModelRegistry, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", weights=b"other weights")
    number_before = len(list(first.root.glob("objects/*/*")))
    count = (
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1000000000) SELECT count(*) FROM n"
    )
    with database(first) as connection:
        connection.execute(
            f"CREATE TRIGGER slow AFTER INSERT ON files WHEN NEW.path = 'metrics.json' BEGIN {count}; END"
        )

        def is_locked() -> bool:
            try:
                connection.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError:
                return True
            connection.execute("ROLLBACK")
            return False

        with registering(first, run) as process:
            # with its files in place, the one transaction that is left is that of the version
            wait_until(lambda: len(list(first.root.glob("objects/*/*"))) == number_before + 1, process)
            wait_until(is_locked, process)
        connection.execute("DROP TRIGGER slow")
    assert_nothing_half(first, run)


def test_killed_at_any_moment(tmp_path: Path) -> None:
    """From the start of the process, when there is no registry yet, to its end, when there is a version."""
    run = write_run(tmp_path / "run")
    seconds, codes = 60.0, []  # the first one is let run to its end: that is how long it may take
    for moment in range(8):
        registry = ModelRegistry(tmp_path / f"registry{moment}")
        begin = time.monotonic()
        with registering(registry, run) as process:
            try:  # before a third of the time Python is still starting
                process.wait(seconds * (0.34 + 0.09 * moment) if moment else 600)
                seconds = time.monotonic() - begin
            except subprocess.TimeoutExpired:
                process.kill()
        codes.append(process.returncode)
        try:
            numbers = [version.version for version in registry.versions("cgm")]
        except RegistryError as error:
            refusal(error, "no registry in")
            numbers = []
        assert numbers in ([], [1])
        assert registry.register(run, "cgm").version == len(numbers) + 1
        registry.clean()
        assert_intact(registry, "cgm", list(range(1, len(numbers) + 2)))
    assert codes.count(-signal.SIGKILL) >= 3, "it was killed before it was done"


def test_clean_leaves_a_running_registration_alone(first: ModelRegistry, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", weights=b"other weights")
    number_before = len(list(first.root.glob("objects/*/*")))
    with database(first) as connection:
        connection.execute("BEGIN IMMEDIATE")
        process = start(first.location, "register", run, "--name", "cgm")
        wait_until(lambda: len(list(first.root.glob("objects/*/*"))) == number_before + 1, process)
        with pytest.raises(RegistryError) as caught:
            ModelRegistry(first.root, timeout=0.2).clean()
        refusal(caught.value, "busy with a registration")
    assert finish(process).startswith("cgm:2 registered")
    assert first.clean().count == 0
    assert_intact(first, "cgm", [1, 2])
    assert len(first.get("cgm:2").files) == len(FILES)


def test_processes_promote_at_once(registry: ModelRegistry, tmp_path: Path) -> None:
    for number in range(1, 6):
        registry.register(write_run(tmp_path / f"run{number}", rmse=10.0 - number), "cgm")
    registry.set_alias("cgm:1", "champion")
    options = ("--alias", "champion", "--metric", "test/fine_tuned/rmse")
    processes = [start(registry.location, "promote", f"cgm:{number}", *options) for number in range(2, 6)]
    for process in processes:
        _, err = process.communicate(timeout=600)
        assert process.returncode == 0 or "not better" in err or "has just moved" in err, err
    moves = [change.version for change in registry.alias_history("cgm", "champion")]
    assert moves == sorted(moves), "every move is to a better one than the one before"
    assert registry.aliases("cgm") == {"champion": moves[-1]}
