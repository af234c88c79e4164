"""The table, the pictures and the best recipe of a study that is filled in by hand."""

from __future__ import annotations

import optuna
import pandas as pd
import pytest
from optuna.trial import TrialState
from PIL import Image

from tstune.config.managers import SimpleConfigManager
from tstune.config.schema import RunConfig
from tstune.sweeps.report import FILES, Launch, SweepPlan, best_point, save_recipe, write_report
from tstune.sweeps.space import parse_space, stored
from tstune.sweeps.storage import begin, end, open_storage, points, quiet_optuna
from tstune.sweeps.study import _remove_weights

SPACE = parse_space(["training.learning_rate=tag(log,interval(1e-4,1e-1))", "data.control_columns=[],[a|b]"])
TRIED = (  # rate, columns, what becomes of it
    (0.05, [], 3.0),
    (0.001, ["a|b"], 1.0),
    (0.01, [], "pruned"),
    (0.002, [], "failed"),
    (0.003, [], 2.0),
    (0.004, ["a|b"], "lost"),
)


KEYS, AFTER = [dimension.key for dimension in SPACE], ["stopped_at_step", "attempts", "reason"]
BASE = RunConfig.model_validate({"tracking": {"trackers": ["tensorboard"]}})


@pytest.fixture
def plan(tmp_path) -> SweepPlan:
    (tmp_path / "out" / "trials").mkdir(parents=True)
    launch = Launch("accelerate_configs/ddp.yaml", 2)
    return SweepPlan("s", lambda _: BASE, SPACE, tmp_path / "out", launch, "tpe", "none", 6)


def fill(plan: SweepPlan, tried) -> optuna.Study:
    quiet_optuna()
    storage = open_storage(f"sqlite:///{plan.folder}/study.db", 60)
    study = optuna.create_study(study_name="s", storage=storage)
    for number, (rate, columns, result) in enumerate(tried):
        values = {"training.learning_rate": rate, "data.control_columns": stored(columns)}
        trial = begin(study, storage, number, SPACE, values)
        if result == "pruned":
            end(study, trial, TrialState.PRUNED, stopped_at_step=40)
            continue
        if isinstance(result, str):
            told = {"reason": "data.path: no such file | folder"} if result == "failed" else {}
            end(study, trial, TrialState.FAIL, **told)
            continue
        values = {
            "output_dir": str(plan.run(number)),
            "training": {"learning_rate": rate, "resume_from_checkpoint": "auto"},
            "tracking": {"trackers": ["file"], "parent_run": "p", "run_name": "s-1"},
        }
        plan.run(number).mkdir()
        save_recipe(RunConfig.model_validate(values), plan.run(number) / "config.yaml")
        end(study, trial, TrialState.COMPLETE, result)
    if any(result == "lost" for *_, result in tried):
        begin(study, storage, points(study)[-1], SPACE, {})
    return study


def test_everything_is_reported(plan):
    study = fill(plan, TRIED)
    assert write_report(plan, BASE, study).number == 1
    assert sorted(path.name for path in plan.folder.iterdir()) == sorted([*FILES, "study.db", "trials"])

    table = pd.read_csv(plan.folder / "trials.csv", dtype=str, keep_default_na=False)
    assert [*table.columns.drop("seconds")] == ["number", "state", "validation_loss", *KEYS, *AFTER]
    assert table.drop(columns="seconds").to_numpy().tolist() == [
        ["0", "finished", "3.0", "0.05", "[]", "", "1", ""],
        ["1", "finished", "1.0", "0.001", '["a|b"]', "", "1", ""],
        ["2", "pruned", "", "0.01", "[]", "40", "1", ""],
        ["3", "failed", "", "0.002", "[]", "", "1", "data.path: no such file | folder"],
        ["4", "finished", "2.0", "0.003", "[]", "", "1", ""],
        ["5", "running", "", "0.004", '["a|b"]', "", "2", ""],
    ]
    assert (table["seconds"].astype(float) >= 0).all()

    readme = (plan.folder / "README.md").read_text()
    assert "# Sweep s\n\nSampler tpe, 6 trials planned: 3 finished, 1 pruned, 1 failed, 1 running." in readme
    assert "Best: trial 1, validation_loss 1." in readme
    assert (
        "    accelerate launch --config_file accelerate_configs/ddp.yaml --num_processes 2 "
        f"scripts/finetune_ttm.py --config {plan.folder}/best.yaml"
    ) in readme
    table = [line for line in readme.splitlines() if line.startswith("| ")]
    assert [line.split("|")[1].strip() for line in table[2:]] == ["1", "4", "0", "2", "3", "5"], "best first"
    assert "data.path: no such file \\| folder |" in table[6]
    assert "stopped at step 40" in table[5]
    assert "attempt 2" in table[7]
    assert "- `training.learning_rate`: tag(log,interval(1e-4,1e-1))" in readme
    assert "![importance](importance.png)" in readme
    assert len({len(line.replace("\\|", "")) for line in table if "\\" not in line}) == 1, "aligned"

    for name in ("importance.png", "history.png"):
        with Image.open(plan.folder / name) as image:
            assert image.format == "PNG"
            assert min(image.size) > 100
            assert len(image.convert("RGB").getcolors(1 << 24)) > 10, "something is drawn"


