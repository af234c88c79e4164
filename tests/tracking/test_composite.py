"""Several trackers at once: one that fails stops neither the training nor the others, and misses nothing."""

from __future__ import annotations

import json
import logging
import time
from pathlib import Path

import pytest
from support import tiny
from tracker_doubles import Recorder, Switch

from tstune.config.schema import TrackingSection
from tstune.errors import ConfigError, Preempted, TrackingError
from tstune.tracking.backlog import restore_tracker
from tstune.tracking.composite import CompositeTracker, build_tracker
from tstune.tracking.interfaces import TRACKERS, ExperimentTracker, tracker_class
from tstune.tracking.simple_tracker import SimpleExperimentTracker

CONFIG = {"training": {"max_steps": 3}}


def warnings(heard):
    return [record.getMessage() for record in heard.records if record.levelno >= logging.WARNING]


def backlogs(folder):
    return sorted((folder / "backlog").rglob("*.jsonl"))


@pytest.fixture
def switch():
    return Switch()


@pytest.fixture
def flaky(switch):
    return Recorder(fails=switch)


@pytest.fixture
def healthy():
    return Recorder()


def started(trackers, folder, retry_seconds=0.0, required=True):
    composite = CompositeTracker(trackers, folder / "backlog", retry_seconds, required)
    composite.start_experiment("e", CONFIG, "run-1")
    return composite


class TestAllIsWell:
    def test_every_call_reaches_every_tracker(self, tmp_path, run_folder):
        recorders = [Recorder(), Recorder()]
        composite = started(recorders, tmp_path)
        module, picture = object(), run_folder / "plots" / "loss.png"
        composite.log_params({"a": 1})
        composite.watch_model(module)
        composite.log_metrics({"train_loss": 1.0}, step=1)
        composite.log_artifact(run_folder / "metrics.json", "metrics.json")
        composite.log_figure(picture, "plots/loss.png")
        composite.log_model(run_folder, "model")
        assert composite.end_experiment("FAILED") == "run-1"
        for recorder in recorders:
            assert recorder.calls == [
                ("start_experiment", ("e", CONFIG, "run-1")),
                ("log_params", ({"a": 1},)),
                ("watch_model", (module,)),
                ("log_metrics", ({"train_loss": 1.0}, 1)),
                ("log_artifact", (run_folder / "metrics.json", "metrics.json")),
                ("log_figure", (picture, "plots/loss.png")),
                ("log_model", (run_folder, "model")),
                ("end_experiment", ("FAILED",)),
            ]
        assert not (tmp_path / "backlog").exists()

    def test_no_tracker_at_all(self, tmp_path):
        composite = CompositeTracker([], tmp_path / "backlog")
        run_id = composite.start_experiment("e", CONFIG)
        composite.log_metrics({"a": 1.0}, 1)
        composite.log_figure(tmp_path / "absent.png", "plots/absent.png")
        assert composite.end_experiment() == run_id
        assert not list(tmp_path.iterdir())

    def test_a_drawn_figure_is_written_once_and_tidied_away(self, healthy, tmp_path):
        from matplotlib.figure import Figure

        files = SimpleExperimentTracker(tmp_path / "files")
        composite = started([healthy, files], tmp_path)
        composite.log_figure(Figure(), "plots/drawn.png")
        assert healthy.calls[-1][1][0].read_bytes()[:4] == b"\x89PNG"
        composite.end_experiment()
        assert (files.run_folder / "artifacts/plots/drawn.png").is_file()
        assert not (tmp_path / "backlog").exists()

    def test_misuse(self, healthy, tmp_path):
        composite = CompositeTracker([healthy], tmp_path)
        for call in (
            lambda: composite.log_metrics({"a": 1.0}),
            lambda: composite.log_params({}),
            lambda: composite.child("a"),
            lambda: composite.end_experiment(),
        ):
            with pytest.raises(TrackingError, match="call start_experiment first"):
                call()

    @pytest.mark.parametrize(("experiment", "run_id"), [("../e", "r"), ("/e", "r"), ("e", "../r"), ("e", "a/b")])
    def test_names_that_lead_out(self, experiment, run_id, healthy, tmp_path):
        with pytest.raises(TrackingError, match=r"leads out of|is not usable"):
            CompositeTracker([healthy], tmp_path / "backlog").start_experiment(experiment, {}, run_id)
        assert healthy.calls == []


