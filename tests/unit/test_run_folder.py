"""The run folder: there as a whole or not at all."""

from __future__ import annotations

import json
import os
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from support.tiny import snapshot

from tstune.errors import FolderError, OutputError
from tstune.runs.folder import NewFolder, RunFolder
from tstune.runtime.files import aside


def write(folder: Path, **options: object) -> None:
    """A whole run in miniature."""
    with NewFolder(folder, **options) as run:
        run.folder.write_json("metrics.json", {"rmse": 1.5})
        (run.folder.path / "model").mkdir()
        (run.folder.path / "model" / "weights.bin").write_bytes(b"\0" * 1000)
        run.commit()


WHOLE = {"metrics.json", "model", "model/weights.bin"}


def test_a_committed_folder_is_whole(tmp_path: Path):
    write(tmp_path / "run")
    assert set(snapshot(tmp_path / "run")) == WHOLE
    assert json.loads((tmp_path / "run" / "metrics.json").read_text()) == {"rmse": 1.5}
    assert os.listdir(tmp_path) == ["run"]


def test_nothing_stands_at_the_final_place_before_the_commit(tmp_path: Path):
    final = tmp_path / "run"
    with NewFolder(final) as run:
        run.folder.write_json("a.json", 1)
        assert not final.exists()
        assert run.folder.path.parent == tmp_path  # same file system: one rename puts it in place
        assert run.folder.path.name.startswith(".")
        inode = run.folder.path.stat().st_ino
        run.commit()
        assert final.stat().st_ino == inode  # renamed, not copied
        assert run.folder is None
    assert os.listdir(tmp_path) == ["run"]


def test_a_killed_run_leaves_nothing_at_the_final_place(tmp_path: Path):
    """SIGKILL in the middle: no clean-up runs, and still no half-written folder exists."""
    program = (
        "import os, signal, sys\n"
        "from tstune.runs.folder import NewFolder\n"
        "with NewFolder(sys.argv[1]) as run:\n"
        "    run.folder.write_json('a.json', 1)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    scripts = Path(__file__).resolve().parents[2] / "scripts"
    environment = os.environ | {"PYTHONPATH": str(scripts)}
    killed = subprocess.run([sys.executable, "-c", program, str(tmp_path / "run")], env=environment, check=False)
    assert killed.returncode == -9
    assert not (tmp_path / "run").exists()
    write(tmp_path / "run")  # and the next run is not in its way
    assert set(snapshot(tmp_path / "run")) == WHOLE


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_an_error_inside_removes_the_partial_folder_and_the_parents_it_made(tmp_path: Path, error: type):
    (tmp_path / "kept").mkdir()
    before = snapshot(tmp_path)

    def fail() -> None:
        with NewFolder(tmp_path / "kept" / "new" / "newer" / "run") as run:
            run.folder.write_json("a.json", 1)
            (run.folder.path / "sub").mkdir()
            assert len(snapshot(tmp_path)) == len(before) + 5
            raise error

    with pytest.raises(error):
        fail()
    assert snapshot(tmp_path) == before


def test_leaving_without_a_commit_leaves_nothing(tmp_path: Path):
    with NewFolder(tmp_path / "new" / "run") as run:
        run.folder.write_json("a.json", 1)
    assert os.listdir(tmp_path) == []


def test_a_parent_in_which_somebody_else_wrote_stays(tmp_path: Path):
    with NewFolder(tmp_path / "new" / "run") as run:
        (tmp_path / "new" / "other.txt").write_text("not ours")
        run.folder.write_json("a.json", 1)
    assert set(snapshot(tmp_path)) == {"new", "new/other.txt"}


def test_parents_stay_after_a_commit(tmp_path: Path):
    write(tmp_path / "a" / "b" / "run")
    assert set(snapshot(tmp_path / "a" / "b" / "run")) == WHOLE
    assert set(snapshot(tmp_path)) == {"a", "a/b", "a/b/run"} | {f"a/b/run/{name}" for name in WHOLE}


# A folder that is already there


@pytest.mark.parametrize(
    ("key", "said", "fix"),
    [
        ("output_dir", "output_dir=", "set overwrite=true or choose another output_dir"),
        ("--output", "--output ", "add --overwrite or choose another folder"),
    ],
)
def test_a_folder_with_files_is_refused_before_anything_is_done(tmp_path: Path, key: str, said: str, fix: str):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "precious.txt").write_text("x")
    before = snapshot(tmp_path)
    with pytest.raises(OutputError) as caught, NewFolder(tmp_path / "run", key=key):
        pytest.fail("the run has begun")
    assert str(caught.value) == f"{said}{tmp_path / 'run'} already holds files; {fix}"
    (tmp_path / "link").symlink_to("run")
    with pytest.raises(OutputError) as caught, NewFolder(tmp_path / "link", key=key):
        pytest.fail("the run has begun")
    assert str(caught.value) == f"{said}{tmp_path / 'link'} is a link; give the folder itself or another {key}"
    (tmp_path / "link").unlink()
    assert snapshot(tmp_path) == before


