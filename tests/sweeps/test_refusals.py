"""What is wrong with a sweep is said in one line before the first trial, and nothing is written."""

from __future__ import annotations

import pytest
from launched import ROOT
from support import tiny

import sweep_hparams
from tstune.config.schema import RunConfig
from tstune.sweeps.space import changed_measure, parse_space

LR = "training.learning_rate=1e-3,1e-2"

BAD = {
    "nothing swept": (["training.learning_rate=1e-3"], "nothing to sweep: give a key several values"),
    "typo in a swept key": (["training.learning_rat=1,2"], "unknown key, did you mean training.learning_rate?"),
    "key of another section": (["model.learning_rate=1,2"], "unknown key, did you mean training.learning_rate?"),
    "unknown section": (["optimiser.lr=1,2"], "search space: 1 problem: optimiser: unknown key"),
    "typo in a plain key": ([LR, "trainig.max_steps=3"], "trainig: unknown key, did you mean training?"),
    "bad plain value": ([LR, "model.dropout=7"], "model.dropout: input should be less than 1 (got 7)"),
    "a section": (["training=1,2"], "training is a section; sweep a key of it, such as training.num_epochs"),
    "swept and plain": ([LR, "training.learning_rate=1"], "is given twice, once with one value and once with several"),
    "swept twice": ([LR, LR], "training.learning_rate is swept twice"),
    "output": (["output_dir=a,b"], "output_dir cannot be swept: the sweep sets it for each trial"),
    "tracking": (["tracking.run_name=a,b"], "tracking.run_name cannot be swept"),
    "resume": (["training.resume_from_checkpoint=a,b"], "training.resume_from_checkpoint cannot be swept"),
    "plain resume": ([LR, "training.resume_from_checkpoint=auto"], "a sweep goes on with its trials by itself"),
    "loss": (["training.loss=mse,mae"], "the validation loss would measure something else in each trial"),
    "scaling": (["data.scaling=standard,none"], "the validation loss would measure something else in each trial"),
    "horizon": (["model.prediction_length=4,8"], "the validation loss would measure something else in each trial"),
    "split": (["data.split.train=0.5,0.6"], "data.split.train cannot be swept"),
    "pretraining": (["pretraining.validation_windows=4,8"], "it is for another script"),
    "zero-shot": (
        [LR, "tuning.mode=zero_shot", "model.pretrained=somewhere"],
        "tuning.mode=zero_shot trains nothing, so there is no validation loss to choose by",
    ),
    "test metric": (["--metric", "test/fine_tuned/rmse", LR], "a trial chosen on the test part makes its test score"),
    "test": (["--metric", "test", LR], "use validation_loss"),
    "unknown metric": (["--metric", "train_loss", LR], "--metric train_loss is unknown; a sweep chooses by validation"),
    "grid of an interval": (["--sampler", "grid", "model.dropout=interval(0,0.5)"], "has no end of values"),
    "part of a grid": (["--sampler", "grid", "--trials", "1", LR], "the grid has 2 points and all are tried"),
    "few points": (["--trials", "9", LR], "the space has only 2 points; --sampler grid tries each once"),
    "unreadable": (["lora.rank=choice(4,8"], "lora.rank=choice(4,8: cannot be read"),
    "glob": (["lora.rank=glob(*)"], "glob() has no meaning here"),
    "no such accelerate config": (["--accelerate-config", "no.yaml", LR], "--accelerate-config no.yaml does not exist"),
    "how many": (["--accelerate-config", str(ROOT / "accelerate_configs/ddp.yaml"), LR], "give --num-processes too"),
    "not a config": (["--accelerate-config", "series.csv", LR], "--accelerate-config series.csv "),
}


@pytest.mark.parametrize("name", BAD)
def test_one_line_and_nothing_written(name, desk, capsys):
    before = tiny.snapshot(desk.folder)
    words, reason = BAD[name]
    assert sweep(*words) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.startswith("error: ")
    assert told.err.count("\n") == 1
    assert reason in told.err
    assert tiny.snapshot(desk.folder) == before


def sweep(*words: str) -> int:
    return sweep_hparams.main(["--config", "recipe.yaml", "--output", "out", *words])


def test_a_trial_runs_on_one_machine_and_the_sweep_in_one_process(desk, capsys, monkeypatch):
    (desk.folder / "two.yaml").write_text("distributed_type: MULTI_GPU\nnum_machines: 2\nnum_processes: 4\n")
    assert sweep("--accelerate-config", "two.yaml", LR) == 2
    assert "two.yaml: a trial runs on one machine, num_machines is 2; start" in capsys.readouterr().err
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert sweep(LR) == 2
    assert "start sweep_hparams.py with python, not with accelerate launch" in capsys.readouterr().err


@pytest.mark.parametrize("number", ["0", "-1", "two"])
def test_numbers_are_positive(number, desk, capsys):
    with pytest.raises(SystemExit) as left:
        sweep("--trials", number, LR)
    assert left.value.code == 2
    assert "argument --trials" in capsys.readouterr().err


def test_what_only_alters_training_may_be_swept(desk, capsys):
    """They pass all checks, up to the database, which is refused here."""
    words = ["data.train_stride=1,2", "data.mirror_train_windows=true,false", "lora.rank=4,8", "seed=range(0,3)"]
    assert sweep("--storage", "nonsense", *words) == 2
    assert "is not the URL of a database" in capsys.readouterr().err


def test_a_config_group_may_be_swept(desk, capsys):
    (desk.folder / "tuning").mkdir()
    for mode in ("head", "full"):
        (desk.folder / "tuning" / f"{mode}.yaml").write_text(f"mode: {mode}\n")
    recipe = (desk.folder / "recipe.yaml").read_text()
    (desk.folder / "primary.yaml").write_text(f"defaults: [_self_]\n{recipe}")
    there = ["--output", "out", "--storage", "nonsense"]
    for words, reason in {
        ("--hydra", "primary.yaml", "+tuning=full", "model.d_model=8,16"): "is not the URL of a database",
        ("--hydra", "primary.yaml", "tuning=head,full"): "is not the URL of a database",
        ("--config", "recipe.yaml", "tuning=head,full"): "tuning is a section; sweep a key of it",
    }.items():
        assert sweep_hparams.main([*words[:2], *there, *words[2:]]) == 2
        assert reason in capsys.readouterr().err


def test_a_trial_whose_loss_measures_something_else_is_noticed():
    base = RunConfig()
    same = base.model_copy(update={"training": base.training.model_copy(update={"learning_rate": 0.5})})
    other = base.model_copy(update={"training": base.training.model_copy(update={"loss": "mae"})})
    longer = base.model_copy(update={"model": base.model.model_copy(update={"prediction_length": 7})})
    assert changed_measure(base, same) == []
    assert changed_measure(base, other) == ["training.loss"]
    assert changed_measure(base, longer) == ["model.prediction_length"]


def test_parse_args_tells_plain_from_swept():
    arguments = sweep_hparams.parse_args(["--config", "r.yaml", "--output", "out", "a=1", LR, "b=x"])
    assert arguments.overrides == ["a=1", "b=x"]
    assert arguments.swept == [LR]
    assert [dimension.key for dimension in parse_space(arguments.swept)] == ["training.learning_rate"]