class TestStart:
    def test_a_required_tracker_that_cannot_start_stops_the_run(self, healthy, tmp_path):
        broken = Recorder(fails=Switch(OSError, is_down=True))
        composite = CompositeTracker([healthy, broken], tmp_path / "backlog")
        with pytest.raises(
            TrackingError, match="tracker recorder cannot start: OSError: away; mend it, take it out of"
        ):
            composite.start_experiment("e", CONFIG, "run-1")
        assert healthy.calls[-1] == ("end_experiment", ("FAILED",)), "what had begun is ended"
        assert not (tmp_path / "backlog").exists()

    def test_its_own_words_are_kept(self, tmp_path):
        broken = Recorder(fails=Switch(TrackingError, is_down=True))
        with pytest.raises(TrackingError, match=r"^away$"):
            CompositeTracker([broken], tmp_path).start_experiment("e", CONFIG)

    def test_one_that_is_not_required_gets_all_later(self, flaky, healthy, switch, tmp_path, heard):
        switch.is_down = True
        composite = started([flaky, healthy], tmp_path, required=False)
        composite.log_metrics({"a": 1.0}, 1)
        assert flaky.calls == []
        switch.is_down = False
        composite.log_metrics({"a": 2.0}, 2)
        composite.end_experiment()
        assert flaky.calls == healthy.calls
        assert backlogs(tmp_path) == []
        assert "got the 2 calls it had missed" in heard.text

    def test_even_if_it_refuses_to_start(self, flaky, switch, tmp_path):
        switch.is_down, switch.error = True, TrackingError
        composite = started([flaky], tmp_path, required=False)
        composite.log_metrics({"a": 1.0}, 1)
        switch.is_down = False
        composite.end_experiment()
        assert flaky.methods() == ["start_experiment", "log_metrics", "end_experiment"]