def test_overwrite_replaces_the_whole_folder(tmp_path: Path):
    (tmp_path / "run" / "deep").mkdir(parents=True)
    (tmp_path / "run" / "deep" / "old.txt").write_text("x")
    (tmp_path / "run" / "metrics.json").write_text("old")
    write(tmp_path / "run", overwrite=True)
    assert set(snapshot(tmp_path / "run")) == WHOLE
    assert json.loads((tmp_path / "run" / "metrics.json").read_text()) == {"rmse": 1.5}
    assert os.listdir(tmp_path) == ["run"]


def test_overwrite_keeps_the_old_folder_until_the_commit(tmp_path: Path):
    write(tmp_path / "run")
    before = snapshot(tmp_path)
    inside = snapshot(tmp_path / "run")
    with NewFolder(tmp_path / "run", overwrite=True) as run:
        run.folder.write_json("metrics.json", {"rmse": 9})
        assert snapshot(tmp_path / "run") == inside
    assert snapshot(tmp_path) == before


def test_overwrite_needs_nothing_to_be_there(tmp_path: Path):
    write(tmp_path / "run", overwrite=True)
    assert set(snapshot(tmp_path / "run")) == WHOLE


def test_an_empty_folder_is_taken(tmp_path: Path):
    (tmp_path / "run").mkdir()
    write(tmp_path / "run")
    assert set(snapshot(tmp_path / "run")) == WHOLE
    assert os.listdir(tmp_path) == ["run"]


def test_files_that_appeared_during_the_run_are_not_clobbered(tmp_path: Path):
    with NewFolder(tmp_path / "run") as run:
        (tmp_path / "run").mkdir()
        (tmp_path / "run" / "other.txt").write_text("of another process")
        with pytest.raises(OutputError, match="already holds files"):
            run.commit()
    assert set(snapshot(tmp_path)) == {"run", "run/other.txt"}


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_file_at_the_place_of_the_folder(tmp_path: Path, overwrite: bool):
    (tmp_path / "run").write_text("x")
    before = snapshot(tmp_path)
    with (
        pytest.raises(OutputError, match="run is a file; choose another output_dir"),
        NewFolder(tmp_path / "run", overwrite),
    ):
        pytest.fail("the run has begun")
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_link_to_a_folder_of_results(tmp_path: Path, overwrite: bool):
    """`runs/latest` is often a link: replace it or refuse it, but leave nothing behind and spare its target."""
    write(tmp_path / "first")
    (tmp_path / "latest").symlink_to(tmp_path / "first")
    target = snapshot(tmp_path / "first")
    try:
        write(tmp_path / "latest", overwrite=overwrite)
    except OutputError as error:
        assert "latest" in str(error)  # noqa: PT017  (refusing is right too)
    else:
        assert overwrite
    assert snapshot(tmp_path / "first") == target
    assert set(snapshot(tmp_path / "latest")) == WHOLE
    assert sorted(os.listdir(tmp_path)) == ["first", "latest"]


