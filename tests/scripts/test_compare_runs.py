"""Runs side by side: settings, data, metrics, paired tests on shared windows, items, cost."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from bad_input import errors_in
from support import tiny
from support.page_reader import Page

import compare_runs
import eval_forecast
import finetune_ttm
from tstune.domains import domain_of
from tstune.registry import open_registry
from tstune.runs.compare.side_by_side import ComparedRun, pair, read_runs

WARNING = domain_of("mg/dL").warning
QUICK = {"baselines": ["persistence"], "report": False}


@pytest.fixture(scope="module")
def trained(stock: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with the runs decoder/ and full/, and evaluations: untuned/, half/, early/, short/."""
    folder = tmp_path_factory.mktemp("trained")
    shutil.copytree(stock, folder, dirs_exist_ok=True)
    tiny.write_series(folder / "series.csv", rows=800)  # test days enough for intervals
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for mode in ("decoder", "full"):
            values = tiny.recipe(
                Path("series.csv"), Path(mode), Path("checkpoint"), tuning={"mode": mode}, evaluation=QUICK
            )
            tiny.write_recipe(folder / f"{mode}.yaml", values)
            assert finetune_ttm.main(["--config", f"{mode}.yaml"]) == 0
        for output, words in {
            "untuned": ["--model", "checkpoint"],
            "half": ["--model", "full", "data.test_stride=2"],
            "early": ["--model", "full", "--part", "validation"],
            "short": ["--model", "full", "model.prediction_length=4", "evaluation.horizons=[1h]"],
        }.items():
            assert eval_forecast.main(["--config", "decoder.yaml", *words, "--output", output]) == 0
    return folder