class TestFailure:
    def test_the_others_go_on_and_one_line_says_so(self, flaky, healthy, switch, tmp_path, heard):
        composite = started([flaky, healthy], tmp_path)
        composite.log_metrics({"a": 1.0}, 1)
        switch.is_down = True
        for step in range(2, 7):
            composite.log_metrics({"a": float(step)}, step)
        composite.end_experiment()
        assert healthy.steps() == [1, 2, 3, 4, 5, 6]
        assert flaky.steps() == [1]
        first, last = warnings(heard)
        assert first == ("tracker recorder failed (ConnectionError: away); training goes on, what it misses is kept")
        (backlog,) = backlogs(tmp_path)
        assert last == (
            f"tracker recorder missed 6 calls of this run: {backlog}; "
            f"send them with: python scripts/replay_tracking.py {backlog} --trust-code"
        )
        assert backlog == tmp_path / "backlog" / "e" / "run-1" / "0-recorder.jsonl"

    def test_what_is_on_disk(self, flaky, switch, tmp_path, run_folder):
        composite = started([flaky], tmp_path)
        switch.is_down = True
        composite.log_metrics({"a": 1.0}, 2)
        composite.log_artifact(run_folder / "metrics.json", "metrics.json")
        header, row, artifact = [json.loads(line) for line in backlogs(tmp_path)[0].read_text().splitlines()]
        assert header["tracker"] == "tracker_doubles:Recorder"
        assert (header["experiment"], header["run_id"], header["config"]) == ("e", "run-1", CONFIG)
        assert (row["method"], row["keywords"]) == ("log_metrics", {"metrics": {"a": 1.0}, "step": 2})
        assert artifact["keywords"] == {"path": str(run_folder / "metrics.json"), "name": "metrics.json"}

    def test_it_comes_back_and_gets_all_in_order(self, flaky, healthy, switch, tmp_path, heard):
        composite = started([flaky, healthy], tmp_path)
        switch.is_down = True
        composite.log_params({"p": 1})
        composite.log_metrics({"a": 1.0}, 1)
        switch.is_down = False
        composite.log_metrics({"a": 2.0}, 2)
        assert backlogs(tmp_path) == []
        composite.log_metrics({"a": 3.0}, 3)
        assert flaky.calls == healthy.calls
        assert "tracker recorder is back and got the 3 calls it had missed" in heard.text
        switch.is_down = True
        composite.log_metrics({"a": 4.0}, 4)
        assert len(warnings(heard)) == 2, "a second failure is news again"

    def test_it_is_left_alone_for_a_while(self, flaky, switch, tmp_path):
        composite = started([flaky], tmp_path, retry_seconds=0.3)
        switch.is_down = True
        begin = time.monotonic()
        for step in range(1000):
            composite.log_metrics({"a": 1.0}, step)
        rounds = 1 + (time.monotonic() - begin) / 0.3
        assert 1 <= flaky.attempts.count("log_metrics") <= rounds
        composite.end_experiment()
        assert flaky.attempts[-1] == "log_metrics", "one last try at the end, in order"
        assert len(backlogs(tmp_path)[0].read_text().splitlines()) == 1 + 1000 + 1

    def test_it_fails_in_the_middle_of_a_replay(self, flaky, switch, tmp_path):
        composite = started([flaky], tmp_path)
        switch.is_down = True
        for step in (1, 2, 3):
            composite.log_metrics({"a": 1.0}, step)
        third = lambda method, *arguments: ConnectionError("away") if arguments[-1] == 3 else None  # noqa: E731
        flaky.fails = third
        composite.log_metrics({"a": 1.0}, 4)
        assert flaky.steps() == [1, 2]
        assert len(backlogs(tmp_path)[0].read_text().splitlines()) == 1 + 2, "only what is left"
        flaky.fails = lambda method, *arguments: None
        composite.end_experiment()
        assert flaky.steps() == [1, 2, 3, 4]
        assert flaky.methods()[-1] == "end_experiment"

    def test_a_full_disk_too(self, flaky, switch, tmp_path, heard):
        composite = started([flaky], tmp_path)
        (tmp_path / "backlog").write_text("a file where a folder should be")  # refuses like a full disk: OSError
        switch.is_down = True
        for step in (1, 2):
            composite.log_metrics({"a": 1.0}, step)
        assert [message for message in warnings(heard) if "kept in memory" in message]
        assert len(warnings(heard)) == 2
        switch.is_down = False
        composite.end_experiment()
        assert flaky.steps() == [1, 2]

    def test_a_disk_that_fills_up_later_loses_nothing(self, flaky, switch, tmp_path, monkeypatch):
        composite = started([flaky], tmp_path)
        switch.is_down = True
        composite.log_metrics({"a": 1.0}, 1)
        opened = Path.open

        def full(path, mode="r", **options):
            if "a" in mode or "w" in mode:
                raise OSError(28, "No space left on device")
            return opened(path, mode, **options)

        monkeypatch.setattr(Path, "open", full)
        for step in (2, 3):
            composite.log_metrics({"a": 1.0}, step)
        switch.is_down = False
        flaky.fails = lambda method, *arguments: ConnectionError("away") if arguments[-1] == 3 else None
        composite.log_metrics({"a": 1.0}, 4)  # gets rid of 1 and 2; what is left cannot be written either
        flaky.fails = switch
        composite.end_experiment()
        assert flaky.steps() == [1, 2, 3, 4]
        assert backlogs(tmp_path) == []

    def test_one_that_fails_to_look_at_the_network_is_told_of_once(self, healthy, tmp_path, heard):
        class Looking(Recorder):
            def log_gradients(self, model):
                raise RuntimeError(f"no layer in {model}")

        looking = Looking()
        composite = started([healthy, looking], tmp_path)
        for step in (1, 2):
            composite.show("log_gradients", "the network")
            composite.log_metrics({"a": 1.0}, step)
        assert warnings(heard) == ["tracker recorder: log_gradients failed (RuntimeError: no layer in the network)"]
        assert looking.calls == healthy.calls
        assert looking.steps() == [1, 2]

    def test_passwords_in_an_error_are_not_repeated(self, tmp_path, heard):
        broken = Recorder(fails=lambda method, *_: OSError("no http://me:geheim@host/x") if "log" in method else None)
        composite = started([broken], tmp_path)
        composite.log_metrics({"a": 1.0}, 1)
        assert "no http://host/x" in heard.text
        assert "geheim" not in heard.text


