"""Inputs that `predict_forecast.py` must refuse."""

from __future__ import annotations

import shutil
from pathlib import Path

from bad_input import Case, edit_json, edit_series, leave, remove_file, set_cell, truncate, write_file


def _remove_model(folder: Path) -> None:
    shutil.rmtree(folder / "run" / "model")


def _last_rows_lost(name: str) -> Case:
    return Case(
        name,
        "history",
        ("series 'b'", "31 steps of h", "history of 32", "model.context_length"),
        (),
        edit_series(lambda table: table[(table["item_id"] == "a") | (table.groupby("item_id").cumcount() < 31)]),
    )


CASES = (
    # the model
    Case("no such model", "model", ("nowhere", "not a run folder"), ("--model", "nowhere")),
    Case("checkpoint for a run folder", "model", ("checkpoint", "not a run folder"), ("--model", "checkpoint")),
    Case("model without weights", "model", ("run", "model", "missing"), (), _remove_model),
    Case("model without config", "model", ("run", "config.yaml", "missing"), (), remove_file("run/config.yaml")),
    Case(
        "truncated weights",
        "model",
        ("run", "model/model.safetensors has changed"),
        (),
        truncate("run/model/model.safetensors"),
    ),
    Case(
        "preprocessor that is no JSON", "model", ("preprocessor.json", "damaged"), (), truncate("run/preprocessor.json")
    ),
    Case(
        "preprocessor that is a list",
        "model",
        ("preprocessor.json", "damaged"),
        (),
        write_file("run/preprocessor.json", "[]"),
    ),
    Case(
        "preprocessor without a scaler",
        "model",
        ("preprocessor.json has changed",),
        (),
        edit_json("run/preprocessor.json", scaler=None),
    ),
    Case(
        "model of an unknown family",
        "model",
        ("'ttmm'", "no family"),
        (),
        edit_json("run/preprocessor.json", model_type="ttmm"),
    ),
    # the history
    Case("no such input", "history", ("nowhere.csv", "does not exist"), ("--input", "nowhere.csv")),
    Case(
        "input of an unknown kind",
        "history",
        ("series.ods", ".csv, .tsv, .txt"),
        ("--input", "series.ods"),
        write_file("series.ods", "a"),
    ),
    _last_rows_lost("short history"),
    Case(
        "no target column",
        "history",
        ("series.csv", "no column 'load'"),
        (),
        edit_series(lambda table: table.drop(columns="load")),
    ),
    Case(
        "no item column",
        "history",
        ("series.csv", "no column 'item_id'"),
        (),
        edit_series(lambda table: table.drop(columns="item_id")),
    ),
    Case(
        "text in the target",
        "history",
        ("series.csv", "row 12", "'low'", "'load'", "not a number"),
        (),
        set_cell(10, "load", "low"),
    ),
    Case(
        "the same hour twice",
        "history",
        ("series.csv", "1 duplicate timestamp(s)", "2024-01-01 04:00:00", "'a'"),
        (),
        set_cell(5, "timestamp", "2024-01-01 04:00:00"),
    ),
    Case(
        "word for a timestamp",
        "history",
        ("series.csv", "row 7", "'yesterday'"),
        (),
        set_cell(5, "timestamp", "yesterday"),
    ),
    Case(
        "target without a value",
        "history",
        ("series.csv", "'load'", "only missing ones"),
        (),
        edit_series(lambda table: table.assign(load=None)),
    ),
    Case(
        "one series without a value",
        "history",
        ("series", "'b'"),
        (),
        edit_series(lambda table: table.assign(load=table["load"].where(table["item_id"] == "a"))),
    ),
    # the forecast
    Case(
        "output that is there",
        "output",
        ("--output", "taken.csv", "exists", "--overwrite"),
        ("--output", "taken.csv"),
        write_file("taken.csv", "mine"),
    ),
    Case(
        "output of an unknown kind",
        "output",
        ("--output", "forecast.xlsx", ".csv, .csv.gz or .parquet"),
        ("--output", "forecast.xlsx"),
    ),
    Case(
        "output into no folder",
        "output",
        ("--output", "nowhere/forecast.csv", "does not exist"),
        ("--output", "nowhere/forecast.csv"),
    ),
    Case(
        "output over a folder",
        "output",
        ("--output", "taken.csv", "cannot be written", "directory"),
        ("--output", "taken.csv", "--overwrite"),
        write_file("taken.csv/notes.txt", "mine"),
    ),
    Case(
        "output name no file system takes",
        "output",
        ("--output", "name too long"),
        ("--output", 300 * "x" + ".csv"),
        leave,
    ),
    Case("no such table of the future", "history", ("nowhere.csv", "does not exist"), ("--future", "nowhere.csv")),
)
