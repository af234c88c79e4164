"""compare_models: several models in one recipe, the same windows, one report; who cannot be had is a row."""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd
import pytest
import yaml
from documented import ROOT
from support import tiny

import compare_models
import finetune_ttm
from tstune.models.base import BaseTimeSeriesFoundationModel
from tstune.recipe_book.recipes import find_recipes
from tstune.recipe_book.running import Plan
from tstune.recipe_book.tables import read_rows
from tstune.runs.compare.recipe import load_comparison

LISTED = ["narrow", "wide", "lost", "persistence", "context_mean"]


@pytest.fixture(scope="module")
def recipe(tmp_path_factory) -> Path:
    """recipes/comparison/tiny.yaml on made-up series, with a model whose weights nobody has."""
    folder = tmp_path_factory.mktemp("comparison")
    values = yaml.safe_load((ROOT / "recipes/comparison/tiny.yaml").read_text(encoding="utf-8"))
    own = tiny.recipe(tiny.write_series(folder / "series.csv"), folder / "run")
    values["data"] = own["data"]
    values["model"] = {"context_length": tiny.CONTEXT, "prediction_length": tiny.PREDICTION}
    values["evaluation"] |= {"horizons": ["1h", "8h"], "num_plots": 0}
    for member in values["models"].values():
        member["model"] |= {"patch_length": 8, "adaptive_patching_levels": 2}
    lost = {"model": {"pretrained": "nobody/has-these-weights"}, "tuning": {"mode": "zero_shot"}}
    values["models"]["lost"] = lost
    values["output_dir"] = str(folder / "run")
    return tiny.write_recipe(folder / "recipe.yaml", values)


@pytest.fixture(scope="module")
def folder(recipe) -> Path:
    """The folder that one call leaves."""
    assert compare_models.main(["--config", str(recipe)]) == 0
    return recipe.parent / "run"


def test_the_report_has_as_many_models_as_were_listed(folder):
    members = tiny.read_json(folder / "environment.json")["members"]
    scored = tiny.read_json(folder / "metrics.json")["test"]
    assert [one["name"] for one in members] == LISTED
    assert set(scored) == set(LISTED) - {"lost"}
    page, text = (folder / "report.html").read_text(), (folder / "report.md").read_text()
    table = text.partition("## Models compared")[2].partition("\n## ")[0]
    names = re.findall(r"^\| ([\w ]+) \| (?:ttm|baseline) \|", table, re.MULTILINE)
    assert [name.replace(" ", "_") for name in names] == LISTED
    assert "4 of 5 models were had" in table
    assert "5 models on csv" in page
    assert re.search(r"lost is missing.*nobody/has-these-weights is not a folder", table, re.DOTALL)


def test_every_model_forecast_the_same_windows(folder):
    windows = pd.read_parquet(folder / "windows.parquet")
    named = {column.partition("/")[2] for column in windows.columns if column.startswith("square/")}
    assert named == set(LISTED) - {"lost"}
    assert windows.drop(columns="item_id").notna().all().all()
    counts = {values["num_windows"] for values in tiny.read_json(folder / "metrics.json")["test"].values()}
    assert counts == {len(windows)}


def test_the_first_model_is_tested_against_all_others(folder):
    verdict = tiny.read_json(folder / "verdict.json")
    assert verdict["model"] == "narrow"
    assert {one["reference"] for one in verdict["comparisons"]} == {"wide", "persistence", "context_mean"}
    assert [one["low"] for one in verdict["comparisons"]] == [None] * 3, "the tiny series have too few days"
    assert verdict["sentence"].startswith("No verdict: the test windows are ")


def test_what_was_tuned_before_is_taken_as_it_is(recipe, folder, capsys):
    models = Path(f"{folder}.models")
    assert sorted(path.name for path in models.iterdir()) == ["narrow", "wide"]
    before = {name: (models / name / "metrics.json").stat().st_mtime_ns for name in ("narrow", "wide")}
    words = ["--config", str(recipe), "overwrite=true", "models.wide.training.learning_rate=0.002"]
    scores = tiny.read_json(folder / "metrics.json")["test"]
    assert compare_models.main(words) == 0
    assert "left out: lost: model.pretrained=nobody/has-these-weights" in capsys.readouterr().out
    after = {name: (models / name / "metrics.json").stat().st_mtime_ns for name in ("narrow", "wide")}
    assert after["narrow"] == before["narrow"]
    assert after["wide"] != before["wide"]
    again = tiny.read_json(folder / "metrics.json")["test"]
    assert again["narrow"] == scores["narrow"]
    assert again["wide"] != scores["wide"]