class TestRefusedCalls:
    """A call that can never succeed must not hold up the rest."""

    def test_a_tracker_that_refuses_is_not_put_aside(self, tmp_path, run_folder, heard):
        files = SimpleExperimentTracker(tmp_path / "files")
        composite = started([files], tmp_path)
        composite.log_artifact(run_folder / "metrics.json", "../../../out.json")
        composite.log_metrics({"a": 1.0}, 1)
        composite.end_experiment()
        assert tiny.read_json(files.run_folder / "summary.json")["metrics"] == {"a": 1.0}
        (warning,) = warnings(heard)
        assert "log_artifact ../../../out.json left out" in warning
        assert backlogs(tmp_path) == []

    def test_a_file_that_is_not_there(self, tmp_path, heard):
        files = SimpleExperimentTracker(tmp_path / "files")
        composite = started([files], tmp_path)
        composite.log_artifact(tmp_path / "absent.json", "absent.json")
        composite.log_metrics({"a": 1.0}, 1)
        assert [message for message in warnings(heard) if "log_artifact absent.json left out" in message]
        assert backlogs(tmp_path) == []

    @pytest.mark.parametrize("change", ["removed", "replaced"])
    def test_a_file_that_went_away_while_it_waited(self, change, flaky, switch, tmp_path, heard):
        file = tmp_path / "scores.json"
        file.write_text("{}")
        composite = started([flaky], tmp_path)
        switch.is_down = True
        composite.log_artifact(file, "scores.json")
        composite.log_metrics({"a": 1.0}, 1)
        if change == "removed":
            file.unlink()
        else:
            file.write_text('{"of": "another run"}')
        switch.is_down = False
        composite.end_experiment()
        assert flaky.methods() == ["start_experiment", "log_metrics", "end_experiment"]
        assert [message for message in warnings(heard) if f"{file} is gone or changed" in message]

    def test_the_model_of_another_run_is_not_sent(self, flaky, switch, tmp_path, run_folder):
        import shutil

        mine = shutil.copytree(run_folder, tmp_path / "mine")
        composite = started([flaky], tmp_path)
        switch.is_down = True
        composite.log_model(mine, "same")
        composite.log_model(mine, "same again")
        (mine / "report.html").write_text("more files do not matter")
        switch.is_down = False
        composite.log_metrics({"a": 1.0}, 1)
        assert flaky.methods() == ["start_experiment", "log_model", "log_model", "log_metrics"]
        switch.is_down = True
        composite.log_model(mine, "other")
        shutil.rmtree(mine)
        shutil.copytree(run_folder, mine)
        (mine / "config.yaml").write_text("another: run")
        switch.is_down = False
        composite.end_experiment()
        assert flaky.methods()[3:] == ["log_metrics", "end_experiment"]

    def test_a_call_that_always_fails_while_others_do_not(self, tmp_path, heard):
        picky = Recorder(fails=lambda method, *arguments: KeyError("bug") if arguments[-1] == 2 else None)
        composite = started([picky], tmp_path)
        for step in range(1, 6):
            composite.log_metrics({"a": 1.0}, step)
        composite.end_experiment()
        assert picky.steps() == [1, 3, 4, 5]
        assert picky.methods()[-1] == "end_experiment"
        assert [message for message in warnings(heard) if "log_metrics left out: KeyError: 'bug'" in message]
        assert backlogs(tmp_path) == []

    def test_a_back_end_that_is_away_is_no_such_call(self, flaky, switch, tmp_path):
        composite = started([flaky], tmp_path)
        switch.is_down, switch.error = True, RuntimeError
        for step in range(1, 6):
            composite.log_metrics({"a": 1.0}, step)
        switch.is_down = False
        composite.end_experiment()
        assert flaky.steps() == [1, 2, 3, 4, 5]


