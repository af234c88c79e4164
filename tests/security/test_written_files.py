"""What is written for people to open: no HTML, no formula, no password of anybody."""

from __future__ import annotations

import csv
import re
from html.parser import HTMLParser
from pathlib import Path

import mistune
import pandas as pd
import pytest
import yaml
from support import tiny

import compare_runs
import describe_data
import finetune_ttm
import predict_forecast
import publish_model
from tstune.config.section import without_credentials
from tstune.config.validation import leaf_paths, validate
from tstune.errors import EXIT_OK, EXIT_USER_ERROR, ConfigError, visible
from tstune.registry.versions import table
from tstune.runtime.files import as_read, cell, escape, escape_lines
from tstune.runtime.logs import logger, setup_logging
from tstune.sweeps.storage import storage_url
from tstune.tracking.mlflow_tracker import MLflowExperimentTracker

IMAGE = "<img src=x onerror=alert(1)>"
TURNED = "a\u202egpj.exe\u2066 \x1b[2Jb"
LINK = "`</code>` | ![x](http://127.0.0.1/pixel) <blink>now</blink>"
FORMULA = "=cmd|' /C calc'!A0"
NAMES = (IMAGE, FORMULA, LINK, TURNED)
STEERING = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
UNIT = "\u202e<script>alert(2)</script>"
TARGET = "@\u2067`<marquee>load</marquee>`"
PLANTED = {"img", "script", "blink", "marquee", "iframe"}
OURS = {"script"}
"""What report.html holds of its own."""


class Tags(HTMLParser):
    """The elements and attributes of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes |= {name for name, _ in attrs}


@pytest.fixture(scope="module")
def wicked(stock: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on series, a column and a unit whose names are made to be executed."""
    desk = tmp_path_factory.mktemp("wicked")
    table = pd.concat([tiny.series(items=(name,), seed=seed) for seed, name in enumerate(NAMES)])
    table.rename(columns={"load": TARGET}).to_csv(desk / "series.csv", index=False)
    table.groupby("item_id").tail(60).rename(columns={"load": TARGET}).to_csv(desk / "input.csv", index=False)
    values = tiny.recipe(desk / "series.csv", desk / "run", stock / "checkpoint")
    values["data"] |= {"target_columns": [TARGET], "unit": UNIT}
    values["training"]["max_steps"] = 1
    assert finetune_ttm.main(["--config", str(tiny.write_recipe(desk / "recipe.yaml", values))]) == EXIT_OK
    return desk


def assert_harmless(markdown: str) -> None:
    page = Tags(mistune.create_markdown(escape=False, plugins=["table"])(markdown))
    assert "table" in page.tags
    assert PLANTED & set(page.tags) == set()


@pytest.mark.parametrize("name", ["README.md", "cohort.md", "report.md"])
def test_fault_23_names_are_no_html_in_a_run_folder(name: str, wicked: Path):
    text = (wicked / "run" / name).read_text(encoding="utf-8")
    assert escape(IMAGE if name != "README.md" else TARGET) in text, "the name is there, to read"
    assert_harmless(text)


def test_fault_23_nor_in_a_page_a_card_or_a_comparison(wicked: Path, capsys: pytest.CaptureFixture[str]):
    run = str(wicked / "run")
    page = Tags((wicked / "run/report.html").read_text(encoding="utf-8"))
    assert PLANTED & set(page.tags) <= OURS
    assert page.tags.count("script") == 1
    assert {name for name in page.attributes if name.startswith("on")} == set()
    assert compare_runs.main([run, run + "/../run", "--output", str(wicked / "compare.html")]) == EXIT_OK
    assert_harmless(capsys.readouterr().out)
    assert "marquee" not in Tags((wicked / "compare.html").read_text(encoding="utf-8")).tags
    assert publish_model.main([run, "--to-folder", str(wicked / "published")]) == EXIT_OK
    card = (wicked / "published/README.md").read_text(encoding="utf-8").split("---\n", 2)[2]
    assert escape(TARGET) in card
    assert_harmless(card)


@pytest.mark.parametrize("suffix", [".csv", ".csv.gz", ".parquet"])
def test_fault_23_a_forecast_holds_no_formula(suffix: str, wicked: Path, tmp_path: Path):
    output = tmp_path / f"forecast{suffix}"
    command = ["--model", str(wicked / "run"), "--input", str(wicked / "input.csv"), "--output", str(output)]
    assert predict_forecast.main(command) == EXIT_OK
    if suffix == ".parquet":  # no spreadsheet opens it
        assert set(pd.read_parquet(output)["item_id"]) == set(NAMES)
        return
    found = pd.read_csv(output)
    assert set(found["item_id"]) == {IMAGE, f"'{FORMULA}", LINK, visible(TURNED)}
    assert list(found.columns) == ["item_id", "timestamp", f"'{visible(TARGET)}"]
    assert predict_forecast.main([*command, "--overwrite", "--keep-formulas"]) == EXIT_OK
    found = pd.read_csv(output)
    assert set(found["item_id"]) == set(NAMES)
    assert list(found.columns) == ["item_id", "timestamp", TARGET]


def test_fault_23_nor_does_any_table_of_a_run(wicked: Path):
    tables = sorted((wicked / "run").rglob("*.csv"))
    assert [path.name for path in tables] == ["cohort.csv"]
    for path in tables:
        cells = [value for row in csv.reader(path.open(encoding="utf-8")) for value in row]
        assert f"'{FORMULA}" in cells
        assert [value for value in cells if cell(value) != value] == []


