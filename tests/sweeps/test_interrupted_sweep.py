"""A 2x2 grid for real, killed, preempted and interrupted on its way; two of its four trials have a bad value."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import optuna
import psutil
import pytest
from launched import ROOT
from support import tiny
from sweep_desk import TIMEOUT, Desk, desk_in

from tstune.sweeps.report import Launch

pytestmark = pytest.mark.slow  # minutes of real launches, killed and started again

CPU = ROOT / "accelerate_configs" / "cpu.yaml"
STEPS = 500
GRID = ("training.learning_rate=choice(0.01,0.001)", "model.dropout=choice(0.1,7)")
WORDS = ("--config", "recipe.yaml", "--sampler", "grid", "--accelerate-config", CPU, *GRID)
TRAINING = {"max_steps": STEPS, "num_epochs": 100, "eval_every_steps": 50, "log_every_steps": 50}


def end(sweep: subprocess.Popen, number: signal.Signals) -> int:
    sweep.send_signal(number)
    return sweep.wait(TIMEOUT)


def wait_until_quiet(folder: Path) -> None:
    """Until no process works for the folder."""
    deadline = time.monotonic() + TIMEOUT
    while running := [process.pid for process in psutil.process_iter() if _works_in(process, folder)]:
        assert time.monotonic() < deadline, running
        time.sleep(0.1)


def _works_in(process: psutil.Process, folder: Path) -> bool:
    try:
        return process.cwd() == str(folder) and "finetune_ttm.py" in " ".join(process.cmdline())
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return False


@pytest.fixture(scope="module")
def history(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Desk, list[int], list[list[dict]]]]:
    """The desk, the exit code of each start, and the table after it."""
    moments = (
        (signal.SIGKILL, 0, "step 50:"),
        (signal.SIGTERM, 0, "resumed from step"),
        (signal.SIGINT, 2, "step 50:"),
    )
    codes, tables = [], []
    with desk_in(tmp_path_factory.mktemp("grid"), training=TRAINING, evaluation={"baselines": []}) as desk:
        for number, trial, text in moments:
            sweep = desk.start(*WORDS)
            desk.wait_until(desk.says(trial, text), sweep)
            codes.append(end(sweep, number))
            if number == signal.SIGKILL:
                wait_until_quiet(desk.folder)
                tables.append([])  # it had no time to write one
            else:
                assert not [p.pid for p in psutil.process_iter() if _works_in(p, desk.folder)], "it ended its trial"
                tables.append(desk.rows())
        codes.append(desk.run(*WORDS))
        tables.append(desk.rows())
        yield desk, codes, tables


def test_exit_codes(history):
    desk, codes, _ = history
    assert codes == [-signal.SIGKILL, 75, 130, 0], desk.log.read_text()
    said = desk.log.read_text()
    assert "preempted: the state of the sweep is in out and its study; the same command goes on" in said
    assert "interrupted: finished trials are kept, the same command goes on" in said
    assert "Traceback" not in said
    assert "Warning" not in said


def test_the_table_after_each_start(history):
    _, _, (_, preempted, interrupted, done) = history
    assert [row["state"] for row in preempted] == ["waiting"]
    assert sorted(row["state"] for row in interrupted) == ["failed", "finished", "waiting"]
    assert len(done) == 4
    table = {(row["training.learning_rate"], row["model.dropout"]): row for row in done}
    states = {point: row["state"] for point, row in table.items()}
    assert states == {
        ("0.01", "0.1"): "finished",
        ("0.01", "7"): "failed",
        ("0.001", "0.1"): "finished",
        ("0.001", "7"): "failed",
    }
    assert [table[point]["attempts"] for point in states] == ["3", "1", "2", "1"]
    assert float(table["0.01", "0.1"]["validation_loss"]) < float(table["0.001", "0.1"]["validation_loss"])


def test_a_bad_value_is_a_failed_row_with_its_reason(history):
    desk, _, (*_, done) = history
    failed = [row for row in done if row["state"] == "failed"]
    reason = "recipe.yaml: 1 problem: model.dropout: input should be less than 1 (got 7)"
    assert [row["reason"] for row in failed] == [reason] * 2
    for row in failed:
        log = desk.out / "trials" / f"{row['number']}.log"
        assert log.read_text() == f"error: {reason}\n"


def test_trials_went_on_from_their_checkpoints(history):
    desk, _, (*_, done) = history
    for row in done:
        if row["state"] == "finished":
            trained = tiny.read_json(desk.out / "trials" / row["number"] / "environment.json")["training"]
            assert trained["num_steps"] == STEPS
            assert 0 < trained["resumed_from"] <= STEPS


def test_the_study_holds_every_attempt(history):
    desk, _, _ = history
    study = optuna.load_study(study_name="out", storage=f"sqlite:///{desk.out}/study.db")
    states = sorted(trial.state.name for trial in study.trials)
    assert states == ["COMPLETE"] * 2 + ["FAIL"] * 5
    assert study.best_trial.params == {"training.learning_rate": 0.01, "model.dropout": 0.1}


def test_a_start_too_much_does_nothing(history, monkeypatch, capsys):
    desk, _, (*_, done) = history
    monkeypatch.chdir(desk.folder)
    assert desk.run_here(*WORDS) == 0
    assert desk.rows() == done
    told = capsys.readouterr()
    assert told.out.endswith("recipe: out/best.yaml\n")
    assert told.err == "", "no trial is mentioned"


def test_another_search_under_the_same_name_is_refused(history, monkeypatch, capsys):
    desk, _, (*_, done) = history
    monkeypatch.chdir(desk.folder)
    assert desk.run_here(*WORDS[:-1], "model.dropout=choice(0.1,0.2)", "training.weight_decay=0.5") == 2
    said = capsys.readouterr().err
    assert said.startswith("error: study out is of another sweep: training.weight_decay was 0.01, is 0.5; ")
    assert "sweep of model.dropout was choice(0.1,7), is choice(0.1,0.2); choose another --study" in said
    assert said.count("\n") == 1
    assert desk.run_here(*WORDS[:-2], WORDS[-1], WORDS[-2]) == 2
    said = capsys.readouterr().err
    assert "order of the grid was training.learning_rate, model.dropout, is model.dropout, training.learning" in said
    assert desk.run_here("--study", "other", *WORDS) == 2
    assert capsys.readouterr().err.endswith("out holds trials of another study; choose another --output\n")
    assert desk.run_here("--storage", f"sqlite:///{desk.out}/study.db", "--study", "out", "--output", "b", *WORDS) == 2
    assert "--output b does not hold trial 0 of study out; give the --output it was begun" in capsys.readouterr().err
    assert desk.rows() == done


def test_only_the_best_keeps_its_weights(history):
    desk, _, (*_, done) = history
    best, other = sorted(
        (row for row in done if row["state"] == "finished"), key=lambda row: float(row["validation_loss"])
    )
    trials = desk.out / "trials"
    assert {path.relative_to(trials).parts[0] for path in trials.rglob("*.safetensors")} == {best["number"]}
    assert (trials / best["number"] / "model/model.safetensors").is_file()
    assert (trials / other["number"] / "metrics.json").is_file()
    assert not list(trials.glob("*.checkpoints"))
    assert not list((desk.folder / "tracking").rglob("*.safetensors")), "nor do the files of the tracker"


def test_trackers_see_one_run_with_the_trials_inside(history):
    desk, _, (*_, done) = history
    runs = {path.name: path for path in (desk.folder / "tracking/files/tstune").iterdir()}
    configs = {name: tiny.read_json(path / "config.json")["tracking"] for name, path in runs.items()}
    (parent,) = [name for name, tracking in configs.items() if tracking["parent_run"] is None]
    trials = {tracking["run_name"]: name for name, tracking in configs.items() if name != parent}
    finished = [row for row in done if row["state"] == "finished"]
    assert sorted(trials) == sorted(f"out-{row['number']}" for row in finished)
    assert {configs[name]["parent_run"] for name in trials.values()} == {parent}
    summary = tiny.read_json(runs[parent] / "summary.json")
    assert summary["status"] == "FINISHED"
    assert summary["metrics"]["best_validation_loss"] == min(float(row["validation_loss"]) for row in finished)
    assert {"best.yaml", "trials.csv", "README.md"} <= {path.name for path in (runs[parent] / "artifacts").iterdir()}


def test_the_best_recipe_gives_the_same_loss_to_the_last_digit(history):
    """The trial was killed once and preempted once; the run of its recipe goes through."""
    desk, _, (*_, done) = history
    command = Launch(str(CPU)).command(desk.out / "best.yaml")
    ran = subprocess.run(command, cwd=desk.folder, capture_output=True, text=True, timeout=TIMEOUT, check=False)
    assert ran.returncode == 0, ran.stderr
    again = json.loads((desk.out / "best" / "environment.json").read_text())["training"]
    assert again["resumed_from"] is None
    best = min(float(row["validation_loss"]) for row in done if row["state"] == "finished")
    assert again["best_validation_loss"] == best
