"""An Optuna sweep of six trials for real: composed by Hydra, TPE, and a pruner that stops what learns nothing."""

from __future__ import annotations

from collections.abc import Iterator

import optuna
import pytest
from launched import ROOT
from optuna.trial import TrialState
from support import tiny
from sweep_desk import Desk, desk_in

pytestmark = pytest.mark.slow

SEED = 19  # with it TPE, after two random trials, tries the useless learning rate once
USELESS = "1e-09"
STEPS, EVERY = 300, 10
WORDS = (
    *("--hydra", "primary.yaml", "--sampler", "tpe", "--trials", 6, "--startup-trials", 2),
    *("--accelerate-config", ROOT / "accelerate_configs/cpu.yaml"),
    f"training.learning_rate=choice(0.01,0.003,{USELESS})",
    "model.dropout=interval(0.0,0.3)",
)


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    training = {"max_steps": STEPS, "num_epochs": 100, "eval_every_steps": EVERY, "log_every_steps": 50}
    folder = tmp_path_factory.mktemp("tpe")
    with desk_in(folder, training=training, evaluation={"baselines": []}, seed=SEED) as desk:
        recipe = (folder / "recipe.yaml").read_text(encoding="utf-8")
        (folder / "primary.yaml").write_text(f"defaults: [tuning: scratch, _self_]\n{recipe}", encoding="utf-8")
        (folder / "tuning").mkdir()
        (folder / "tuning" / "scratch.yaml").write_text("per_item: false\n", encoding="utf-8")
        assert desk.run(*WORDS) == 0, desk.log.read_text()
        yield desk


def test_six_trials_are_in_the_table(desk):
    rows = desk.rows()
    assert [row["number"] for row in rows] == ["0", "1", "2", "3", "4", "5"]
    assert {row["state"] for row in rows} == {"finished", "pruned"}
    assert all(0 <= float(row["model.dropout"]) <= 0.3 for row in rows)
    assert len({row["model.dropout"] for row in rows}) == 6
    assert desk.log.read_text().count("finished: validation_loss") == sum(row["state"] == "finished" for row in rows)


def test_what_learns_nothing_is_stopped_early(desk):
    (useless,) = [row for row in desk.rows() if row["training.learning_rate"] == USELESS]
    assert useless["state"] == "pruned"
    assert EVERY <= int(useless["stopped_at_step"]) < STEPS
    log = (desk.out / "trials" / f"{useless['number']}.log").read_text()
    assert f"step {STEPS}: validation loss" not in log, "its process was ended, not only its row"
    assert not (desk.out / "trials" / useless["number"]).exists()
    assert not (desk.out / "trials" / f"{useless['number']}.checkpoints").exists()


def test_the_study_has_seen_the_training(desk):
    study = optuna.load_study(study_name="out", storage=f"sqlite:///{desk.out}/study.db")
    for trial in study.get_trials(states=[TrialState.COMPLETE]):
        assert list(trial.intermediate_values) == list(range(1, STEPS // EVERY + 1))
        assert trial.value == min(trial.intermediate_values.values())
        training = tiny.read_json(desk.out / "trials" / str(trial.number) / "environment.json")["training"]
        assert trial.value == training["best_validation_loss"]


def test_the_report_is_whole(desk):
    names = {"trials.csv", "README.md", "best.yaml", "history.png", "importance.png", "study.db", "trials"}
    assert {path.name for path in desk.out.iterdir()} == names
    readme = (desk.out / "README.md").read_text()
    best = min((row for row in desk.rows() if row["validation_loss"]), key=lambda row: float(row["validation_loss"]))
    assert f"Best: trial {best['number']}, validation_loss {float(best['validation_loss']):.6g}." in readme
    assert "- `training.learning_rate`: " in readme.partition("## Importance")[2]
