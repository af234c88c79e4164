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
from optuna.storages import RDBStorage
from optuna.trial import TrialState

from tstune.sweeps.space import grid, parse_space
from tstune.sweeps.storage import MAX_DEATHS, begin, give_up_the_dead, open_storage, points, quiet_optuna
from tstune.sweeps.study import SeededByTrial

SPACE = parse_space(["a=1,2", "b=x,y"])
GRID = grid(SPACE)
LONG = 1000.0


@pytest.fixture
def url(tmp_path):
    quiet_optuna()
    return f"sqlite:///{tmp_path}/study.db"


def open_study(url: str, startup_trials: int | None = 2, heartbeat: int = 60) -> tuple[optuna.Study, RDBStorage]:
    storage, sampler = open_storage(url, heartbeat), SeededByTrial(0, startup_trials)
    return optuna.create_study(study_name="s", storage=storage, load_if_exists=True, sampler=sampler), storage


def start(job: tuple[optuna.Study, RDBStorage], total: int = 4, is_grid: bool = True) -> optuna.Trial | None:
    """Begin what a sweep would begin next; None if nothing is left or another job was quicker."""
    found = points(job[0])
    lost = [point for point in found if point.state == "waiting"]
    if not lost and len(found) == total:
        return None
    trial = begin(*job, lost[0] if lost else len(found), SPACE, GRID[len(found)] if is_grid and not lost else {})
    for dimension in SPACE if trial is not None else ():
        dimension.suggest(trial)
    return trial


def attempt(job: tuple[optuna.Study, RDBStorage], state: TrialState = TrialState.COMPLETE, **told: object) -> None:
    """One attempt that ends so, with these user attributes."""
    trial = start(job, **{name: told.pop(name) for name in ("total", "is_grid") if name in told})
    if trial is None:
        return
    for name, value in told.items():
        trial.set_user_attr(name, value)
    if state is not TrialState.RUNNING:
        job[0].tell(trial, 1.0 if state is TrialState.COMPLETE else None, state=state)


LOST = {"interrupted": {"state": TrialState.FAIL, "interrupted": True}, "dead": {"state": TrialState.FAIL}}


def summary(job):
    study, _ = job
    return [(point.number, point.state, tuple(point.last.params.values()), point.attempts) for point in points(study)]


def test_a_grid_is_taken_in_order(url):
    job = open_study(url)
    attempt(job)
    attempt(job, TrialState.FAIL, reason="bad value")
    attempt(job, TrialState.PRUNED, stopped_at_step=30)
    for _ in range(3):
        attempt(job)
    assert summary(job) == [
        (0, "finished", (1, "x"), 1),
        (1, "failed", (1, "y"), 1),
        (2, "pruned", (2, "x"), 1),
        (3, "finished", (2, "y"), 1),
    ]
    found = points(job[0])
    assert found[1].reason == "bad value"
    assert [point.loss for point in found] == [1.0, None, None, 1.0]
    assert all(point.is_done for point in found)


@pytest.mark.parametrize("how", LOST)
def test_a_lost_attempt_is_made_again_with_its_values(url, how):
    job = open_study(url)
    attempt(job)
    attempt(job, **LOST[how])
    assert summary(job)[1] == (1, "waiting", (1, "y"), 1)
    for _ in range(3):
        attempt(job)
    assert summary(job) == [
        (0, "finished", (1, "x"), 1),
        (1, "finished", (1, "y"), 2),
        (2, "finished", (2, "x"), 1),
        (3, "finished", (2, "y"), 1),
    ]


@pytest.mark.parametrize("again", [False, True])
def test_jobs_that_begin_the_same_attempt_have_it_once(url, again):
    job = study, storage = open_study(url)
    if again:
        attempt(job, TrialState.FAIL)
    wanted = points(study)[0] if again else 0
    first, second = (begin(study, storage, wanted, SPACE, GRID[0]) for _ in range(2))
    assert second is None
    assert summary(job) == [(0, "running", (1, "x"), 1 + again)]
    study.tell(first, 1.0)
    give_up_the_dead(study, LONG)
    attempt(job)
    assert [row[:2] for row in summary(job)] == [(0, "finished"), (1, "finished")], "what was too much is no row"


def test_what_always_dies_is_given_up_and_what_is_interrupted_never(url):
    job = open_study(url)
    for _ in range(MAX_DEATHS + 3):
        attempt(job, total=1, **LOST["interrupted"])
    for _ in range(MAX_DEATHS + 1):
        assert points(job[0])[0].state == "waiting"
        attempt(job, total=1, **LOST["dead"])
    (point,) = points(job[0])
    assert (point.state, point.is_done, point.attempts) == ("failed", True, 2 * MAX_DEATHS + 4)
    assert point.reason == "its process was killed 4 times"


