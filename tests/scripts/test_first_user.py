"""What stopped a first user, and who judged on other people's data: 24 rows, each with the tests that hold it."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from recipes.documented import ROOT
from support import forks, tiny

from tstune.models.registry import load_model

ROWS = {
    1: ("blank doses were taken as missing",
         "data/test_cohort.py::test_blank_doses_and_people_without_windows_are_said"),
    2: ("two people became one", "data/test_tables_people_have.py::test_a_forgotten_column_of_series_is_named"),
    3: ("three weeks were too short for the README's command",
        "scripts/test_describe_data.py::test_the_command_of_the_readme_works_on_three_weeks_of_two_people",
        "data/test_defaults.py::test_too_few_windows_come_with_settings_that_work_when_pasted"),
    4: ("an interval from two blocks", "scripts/test_first_user.py::test_4_no_verdict_from_too_few_blocks",
        "evaluation/test_verdict.py::test_one_day_has_no_interval"),
    5: ("inputs took zero_shot off the scoreboard",
        "models/test_ttm_weights.py::test_inputs_do_not_take_the_untuned_model_off_the_scoreboard"),
    6: ("the report hid the inputs", "scripts/test_first_user.py::test_6_the_report_shows_the_inputs"),
    7: ("weeks took five starts", "data/test_defaults.py::test_settings_follow_frequency_and_length",
        "data/test_defaults.py::test_a_year_of_weeks_is_a_season"),
    8: ("a wrong path was said late",
        "data/test_tables_people_have.py::test_paths_and_columns_are_checked_before_anything_heavy"),
    9: ("new people needed a train part",
        "scripts/test_eval_forecast.py::test_new_people_need_no_part_of_their_own_to_train_on"),
    10: ("a run folder was no pretrained model", "models/test_conformance.py::test_a_run_folder_stands_for_its_model"),
    11: ("bf16 where it is slow", "unit/test_memory.py::test_what_runs_where_the_processor_lacks_it_is_said"),
    12: ("parameters of a LoRA run",
         "scripts/test_first_user.py::test_12_what_was_trained_is_said_alike_after_loading"),
    13: ("/docs without a network", "serving/test_refused_requests.py::test_behind_a_proxy_and_without_a_network"),
    14: ("a report that said too much or too little",
         "evaluation/test_temporal_gain.py::test_what_resembles_the_readings_at_no_delay_gains_nothing",
         "glucose/test_hypoglycaemia.py::test_hypoglycaemia_without_lows_is_one_line",
         "evaluation/test_chosen_windows.py::test_each_is_of_another_item_where_there_are_several"),
    15: ("a launcher that buried the error", "scripts/test_first_user.py::test_15_the_last_words_of_a_run_are_its_own",
         "recipes/test_commands.py::test_a_launcher_is_printed_for_what_needs_one"),
    16: ("baselines that could not be saved",
         "scripts/test_eval_forecast.py::test_baselines_fitted_on_one_data_set_are_judged_and_averaged_on_another",
         "models/test_own_model.py::test_a_class_that_extends_a_family_reads_its_keys"),
    17: ("forecasts were not kept", "scripts/test_eval_forecast.py::test_a_metric_thought_of_later"),
    18: ("a preset that won in silence",
         "unit/test_config.py::test_shares_over_a_recipe_with_a_published_split_are_refused_until_one_of_the_two_goes"),
    19: ("columns by another name", "data/test_tables_people_have.py::test_columns_by_another_name",
         "scripts/test_predict_forecast.py::"
         "test_a_rename_that_names_nothing_is_refused_though_the_models_own_name_is_there"),
    20: ("the yen beside the pound",
         "models/test_baseline_models.py::test_columns_of_unlike_size_are_series_of_their_own_scale",
         "models/test_baseline_models.py::test_networks_read_columns_of_unlike_size_alike"),
    21: ("verdicts by lead time",
         "evaluation/test_verdict.py::test_a_verdict_says_at_which_lead_times_the_opposite_holds",
         "evaluation/test_verdict.py::test_raw_and_scaled_errors_that_disagree_are_said"),
    22: ("interpolated before it was published",
         "data/test_tables_people_have.py::test_a_series_that_was_interpolated_before_is_thinned"),
    23: ("no header; days on a recipe of minutes",
         "data/test_tables_people_have.py::test_a_headerless_table_says_so",
         "data/test_tables_people_have.py::test_daily_data_on_a_recipe_of_five_minutes"),
    24: ("most of a person lost to gaps", "scripts/test_first_user.py::test_24_who_loses_most_to_gaps_is_named"),
}  # fmt: skip
"""Number in the list of what was met -> what it was, and the tests."""


def test_every_row_has_its_tests():
    assert list(ROWS) == list(range(1, 25))
    for number, (_, *tests) in ROWS.items():
        assert tests, number
        for file, _, name in (test.partition("::") for test in tests):
            tree = ast.parse((ROOT / "tests" / file).read_text(encoding="utf-8"))
            found = [node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
            assert name in found, f"row {number}: {file} has no {name}"


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> tuple[subprocess.CompletedProcess, Path]:
    """A run from the shell: two people with doses, and a third who loses 344 of 400 hours; two weeks."""
    folder = tmp_path_factory.mktemp("first")
    table = tiny.series(items=("anna", "bert", "carl"))
    hour = table.groupby("item_id").cumcount()
    table[(table["item_id"] != "carl") | (hour < 40) | (hour >= 384)].to_csv(folder / "series.csv", index=False)
    checkpoint = tiny.write_checkpoint(folder / "checkpoint")
    sections = {"data": {"conditional_columns": ["dose"]}, "tuning": {"mode": "lora"}}
    sections["evaluation"] = {"num_plots": 1, "baselines": ["persistence"]}
    recipe = tiny.recipe(folder / "series.csv", folder / "run", checkpoint, **sections)
    tiny.write_recipe(folder / "recipe.yaml", recipe)
    command = [sys.executable, "scripts/finetune_ttm.py", "--config", str(folder / "recipe.yaml")]
    return forks.run(command, cwd=ROOT), folder / "run"


def test_4_no_verdict_from_too_few_blocks(first: tuple):
    done, run = first
    assert "No verdict: the test windows are 3 blocks of days of these 2 items, and it takes 5." in done.stdout
    verdict = tiny.read_json(run / "verdict.json")
    assert (verdict["effect"], verdict["num_blocks"]) == (None, 3)
    assert {(one["low"], one["high"]) for one in verdict["comparisons"]} == {(None, None)}


def test_6_the_report_shows_the_inputs(first: tuple):
    page = (first[1] / "report.html").read_text()
    assert "bars at the foot: dose, each on its own scale" in page
    assert "known in the past" in page


def test_12_what_was_trained_is_said_alike_after_loading(first: tuple):
    model = load_model(first[1])
    fitted = tiny.read_json(first[1] / "environment.json")["parameters"]
    info = model.get_model_info()
    assert {key: info[key] for key in ("total", "trainable")} == {key: fitted[key] for key in ("total", "trainable")}
    assert 0 < info["trainable"] < info["total"]


def test_15_the_last_words_of_a_run_are_its_own(first: tuple):
    done, run = first
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == f"run folder: {run}"
    assert not any(word in done.stderr for word in ("Traceback", "accelerate launch", "accelerate config"))
    launch = ["accelerate.commands.launch", "--quiet", "--config_file", "accelerate_configs/cpu.yaml"]
    wrong = ["scripts/finetune_ttm.py", "--config", "recipes/ttm/csv/decoder.yaml", "data.path=nowhere.csv"]
    for words, code in ((wrong, 2), (["-m", *launch, *wrong], 1)):
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        command = [sys.executable, *words]
        said = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        assert said.stderr.splitlines() == [
            "error: data file nowhere.csv does not exist (data.path is relative to the current folder)"
        ]
        assert (said.returncode, said.stdout) == (code, "")


def test_24_who_loses_most_to_gaps_is_named(first: tuple):
    done, run = first
    for part in ("validation", "test"):
        assert f"no {part} window of carl (86% of its time lies in long gaps): it takes 40 steps" in done.stderr
    assert "anna (" not in done.stderr
    assert yaml.safe_load((run / "config.yaml").read_text())["data"]["conditional_columns"] == ["dose"]
