"""A run that is killed and goes on ends with the bits of the run that was left alone."""

from __future__ import annotations

import io
import json
import random
import resource
import signal
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from functools import cache
from pathlib import Path

import pytest
from killing import Run
from support import tiny

import finetune_ttm
from tstune.errors import EXIT_REQUEUE, EXIT_USER_ERROR

STEPS, MANY_STEPS, EVERY = 30, 90, 3

# Everything that has a state: dropout, an average of the weights, accumulation, the best weights, a running loss
# between two rows of the log, an epoch that does not end where a checkpoint is written (402 windows, 26 batches),
# a linear skip that is solved before the first step.
SETTINGS = {
    "model": {"linear_skip": "shared"},
    "tuning": {"mode": "full"},
    "training": {
        "max_steps": STEPS,
        "num_epochs": 1000,
        "per_device_batch_size": 8,
        "gradient_accumulation_steps": 2,
        "learning_rate": 0.003,
        "eval_every_steps": 7,
        "log_every_steps": 4,
        "ema_decay": 0.9,
        "checkpoint_every_steps": EVERY,
        "resume_from_checkpoint": "auto",
        "callbacks": ["killing:Waits"],
    },
    "evaluation": {"baselines": [], "num_plots": 0},
}


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_desk(tmp_path_factory.mktemp("desk"), **SETTINGS)


@pytest.fixture(scope="module")
def whole(desk: Path) -> Callable[..., Path]:
    """Run folder of a run on so many processes that was left alone."""

    @cache
    def whole(processes: int, steps: int = STEPS) -> Path:
        run = Run(desk / "recipe.yaml", desk / f"whole{processes}-{steps}", processes, [f"training.max_steps={steps}"])
        assert run.finish() == 0, run.log.read_text()
        return run.output_dir

    return whole


