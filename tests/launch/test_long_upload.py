"""Fault 9: a long upload of the main process does not take the others down."""

from __future__ import annotations

from pathlib import Path

import pytest
from support import tiny


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