class TestSignals:
    @pytest.mark.parametrize("kind", [KeyboardInterrupt, Preempted])
    def test_they_pass_through(self, kind, healthy, tmp_path):
        hit = Recorder(fails=lambda method, *_: kind() if method == "log_metrics" else None)
        composite = started([healthy, hit], tmp_path)
        with pytest.raises(kind):
            composite.log_metrics({"a": 1.0}, 1)
        composite.end_experiment("KILLED")
        assert healthy.calls[-1] == hit.calls[-1] == ("end_experiment", ("KILLED",))

    @pytest.mark.parametrize("kind", [KeyboardInterrupt, Preempted])
    @pytest.mark.parametrize("required", [True, False])
    def test_at_the_start_too(self, kind, required, healthy, tmp_path):
        hit = Recorder(fails=lambda method, *_: kind() if method == "start_experiment" else None)
        with pytest.raises(kind):
            started([healthy, hit], tmp_path, required=required)
        assert healthy.calls[-1] == ("end_experiment", ("KILLED",)), "what had begun is ended"

    def test_in_a_replay_too_and_nothing_is_lost(self, flaky, switch, tmp_path):
        composite = started([flaky], tmp_path)
        switch.is_down = True
        for step in (1, 2):
            composite.log_metrics({"a": 1.0}, step)
        flaky.fails = lambda method, *arguments: KeyboardInterrupt() if arguments[-1] == 2 else None
        with pytest.raises(KeyboardInterrupt):
            composite.log_metrics({"a": 1.0}, 3)
        flaky.fails = lambda method, *arguments: None
        composite.end_experiment("KILLED")
        assert flaky.steps() == [1, 2, 3]
        assert flaky.calls[-1] == ("end_experiment", ("KILLED",))


class TestResumedRuns:
    def test_what_a_killed_process_left_is_sent_first(self, flaky, switch, tmp_path):
        dying = started([flaky], tmp_path)
        switch.is_down = True
        dying.log_metrics({"a": 1.0}, 1)
        dying.log_metrics({"a": 1.0}, 2)
        with backlogs(tmp_path)[0].open("a") as stream:
            stream.write('{"method": "log_met')  # killed here
        back = Recorder()
        again = started([back], tmp_path)
        again.log_metrics({"a": 1.0}, 3)
        again.end_experiment()
        assert back.steps() == [1, 2, 3]
        assert back.methods() == ["start_experiment", *["log_metrics"] * 3, "end_experiment"]
        assert backlogs(tmp_path) == []

    def test_its_end_is_not_the_end(self, flaky, switch, tmp_path):
        preempted = started([flaky], tmp_path)
        switch.is_down = True
        preempted.log_metrics({"a": 1.0}, 1)
        preempted.end_experiment("KILLED")
        back = Recorder()
        started([back], tmp_path).end_experiment()
        assert back.methods() == ["start_experiment", "log_metrics", "end_experiment"]
        assert back.calls[-1] == ("end_experiment", ("FINISHED",))

    def test_a_damaged_backlog_is_put_aside(self, healthy, tmp_path, heard):
        damaged = tmp_path / "backlog" / "e" / "run-1" / "0-recorder.jsonl"
        damaged.parent.mkdir(parents=True)
        damaged.write_text("not a backlog\n")
        started([healthy], tmp_path).end_experiment()
        assert healthy.methods() == ["start_experiment", "end_experiment"]
        assert damaged.with_suffix(".damaged").read_text() == "not a backlog\n"
        assert "0-recorder.jsonl is damaged" in heard.text