def assert_same(run: Path, whole: Path, steps: int = STEPS) -> None:
    """Weights, history, scores: bit by bit."""
    for name in ("model/model.safetensors", "history.jsonl", "metrics.json"):
        assert (run / name).read_bytes() == (whole / name).read_bytes(), name
    rows = [json.loads(line) for line in (run / "history.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if "validation_loss" in row][-1] == steps
    assert sum("train_loss" in row for row in rows) == -(-steps // 4)  # every 4th, and the last
    assert sorted(path.name for path in (run / "checkpoints").iterdir())[-1] == f"step-{steps:08d}"


def killed_and_resumed(run: Run, kills: int, seed: int, steps: int = STEPS) -> list[str]:
    """Kill it so many times, every other time inside a checkpoint write; then let it end."""
    draw, table, resumed, anew = random.Random(seed), [], 0, 0
    for number in range(kills):
        before = run.newest_step()
        resumed += before > 0  # the first kill may come before the first checkpoint
        anew += before == 0
        after = before + draw.randint(2, max(2, (steps - before) // (kills - number) - EVERY))
        inside = draw.choice(["save_file", "_save_optimizer", "seal", "sync"]) if number % 2 else ""
        run.kill(after, inside)
        partial = [path.name for path in run.checkpoints.glob(".step-*.partial")]
        assert partial or inside in ("", "sync"), "before it is renamed"
        table.append(f"kill {number + 1:2}: resumed at {before:3}, killed with {run.newest_step():3} whole, {partial}")
        assert not run.output_dir.exists()
    resumed += run.newest_step() > 0
    anew += run.newest_step() == 0
    assert run.finish() == 0, run.log.read_text()
    assert run.log.read_text().count("resumed from step") == resumed >= kills - 1
    assert run.log.read_text().count("linear skip solved") == anew, "what was solved once is read"
    print(*table, sep="\n")
    return table


@pytest.mark.parametrize(
    ("processes", "kills", "steps"),
    [(1, 1, STEPS), *(pytest.param(*case, MANY_STEPS, marks=pytest.mark.slow) for case in ((1, 3), (2, 2)))],
)
def test_kills_leave_no_trace(processes: int, kills: int, steps: int, desk: Path, whole: Callable[..., Path]):
    name = f"killed{processes}-{kills}"
    run = Run(desk / "recipe.yaml", desk / name, processes, [f"training.max_steps={steps}"])
    killed_and_resumed(run, kills, seed=processes, steps=steps)
    assert_same(run.output_dir, whole(processes, steps), steps)
    assert not list(desk.glob(f".{name}.partial*"))
    assert not run.checkpoints.exists()


def test_a_finished_run_that_is_queued_again_has_nothing_to_do(desk: Path, whole: Callable[..., Path]):
    run, before = Run(desk / "recipe.yaml", whole(1)), tiny.snapshot(whole(1))
    assert run.finish() == 0
    assert f"run folder: {whole(1)} is complete" in run.log.read_text()
    assert run.finish("training.learning_rate=0.01") == EXIT_USER_ERROR, "another run is not this one"
    assert tiny.snapshot(whole(1)) == before


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_twelve_kills_leave_no_trace(processes: int, desk: Path, whole: Callable[..., Path]):
    run = Run(desk / "recipe.yaml", desk / f"often{processes}", processes, [f"training.max_steps={MANY_STEPS}"])
    table = killed_and_resumed(run, 12, seed=10 + processes, steps=MANY_STEPS)
    assert_same(run.output_dir, whole(processes, MANY_STEPS), MANY_STEPS)
    assert len(table) == 12
    assert sum(".partial" in line for line in table) >= 3, "some inside a write"


def test_sigterm_writes_a_checkpoint_and_asks_for_a_requeue(desk: Path, whole: Callable[..., Path]):
    run = Run(desk / "recipe.yaml", desk / "preempted", 1, ["training.checkpoint_every_steps=100"])
    process = run.start_and_wait(after=7)
    process.send_signal(signal.SIGTERM)
    assert process.wait() == EXIT_REQUEUE
    (line,) = [line for line in run.log.read_text().splitlines() if line.startswith("preempted: ")]
    assert f"checkpoint of step {run.newest_step()} is in {run.checkpoints}; start the same command with" in line
    assert run.newest_step() == 8, "the step that it was in is finished"
    assert not run.output_dir.exists()
    assert run.finish() == 0
    assert_same(run.output_dir, whole(1))


def test_sigterm_reaches_every_rank(desk: Path, whole: Callable[..., Path]):
    run = Run(desk / "recipe.yaml", desk / "preempted2", 2, ["training.checkpoint_every_steps=100"])
    process = run.start_and_wait(after=7)
    process.send_signal(signal.SIGTERM)  # the launcher passes it on
    assert process.wait() != 0
    assert run.log.read_text().count("preempted: checkpoint of step") == 1
    assert run.finish() == 0
    assert_same(run.output_dir, whole(2))


def test_a_damaged_newest_checkpoint_is_passed_over(desk: Path, whole: Callable[..., Path]):
    run = Run(desk / "recipe.yaml", desk / "damaged")
    run.kill(after=5 * EVERY + 1)
    newest = run.checkpoints / f"step-{run.newest_step():08d}"
    weights = newest / "learning.safetensors"
    damaged = bytearray(weights.read_bytes())
    damaged[-1] ^= 1
    weights.write_bytes(damaged)
    assert run.finish() == 0
    log = run.log.read_text()
    assert f"checkpoint {newest} is damaged (learning.safetensors has changed): trying the one before" in log
    assert f"resumed from step {int(newest.name[5:]) - EVERY} " in log
    assert_same(run.output_dir, whole(1))


# lock, history, weights and optimizer of a checkpoint; weights and report of the finished run
LIMITS = [10, 6_000, 40_000, *(pytest.param(limit, marks=pytest.mark.slow) for limit in (100, 12_000, 24_000))]


@pytest.mark.parametrize("limit", LIMITS)
def test_fault_10_a_full_disk_of_any_size_is_one_line(limit: int, desk: Path):
    """The system refuses to let any file of this process grow beyond the limit, as a full disk would."""
    run = Run(desk / "recipe.yaml", desk / f"full{limit}", 1)
    arguments = ["--config", str(run.recipe), f"output_dir={run.output_dir}", "training.max_steps=6"]
    before, said = resource.getrlimit(resource.RLIMIT_FSIZE), io.StringIO()
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        with redirect_stderr(said), redirect_stdout(said):
            assert finetune_ttm.main(arguments) == EXIT_USER_ERROR
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    (error,) = [line for line in said.getvalue().splitlines() if line.startswith("error: ")]
    assert str(run.output_dir) in error
    assert " cannot be written" in error
    trained = limit == 40_000
    assert list(desk.glob(f"full{limit}*/")) == ([run.checkpoints] if trained else []), "nothing, or what is whole"
    if trained:  # there is room again
        assert finetune_ttm.main([*arguments, "training.resume_from_checkpoint=auto"]) == 0


@pytest.fixture(scope="module")
def unfinished(desk: Path) -> Run:
    run = Run(desk / "recipe.yaml", desk / "unfinished")
    run.kill(after=2 * EVERY + 1)
    return run


def checkpoints(run: Run) -> dict[str, str]:
    return {name: digest for name, digest in tiny.snapshot(run.checkpoints).items() if name.startswith("step-")}


REFUSED = {
    "another learning rate": (1, ["training.learning_rate=0.01"], "training.learning_rate: 0.003 → 0.01"),
    "another data part": (1, ["data.split.train=0.5"], "data.split.train: 0.6 → 0.5"),
    "more processes": (2, [], "was written by 1 process(es), now there are 2"),
    "not to be resumed": (1, ["training.resume_from_checkpoint=null"], "holds checkpoints of an unfinished run"),
    "no such checkpoint": (1, ["training.resume_from_checkpoint=nowhere"], "nowhere does not exist"),
}


@pytest.mark.parametrize(
    "case", [pytest.param(case, marks=pytest.mark.slow if REFUSED[case][0] > 1 else []) for case in REFUSED]
)
def test_a_resume_that_would_differ_is_refused(case: str, unfinished: Run, desk: Path):
    processes, settings, words = REFUSED[case]
    run = Run(unfinished.recipe, unfinished.output_dir, processes, settings)
    before = checkpoints(unfinished)
    said = len(run.log.read_text())
    code = run.finish()
    assert code == EXIT_USER_ERROR if processes == 1 else code != 0
    (error,) = [line for line in run.log.read_text()[said:].splitlines() if line.startswith("error: ")]
    assert words in error
    assert checkpoints(unfinished) == before
    assert not unfinished.output_dir.exists()