def test_it_is_a_row_of_the_recipe_book(recipe, folder):
    (found,) = find_recipes([recipe], book=recipe.parent)
    (row,) = read_rows(Plan(folder.parent), [type(found)(found.path, "run")])
    assert (row.model, row.mode) == ("4 of 5 models; judged: narrow", "comparison")
    assert row.scores["rmse"] == tiny.read_json(folder / "metrics.json")["test"]["narrow"]["rmse"]
    assert found.is_done(folder, ["models.wide.training.learning_rate=0.002"])
    assert not found.is_done(folder, [])


def test_without_a_single_model_it_is_an_error(recipe, tmp_path, capsys):
    values = yaml.safe_load(recipe.read_text())
    values["models"] = dict.fromkeys(("one", "two"), values["models"]["lost"])
    values["output_dir"] = str(tmp_path / "run")
    assert compare_models.main(["--config", str(tiny.write_recipe(tmp_path / "lost.yaml", values))]) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("error: models: none of the 2 could be had: one: model.pretrained=")
    assert not (tmp_path / "run").exists()


def test_a_model_that_fails_in_any_way_is_a_row(recipe, tmp_path, monkeypatch, capsys):
    def fit(model: BaseTimeSeriesFoundationModel, *given: object, **options: object) -> dict:
        if model.config.model.d_model == narrow:
            raise ValueError("not what\nthe library expects")
        return whole(model, *given, **options)

    values, whole = yaml.safe_load(recipe.read_text()), BaseTimeSeriesFoundationModel.fit
    narrow = values["models"]["narrow"]["model"]["d_model"]
    values["output_dir"] = str(tmp_path / "run")
    monkeypatch.setattr(BaseTimeSeriesFoundationModel, "fit", fit)
    assert compare_models.main(["--config", str(tiny.write_recipe(tmp_path / "recipe.yaml", values))]) == 0
    reasons = {one["name"]: one["reason"] for one in tiny.read_json(tmp_path / "run/environment.json")["members"]}
    assert reasons["narrow"] == "ValueError: not what the library expects"
    assert reasons["wide"] is None


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("models.narrow.data.max_gap=1h", "models.narrow.data: all models share it"),
        ("models.narrow.model.d_modl=8", "models.narrow: 1 problem: model.d_modl: unknown key, did you mean"),
        ("models.zero_shot.tuning.mode=full", "models.zero_shot: take another name"),
        ("models.ridge.tuning.mode=full", "models.ridge: take another name"),
        ("models.narrow=3", "models.narrow must hold sections"),
        ("models.narrow.model.prediction_length=4", "prediction_length=4: the comparison forecasts 8 steps"),
        ("models=null", "models must hold two models or more"),
    ],
)  # fmt: skip
def test_a_bad_list_is_one_line(recipe, override, expected, capsys):
    assert compare_models.main(["--config", str(recipe), override]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert said.count("\n") == 1
    assert expected in said


def test_where_a_comparison_belongs(recipe, monkeypatch, capsys):
    assert finetune_ttm.main(["--config", str(recipe)]) == 2
    assert "lists several models: give it to scripts/compare_models.py" in capsys.readouterr().err
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert compare_models.main(["--config", str(recipe)]) == 2
    assert "scripts/compare_models.py is for one process" in capsys.readouterr().err


def test_the_real_comparison_lists_families_modes_and_baselines():
    comparison = load_comparison(ROOT / "recipes/comparison/cgm_sample.yaml")
    assert {member.config.model.type for member in comparison.members} >= {"ttm", "chronos_bolt", "chronos2"}
    assert {member.config.tuning.mode for member in comparison.members} >= {"zero_shot", "decoder", "lora", "full"}
    assert {"ridge", "lightgbm"} <= set(comparison.baselines)
    assert all(member.config.data == comparison.config.data for member in comparison.members)
