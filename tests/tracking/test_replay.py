"""scripts/replay_tracking.py: what a tracker missed is sent by another process, or stays with one clear line."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import psutil
import pytest
from support import forks
from tracker_doubles import Recorder, Switch

import replay_tracking
from tstune.tracking.composite import CompositeTracker
from tstune.tracking.simple_tracker import SimpleExperimentTracker

CONFIG = {"training": {"max_steps": 3}}


@pytest.fixture
def log(tmp_path):
    """What the recorder that is built again writes."""
    return tmp_path / "log.jsonl"


def leave_backlog(folder, log, run_id="run-1", end=True, **extra):
    """A run whose tracker died after its first row."""
    switch = Switch()
    composite = CompositeTracker([Recorder(str(log), switch)], folder / "backlog", retry_seconds=0)
    composite.start_experiment("e", CONFIG, run_id)
    composite.log_metrics({"a": 1.0}, 1)
    switch.is_down = True
    composite.log_metrics({"a": 2.0}, 2)
    if "artifact" in extra:
        composite.log_artifact(extra["artifact"], "file.json")
    composite.log_metrics({"a": 3.0}, 3)
    if end:
        composite.end_experiment()
    log.unlink()
    return folder / "backlog" / "e" / run_id / "0-recorder.jsonl"


def calls(log):
    return [json.loads(line) for line in log.read_text().splitlines()]


def test_a_backlog_is_sent_and_gone(tmp_path, log, capsys):
    backlog = leave_backlog(tmp_path, log)
    assert replay_tracking.main([str(backlog), "--trust-code"]) == 0
    assert calls(log) == [
        ["start_experiment", "e", CONFIG, "run-1"],
        ["log_metrics", {"a": 2.0}, 2],
        ["log_metrics", {"a": 3.0}, 3],
        ["end_experiment", "FINISHED"],
    ]
    assert capsys.readouterr().out == f"3 calls sent: {backlog}\n"
    assert not (tmp_path / "backlog" / "e").exists(), "no empty folders stay"


def test_in_another_process(tmp_path, run_folder):
    files = SimpleExperimentTracker(tmp_path / "files")
    composite = CompositeTracker([files], tmp_path / "backlog", retry_seconds=0)
    composite.start_experiment("e", CONFIG, "run-1")
    (tmp_path / "files").rename(tmp_path / "away")
    (tmp_path / "files").write_text("a file where the folder should be")
    composite.log_metrics({"a": 1.0}, 1)
    composite.log_artifact(run_folder / "metrics.json")
    (tmp_path / "files").unlink()
    (tmp_path / "away").rename(tmp_path / "files")
    script = Path(replay_tracking.__file__)
    done = forks.run([sys.executable, script, tmp_path / "backlog"], cwd=tmp_path)
    assert done.returncode == 2
    (error,) = done.stderr.splitlines()
    assert "its run is still going on (process" in error, "this process is, and could send it itself"

    (backlog,) = (tmp_path / "backlog").rglob("*.jsonl")
    header, *rest = backlog.read_text().splitlines()
    dead = forks.Fork([sys.executable, "-c", "pass"])
    dead.wait()
    backlog.write_text("\n".join([json.dumps(json.loads(header) | {"process": dead.pid}), *rest]) + "\n")
    done = forks.run([sys.executable, script, tmp_path / "backlog"], cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"2 calls sent: {backlog}\n", "")
    summary = json.loads((files.run_folder / "summary.json").read_text())
    assert (summary["status"], summary["metrics"]) == ("KILLED", {"a": 1.0}), "it never said how it ended"
    assert (files.run_folder / "artifacts" / "metrics.json").is_file()


def test_a_run_that_was_killed_ends_as_killed(tmp_path, log):
    backlog = leave_backlog(tmp_path, log, end=False)
    with backlog.open("a") as stream:
        stream.write('{"method": "log_met')  # in the middle of a line
    assert replay_tracking.main([str(backlog), "--trust-code"]) == 0
    assert calls(log)[-2:] == [["log_metrics", {"a": 3.0}, 3], ["end_experiment", "KILLED"]]


def test_a_process_with_the_same_number_is_not_the_same(tmp_path, log):
    backlog = leave_backlog(tmp_path, log)
    header, *rest = backlog.read_text().splitlines()
    other = json.loads(header) | {"process": psutil.Process().ppid(), "process_started": 1.0}
    backlog.write_text("\n".join([json.dumps(other), *rest]) + "\n")
    assert replay_tracking.main([str(backlog), "--trust-code"]) == 0


def test_a_file_that_is_gone_does_not_hold_up_the_rest(tmp_path, log, heard):
    artifact = tmp_path / "scores.json"
    artifact.write_text("{}")
    backlog = leave_backlog(tmp_path, log, artifact=artifact)
    artifact.unlink()
    assert replay_tracking.main([str(backlog), "--trust-code"]) == 0
    assert [call[0] for call in calls(log)] == ["start_experiment", "log_metrics", "log_metrics", "end_experiment"]
    assert f"{backlog}: log_artifact left out: {artifact} is gone or changed" in heard.text


def test_pictures_that_were_kept_go_with_the_backlog(tmp_path, log):
    from matplotlib.figure import Figure

    switch = Switch()
    composite = CompositeTracker([Recorder(str(log), switch)], tmp_path / "backlog", retry_seconds=0)
    composite.start_experiment("e", CONFIG, "run-1")
    switch.is_down = True
    composite.log_figure(Figure(), "plots/drawn.png")
    composite.end_experiment()
    picture = tmp_path / "backlog" / "e" / "run-1" / "figures" / "plots" / "drawn.png"
    assert picture.is_file()
    assert replay_tracking.main([str(tmp_path / "backlog"), "--trust-code"]) == 0
    assert ["log_figure", str(picture), "plots/drawn.png"] in calls(log)
    assert not (tmp_path / "backlog" / "e").exists()


def test_nothing_beside_a_backlog_that_was_moved_is_removed(tmp_path, log):
    moved = leave_backlog(tmp_path, log).rename(tmp_path / "mine.jsonl")
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / "precious.png").touch()
    assert replay_tracking.main([str(moved), "--trust-code"]) == 0
    assert (tmp_path / "figures" / "precious.png").exists()
    assert not moved.exists()


class TestNotYet:
    def test_what_went_through_is_not_sent_again(self, tmp_path, log, capsys, monkeypatch):
        backlog = leave_backlog(tmp_path, log)
        take = Recorder._take

        def away_after_two(self, method, *arguments):
            if arguments[-1] == 3:
                raise ConnectionError("away")
            take(self, method, *arguments)

        monkeypatch.setattr(Recorder, "_take", away_after_two)
        assert replay_tracking.main([str(backlog), "--trust-code"]) == 2
        assert capsys.readouterr().err == (
            f"error: {backlog}: tracker recorder does not take it (ConnectionError: away); 2 calls are left, "
            "try again when it answers\n"
        )
        assert [call[0] for call in calls(log)] == ["start_experiment", "log_metrics"]
        monkeypatch.undo()
        log.unlink()
        assert replay_tracking.main([str(backlog), "--trust-code"]) == 0
        assert [call[-1] for call in calls(log)] == ["run-1", 3, "FINISHED"]

    def test_one_that_fails_does_not_stop_the_others(self, tmp_path, log, capsys):
        later = leave_backlog(tmp_path, log, "run-2")
        first = leave_backlog(tmp_path, log, "run-1")
        header, *rest = first.read_text().splitlines()
        first.write_text("\n".join([json.dumps(json.loads(header) | {"tracker": "absent.module:Class"}), *rest]) + "\n")
        assert replay_tracking.main([str(tmp_path / "backlog"), "--trust-code"]) == 2
        captured = capsys.readouterr()
        assert captured.out == f"3 calls sent: {later}\n"
        assert captured.err.startswith("error: tracker absent.module:Class cannot be built again: ")
        assert first.exists()
        assert not later.exists()

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (None, "no backlog in {path}; they lie in <tracking.folder>/backlog"),
            ("", "{path} is not a backlog of a tracker"),
            ("[1]\n", "{path} is damaged: a row does not hold names with values"),
            ('{"train_loss": 1.0}\n', "{path} is not a backlog of a tracker"),
        ],
    )
    def test_other_files(self, content, message, tmp_path, capsys):
        path = tmp_path / "some.jsonl"
        if content is not None:
            path.write_text(content)
        assert replay_tracking.main([str(path), "--trust-code"]) == 2
        (error,) = capsys.readouterr().err.splitlines()
        assert error.startswith(f"error: {message.format(path=path)}")

    def test_an_empty_folder(self, tmp_path, capsys):
        assert replay_tracking.main([str(tmp_path), "--trust-code"]) == 2
        assert capsys.readouterr().err.startswith(f"error: no backlog in {tmp_path}")
