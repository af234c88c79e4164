"""Which trial of a study is which point, whatever dies when; on a real database, without launches."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import optuna
import pytest
from launched import ROOT
from optuna.trial import TrialState

from tstune.sweeps.attempts import (
    MAX_DEATHS,
    Surplus,
    claim,
    note_failure,
    note_interruption,
    note_processes,
    note_pruning,
    points,
    tidy,
)
from tstune.sweeps.samplers import build_sampler
from tstune.sweeps.space import parse_space
from tstune.sweeps.storage import open_storage, quiet_optuna

SPACE = parse_space(["a=1,2", "b=x,y"])
LONG = 1000.0


class Gone(Exception):
    """What a trial dies of."""


@pytest.fixture
def url(tmp_path):
    quiet_optuna()
    return f"sqlite:///{tmp_path}/study.db"


def open_study(url: str, sampler: str = "grid", heartbeat: int = 60) -> optuna.Study:
    return optuna.create_study(
        study_name="s",
        storage=open_storage(url, heartbeat),
        load_if_exists=True,
        sampler=build_sampler(sampler, SPACE, 0, 2),
    )


def attempt(study: optuna.Study, end=None, total: int = 4) -> None:
    """One trial that ends with 1.0, or the way `end` says."""

    def objective(trial):
        claim(study, trial, total)
        for dimension in SPACE:
            dimension.suggest(trial)
        if end is not None:
            end(trial)
        return 1.0

    study.optimize(objective, n_trials=1, catch=(Gone, Surplus))


def fails(trial):
    note_failure(trial, "bad value")
    raise Gone


def dies(trial):
    raise Gone


def interrupted(trial):
    note_interruption(trial)
    raise Gone


def pruned(trial):
    note_pruning(trial, 30)
    raise optuna.TrialPruned


def summary(study):
    return [
        (point.number, point.state, tuple(point.last.params.values()), len(point.attempts)) for point in points(study)
    ]


def test_a_grid_is_taken_in_order(url):
    study = open_study(url)
    for end in (None, fails, pruned, None):
        attempt(study, end)
    assert summary(study) == [
        (0, "finished", (1, "x"), 1),
        (1, "failed", (1, "y"), 1),
        (2, "pruned", (2, "x"), 1),
        (3, "finished", (2, "y"), 1),
    ]
    assert points(study)[1].reason == "bad value"
    assert points(study)[2].stopped_at_step == 30
    assert [point.loss for point in points(study)] == [1.0, None, None, 1.0]


def test_what_is_too_much_leaves_no_row(url):
    study = open_study(url)
    for _ in range(6):
        attempt(study)
    assert [row[0] for row in summary(study)] == [0, 1, 2, 3]
    assert [trial.user_attrs.get("surplus") for trial in study.trials] == [None] * 4 + [True, True]
    tidy(study, LONG)
    assert len(study.trials) == 6, "surplus is not made again"


@pytest.mark.parametrize("end", [dies, interrupted])
def test_a_lost_trial_is_made_again_with_its_values(url, end):
    study = open_study(url)
    attempt(study)
    attempt(study, end)
    assert points(study)[1].state == "interrupted"
    tidy(study, LONG)
    tidy(study, LONG)
    assert points(study)[1].state == "waiting"
    assert len(study.trials) == 3, "once"
    for _ in range(3):
        attempt(study)
    assert summary(study) == [
        (0, "finished", (1, "x"), 1),
        (1, "finished", (1, "y"), 2),
        (3, "finished", (2, "x"), 1),
        (4, "finished", (2, "y"), 1),
    ]


def test_two_jobs_that_queue_the_same_trial_make_it_once(url):
    study = open_study(url)
    attempt(study, dies)
    tidy(study, LONG)
    twice = study.trials[1]
    study.add_trial(
        optuna.trial.create_trial(
            state=TrialState.WAITING,
            params=twice.params,
            distributions=twice.distributions,
            user_attrs=twice.user_attrs,
        )
    )
    assert summary(study) == [(0, "waiting", (1, "x"), 2)]
    attempt(study)
    attempt(study)
    assert summary(study) == [(0, "finished", (1, "x"), 2)]
    assert study.trials[2].user_attrs["surplus"] is True


def test_what_always_dies_is_given_up(url):
    study = open_study(url)
    for _ in range(MAX_DEATHS + 1):
        attempt(study, dies, total=1)
        tidy(study, LONG)
    (point,) = points(study)
    assert (point.state, point.is_done, len(point.attempts)) == ("failed", True, MAX_DEATHS + 1)
    assert point.reason == "its process was killed 4 times"


def test_what_is_interrupted_is_never_given_up(url):
    study = open_study(url)
    for _ in range(MAX_DEATHS + 3):
        attempt(study, interrupted, total=1)
        tidy(study, LONG)
    assert points(study)[0].state == "waiting"


def test_processes_that_are_gone_from_this_machine_are_noticed_at_once(url):
    study = open_study(url)
    gone = subprocess.Popen([sys.executable, "-c", "pass"])
    gone.wait()
    trials = [study.ask() for _ in range(3)]
    for trial in trials:
        claim(study, trial, 4)
    note_processes(trials[0], os.getpid())
    trials[1].set_user_attr("host", socket.gethostname())
    trials[1].set_user_attr("processes", [[gone.pid, 0.0], [os.getpid(), 0.0]])  # the second: a number used again
    trials[2].set_user_attr("host", "elsewhere")
    trials[2].set_user_attr("processes", [[gone.pid, 0.0]])
    tidy(study, LONG)
    assert [point.state for point in points(study)] == ["running", "waiting", "running"]


def test_a_trial_that_died_before_its_first_sign_is_noticed_later(url):
    study = open_study(url)
    study.ask()
    tidy(study, LONG)
    assert [point.state for point in points(study)] == ["running"]
    time.sleep(0.05)
    tidy(study, 0.01)
    assert [point.state for point in points(study)] == ["waiting"]


@pytest.mark.slow
def test_a_job_of_another_machine_that_falls_silent_is_replaced(url):
    """SIGKILL of a real job; its host is another one as far as this test can tell."""
    job = f"""