@pytest.fixture
def desk(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Current folder with a copy of `trained`."""
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def compared(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    capsys.readouterr()
    assert compare_runs.main(list(arguments)) == 0
    return capsys.readouterr().out


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert compare_runs.main(list(arguments)) == 2
    captured = capsys.readouterr()
    (error,) = errors_in(captured.err)
    assert captured.out == ""
    return error


def table(text: str, title: str) -> list[dict[str, str]]:
    """Rows of the Markdown table under a title."""
    lines = text.partition(f"{title}:\n\n")[2].partition("\n\n")[0].splitlines()
    cells = [[cell.strip(" *") for cell in line.strip("|").split("|")] for line in lines]
    return [dict(zip(cells[0], row, strict=True)) for row in cells[2:]]


def page_at(path: Path) -> Page:
    return Page(path.read_text(encoding="utf-8"))


def test_settings_data_and_metrics(desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = compared(capsys, "decoder", "full")
    headings = re.findall(r"^## (.*)$", text, re.MULTILINE)
    assert headings == ["Settings that differ", "Data", "Metrics", "Paired tests", "Items", "Cost"]
    titles = re.findall(r"^#+ (.*)$", text, re.MULTILINE) + re.findall(r"^(.*):\n\n\|", text, re.MULTILINE)
    assert len(titles) == len(set(titles)), "nothing is said twice"
    assert table(text, "Key by key") == [{"Key": "tuning.mode", "decoder": "decoder", "full": "full"}]
    assert "| full | same data as decoder |" in text
    rows = table(text, "The windows are the same")
    for row in rows:
        metrics = tiny.read_json(desk / row["Run"] / "metrics.json")["test"]["fine_tuned"]
        assert row["Forecast"] == "fine-tuned"
        assert float(row["RMSE"]) == pytest.approx(metrics["rmse"], abs=5e-4)
        assert float(row["MASE (ratio)"]) == pytest.approx(metrics["mase"], abs=5e-4)
    assert [row["Run"] for row in rows] == ["decoder", "full"]
    every = table(text, "All metrics of all runs")
    assert [row["Metric"] for row in every][:2] == ["RMSE", "MAE"]
    assert len(every) == 10
    cost = table(text, "Time, memory, parameters")
    assert [(row["Parameters"], row["Trained"], row["Steps"]) for row in cost] == [
        ("2,796", "412", "6"),
        ("2,796", "2,796", "6"),
    ]


def test_paired_tests(desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = compared(capsys, "decoder", "full", "untuned")
    assert "242 windows are shared by all runs." in text
    rmse = {name: read["rmse"] for name, read in ((run.name, run.metrics) for run in read_runs(["decoder", "full"]))}
    full, untuned = table(text, "Paired tests against decoder")
    assert (full["Run"], full["Against decoder"]) == ("full", "better")
    assert float(full["Change of RMSE (%)"]) == pytest.approx(100 * (rmse["full"] / rmse["decoder"] - 1), abs=0.051)
    assert untuned["Against decoder"] == "worse"
    won = {row["Run"]: row["Better than decoder (items)"] for row in table(text, "Items won")}
    assert won == {"decoder": "–", "full": "2", "untuned": "0"}
    assert [row["Item"] for row in table(text, "RMSE of each item, on the shared windows")] == ["a", "b"]


def test_the_test_is_that_of_the_verdict(desk: Path) -> None:
    (verdict,) = [
        row for row in tiny.read_json(desk / "full" / "verdict.json")["comparisons"] if row["reference"] == "zero_shot"
    ]
    found = pair(read_runs(["untuned", "full"]))
    (test,) = found.tests
    assert test.change == pytest.approx(verdict["change"], rel=1e-6)
    assert test.low == pytest.approx(verdict["low"], abs=0.01), "another seed draws other blocks"
    assert test.high == pytest.approx(verdict["high"], abs=0.01)
    assert (test.effect, test.items_better) == ("better", verdict["items_better"])


def test_windows_that_only_some_have(desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = compared(capsys, "full", "half")
    assert "122 windows are shared by all runs (full has 242, half has 122)." in text
    assert "| half | different data than full: " in text
    assert {row["Key"] for row in table(text, "Key by key")} == {"data.test_stride", "tuning.mode"}
    (test,) = table(text, "Paired tests against full")
    assert (test["Against full"], test["Change of RMSE (%)"]) == ("no clear difference", "+0.0"), "the same model"
    own = table(text, "Each run on its own windows")
    assert own[0]["RMSE"] != own[1]["RMSE"]
    shared = table(text, "All runs on the shared windows")
    assert shared[0]["RMSE"] == shared[1]["RMSE"] == own[1]["RMSE"]


def test_windows_with_other_readings_are_left_out(desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = desk / "half" / "windows.parquet"
    windows = pd.read_parquet(path)
    windows.loc[:4, "count"] -= 1
    windows.to_parquet(path)
    assert "; 5 more are left out, as other readings were observed in them." in compared(capsys, "full", "half")


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        ("early", "no test window is shared: no item and time was forecast by all of them"),
        ("short", "forecast lengths differ: full 8, short 4"),
        ("half", "half holds no windows.parquet and evaluation.json (made by an earlier version)"),
    ],
)
def test_nothing_to_pair(other: str, reason: str, desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (desk / "half" / "windows.parquet").unlink()
    text = compared(capsys, "full", other)
    assert f"*No paired test: {reason}; the metrics above are of different windows.*" in text
    assert len(table(text, "Each run on its own windows")) == 2
    assert "**" not in text, "no run is called the best"


def test_page(desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = "<img src=x onerror=alert(1)>"
    (desk / "full").rename(desk / name)
    before = tiny.snapshot(desk)
    assert compared(capsys, "decoder", name, "--output", "compare.html").endswith("page: compare.html\n")
    after = tiny.snapshot(desk)
    assert after.pop("compare.html")
    assert after == before, "one file is new and nothing else"
    page = page_at(desk / "compare.html")
    loads = [value for _, key, value in page.attributes if key in ("src", "href", "srcset", "data")]
    assert [load for load in loads if not load.startswith(("#", "data:"))] == []
    assert "img" not in {tag for tag, _, _ in page.attributes}
    assert name in " ".join(page.text)
    assert (desk / "compare.html").stat().st_size < 3e6
    assert page.tables
    assert page.figures["forest-plot"] == [2, 1]
    assert refused(capsys, "decoder", name, "--output", "compare.html").startswith(
        "error: --output compare.html exists"
    )
    compared(capsys, "decoder", name, "--output", "compare.html", "--overwrite")


def test_glucose_is_not_for_treatment(desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert WARNING not in compared(capsys, "full", "half")
    manifest = tiny.read_json(desk / "half" / "manifest.json") | {"unit": "mmol/L"}
    (desk / "half" / "manifest.json").write_text(json.dumps(manifest))
    assert WARNING in compared(capsys, "full", "half", "--output", "compare.html")
    assert WARNING in " ".join(page_at(desk / "compare.html").text)


def test_registry_versions(desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    registry = open_registry("models")
    for run in ("decoder", "full"):
        registry.register(run, "load")
    text = compared(capsys, "registry:load:1", "registry:load:2", "--registry", "models")
    (test,) = table(text, "Paired tests against load:1")
    assert (test["Run"], test["Against load:1"]) == ("load:2", "better")
    assert "load:3" in refused(capsys, "registry:load:1", "registry:load:3", "--registry", "models")


def test_two_runs_of_one_name(desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree("full", "again/full")
    text = compared(capsys, "full", "again/full")
    assert "Every setting is the same." in text
    assert [row["Run"] for row in table(text, "The windows are the same")] == ["full", "again/full"]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["full"], "give at least two runs to compare"),
        (["full", "full"], "full is given twice"),
        (["full", "nowhere"], "nowhere is no folder; give the output_dir of a finished run"),
        (["full", "damaged"], "damaged/verdict.json is damaged: "),
        (["full", "rowless"], "rowless: metrics.json has no row 'other', which verdict.json judges"),
        (["full", "torn"], "torn/windows.parquet is damaged: "),
        (["full", "half", "--output", "page.md"], "--output page.md: the page is HTML"),
        (["full", "half", "--output", "nowhere/page.html"], "the folder nowhere does not exist"),
    ],
    ids=lambda value: value[-1] if isinstance(value, list) else None,
)
def test_refusals(words: list[str], expected: str, desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, file, content in (
        ("damaged", "verdict.json", "{"),
        ("rowless", "verdict.json", json.dumps({"model": "other"})),
        ("torn", "windows.parquet", "PAR1"),
    ):
        shutil.copytree("half", name)
        (desk / name / file).write_text(content)
    before = tiny.snapshot(desk)
    assert expected in refused(capsys, *words)
    assert tiny.snapshot(desk) == before


def planted(name: str, square: np.ndarray, table: pd.DataFrame) -> ComparedRun:
    evaluation = {"prediction_length": 8, "frequency": "h", "targets": ["x"], "unit": None}
    windows = table.assign(square=square, absolute=square)
    return ComparedRun(name, name, {}, "fine_tuned", {}, "", {}, {}, evaluation, windows)


def test_planted_cases() -> None:
    random = np.random.default_rng(0)
    origin = pd.date_range("2024-01-01", periods=24 * 40, freq="h")
    windows = pd.concat([pd.DataFrame({"item_id": name, "origin": origin, "count": 8}) for name in "abcdefgh"])
    day = np.repeat(random.gamma(2.0, size=(8, 40)), 24).reshape(-1)  # days are hard for all of them
    square = day * random.gamma(4.0, size=len(windows))
    better, alike = 0.9 * square, square * np.exp(random.normal(0, 0.05, len(windows)))
    shuffled = random.permutation(len(windows))
    runs = [planted("a", square, windows), planted("b", better, windows), planted("c", alike, windows)]
    runs[1] = planted("b", better[shuffled], windows.iloc[shuffled])
    found = pair(runs)
    assert [test.effect for test in found.tests] == ["better", "no clear difference"]
    assert found.tests[0].change == pytest.approx(np.sqrt(0.9) - 1)
    assert (found.tests[0].items_better, found.tests[0].num_items) == (8, 8)
    assert found.rmse[0] == pytest.approx(np.sqrt(square.mean() / 8))
    assert found.item_ids == tuple("abcdefgh")
    first = windows["item_id"].to_numpy() == "a"
    assert found.rmse_by_item[0, 1] == pytest.approx(np.sqrt(better[first].mean() / 8))
