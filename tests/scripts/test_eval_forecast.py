"""A run's scoreboard rebuilt to the last digit, and any models scored on the same windows."""

from __future__ import annotations

import json
import shutil
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from bad_input import errors_in
from support import tiny

import eval_forecast
import finetune_ttm
from tstune.config.schema import RunConfig
from tstune.models.registry import load_model
from tstune.models.ttm import TTMForecaster
from tstune.runs.rebuild import rebuild

QUICK = {"baselines": ["persistence", "ridge"], "report": False}
MODES = {
    "full": {"tuning": {"mode": "full"}, "training": {"mixed_precision": "bf16"}},
    "lora": {"tuning": {"mode": "lora"}},
    "from_scratch": {"tuning": {"mode": "from_scratch"}},
    "zero_shot": {"tuning": {"mode": "zero_shot"}, "evaluation": {"metrics": ["bias", "smape"]}},
    "per_item": {
        "tuning": {"mode": "decoder", "per_item": True, "per_item_epochs": 1, "per_item_learning_rate": 0.02},
        "training": {"max_steps": 3},
    },
    "kept_as_it_was": {"tuning": {"mode": "head"}, "training": {"learning_rate": 30.0, "scheduler": "constant"}},
    "covariates": {
        "data": {"conditional_columns": ["dose"], "control_columns": ["plan"]},
        "forecast": {"quantiles": [0.1, 0.5, 0.9]},
        "evaluation": {"metrics": ["wql", "coverage"]},
    },
}
SLOW = ("lora", "from_scratch", "zero_shot")
ROWS = {
    "full": ["zero_shot", "fine_tuned", "average"],
    "lora": ["zero_shot", "fine_tuned", "average"],
    "from_scratch": ["fine_tuned"],
    "zero_shot": ["zero_shot"],
    "per_item": ["zero_shot", "fine_tuned", "average", "per_item"],
    "kept_as_it_was": ["zero_shot", "fine_tuned", "average"],
    "covariates": ["zero_shot", "fine_tuned", "average"],
}