class TestChildren:
    def test_names_get_a_prefix(self, healthy, tmp_path, run_folder):
        composite = started([healthy], tmp_path)
        child = composite.child("P01")
        child.start_experiment("e", CONFIG)
        child.log_params({"training.max_steps": 3, "parameters.trainable": 7})
        child.log_metrics({"train_loss": 1.0}, 1)
        child.log_artifact(run_folder / "metrics.json")
        child.log_model(run_folder, "adapter")
        child.log_figure(run_folder / "plots" / "loss.png", "loss.png")
        deeper = child.child("deeper")
        deeper.start_experiment("e", CONFIG)
        deeper.log_metrics({"a": 1.0}, 2)
        child.end_experiment("FAILED")
        assert healthy.calls[1:] == [
            ("log_params", ({"P01/parameters.trainable": 7},)),
            ("log_metrics", ({"P01/train_loss": 1.0}, 1)),
            ("log_artifact", (run_folder / "metrics.json", "P01/metrics.json")),
            ("log_model", (run_folder, "P01/adapter")),
            ("log_figure", (run_folder / "plots" / "loss.png", "P01/loss.png")),
            ("log_metrics", ({"P01/deeper/a": 1.0}, 2)),
        ], "the settings are the parent's, and only the parent ends"
        composite.end_experiment()
        assert healthy.calls[-1] == ("end_experiment", ("FINISHED",))

    def test_they_share_the_backlog_of_their_parent(self, flaky, switch, tmp_path, heard):
        composite = started([flaky], tmp_path)
        switch.is_down = True
        composite.log_metrics({"a": 1.0}, 1)
        child = composite.child("P01")
        child.start_experiment("e", CONFIG)
        child.log_metrics({"a": 1.0}, 2)
        child.end_experiment()
        assert len(backlogs(tmp_path)) == 1
        assert len(warnings(heard)) == 1
        switch.is_down = False
        composite.end_experiment()
        assert [arguments[0] for method, arguments in flaky.calls if method == "log_metrics"] == [
            {"a": 1.0},
            {"P01/a": 1.0},
        ]

    def test_a_tracker_without_children_keeps_them_with_the_run(self, tmp_path):
        class Childless(Recorder):
            def child(self, name):
                raise ConnectionError("away")

        childless = Childless()
        composite = started([childless], tmp_path)
        child = composite.child("P01")
        child.start_experiment("e", CONFIG)
        child.log_metrics({"a": 1.0}, 1)
        assert childless.calls[-1] == ("log_metrics", ({"P01/a": 1.0}, 1))


# From names in a configuration to trackers


class Unfinished(ExperimentTracker):
    """Somebody forgot the methods."""


def test_every_name(tmp_path):
    section = TrackingSection(trackers=list(TRACKERS), folder=str(tmp_path), wandb_mode="offline")
    composite = build_tracker(section)
    assert [tracker.name for tracker in composite.trackers] == list(TRACKERS)
    assert [type(tracker) for tracker in composite.trackers] == [tracker_class(name) for name in TRACKERS]
    assert not list(tmp_path.iterdir()), "nothing begins before start_experiment"


@pytest.mark.parametrize("name", TRACKERS)
def test_every_tracker_can_be_built_again(name, tmp_path):
    from tstune.tracking.backlog import Header

    section = TrackingSection(
        folder=str(tmp_path), wandb_mode="offline", wandb_project="p", run_name="n", parent_run="sweep-1"
    )
    tracker = tracker_class(name).from_config(section)
    kind = type(tracker)
    again = restore_tracker(Header(f"{kind.__module__}:{kind.__qualname__}", tracker.settings(), "e", "run-1", {}))
    assert type(again) is kind
    assert again.settings() == tracker.settings()


def test_only_the_main_process_has_trackers(tmp_path):
    assert build_tracker(TrackingSection(trackers=["file"], folder=str(tmp_path)), is_main=False).trackers == []


def test_one_of_your_own():
    (tracker,) = build_tracker(TrackingSection(trackers=["tracker_doubles:Recorder"])).trackers
    assert isinstance(tracker, Recorder)


@pytest.mark.parametrize(
    ("trackers", "message"),
    [
        (["mlfow"], r"unknown tracker 'mlfow'; use file, mlflow, wandb, tensorboard, or your own class as package"),
        ([":Recorder"], r"unknown tracker ':Recorder'"),
        (["tracker_doubles:"], r"unknown tracker 'tracker_doubles:'"),
        (
            ["absent.module:Class"],
            r"absent.module:Class cannot be imported \(ModuleNotFoundError: No module named 'absent'\)",
        ),
        (["tracker_doubles:Absent"], r"tracker_doubles:Absent is not a class derived from tstune's ExperimentTracker"),
        (["pathlib:Path"], r"pathlib:Path is not a class derived from tstune's ExperimentTracker"),
        (["test_composite:Unfinished"], r"test_composite:Unfinished cannot be built: Can't instantiate abstract class"),
        (["file", "mlflow", "file"], r"file is named twice; name it once"),
    ],
)
def test_wrong_names(trackers, message):
    with pytest.raises(ConfigError, match=rf"^tracking.trackers: {message}"):
        build_tracker(TrackingSection(trackers=trackers))
