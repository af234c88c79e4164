"""Fault 12: a process that dies takes nobody into an endless wait; the others end with one line."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from support import tiny

_DIES = """
import os, signal
from tstune.training.callbacks import Callback

class Dies(Callback):
    def on_step_end(self, state):
        if os.environ["RANK"] == os.environ["DYING"] and state.step == 3:
            open(os.environ["DIED"], "w").close()
            os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.slow
@pytest.mark.parametrize("dying", [0, 1])
def test_the_others_end_in_one_line(
    dying: int, run_ranks: Callable[..., list[subprocess.CompletedProcess]], tmp_path: Path
) -> None:
    (tmp_path / "dying.py").write_text(_DIES)
    training = {"callbacks": ["dying:Dies"], "checkpoint_every_steps": 2}
    desk = tiny.write_desk(tmp_path, training=training, evaluation={"baselines": [], "num_plots": 0, "report": False})
    arguments = ["--config", desk / "recipe.yaml", f"output_dir={tmp_path / 'run'}"]
    settings = {"ACCELERATE_USE_CPU": "true", "PYTHONPATH": f"scripts:{tmp_path}", "DYING": str(dying)}
    settings["DIED"] = str(tmp_path / "died")
    ranks = run_ranks("scripts/finetune_ttm.py", *arguments, num_ranks=2, **settings)
    assert time.time() - (tmp_path / "died").stat().st_mtime < 300, "the patience of the strategies is half an hour"
    dead, alive = ranks[dying], ranks[1 - dying]
    assert (dead.returncode, alive.returncode) == (-9, 2), alive.stderr
    assert "Traceback" not in alive.stderr
    (error,) = [line for line in alive.stderr.splitlines() if line.startswith("error")]
    assert "another process of this run has ended" in error
    assert [path.name for path in Path(f"{tmp_path / 'run'}.checkpoints").glob("step-*")] == ["step-00000002"]


# Fault 9: a long upload of the main process does not take the others down


@pytest.mark.slow
def test_the_others_wait_longer_than_their_group(run_ranks, tmp_path: Path):
    desk = tiny.write_desk(tmp_path, evaluation={"baselines": [], "num_plots": 0, "report": False})
    arguments = [desk / "recipe.yaml", tmp_path / "run", tmp_path / "tracked"]
    ranks = run_ranks("tests/launch/upload_probe.py", *arguments, num_ranks=2, ACCELERATE_USE_CPU="true")
    assert [rank.returncode for rank in ranks] == [0, 0], ranks[1].stderr[-3000:]
    for number, rank in enumerate(ranks):
        assert f"rank {number} of 2 is done" in rank.stdout
    assert (tmp_path / "run/metrics.json").is_file()
    assert not Path(f"{tmp_path / 'run'}.checkpoints").exists()
