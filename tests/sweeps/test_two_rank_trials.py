"""Trials of two processes each: preempted with all their workers, and gone on with."""

from __future__ import annotations

import signal

import psutil
import pytest
from launched import ROOT
from support import tiny
from sweep_desk import TIMEOUT, desk_in

WORDS = (
    *("--config", "recipe.yaml", "--sampler", "grid", "--num-processes", 2),
    *("--accelerate-config", ROOT / "accelerate_configs/ddp.yaml"),
    "training.learning_rate=0.01,0.001",
)


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


@pytest.mark.slow
def test_any_strategy_is_a_trial(tmp_path):
    training = {"max_steps": 200, "num_epochs": 100, "eval_every_steps": 20, "log_every_steps": 20}
    with desk_in(tmp_path, training=training, evaluation={"baselines": []}, distributed={"world_size": 2}) as desk:
        sweep = desk.start(*WORDS)
        desk.wait_until(desk.says(0, "step 40:"), sweep)
        assert len(workers(desk.folder)) == 2
        sweep.send_signal(signal.SIGTERM)
        assert sweep.wait(TIMEOUT) == 75, desk.log.read_text()
        assert workers(desk.folder) == []
        assert desk.run(*WORDS) == 0, desk.log.read_text()
        first, second = desk.rows()
        assert [first["state"], second["state"]] == ["finished", "finished"]
        assert [first["attempts"], second["attempts"]] == ["2", "1"]
        environment = tiny.read_json(desk.out / "trials/0/environment.json")
        assert environment["num_processes"] == 2
        assert environment["training"]["resumed_from"] >= 40
