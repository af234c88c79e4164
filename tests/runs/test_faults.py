"""Faults of 2026-11-28 in a run's life, a test each (1 to 6 are test_kill_matrix.py)."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import looking_on
import pytest
from safetensors.torch import load_file
from support import tiny

import finetune_ttm
import predict_forecast
from tstune import TTMForecaster
from tstune.config.managers import SimpleConfigManager, load_saved_config
from tstune.config.names import dotted
from tstune.config.schema import RunConfig
from tstune.errors import EXIT_OK, EXIT_USER_ERROR, Preempted
from tstune.runs import life
from tstune.runs.folder import RunFolder
from tstune.tracking.composite import GuardedTracker
from tstune.tracking.interfaces import ExperimentTracker
from tstune.tracking.simple_tracker import SimpleExperimentTracker

QUICK = {"evaluation": {"baselines": [], "num_plots": 0, "report": False}}


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_desk(tmp_path_factory.mktemp("desk"), **QUICK)


@pytest.fixture
def run(desk: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    def run(*settings: str) -> tuple[int, str]:
        code = finetune_ttm.main(["--config", str(desk / "recipe.yaml"), f"output_dir={tmp_path / 'run'}", *settings])
        return code, capsys.readouterr().err

    return run


def the_error(said: str) -> str:
    (line,) = [line for line in said.splitlines() if line.startswith("error: ")]
    return line


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("no_file", "/nowhere/readings.bin: No such file or directory"),
        ("no_service", "ConnectionRefusedError: the service on port 7 does not answer"),
    ],
)
def test_7_what_the_system_refuses_is_named_and_not_the_output_dir(source: str, words: str, run, tmp_path: Path):
    code, said = run(f"data.source=looking_on:{source}", "data.path=null")
    assert code == EXIT_USER_ERROR
    assert words in the_error(said)
    assert "output_dir" not in the_error(said)
    assert os.listdir(tmp_path) == []


def test_8_every_key_is_compared_or_known_to_be_free():
    """A new key is compared until somebody says why not."""
    config = RunConfig()
    everything = {name for name, _ in dotted(config.model_dump(mode="json"))}
    compared = set(life.training_identity(config))
    free = {name for name in everything if life._among(name, life._MAY_MOVE)}
    judging = {name for name in everything if life._among(name, life._JUDGING_ONLY)}
    assert compared | free | judging | set(life._COMPARED_THEMSELVES) == everything
    assert not compared & (free | judging)
    for key in ("evaluation.context_steps", "evaluation.keep_best", "training.context_dropping_range", "seed"):
        assert key in compared
    for key in ("data.cache", "training.log_every_steps", "training.num_workers"):
        assert key not in compared
    for named in (*life._MAY_MOVE, *life._JUDGING_ONLY, *life._COMPARED_THEMSELVES):
        assert any(life._among(name, (named,)) for name in everything), f"{named} is no key"


@pytest.mark.parametrize(
    ("setting", "is_taken"),
    [
        ("evaluation.context_steps=16", False),
        ("evaluation.keep_best=false", False),
        ("training.log_every_steps=2", True),
        ("evaluation.metrics=[smape]", True),
    ],
)
def test_8_a_checkpoint_of_other_settings_is_refused(setting: str, is_taken: bool, run, tmp_path: Path):
    code, _ = run("training.checkpoint_every_steps=3")
    assert code == EXIT_OK
    (tmp_path / "run/checkpoints").rename(tmp_path / "old")
    code, said = run(f"training.resume_from_checkpoint={tmp_path / 'old'}", "overwrite=true", setting)
    assert code == (EXIT_OK if is_taken else EXIT_USER_ERROR), said
    if not is_taken:
        assert setting.partition("=")[0] in the_error(said)


def test_10_a_small_full_disk_is_one_line(run, tmp_path: Path):
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=60k", "tmpfs", disk], check=False).returncode:
        pytest.skip("a disk of 60 kB needs the right to mount one")
    try:
        code, said = run(f"output_dir={disk / 'run'}", "tuning.mode=full", "training.checkpoint_every_steps=1")
        assert code == EXIT_USER_ERROR
        assert "cannot be written" in the_error(said)
        assert "No space left on device" in the_error(said)
        assert not (disk / "run").exists()
    finally:
        subprocess.run(["umount", disk], check=True)


def test_10_a_killed_loading_process_is_one_line(run):
    code, said = run("training.num_workers=1", "training.callbacks=[looking_on:KillsWorkers]", "training.max_steps=50")
    assert code == EXIT_USER_ERROR
    assert "lower training.num_workers" in the_error(said)


def test_11_nothing_takes_a_preemption_for_a_failure(tmp_path: Path):
    assert not issubclass(Preempted, Exception)

    class Stopped(SimpleExperimentTracker):
        def child(self, name: str) -> ExperimentTracker:
            raise Preempted

        def log_metrics(self, metrics: dict, step: int | None = None) -> None:
            raise Preempted

    tracker = GuardedTracker(Stopped(tmp_path / "files"), tmp_path / "missed", 0, 0.0)
    tracker.start_experiment("e", {})
    for call in (lambda: tracker.child("item"), lambda: tracker.log_metrics({"loss": 1.0}, 1)):
        with pytest.raises(Preempted):
            call()


@pytest.mark.parametrize("column", ["price_${x}", "???", "${oc.env:HOME}"])
def test_18_a_column_may_be_called_as_it_likes(column: str, tmp_path: Path):
    table = tiny.series().rename(columns={"load": column}).drop(columns=["dose", "plan"])
    table.to_csv(tmp_path / "series.csv", index=False)
    values = tiny.recipe(tmp_path / "series.csv", tmp_path / "run", **QUICK)
    values["data"]["target_columns"] = [column]
    model = TTMForecaster(RunConfig.model_validate(values))
    model.fit(output_dir=tmp_path / "run")
    assert load_saved_config(tmp_path / "run/config.yaml").data.target_columns == [column]
    assert SimpleConfigManager().load_config(tmp_path / "run/config.yaml", ["seed=8"]).data.target_columns == [column]
    arguments = ["--model", tmp_path / "run", "--input", tmp_path / "series.csv", "--output", tmp_path / "out.csv"]
    assert predict_forecast.main(list(map(str, arguments))) == EXIT_OK
    assert (tmp_path / "out.csv").read_text().splitlines()[0] == f"item_id,timestamp,{column}"


@pytest.mark.parametrize("optimizer", ["adamw", "sgd", "adafactor"])
def test_25_a_checkpoint_holds_no_pickle_and_the_whole_optimizer(optimizer: str, run, tmp_path: Path):
    settings = ["tuning.mode=full", f"training.optimizer={optimizer}", "training.checkpoint_every_steps=3"]
    assert run(*settings)[0] == EXIT_OK
    folder = tmp_path / "run/checkpoints/step-00000003"
    assert {path.suffix for path in folder.iterdir()} == {".json", ".safetensors"}
    for path in folder.iterdir():
        load_file(path) if path.suffix == ".safetensors" else json.loads(path.read_text())
    weights = (tmp_path / "run/model/model.safetensors").read_bytes()
    (tmp_path / "run/checkpoints").rename(tmp_path / "old")
    again = [f"training.resume_from_checkpoint={tmp_path / 'old/step-00000003'}", "overwrite=true"]
    assert run(*settings, *again)[0] == EXIT_OK
    assert (tmp_path / "run/model/model.safetensors").read_bytes() == weights


def test_callbacks_see_every_step(desk: Path):
    notes = looking_on.Notes()
    config = SimpleConfigManager().load_config(desk / "recipe.yaml", ["training.eval_every_steps=3"])
    TTMForecaster(config).fit(callbacks=[notes])
    kinds = [kind for kind, *_ in notes.calls]
    assert [notes.calls[0], notes.calls[-1]] == [("begin", 0, 6), ("end", 6, None)]
    assert [call for call in notes.calls if call[0] == "step"] == [("step", step, True) for step in range(1, 7)]
    assert [call for call in notes.calls if call[0] == "gradients"] == [("gradients", step, True) for step in range(6)]
    assert [step for kind, step, _ in notes.calls if kind == "validation"] == [0, 3, 6]
    assert kinds.count("log") == 6 + 3, "a row for each step and each validation"


def test_a_callback_named_in_the_recipe_stops_the_training(run, tmp_path: Path):
    code, said = run("training.callbacks=[looking_on:StopsAtThree]", "training.max_steps=50")
    assert code == EXIT_OK, said
    steps = [row["step"] for row in RunFolder(tmp_path / "run").history if "train_loss" in row]
    assert steps == [1, 2, 3]
    assert RunFolder(tmp_path / "run").history[-1]["step"] == 3
    assert "validation_loss" in RunFolder(tmp_path / "run").history[-1]


@pytest.mark.parametrize("name", ["looking_on:no_file", "looking_on:Nothing", "nowhere:Class", "looking_on"])
def test_a_callback_that_is_none_is_refused_before_anything(name: str, run, tmp_path: Path):
    code, said = run(f"training.callbacks=[{name}]")
    assert code == EXIT_USER_ERROR
    assert the_error(said).startswith(f"error: training.callbacks: {name} ")
    assert os.listdir(tmp_path) == []
