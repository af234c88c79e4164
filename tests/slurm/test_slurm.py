"""recipes/launch.slurm on a real two-node SLURM: a run that was requeued ends as if it had never stopped."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support import tiny

import finetune_ttm

pytestmark = pytest.mark.slurm

ROOT = Path(finetune_ttm.__file__).parent.parent
CLUSTER = Path(__file__).parent / "cluster.sh"

# Dropout on: its random state, one per rank, must survive too. No regular checkpoints: the one that a run goes on
# from was written because of SIGTERM. Long enough that there is a middle.
MAX_STEPS = 400
SETTINGS = {
    "tuning": {"mode": "full"},
    "training": {
        "max_steps": MAX_STEPS,
        "num_epochs": 100,
        "per_device_batch_size": 16,
        "log_every_steps": 5,
        "eval_every_steps": 50,
    },
}
STARTED = "step 100: validation loss"

# How a job is stopped in its middle: by SLURM, or by the warning ahead of the time limit, which only the batch shell
# gets and answers itself.
REQUEUES = {"slurm": ["scontrol", "requeue"], "time_limit": ["scancel", "--batch", "--signal=TERM"]}


def run(*command: object) -> str:
    return subprocess.run([*map(str, command)], cwd=ROOT, check=True, capture_output=True, text=True).stdout.strip()


class Job:
    """A job of launch.slurm and what SLURM says about it."""

    def __init__(self, folder: Path, *arguments: object) -> None:
        options = ["--parsable", f"--output={folder}/%j.out"]
        self.number = run("sbatch", *options, "recipes/launch.slurm", *arguments)
        self._log = folder / f"{self.number}.out"

    @property
    def log(self) -> str:
        return self._log.read_text(encoding="utf-8") if self._log.is_file() else ""

    def facts(self) -> dict[str, str]:
        return dict(re.findall(r"(\w+)=(\S*)", run("scontrol", "show", "job", self.number)))

    def finish(self) -> dict[str, str]:
        """Wait for the end; the facts then."""
        self.until(lambda: self.facts()["JobState"] not in ("PENDING", "RUNNING", "COMPLETING"))
        return self.facts()

    def until(self, condition: Callable[[], bool], timeout: float = 240) -> None:
        end = time.monotonic() + timeout
        while not condition():
            if time.monotonic() > end:
                run("scancel", self.number)
                pytest.fail(f"job {self.number} waited {timeout} s for nothing; its log:\n{self.log}")
            time.sleep(0.2)

    def until_log(self, text: str) -> None:
        self.until(lambda: text in self.log or self.facts()["JobState"] not in ("PENDING", "RUNNING"))
        assert text in self.log, self.log


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    """The cluster that `cluster.sh start` started, and CPU processes that meet on this machine."""
    if shutil.which("slurmctld") is None:
        pytest.skip("slurmctld is absent: make test-slurm installs it")
    if os.geteuid() != 0:
        pytest.skip("not root: a SLURM cluster for tests needs it")
    config = Path(run(CLUSTER, "folder")) / "slurm.conf"
    if not config.is_file():
        pytest.skip("no cluster is running: make test-slurm starts one")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLURM_CONF", str(config))
        patch.setenv("MAIN_ADDRESS", "127.0.0.1")
        patch.setenv("ACCELERATE_USE_CPU", "true")
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
        yield


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_desk(tmp_path_factory.mktemp("desk"), **SETTINGS)


def submit(desk: Path, name: str, *overrides: str) -> Job:
    output_dir = f"output_dir={desk / name}"
    return Job(desk, desk / "recipe.yaml", "accelerate_configs/multi_node.yaml", output_dir, *overrides)


@pytest.fixture(scope="module")
def uninterrupted(desk: Path) -> Path:
    job = submit(desk, "uninterrupted")
    facts = job.finish()
    assert (facts["JobState"], facts["Restarts"]) == ("COMPLETED", "0"), job.log
    return desk / "uninterrupted"


@pytest.fixture(scope="module", params=REQUEUES)
def requeued(desk: Path, request: pytest.FixtureRequest) -> tuple[Path, Job, dict[str, str]]:
    """Run folder, job and SLURM's facts of a run that was stopped once in its middle."""
    job = submit(desk, request.param)
    job.until_log(STARTED)
    run(*REQUEUES[request.param], job.number)
    return desk / request.param, job, job.finish()


def test_the_job_started_twice(requeued: tuple[Path, Job, dict[str, str]]) -> None:
    _, job, facts = requeued
    assert (facts["JobState"], facts["Restarts"]) == ("COMPLETED", "1"), job.log


def test_both_nodes_took_part(requeued: tuple[Path, Job, dict[str, str]]) -> None:
    folder, _, facts = requeued
    assert facts["NodeList"] == "n[1-2]"
    assert tiny.read_json(folder / "environment.json")["num_processes"] == 2


def test_it_went_on_from_the_middle(requeued: tuple[Path, Job, dict[str, str]]) -> None:
    _, job, _ = requeued
    (step,) = re.findall(rf"resumed from step (\d+) of {MAX_STEPS}", job.log)
    assert 100 <= int(step) < MAX_STEPS


def test_the_result_is_that_of_the_uninterrupted_run(
    uninterrupted: Path, requeued: tuple[Path, Job, dict[str, str]]
) -> None:
    folder, _, _ = requeued
    for name in ("model/model.safetensors", "metrics.json"):
        assert (folder / name).read_bytes() == (uninterrupted / name).read_bytes(), name
    ours, theirs = (
        [json.loads(line) for line in (path / "history.jsonl").read_text(encoding="utf-8").splitlines()]
        for path in (folder, uninterrupted)
    )
    assert ours == theirs


def test_a_failed_run_is_not_requeued(desk: Path) -> None:
    job = submit(desk, "failed", "training.learning_rate=-1")
    facts = job.finish()
    assert (facts["JobState"], facts["Restarts"]) == ("FAILED", "0"), job.log
    assert "training.learning_rate" in job.log


def test_a_cancelled_run_is_not_requeued(desk: Path) -> None:
    job = submit(desk, "cancelled")
    job.until_log(STARTED)
    run("scancel", job.number)
    facts = job.finish()
    job.until(lambda: not run("squeue", "--noheader", f"--jobs={job.number}"))  # the shell has come to its end
    assert (facts["JobState"], job.facts()["JobState"], facts["Restarts"]) == ("CANCELLED", "CANCELLED", "0"), job.log
