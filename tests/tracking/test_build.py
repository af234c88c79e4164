"""From names in a configuration to trackers."""

from __future__ import annotations

import pytest
from tracker_doubles import Recorder

from tstune.config.schema import TrackingSection
from tstune.errors import ConfigError
from tstune.tracking.backlog import restore_tracker
from tstune.tracking.composite import build_tracker
from tstune.tracking.interfaces import TRACKERS, ExperimentTracker, tracker_class


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
        (["test_build:Unfinished"], r"test_build:Unfinished cannot be built: Can't instantiate abstract class"),
        (["file", "mlflow", "file"], r"file is named twice; name it once"),
    ],
)
def test_wrong_names(trackers, message):
    with pytest.raises(ConfigError, match=rf"^tracking.trackers: {message}"):
        build_tracker(TrackingSection(trackers=trackers))
