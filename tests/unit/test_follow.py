"""A metric of a run, followed in the files that its tracker writes."""

from __future__ import annotations

import json

import pytest

from tstune.config.schema import RunConfig
from tstune.sweeps.study import FollowedMetric


@pytest.fixture
def followed(tmp_path):
    """A run whose files the test writes, the way the tracker does."""
    tracking = {"folder": str(tmp_path / "t"), "experiment": "e"}
    config = RunConfig.model_validate({"output_dir": str(tmp_path / "run"), "tracking": tracking})
    file = tmp_path / "t/files/e/the_run/metrics.jsonl"
    return FollowedMetric(config, "validation_loss"), tmp_path / "run.checkpoints", file


def row(step, **metrics) -> str:
    return json.dumps({"time": "now", "step": step} | metrics) + "\n"


def test_validation_losses_are_read_as_they_appear(followed):
    losses, checkpoints, file = followed
    assert list(losses.new()) == []
    checkpoints.mkdir()
    (checkpoints / "state.json").write_text('{"run_id": "the')
    assert list(losses.new()) == [], "half-written"
    (checkpoints / "state.json").write_text('{"run_id": "the_run"}')
    assert list(losses.new()) == [], "nothing is logged yet"
    file.parent.mkdir(parents=True)
    file.write_text(row(0, validation_loss=3.0) + row(5, train_loss=2.5))
    assert list(losses.new()) == [(0, 0, 3.0)]
    with file.open("a") as stream:
        stream.write(row(10, validation_loss=2.0))
        stream.write(row(20, validation_loss=1.5)[:-9])
    assert list(losses.new()) == [(1, 10, 2.0)], "a line without its end is left for later"
    with file.open("a") as stream:
        stream.write(row(20, validation_loss=1.5)[-9:])
        stream.write(row(None, **{"test/fine_tuned/rmse": 1.0}))
        stream.write(row(10, validation_loss=9.0))
        stream.write(row(30, validation_loss=None))
        stream.write(row(40, validation_loss=1.0))
    assert list(losses.new()) == [(2, 20, 1.5), (3, 40, 1.0)], "a resumed run repeats steps; NaN is null"
    assert list(losses.new()) == []
    assert losses.file == file


def test_a_run_that_was_too_quick_to_follow_is_read_at_its_end(followed, tmp_path):
    losses, _, file = followed
    file.parent.mkdir(parents=True)
    file.write_text(row(10, validation_loss=2.0))
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "tracking.json").write_text('{"run_id": "the_run"}')
    assert list(losses.new()) == [(1, 10, 2.0)], "without a validation of the starting weights the first is number 1"