def test_processes_that_are_gone_from_this_machine_are_noticed_at_once(url):
    job = study, _ = open_study(url)
    gone = subprocess.Popen([sys.executable, "-c", "pass"])
    gone.wait()
    used_again = {"host": socket.gethostname(), "processes": [[gone.pid, 0.0], [os.getpid(), 0.0]]}
    attempt(job, TrialState.RUNNING)
    attempt(job, TrialState.RUNNING, workers=used_again)
    attempt(job, TrialState.RUNNING, workers={"host": "elsewhere", "processes": [[gone.pid, 0.0]]})
    give_up_the_dead(study, LONG)
    assert [point.state for point in points(study)] == ["running", "waiting", "running"]


def test_an_attempt_that_died_before_its_first_sign_is_noticed_later(url):
    study, storage = open_study(url)
    user_attrs = {"point": 0, "after": None}
    unsigned = optuna.trial.create_trial(state=TrialState.RUNNING, params={}, distributions={}, user_attrs=user_attrs)
    storage.create_new_trial(storage.get_study_id_from_name("s"), unsigned)
    give_up_the_dead(study, LONG)
    assert points(study)[0].state == "running"
    time.sleep(0.05)
    give_up_the_dead(study, 0.01)
    assert points(study)[0].state == "waiting"


@pytest.mark.slow
def test_a_job_of_another_machine_that_falls_silent_is_replaced(url):
    """SIGKILL of a real job; its host is another one as far as this test can tell."""
    program = f"""
import sys, time
sys.path[:0] = ["{ROOT}/scripts", "{ROOT}/tests/sweeps", "{ROOT}/tests"]
import test_points as t
t.quiet_optuna()
study, storage = t.open_study("{url}", heartbeat=2)
trial = t.start((study, storage))
trial.set_user_attr("workers", {{"host": "elsewhere", "processes": [[1, 0.0]]}})
while True:
    storage.record_heartbeat(trial._trial_id)
    time.sleep(1)
"""
    job = study, _ = open_study(url, heartbeat=2)
    process = subprocess.Popen([sys.executable, "-c", program])

    def wait_for(holds) -> None:
        deadline = time.monotonic() + 600
        while not holds():
            assert time.monotonic() < deadline
            time.sleep(0.05)

    try:
        wait_for(lambda: any(one.user_attrs.get("workers", {}).get("host") == "elsewhere" for one in study.trials))
        until = time.monotonic() + 6  # longer than the grace period
        while time.monotonic() < until:
            give_up_the_dead(study, 4)
            assert points(study)[0].state == "running", "it is alive"
            time.sleep(0.2)
        process.send_signal(signal.SIGKILL)
        process.wait()
        wait_for(lambda: give_up_the_dead(study, 4) or points(study)[0].state == "waiting")
    finally:
        process.kill()
    attempt(job)
    assert summary(job) == [(0, "finished", (1, "x"), 2)]


@pytest.mark.parametrize(("sampler", "startup_trials"), [("grid", 2), ("tpe", 2), ("random", None)])
def test_jobs_at_once_share_the_points(url, sampler, startup_trials):
    """The first attempt of each is lost, too."""
    open_study(url, startup_trials)

    def work(number):
        job = open_study(url, startup_trials)
        attempt(job, TrialState.FAIL, is_grid=sampler == "grid", interrupted=True)
        while not (found := points(job[0])) or len(found) < 4 or not all(point.is_done for point in found):
            attempt(job, is_grid=sampler == "grid")

    with ThreadPoolExecutor(4) as jobs:
        list(jobs.map(work, range(4)))
    found = points(open_study(url)[0])
    assert [(point.number, point.state) for point in found] == [(number, "finished") for number in range(4)]
    complete = [trial for trial in open_study(url)[0].trials if trial.state is TrialState.COMPLETE]
    assert len(complete) == 4, "none was made twice"
    if sampler == "grid":
        assert [point.last.params for point in found] == GRID


@pytest.mark.parametrize("startup_trials", [3, None])
def test_a_new_start_does_not_draw_the_same_points_again(tmp_path, startup_trials):
    quiet_optuna()
    (dimension,) = parse_space(["a=interval(0,1)"])

    def draw(name: str, starts: list[int]) -> list[float]:
        for count in starts:
            storage, sampler = open_storage(f"sqlite:///{tmp_path}/{name}.db", 60), SeededByTrial(7, startup_trials)
            study = optuna.create_study(study_name="s", storage=storage, load_if_exists=True, sampler=sampler)
            study.optimize(lambda trial: dimension.suggest(trial) ** 2, n_trials=count)
        return [trial.params["a"] for trial in study.trials]

    at_once, in_parts = draw("a", [6]), draw("b", [1, 2, 3])
    assert at_once == in_parts, "stopped and started again, a study finds the same"
    assert len(set(at_once)) == 6