def test_a_link_that_leads_nowhere_is_refused_at_once(tmp_path: Path):
    (tmp_path / "latest").symlink_to(tmp_path / "gone")
    with pytest.raises(OutputError, match="latest"), NewFolder(tmp_path / "latest"):
        pytest.fail("the run has begun, and will be lost at its end")
    assert os.listdir(tmp_path) == ["latest"]


# A place that cannot be written


@pytest.mark.parametrize("below", ["run", "a/run", "a/b/run"])
def test_a_file_in_the_way_of_a_parent_folder(tmp_path: Path, below: str):
    (tmp_path / "file").write_text("x")
    before = snapshot(tmp_path)
    final = tmp_path / "file" / below
    with pytest.raises(OutputError) as caught, NewFolder(final):
        pytest.fail("the run has begun")
    assert (
        str(caught.value)
        == f"output_dir={final} cannot be written: {tmp_path}/file is a file; choose another output_dir"
    )
    assert snapshot(tmp_path) == before


def test_parents_made_before_the_failure_are_removed(tmp_path: Path):
    with (
        pytest.raises(OutputError, match="cannot be written: File name too long"),
        NewFolder(tmp_path / "a" / ("n" * 250)),
    ):
        pytest.fail("the run has begun")
    assert os.listdir(tmp_path) == []


def test_a_name_that_is_too_long(tmp_path: Path):
    with pytest.raises(OutputError, match="cannot be written: File name too long"), NewFolder(tmp_path / ("n" * 300)):
        pytest.fail("the run has begun")
    assert os.listdir(tmp_path) == []


def test_a_write_that_fails_during_the_run_is_one_line(tmp_path: Path):
    with (
        pytest.raises(OutputError, match="cannot be written: No such file or directory"),
        NewFolder(tmp_path / "new" / "run") as run,
    ):
        run.folder.write_json("no/such/folder/a.json", 1)
    assert os.listdir(tmp_path) == []


# Permissions, paths, ranks, content


@pytest.mark.parametrize("umask", [0o022, 0o027, 0o077])
def test_permissions_are_the_umasks(tmp_path: Path, umask: int):
    before = os.umask(umask)
    try:
        write(tmp_path / "parent" / "run")
    finally:
        os.umask(before)
    for folder in ("parent", "parent/run", "parent/run/model"):
        assert stat.S_IMODE((tmp_path / folder).stat().st_mode) == 0o777 & ~umask, folder
    for file in ("metrics.json", "model/weights.bin"):
        assert stat.S_IMODE((tmp_path / "parent" / "run" / file).stat().st_mode) == 0o666 & ~umask, file


def test_a_path_relative_to_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    write(Path("runs/one"))
    with NewFolder("two") as run:
        run.folder.write_json("a.json", 1)
        run.commit()
    assert set(snapshot(tmp_path / "runs" / "one")) == WHOLE
    assert sorted(os.listdir(tmp_path)) == ["runs", "two"]


@pytest.mark.parametrize("final", [".", ".."])
def test_the_current_folder_cannot_be_the_run_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, final: str):
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "precious.txt").write_text("x")
    before = snapshot(tmp_path)
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(OutputError):
        write(Path(final), overwrite=True)
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize("options", [{"output_dir": None}, {"is_main": False}], ids=["no folder", "another rank"])
def test_nothing_is_written_without_a_folder_or_on_another_rank(tmp_path: Path, options: dict):
    options = {"output_dir": tmp_path / "new" / "run"} | options
    with NewFolder(**options) as run:
        assert run.folder is None
        run.commit()
    assert os.listdir(tmp_path) == []


def test_another_rank_does_not_judge_the_folder(tmp_path: Path):
    write(tmp_path / "run")
    before = snapshot(tmp_path)
    with NewFolder(tmp_path / "run", is_main=False) as run:
        run.commit()
    assert snapshot(tmp_path) == before