import sys, time
sys.path[:0] = ["{ROOT}/scripts", "{ROOT}/tests/sweeps", "{ROOT}/tests"]
import test_attempts as t
t.quiet_optuna()
def hang(trial):
    trial.set_user_attr("host", "elsewhere")
    trial.set_user_attr("processes", [[1, 0.0]])
    time.sleep(60)
t.attempt(t.open_study("{url}", heartbeat=2), hang)
"""
    study = open_study(url, heartbeat=2)
    process = subprocess.Popen([sys.executable, "-c", job])
    try:
        deadline = time.monotonic() + 60
        while not any("processes" in trial.user_attrs for trial in study.trials):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        until = time.monotonic() + 6  # longer than the grace period
        while time.monotonic() < until:
            tidy(study, 4)
            assert points(study)[0].state == "running", "it is alive"
            time.sleep(0.2)
        process.send_signal(signal.SIGKILL)
        process.wait()
        deadline = time.monotonic() + 30
        while points(study)[0].state == "running":
            assert time.monotonic() < deadline
            tidy(study, 4)
            time.sleep(0.2)
    finally:
        process.kill()
    assert points(study)[0].state == "waiting"
    attempt(study)
    assert summary(study) == [(0, "finished", (1, "x"), 2)]


@pytest.mark.parametrize("sampler", ["grid", "tpe", "random"])
def test_jobs_at_once_share_the_points(url, sampler):
    open_study(url, sampler)

    def job(_):
        study = open_study(url, sampler)
        for _ in range(3):
            attempt(study)

    with ThreadPoolExecutor(4) as jobs:
        list(jobs.map(job, range(4)))
    study = open_study(url, sampler)
    found = summary(study)
    assert [state for _, state, _, _ in found] == ["finished"] * 4
    if sampler == "grid":
        assert [values for _, _, values, _ in found] == [(1, "x"), (1, "y"), (2, "x"), (2, "y")]


def test_a_new_start_does_not_draw_the_same_points_again(tmp_path):
    quiet_optuna()
    space = parse_space(["a=interval(0,1)"])

    def draw(url: str, starts: list[int]) -> list[float]:
        for count in starts:
            study = optuna.create_study(
                study_name="s",
                storage=open_storage(url, 60),
                load_if_exists=True,
                sampler=build_sampler("tpe", space, 7, 3),
            )
            study.optimize(lambda trial: space[0].suggest(trial) ** 2, n_trials=count)
        return [trial.params["a"] for trial in study.trials]

    at_once = draw(f"sqlite:///{tmp_path}/a.db", [6])
    in_parts = draw(f"sqlite:///{tmp_path}/b.db", [1, 2, 3])
    assert at_once == in_parts, "stopped and started again, a study finds the same"
    assert len(set(at_once)) == 6