def test_fault_23_nor_does_a_name_turn_what_is_read(
    wicked: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Nor steer the terminal: the console, and every page and table of a run, a comparison and a card."""
    assert describe_data.main([str(wicked / "series.csv"), "--html", str(wicked / "look.html")]) == EXIT_OK
    runs = [str(wicked / "run"), str(wicked / "run/../run")]
    assert compare_runs.main([*runs, "--output", str(tmp_path / "compare.html")]) == EXIT_OK
    assert publish_model.main([str(wicked / "run"), "--to-folder", str(tmp_path / "card")]) == EXIT_OK
    missing = ["--model", str(wicked / "run"), "--input", str(wicked / "none.csv"), "--output", f"{TURNED}.csv"]
    assert predict_forecast.main([*missing, "--rename", f"{TURNED}=x"]) == EXIT_USER_ERROR
    with monkeypatch.context() as patch:
        patch.setattr(logger, "handlers", [])  # others may have left theirs
        setup_logging()  # to the stream of now, which is captured
        logger.warning("series %s", TURNED)
    said = capsys.readouterr()
    assert f"series {visible(TURNED)}" in said.err
    assert visible(TARGET) in said.out
    pages = [path for path in (*wicked.rglob("*"), *tmp_path.rglob("*")) if path.suffix in (".md", ".html", ".csv")]
    pages = [path for path in pages if path.name not in ("series.csv", "input.csv")]
    assert len(pages) >= 8
    for text in (said.out, said.err, *(path.read_text(encoding="utf-8") for path in pages)):
        assert STEERING.search(text) is None
    shown = visible(TURNED), escape(TURNED)
    names = {path.name for path in pages if any(name in path.read_text(encoding="utf-8") for name in shown)}
    assert {"cohort.csv", "cohort.md", "report.html", "report.md", "look.html"} <= names, "they are there, to read"


@pytest.mark.parametrize(
    "text",
    [
        "a\u202eb",
        "\x1b[2J",
        "\r=1",
        "=1+1",
        "＝1+1",
        "+cmd",
        "-2+3",
        "@SUM(A1)",
        "\t=1",
        "a=1",
        "-5",
        "+3.5",
        "'quoted",
        "",
        "-inf",
    ],
)
def test_a_cell_is_read_back(text: str):
    assert as_read(cell(text)) == text
    shown = visible(text)
    harmless = shown[:1] not in ("=", "＝", "+", "-", "@", "\t") or shown in ("-5", "+3.5", "-inf")
    assert cell(text) == (shown if harmless else f"'{shown}")


def test_numbers_and_plain_names_stay():
    assert cell(-1.5) == -1.5
    assert escape("mg/dL, 80 % of R_1 (m³·h⁻¹)") == "mg/dL, 80 % of R_1 (m³·h⁻¹)"
    assert escape_lines("| a | **b** |\n|---|---|") == "| a | **b** |\n|---|---|"


ADDRESSES = [
    "http://me:s3cret@127.0.0.1:5000",
    "https://s3cret@host/path",
    "http://host/x?password=s3cret",
    "http://host/x?a=1&api_key=s3cret&b=2",
    "postgresql://host/x?user=me&passwd=s3cret",
    "https://host/x#access_token=s3cret",
    "https://bucket.host/x?X-Amz-Signature=s3cret",
    "//me:s3cret@host/path",
    "http://host/x?pass%77ord=s3cret",
    "http://host/x?a[password]=s3cret",
    "http://host/x?jwt=s3cret",
    "me:s3cret@host:5000",
    "me:s3cret@host.example",
    "me:s3cret@[::1]/path",
]


@pytest.mark.parametrize("address", ADDRESSES)
def test_fault_22_no_key_takes_an_address_with_credentials(address: str):
    """Not one of all keys, and what is refused is not repeated."""
    refused = 0
    for path in leaf_paths():
        *parents, leaf = path.split(".")
        for value in (address, [address]):
            values: dict = {leaf: value}
            for parent in reversed(parents):
                values = {parent: values}
            with pytest.raises(ConfigError) as error:
                validate(values, "here")
            assert "s3cret" not in str(error.value), path
            refused += "holds a user name, password or token" in str(error.value)
    assert refused >= 30
    assert "s3cret" not in without_credentials(f"error at {address}: no answer")


@pytest.mark.parametrize(
    "address", ["http://127.0.0.1:5000/?tab=1", "sqlite:///runs/mlflow.db", "file:///x/a@b", "runs/a:b@c.d"]
)
def test_an_address_without_any_is_taken(address: str):
    assert validate({"tracking": {"mlflow_uri": address}}, "here").tracking.mlflow_uri == address


@pytest.mark.parametrize("address", ADDRESSES)
def test_fault_22_nor_do_a_tracker_and_a_study(address: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    for refuses in (MLflowExperimentTracker, lambda given: storage_url(given, Path("sweep"))):
        with pytest.raises(ConfigError, match="password") as error:
            refuses(address)
        assert "s3cret" not in str(error.value)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)  # where it belongs
    tracker = MLflowExperimentTracker()
    assert tracker.tracking_uri == address
    assert "s3cret" not in yaml.safe_dump(tracker.settings())


def test_what_a_record_says_does_not_steer_a_terminal():
    assert table([("cgm:1", "\x1b[2J\x07mine"), ("cgm:10", "ä")]) == ["cgm:1   ?[2J?mine", "cgm:10  ä"]