def test_what_is_written_is_json(tmp_path: Path):
    """A score can be missing (a step nobody observed), and NaN is no JSON."""
    content = {"a": [1, 2.5, None, "ä"], "missing": float("nan"), "nested": {"score": float("inf")}}
    with NewFolder(tmp_path / "run") as run:
        run.folder.write_json("a.json", content)
        run.commit()

    def reject(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    text = (tmp_path / "run" / "a.json").read_text(encoding="utf-8")
    read = json.loads(text, parse_constant=reject)
    assert read["a"] == [1, 2.5, None, "ä"]
    assert read["missing"] is None


def test_a_folder_of_another_run_is_not_touched(tmp_path: Path):
    host = socket.gethostname()
    others = [
        tmp_path / f".run.partial-{host}-1",
        tmp_path / ".run.partial-elsewhere-7",
        tmp_path / ".runs.partial-x-1",
    ]
    for other in others:
        other.mkdir()
        (other / "theirs").write_text("x")
    with NewFolder(tmp_path / "run"):
        assert [(other / "theirs").read_text() for other in others] == ["x", "x", "x"]
    assert sorted(tmp_path.iterdir()) == sorted(others)


def test_what_a_killed_run_left_is_removed(tmp_path: Path):
    process = subprocess.Popen(["true"])
    process.wait()
    prefix = f".run.partial-{socket.gethostname()}"
    # of one that has ended, and of one whose number was given again
    left = [tmp_path / f"{prefix}-{process.pid}", tmp_path / f"{prefix}-{os.getppid()}-1.5"]
    for folder in left:
        folder.mkdir()
    with NewFolder(tmp_path / "run"):
        assert not any(folder.exists() for folder in left)


@pytest.mark.parametrize(
    ("name", "content", "read"),
    [
        ("metrics.json", None, lambda run: run.metrics),
        ("metrics.json", b'{"test": ', lambda run: run.metrics),
        ("metrics.json", b'{"test": {"ridge": 1}}', lambda run: run.metrics),
        ("metrics.json", b'{"test": 1}', lambda run: run.metrics),
        ("verdict.json", b"[]", lambda run: run.read_json("verdict.json")),
        ("verdict.json", b"{}", lambda run: run.read_json("verdict.json")),
        ("environment.json", b"[" * 100_000, lambda run: run.read_optional("environment.json")),
        ("manifest.json", b"\xff\xfe", lambda run: run.read_json("manifest.json")),
        ("per_item.json", b"[1]", lambda run: run.read_rows("per_item.json")),
        ("config.yaml", b"a: [1", lambda run: run.read_yaml("config.yaml")),
        ("config.yaml", b"- a", lambda run: run.read_yaml("config.yaml")),
        ("config.yaml", None, lambda run: run.config),
        ("history.jsonl", b"{}\nno", lambda run: run.history),
        ("windows.parquet", b"PAR1", lambda run: run.read_table("windows.parquet")),
        ("tracking.json", b'{"run_id": 1}', lambda run: run.run_id),
    ],
)
def test_a_missing_or_damaged_file_is_one_line_that_names_it(tmp_path: Path, name: str, content: bytes | None, read):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(FolderError) as caught:
        read(RunFolder(tmp_path))
    assert name in str(caught.value)
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_is_not_there_is_empty_or_refused(tmp_path: Path):
    assert RunFolder(tmp_path).read_optional("tracking.json") == {}
    assert RunFolder(tmp_path).run_id is None
    with pytest.raises(FolderError, match=r"nowhere is no folder"):
        RunFolder(tmp_path / "nowhere").require()


# Files that are replaced as a whole


def test_a_file_is_replaced_as_a_whole(tmp_path):
    file = tmp_path / "file"
    file.write_text("old")
    with pytest.raises(ZeroDivisionError), aside(file) as partial:
        partial.write_text(f"new{1 / 0}")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert file.read_text() == "old"
    with aside(file) as partial:
        partial.write_text("new")
    assert file.read_text() == "new"
    with pytest.raises(OutputError, match="cannot be written"), aside(tmp_path / "none" / "file") as partial:
        partial.write_text("new")