@pytest.fixture(scope="module")
def trained(stock: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with series.csv, checkpoint/, recipe.yaml and run/, in which every path is relative."""
    folder = tmp_path_factory.mktemp("trained")
    shutil.copytree(stock, folder, dirs_exist_ok=True)
    values = tiny.recipe(Path("series.csv"), Path("run"), Path("checkpoint"), evaluation=QUICK)
    tiny.write_recipe(folder / "recipe.yaml", values)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert finetune_ttm.main(["--config", "recipe.yaml"]) == 0
    return folder


@pytest.fixture
def desk(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Current folder with a copy of `trained`."""
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one error line of a command that must fail."""
    assert eval_forecast.main(list(arguments)) == 2
    captured = capsys.readouterr()
    (error,) = errors_in(captured.err)
    assert captured.out == ""
    return error


def evaluate(*arguments: str) -> int:
    return eval_forecast.main(["--config", "recipe.yaml", *arguments])


def metrics_of(folder: Path, part: str = "test") -> dict:
    return tiny.read_json(folder / "metrics.json")[part]


class TestRun:
    def test_identical(self, desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
        before = tiny.snapshot(desk)
        assert eval_forecast.main(["--run", "run"]) == 0
        lines = capsys.readouterr().out.strip().splitlines()
        assert lines[0].startswith("| model ")
        assert lines[-1] == "identical to metrics.json: 5 models, 10 metrics"
        assert len([line for line in lines if line.startswith("|")]) == 2 + 5
        assert tiny.snapshot(desk) == before

    @pytest.mark.parametrize(
        "mode", [pytest.param(mode, marks=pytest.mark.slow if mode in SLOW else []) for mode in MODES]
    )
    def test_every_kind_of_run(self, mode: str, desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
        changes = tiny.merged({"evaluation": QUICK}, MODES[mode])
        values = tiny.recipe(Path("series.csv"), Path("other"), Path("checkpoint"), **changes)
        assert finetune_ttm.main(["--config", str(tiny.write_recipe(desk / "other.yaml", values))]) == 0
        torch.manual_seed(1)  # whatever was drawn before
        capsys.readouterr()
        code = eval_forecast.main(["--run", "other"])
        metrics = metrics_of(desk / "other")
        assert list(metrics) == [*ROWS[mode], *QUICK["baselines"]]
        columns = {name for values in metrics.values() for name in values}
        last = capsys.readouterr().out.strip().splitlines()[-1]
        assert (code, last) == (0, f"identical to metrics.json: {len(metrics)} models, {len(columns)} metrics")
        assert len(columns) > 10 if "metrics" in changes["evaluation"] else len(columns) == 10
        if mode == "kept_as_it_was":
            assert tiny.read_json(desk / "other" / "verdict.json")["kept"] == "zero_shot"
            assert metrics["fine_tuned"] == metrics["zero_shot"]

    def test_a_number_that_differs(self, desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
        path = desk / "run" / "metrics.json"
        metrics = tiny.read_json(path)
        was = metrics["test"]["ridge"]["rmse"]
        metrics["test"]["ridge"]["rmse"] = float(np.nextafter(was, 0))
        del metrics["test"]["persistence"]["mae"]
        path.write_text(json.dumps(metrics))
        assert eval_forecast.main(["--run", "run"]) == 1
        lines = capsys.readouterr().out.strip().splitlines()
        assert lines[-3] == "not identical to metrics.json: 2 numbers differ"
        assert lines[-2].startswith("persistence mae: metrics.json None, rebuilt 3.")
        assert lines[-1].startswith(f"ridge rmse: metrics.json {float(np.nextafter(was, 0))!r}, rebuilt {was!r}, ")

    def test_weights_that_differ(self, desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
        shutil.copy(desk / "checkpoint" / "model.safetensors", desk / "run" / "model" / "model.safetensors")
        (desk / "run" / "checksums.json").unlink()
        environment = tiny.read_json(desk / "run" / "environment.json")
        environment["packages"]["torch"] = "1.0"
        (desk / "run" / "environment.json").write_text(json.dumps(environment))
        assert eval_forecast.main(["--run", "run"]) == 1
        out = capsys.readouterr().out
        assert "fine_tuned rmse: " in out
        assert "zero_shot rmse: " not in out
        assert f"the run was made elsewhere: torch 1.0 there, {version('torch')} here" in out

    def test_other_data(self, desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
        table = pd.read_csv(desk / "series.csv")
        table.loc[table.index[-1], "load"] += 1
        table.to_csv(desk / "series.csv", index=False)
        error = refused(capsys, "--run", "run")
        assert "the data is not what the run saw: files" in error
        assert "only A: series.csv (sha256 " in error
        (desk / "series.csv").unlink()
        assert "series.csv" in refused(capsys, "--run", "run")

    def test_files_that_moved(self, desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
        (desk / "checkpoint").rename(desk / "weights")
        assert "model.pretrained=checkpoint" in refused(capsys, "--run", "run")
        (desk / "series.csv").rename(desk / "moved.csv")
        assert eval_forecast.main(["--run", "run", "data.path=moved.csv", "model.pretrained=weights"]) == 0
        capsys.readouterr()
        assert "seed=3 would make it another one" in refused(capsys, "--run", "run", "seed=3")

    def test_a_run_on_a_table(self, desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
        nothing = {"mode": "zero_shot"}
        values = tiny.recipe(None, Path("frame"), Path("checkpoint"), evaluation=QUICK, tuning=nothing)
        for path in (None, "series.csv"):
            values["data"]["path"] = path
            model = TTMForecaster(RunConfig(**values))
            model.fit(tiny.series(), output_dir="frame", overwrite=True)
            error = refused(capsys, "--run", "frame")
            assert "frame was trained on a table that was given to fit(train_data=…)" in error

    @pytest.mark.parametrize("missing", ["config.yaml", "metrics.json", "environment.json", "manifest.json", "model"])
    def test_no_run_folder(self, missing: str, desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
        path = desk / "run" / missing
        shutil.rmtree(path) if path.is_dir() else path.unlink()
        assert missing in refused(capsys, "--run", "run")

    def test_the_threads_are_those_of_the_run_and_given_back(self, desk: Path) -> None:
        environment = tiny.read_json(desk / "run" / "environment.json")
        assert environment["num_threads"] == 1
        torch.set_num_threads(2)
        try:
            assert rebuild("run").deviations == ()
            assert torch.get_num_threads() == 2
        finally:
            torch.set_num_threads(1)


class TestForecasts:
    """Metrics from `forecasts.parquet` alone: no series, no weights."""

    @pytest.fixture(scope="class")
    def kept(self, trained: Path) -> Path:
        """A run of two targets, one at a high level, with gaps and quantiles; its series and weights are gone."""
        table = tiny.series().drop(index=range(370, 373)).assign(dose=lambda frame: frame["dose"] + 1e8)
        table.to_csv(trained / "gaps.csv", index=False)
        changes = {
            "data": {"target_columns": ["load", "dose"], "path": str(trained / "gaps.csv"), "max_gap": "4h"},
            "forecast": {"quantiles": [0.1, 0.5, 0.9]},
            "evaluation": QUICK | {"metrics": ["bias", "wql"], "keep_forecasts": True},
        }
        values = tiny.recipe(Path("unused"), trained / "kept", trained / "checkpoint", **changes)
        assert finetune_ttm.main(["--config", str(tiny.write_recipe(trained / "kept.yaml", values))]) == 0
        (trained / "gaps.csv").unlink()
        shutil.rmtree(trained / "kept" / "model")
        return trained / "kept"

    def test_the_table(self, kept: Path) -> None:
        table = pd.read_parquet(kept / "forecasts.parquet")
        metrics = metrics_of(kept)
        models, windows = list(metrics), metrics["ridge"]["num_windows"]
        assert [name for name in table if name.startswith("forecast/")] == [f"forecast/{name}" for name in models]
        assert [name for name in table if "quantile/" in name] == [f"quantile/fine_tuned/{q}" for q in (0.1, 0.5, 0.9)]
        assert {str(table[name].dtype) for name in table if "/" in name or name == "truth"} == {"float32"}
        assert len(table) == windows * tiny.PREDICTION * 2
        row = table.query("item_id == 'b' and target == 'dose' and step == 3").iloc[0]
        assert row["timestamp"] == row["origin"] + pd.Timedelta("2h")
        series = tiny.series().set_index(["item_id", "timestamp"])
        assert abs(row["truth"]) < 10 < row["level"]
        assert row["truth"] + row["level"] == pytest.approx(1e8 + series.loc[("b", row["timestamp"]), "dose"], abs=1e-6)
        error = (table["forecast/ridge"].astype(float) - table["truth"]).dropna()
        assert len(error) < len(table), "a gap is no truth"
        assert np.sqrt((error**2).mean()) == pytest.approx(metrics["ridge"]["rmse"], rel=1e-9)

    def test_the_metrics_of_the_run(self, kept: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert eval_forecast.main(["--forecasts", str(kept)]) == 0
        lines = capsys.readouterr().out.strip().splitlines()
        assert lines[-1] == "identical to metrics.json: 5 models, 12 metrics"
        assert [cell.strip() for cell in lines[0].split("|")][-3:-1] == ["bias", "wql"]
        assert lines[-3].endswith(tiny.read_json(kept / "verdict.json")["sentence"])
        (ridge,) = [line for line in lines if line.startswith("| ridge")]
        assert ridge.rstrip("| ").endswith("–"), "it forecasts no quantiles"

    def test_a_metric_thought_of_later(self, kept: Path, capsys: pytest.CaptureFixture[str]) -> None:
        more = ["evaluation.metrics=[smape,calibration_error]", "evaluation.horizons=[3h]"]
        assert eval_forecast.main(["--forecasts", str(kept), *more]) == 0
        header, _, best, *_, last = capsys.readouterr().out.strip().splitlines()
        names = [cell.strip() for cell in header.strip("|").split("|")]
        assert names == ["model", "rmse", "mae", "rmse@3h", "mase", "smape", "calibration_error"]
        assert last == "identical to metrics.json: 5 models, 6 metrics"
        found = dict(zip(names, (cell.strip() for cell in best.strip("|").split("|")), strict=True))
        table = pd.read_parquet(kept / "forecasts.parquet").dropna(subset="truth")
        forecast, truth = (table["level"] + table[name] for name in (f"forecast/{found['model']}", "truth"))
        smape = (200 * (forecast - truth).abs() / (forecast.abs() + truth.abs())).mean()
        assert float(found["smape"]) == pytest.approx(smape, rel=1e-3)

    def test_a_number_that_differs(self, kept: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        shutil.copytree(kept, tmp_path / "other")
        path = tmp_path / "other/forecasts.parquet"
        table = pd.read_parquet(path)
        table.loc[0, "forecast/ridge"] += 1
        table.to_parquet(path)
        assert eval_forecast.main(["--forecasts", str(tmp_path / "other")]) == 1
        assert "ridge rmse: metrics.json " in capsys.readouterr().out

    def test_what_cannot_be(self, kept: Path, desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert "run it again with evaluation.keep_forecasts=true" in refused(capsys, "--forecasts", "run")
        assert "seed=3 would change that (only evaluation" in refused(capsys, "--forecasts", str(kept), "seed=3")
        assert "unknown metric 'x'" in refused(capsys, "--forecasts", str(kept), "evaluation.metrics=[x]")
        shutil.copytree(kept, desk / "cut")
        pd.read_parquet(kept / "forecasts.parquet").iloc[1:].to_parquet(desk / "cut/forecasts.parquet")
        assert "are not whole windows of 8 steps and 2 targets" in refused(capsys, "--forecasts", "cut")
        pd.read_parquet(kept / "windows.parquet").to_parquet(desk / "cut/forecasts.parquet")
        assert "these are no kept forecasts of a run" in refused(capsys, "--forecasts", "cut")


class TestModels:
    def test_one_table(self, desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
        models = ["run", "checkpoint", "ridge", "persistence"]
        assert evaluate(*(word for model in models for word in ("--model", model)), "--output", "found") == 0
        out = capsys.readouterr().out
        assert len([line for line in out.splitlines() if line.startswith("|")]) == 2 + 4
        assert "run: RMSE " in out
        metrics, recorded = metrics_of(desk / "found"), metrics_of(desk / "run")
        assert list(metrics) == models
        for name, row in zip(models, ("fine_tuned", "zero_shot", "ridge", "persistence"), strict=True):
            assert metrics[name] == recorded[row], "exactly as the run saw it"

    def test_output_folder(self, desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
        arguments = ["--model", "run", "--model", "persistence", "--output", "found"]
        assert evaluate(*arguments, "evaluation.report=true") == 0
        assert capsys.readouterr().out.splitlines()[-2:] == ["report: found/report.html", "folder: found"]
        assert {path.name for path in (desk / "found").iterdir()} == {
            "cohort.csv",
            "cohort.md",
            "config.yaml",
            "environment.json",
            "evaluation.json",
            "history.jsonl",
            "manifest.json",
            "metrics.json",
            "report.html",
            "report.md",
            "verdict.json",
            "windows.parquet",
        }
        verdict = tiny.read_json(desk / "found" / "verdict.json")
        assert (verdict["model"], [row["reference"] for row in verdict["comparisons"]]) == ("run", ["persistence"])
        assert tiny.read_json(desk / "found" / "evaluation.json")["judged"] == "run"
        table = pd.read_parquet(desk / "found" / "windows.parquet")
        rmse = np.sqrt(table["square/run"].sum() / table["count"].sum())
        assert rmse == pytest.approx(metrics_of(desk / "found")["run"]["rmse"], rel=1e-6)
        environment = tiny.read_json(desk / "found" / "environment.json")
        assert [environment["models"][name]["spec"] for name in ("run", "persistence")] == ["run", "persistence"]
        before = tiny.snapshot(desk / "found")
        assert refused(capsys, "--config", "recipe.yaml", *arguments).startswith("error: --output found already holds")
        assert tiny.snapshot(desk / "found") == before
        assert evaluate(*arguments, "--overwrite") == 0
        assert not (desk / "found" / "report.html").exists()
        assert sorted(path.name for path in desk.iterdir() if path.name.startswith(".")) == []

    def test_parts(self, desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
        for part, count in (("validation", 82), ("train", 402)):
            assert evaluate("--model", "run", "--part", part, "--output", part) == 0
            assert f"\n{count} {part} windows, the same for every model." in capsys.readouterr().out
            assert metrics_of(desk / part, part)["run"] == load_model("run").evaluate(part=part)

    def test_new_people_need_no_part_of_their_own_to_train_on(self, desk: Path, capsys: pytest.CaptureFixture[str]):
        tiny.series(60, ("new", "other"), seed=5).to_csv(desk / "new.csv", index=False)
        new = ("data.path=new.csv", "data.test_stride=1", "data.split.by=time")
        assert "part has no window" in refused(capsys, "--model", "run", "--config", "recipe.yaml", *new)
        assert evaluate("--model", "run", "--model", "persistence", *new, "--all", "--output", "found") == 0
        windows = tiny.read_json(desk / "found/manifest.json")["windows"]
        assert windows == {"train": 0, "validation": 0, "test": 2 * (60 - 40 + 1)}
        scores = metrics_of(desk / "found")
        assert list(scores) == ["run", "persistence"]
        assert all(np.isfinite(value) for row in scores.values() for value in row.values())
        capsys.readouterr()
        error = refused(capsys, "--config", "recipe.yaml", "--model", "run", "--model", "ridge", *new, "--all")
        assert "--model ridge is fitted to a training part" in error
        assert finetune_ttm.main(["--config", "recipe.yaml", "output_dir=x", "data.split.by=none"]) == 2

    def test_longer_contexts_and_shorter_forecasts(self, desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
        models = ["--model", "persistence", "--model", "run", "--model", "checkpoint"]
        own = load_model("run").evaluate()
        assert evaluate(*models, "model.context_length=48", "model.prediction_length=4", "--output", "cut",
                        "evaluation.horizons=[1h]") == 0  # fmt: skip
        table = pd.read_parquet("cut/windows.parquet")
        assert tiny.read_json(desk / "cut" / "evaluation.json")["context_length"] == 48
        first = pd.to_datetime(table.groupby("item_id")["origin"].min())
        assert (first == pd.Timestamp("2024-01-14 08:00") + pd.Timedelta(48, "h")).all(), (
            "320 rows are not for the test"
        )
        # the same windows one by one: what the model says about its own last 32 steps, cut after 4
        forecast = load_model("run").predict(tiny.series().groupby("item_id").head(320 + 48))
        truth = tiny.series().groupby("item_id").nth(range(320 + 48, 320 + 52))
        error = truth["load"].to_numpy() - forecast.groupby("item_id").head(4)["load"].to_numpy()
        first_window = table.groupby("item_id")["square/run"].first().to_numpy()
        np.testing.assert_allclose(first_window, (error.reshape(2, 4) ** 2).sum(axis=1), rtol=1e-4)
        assert own["num_windows"] > len(table)

    def test_the_windows_are_long_enough_for_every_model(self, desk: Path) -> None:
        tiny.write_checkpoint(desk / "long", context_length=64)
        assert evaluate("--model", "long", "--model", "run", "--output", "found") == 0
        assert tiny.read_json(desk / "found" / "evaluation.json")["context_length"] == 64
        assert "context_length: 64" in (desk / "found" / "config.yaml").read_text()

    def test_columns_a_model_does_not_read(self, desk: Path) -> None:
        more = ["data.conditional_columns=[dose]", "data.control_columns=[plan]"]
        assert evaluate("--model", "run", "--model", "checkpoint", *more, "--output", "found") == 0
        recorded = metrics_of(desk / "run")
        assert metrics_of(desk / "found")["run"]["rmse"] == pytest.approx(recorded["fine_tuned"]["rmse"], rel=1e-6)
        found = metrics_of(desk / "found")["checkpoint"]["rmse"]
        assert found == pytest.approx(recorded["zero_shot"]["rmse"], rel=1e-6)

    def test_units(self, desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
        table = tiny.series().assign(load=lambda frame: 6 * frame["load"])  # 90 to 150 mg/dL
        table.to_csv("mgdl.csv", index=False)
        table.assign(load=table["load"] / 18.016).to_csv("mmol.csv", index=False)
        values = tiny.recipe(Path("mgdl.csv"), Path("sugar"), Path("checkpoint"), evaluation=QUICK)
        values["data"]["unit"] = "mg/dL"
        assert finetune_ttm.main(["--config", str(tiny.write_recipe(desk / "sugar.yaml", values))]) == 0
        other = ["data.path=mmol.csv", "data.unit=mmol/L", "--model", "sugar", "--output", "found"]
        assert evaluate(*other, "data.split.allow_overlap=true") == 0
        mine, his = metrics_of(desk / "sugar")["fine_tuned"], metrics_of(desk / "found")["sugar"]
        assert his["rmse"] == pytest.approx(mine["rmse"] / 18.016, rel=1e-4)
        assert his["mase"] == pytest.approx(mine["mase"], rel=1e-4)
        capsys.readouterr()
        error = refused(capsys, "--config", "recipe.yaml", "data.unit=kWh", "--model", "sugar", "data.path=mgdl.csv")
        assert "--model sugar was trained on values in mg/dL, those of the evaluation are in kWh" in error

    def test_quantiles_are_the_models_own(self, desk: Path) -> None:
        changes = {"forecast": {"quantiles": [0.1, 0.5, 0.9]}, "evaluation": QUICK | {"metrics": ["wql", "coverage"]}}
        values = tiny.recipe(Path("series.csv"), Path("sure"), Path("checkpoint"), **changes)
        recipe = str(tiny.write_recipe(desk / "sure.yaml", values))
        assert finetune_ttm.main(["--config", recipe]) == 0
        recorded = tiny.read_json(desk / "sure" / "evaluation.json")["uncertainty"]
        for context, output in ((tiny.CONTEXT, "found"), (48, "longer")):
            words = ["--model", "sure", "--model", "ridge", f"model.context_length={context}", "--output", output]
            assert eval_forecast.main(["--config", recipe, *words]) == 0
        metrics, longer = metrics_of(desk / "found"), metrics_of(desk / "longer")
        assert metrics["sure"] == metrics_of(desk / "sure")["fine_tuned"]
        assert "wql" not in metrics["ridge"]
        assert longer["sure"]["coverage_80"] == pytest.approx(metrics["sure"]["coverage_80"], abs=0.1)
        found = tiny.read_json(desk / "found" / "evaluation.json")["uncertainty"]
        assert found["methods"]["split_conformal"] == recorded["methods"]["split_conformal"]

    def test_registry(self, desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
        from tstune.registry import open_registry

        open_registry("models").register("run", "load")
        words = ["--model", "registry:load:1", "--registry", "models", "--output", "found"]
        assert evaluate(*words) == 0
        assert metrics_of(desk / "found") == {"load:1": metrics_of(desk / "run")["fine_tuned"]}
        assert evaluate(*words, "--overwrite", "--model", "run", "--model", "ttm:run/model") == 0
        assert list(metrics_of(desk / "found")) == ["load:1", "run", "model"]
        capsys.readouterr()
        assert "load:2" in refused(capsys, "--config", "recipe.yaml", "--model", "registry:load:2", *words[2:4])

    def test_trained_on_what_is_scored(self, desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
        shifted = [
            "--config",
            "recipe.yaml",
            "data.split.train=0.2",
            "data.split.validation=0.2",
            "--model",
            "persistence",
        ]
        for model in ("run", "run/model"):
            error = refused(capsys, *shifted, "data.split.test=0.6", "--model", model)
            assert error.startswith(f"error: leak trained_on: --model {model} was trained on ")
        allowed = "data.split.allow_overlap=true"
        assert eval_forecast.main([*shifted, "data.split.test=0.6", allowed, "--model", "run"]) == 0
        capsys.readouterr()
        # what it was trained on may lie in the validation part, of which nothing is scored
        assert evaluate("--model", "run", "data.split.borders=[100, 320, 400]") == 0
        capsys.readouterr()
        chosen = refused(capsys, "--config", "recipe.yaml", "data.split.borders=[100, 240, 400]", "--model", "run")
        assert chosen.startswith("error: leak trained_on: --model run was chosen by ")

    @pytest.mark.parametrize(
        ("words", "expected"),
        [
            (["--model", "persistance"], "did you mean persistence?"),
            (["--model", "ttm"], "--model ttm is a family of models, not a model; write ttm: and a folder"),
            (["--model", "series.csv"], "--model series.csv: no folder of that name"),
            (["--model", "run", "--model", "run"], "--model run is given twice"),
            (["--model", "empty"], "--model empty is neither a run folder (preprocessor.json) nor a folder of weights"),
            (["--model", "builtin"], "model.pretrained=builtin has no weights for model.context_length=32"),
            (["--model", "owner/name"], "model.pretrained=owner/name is not a folder, and the Hub did not give it"),
            (
                ["--model", "ridge", "--model", "run", "model.prediction_length=9"],
                "--model run forecasts 8 steps, the evaluation asks for 9; set model.prediction_length=8",
            ),
            (["--model", "run", "data.target_columns=[dose]"], "--model run forecasts load, the targets of the"),
            (
                ["--model", "run", "data.frequency=2h", "evaluation.horizons=[]"],
                "--model run was made for steps of h, the windows have steps of 2h",
            ),
            (["--model", "run", "data.path=nowhere.csv"], "nowhere.csv"),
            (["--model", "ridge", "evaluation.metrics=[mard2]"], "unknown metric 'mard2'"),
            (["--model", "ridge", "--output", "."], "--output . already holds files; add --overwrite"),
            (["--model", "run", "--output", "run", "--overwrite"], "run holds --model run, which"),
        ],
        ids=lambda value: " ".join(value[1:3]) if isinstance(value, list) else None,
    )
    def test_refusals(self, words: list[str], expected: str, desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
        (desk / "empty").mkdir()
        before = tiny.snapshot(desk)
        assert expected in refused(capsys, "--config", "recipe.yaml", *words)
        assert tiny.snapshot(desk) == before

    def test_a_model_that_reads_what_is_not_there(self, desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
        more = {"conditional_columns": ["dose"], "control_columns": ["plan"]}
        values = tiny.recipe(Path("series.csv"), Path("more"), Path("checkpoint"), data=more, evaluation=QUICK)
        assert finetune_ttm.main(["--config", str(tiny.write_recipe(desk / "more.yaml", values))]) == 0
        capsys.readouterr()
        error = refused(capsys, "--config", "recipe.yaml", "--model", "more")
        assert (
            "--model more reads 'dose', which the evaluation does not have; name it in data.conditional_columns"
            in error
        )
        error = refused(capsys, "--config", "more.yaml", "--model", "more", "model.prediction_length=4",
                        "evaluation.horizons=[1h]")  # fmt: skip
        assert (
            "--model more forecasts 8 steps and reads known-future columns at all of them, the windows have 4" in error
        )


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ([], "is required"),
        (["--run", "a", "--model", "b"], "not allowed with"),
        (["--run", "a", "--config", "b"], "--run and --forecasts take everything from the run"),
        (["--run", "a", "--part", "train"], "--run and --forecasts take everything from the run"),
        (["--model", "a"], "--model needs --config or --hydra"),
    ],
)
def test_command_line(words: list[str], complaint: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        eval_forecast.parse_args(words)
    assert complaint in capsys.readouterr().err


def test_baselines_fitted_on_one_data_set_are_judged_and_averaged_on_another(
    desk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Fitted, saved and loaded as any model; an ensemble holds them."""
    values = tiny.recipe(Path("series.csv"), Path("unused"), None, evaluation=QUICK | {"baselines": ["ridge"]})
    lengths = {"context_length": tiny.CONTEXT, "prediction_length": tiny.PREDICTION}
    values |= {"model": {"type": "ridge"} | lengths, "tuning": {}}
    recipe = str(tiny.write_recipe(desk / "simple.yaml", values))
    for name in ("ridge", "lightgbm"):
        assert finetune_ttm.main(["--config", recipe, f"model.type={name}", f"output_dir={name}"]) == 0
    assert list(metrics_of(desk / "ridge")) == ["fine_tuned"], "it is its own baseline"
    assert list(metrics_of(desk / "lightgbm")) == ["fine_tuned", "ridge"]
    assert metrics_of(desk / "ridge")["fine_tuned"] == metrics_of(desk / "run")["ridge"]

    tiny.write_series(desk / "other.csv", seed=5, items=("c", "d"))
    members = ["model.type=ensemble", "model.members=[ridge,lightgbm,run]", "output_dir=mean"]
    elsewhere = ["data.path=other.csv", "data.split.allow_overlap=true"]
    assert finetune_ttm.main(["--config", recipe, *members, *elsewhere]) == 0
    models = [word for name in ("ridge", "lightgbm", "mean", "persistence") for word in ("--model", name)]
    assert evaluate(*models, *elsewhere, "--output", "found") == 0
    found = metrics_of(desk / "found")
    assert found["ridge"]["rmse"] != metrics_of(desk / "ridge")["fine_tuned"]["rmse"]
    assert found["mean"]["rmse"] == metrics_of(desk / "mean")["fine_tuned"]["rmse"]
    assert max(found[name]["rmse"] for name in ("ridge", "lightgbm", "mean")) < found["persistence"]["rmse"]

    capsys.readouterr()
    for changes, words in (
        (["model.pretrained=run/model"], "pretrained is not for ridge, which begins without weights"),
        (["tuning.mode=head"], "tuning.mode=head is for networks, and model.type=ridge has none; set tuning.mode=null"),
    ):
        assert finetune_ttm.main(["--config", recipe, *changes]) == 2
        assert words in errors_in(capsys.readouterr().err)[0]
