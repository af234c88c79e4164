"""The best forecaster in a time budget: whatever wins is a run folder, the budget holds, a killed search goes on."""

from __future__ import annotations

import json
import time

import pytest
from support.tiny import series, snapshot, write_desk

import autotune as script
import tstune
from tstune.errors import ConfigError, OutputError
from tstune.models.registry import load_model
from tstune.runs.folder import RunFolder
from tstune.sweeps import autotune as module

MODES = (("decoder", 1e-3), ("head", 1e-3))
TRAINING = {"max_steps": 8, "num_epochs": 50, "eval_every_steps": 2}
JUDGING = {"baselines": ["persistence", "context_mean"], "num_plots": 0, "report": False}


@pytest.fixture
def search(tmp_path, monkeypatch):
    """A search of seconds, started as often as a test likes."""
    write_desk(tmp_path, training=TRAINING, evaluation=JUDGING)
    monkeypatch.setattr(module, "MODES", MODES)
    monkeypatch.setattr(module, "FINISH_SECONDS", 1.0)

    def start(minutes: float = 2.0, **options: object) -> module.Autotuned:
        return tstune.autotune(tmp_path / "recipe.yaml", minutes=minutes, output=tmp_path / "found", **options)

    return start


def test_everything_is_a_row_and_the_winner_is_a_run(search, tmp_path, capsys):
    found = search(weights=["nowhere"])
    rows = {row.name: row for row in found.rows}
    assert {"persistence", "context_mean", "ridge", "zero_shot", "decoder.0.001", "head.0.001"} <= rows.keys()
    assert rows["nowhere.zero_shot"].state == "failed"
    assert "nowhere" in rows["nowhere.zero_shot"].reason
    scores = [row.score for row in found.rows if row.score is not None]
    assert scores == sorted(scores)
    assert found.winner == found.rows[0]
    assert any(name.endswith(".interpolated") for name in rows)
    assert all(row.losses for row in found.rows if row.kind == "tuned" and row.score is not None)

    best = tmp_path / "found/best"
    assert load_model(best).predict(series()).notna().all(axis=None)
    config = RunFolder(best).config
    assert found.test == RunFolder(best).metrics["test"]
    again = module.SimpleConfigManager().load_config(tmp_path / "found/best.yaml")
    assert (again.model, again.tuning, again.training.max_steps) == (config.model, config.tuning, 8)
    board = json.loads((tmp_path / "found/leaderboard.json").read_text())
    assert board["winner"] == found.winner.name
    assert board["rows"][0]["test"] == pytest.approx(
        found.test["fine_tuned" if "fine_tuned" in found.test else "zero_shot"]["rmse"]
    )
    page = (tmp_path / "found/report.html").read_text()
    assert all(name in page for name in rows)
    assert "best so far" in capsys.readouterr().out
    assert not list((tmp_path / "found/candidates").glob("*.checkpoints"))


def test_a_baseline_wins_where_nothing_else_can_be_had_in_the_time(search, tmp_path):
    begin = time.monotonic()
    found = search(minutes=0.02)
    assert found.winner.kind == "baseline"
    assert "decoder.0.001" in found.not_tried
    assert "no time left" in found.not_tried["decoder.0.001"]
    assert load_model(tmp_path / "found/best").model_type == found.winner.name
    assert "decoder.0.001" in (tmp_path / "found/report.md").read_text()
    assert time.monotonic() - begin < 60


@pytest.mark.parametrize(
    "moment", ["scored", *(pytest.param(moment, marks=pytest.mark.slow) for moment in ("training", "finishing"))]
)
def test_a_killed_search_goes_on(search, tmp_path, monkeypatch, moment):
    """The kill is the one that nothing can be done about: no handler of ours sees it."""

    class Killed(BaseException):
        pass

    def die(*_: object) -> None:
        raise Killed

    def in_training(self: module.Halving, state: module.TrainingState) -> None:
        if state.step == 3:
            raise Killed

    where = {
        "training": (module.Halving, "on_step_end", in_training),
        "scored": (module.Search, "_keep_only_best", die),
        "finishing": (module.CandidateRun, "judge_baselines", die),
    }
    with monkeypatch.context() as patched:
        patched.setattr(*where[moment])
        with pytest.raises(Killed):
            search()
    kept = snapshot(tmp_path / "found/candidates")
    rows = {name: content for name, content in kept.items() if name.endswith(".json") and "/" not in name}
    assert rows
    found = search()
    assert rows.items() <= snapshot(tmp_path / "found/candidates").items(), "what was finished is not done again"
    assert {"ridge", "zero_shot", "decoder.0.001", "head.0.001"} <= {row.name for row in found.rows}
    assert RunFolder(tmp_path / "found/best").metrics["test"] == found.test
    tried = len(found.rows)
    assert len(search().rows) == tried, "a finished search has nothing left to do"


def test_a_metric_that_is_higher_where_it_is_better(search):
    found = search(minutes=0.02, metric="mae", higher=True)
    scores = [row.score for row in found.rows if row.score is not None]
    assert scores == sorted(scores, reverse=True)


def test_another_search_is_not_mixed_in(search):
    search(minutes=0.02)
    with pytest.raises(OutputError, match="another --output"):
        search(minutes=0.02, metric="mae")
    with pytest.raises(ConfigError, match="neither a higher nor a lower"):
        search(metric="bias")


def test_a_table_without_a_recipe(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(module, "MODES", ())
    series(rows=700).to_csv(tmp_path / "load.csv", index=False)
    words = ["--data", str(tmp_path / "load.csv"), "--horizon", "6h", "--minutes", "0.02"]
    words += ["--output", str(tmp_path / "found"), "evaluation.num_plots=0", "evaluation.report=false"]
    assert script.main(words) == 0, capsys.readouterr().err
    said = capsys.readouterr().out
    assert "winner: " in said
    assert "predict_forecast.py" in said
    assert RunFolder(tmp_path / "found/best").config.model.prediction_length == 6
    assert script.main(["--data", str(tmp_path / "load.csv"), "--horizon", "90min"]) == 2
    assert "--horizon" in capsys.readouterr().err