def test_the_best_recipe_is_the_run_without_the_sweep(plan):
    write_report(plan, BASE, fill(plan, TRIED))
    best = SimpleConfigManager().load_config(plan.folder / "best.yaml")
    assert best.training.learning_rate == 0.001
    assert best.training.resume_from_checkpoint is None
    assert best.output_dir == str(plan.folder / "best")
    assert best.tracking == BASE.tracking, "as the user has it"


@pytest.mark.parametrize(
    ("tried", "told"),
    [
        ((), "it takes at least two finished trials"),
        (TRIED[2:4], "it takes at least two finished trials"),
        (TRIED[:1], "it takes at least two finished trials"),
        (((0.05, [], 1.0), (0.001, [], 1.0)), "every finished trial has the same validation loss"),
    ],
)
def test_what_cannot_be_said_yet_is_said(plan, tried, told):
    study = fill(plan, tried)
    best = write_report(plan, BASE, study)
    readme = (plan.folder / "README.md").read_text()
    assert f"Not known: {told}." in readme
    assert (plan.folder / "history.png").is_file()
    assert not (plan.folder / "importance.png").exists()
    assert (plan.folder / "best.yaml").exists() == (best is not None)
    assert ("No trial has finished." in readme) == (best is None)


def test_of_equal_trials_the_first_is_best(plan):
    found = points(fill(plan, [(0.05, [], 2.0), (0.01, [], 1.0), (0.001, [], 1.0)]))
    assert best_point(found).number == 1
    assert best_point([]) is None


def test_importance_finds_the_key_that_matters(plan):
    rates = [0.0001 * 3**n for n in range(6)]
    study = fill(plan, [(rate, columns, rate) for rate in rates for columns in ([], ["a|b"])])
    write_report(plan, BASE, study)
    readme = (plan.folder / "README.md").read_text()
    shares = [line for line in readme.splitlines() if line.startswith("- `") and line.endswith("%")]
    assert [line.split("`")[1] for line in shares] == ["training.learning_rate", "data.control_columns"]
    rate, columns = (int(line.split()[-1].rstrip("%")) for line in shares)
    assert rate > 50 > 10 > columns


def test_weights_of_the_others_are_removed(plan):
    kept = {"3/metrics.json", "3/model/config.json", "30/model/model.safetensors"}
    gone = {"3/model/model.safetensors", "3/adapters/a/adapter_model.safetensors", "3/checkpoints/step-1/x.json"}
    for name in kept | gone | {"3.checkpoints/step-1/x.json"}:
        file = plan.folder / "trials" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("x")
    _remove_weights(plan.run(3))
    _remove_weights(plan.run(4))  # never begun
    files = [path for path in plan.folder.rglob("*") if path.is_file()]
    assert {path.relative_to(plan.folder / "trials").as_posix() for path in files} == kept
    assert not plan.run(3).with_name("3.checkpoints").exists()
