"""Two sweep processes at once on one study, with trials that fail by themselves; trials of two processes each."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import psutil
import pytest
from launched import ROOT
from support import tiny
from sweep_desk import TIMEOUT, Desk, desk_in

pytestmark = pytest.mark.slow  # most of a minute of real launches

WORDS = (
    *("--config", "recipe.yaml", "--sampler", "grid", "--accelerate-config", ROOT / "accelerate_configs/cpu.yaml"),
    *("--keep", "all", "--study", "shared", "model.context_length=32,64,4000"),
)


RANKS = (
    *("--config", "recipe.yaml", "--sampler", "grid", "--num-processes", 2),
    *("--accelerate-config", ROOT / "accelerate_configs/ddp.yaml"),
    "training.learning_rate=0.01,0.001",
)


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    with desk_in(tmp_path_factory.mktemp("shared"), evaluation={"baselines": []}) as desk:
        sweeps = [desk.start(*WORDS) for _ in range(2)]
        assert [sweep.wait(TIMEOUT) for sweep in sweeps] == [0, 0], desk.log.read_text()
        yield desk


def test_every_point_is_tried_once(desk):
    rows = desk.rows()
    states = [(row["model.context_length"], row["state"]) for row in rows]
    assert states == [("32", "finished"), ("64", "finished"), ("4000", "failed")]
    assert {row["attempts"] for row in rows} == {"1"}
    said = desk.log.read_text()
    assert said.count(" finished: validation_loss") == 2
    assert said.count(" failed: ") == 1
    assert "in data.split.mode=strict a longer context leaves fewer validation windows" in said
    assert "Traceback" not in said


def test_the_reason_is_the_error_line_of_the_trial(desk):
    (failed,) = [row for row in desk.rows() if row["state"] == "failed"]
    assert failed["reason"].startswith("series too short: a window needs 4008 steps")
    assert f"error: {failed['reason']}\n" in (desk.out / "trials" / f"{failed['number']}.log").read_text()


def test_all_weights_are_kept_when_asked(desk):
    finished = {row["number"] for row in desk.rows() if row["state"] == "finished"}
    assert {path.parent.parent.name for path in desk.out.rglob("*.safetensors")} == finished


def test_nothing_but_failures_is_an_error(desk, monkeypatch, capsys):
    monkeypatch.chdir(desk.folder)
    words = ("--config", "recipe.yaml", "--sampler", "grid", "--study", "bad", "model.dropout=7,8")
    assert desk.run_here("--output", "bad", *words) == 2
    said = capsys.readouterr().err
    reason = "recipe.yaml: 1 problem: model.dropout: input should be less than 1 (got 7)"
    assert f"error: all 2 trials failed, the first one: {reason}; see bad/README.md\n" in said
    assert (desk.folder / "bad" / "trials.csv").is_file()


def workers(folder) -> list[int]:
    """Ranks that train in the folder."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.cwd() == str(folder) and process.environ().get("LOCAL_RANK"):
                found.append(process.pid)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return found


def test_any_strategy_is_a_trial(tmp_path):
    """Preempted with all its workers, and gone on with."""
    training = {"max_steps": 200, "num_epochs": 100, "eval_every_steps": 20, "log_every_steps": 20}
    with desk_in(tmp_path, training=training, evaluation={"baselines": []}, distributed={"world_size": 2}) as desk:
        sweep = desk.start(*RANKS)
        desk.wait_until(desk.says(0, "step 40:"), sweep)
        assert len(workers(desk.folder)) == 2
        sweep.send_signal(signal.SIGTERM)
        assert sweep.wait(TIMEOUT) == 75, desk.log.read_text()
        assert workers(desk.folder) == []
        assert desk.run(*RANKS) == 0, desk.log.read_text()
        first, second = desk.rows()
        assert [first["state"], second["state"]] == ["finished", "finished"]
        assert [first["attempts"], second["attempts"]] == ["2", "1"]
        environment = tiny.read_json(desk.out / "trials/0/environment.json")
        assert environment["num_processes"] == 2
        assert environment["training"]["resumed_from"] >= 40
