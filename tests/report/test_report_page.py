"""The report says what the files of the run say, whole and escaped, whatever the run lacks."""

from __future__ import annotations

import json
import re
import shutil
from itertools import pairwise

import pytest
from sample_run import write_run
from support.page_reader import Page

import write_report as script
from tstune.errors import FolderError, ReportError
from tstune.runs.report import write_report
from tstune.runs.report.run_files import read_run

NASTY = "<script>alert(1)</script>"
LONG = 'two words "quoted" | a|pipe & ' + "unbroken_" * 12
SECTIONS = ["summary", "scoreboard", "comparisons", "cohort", "horizons", "items", "forecasts", "calibration"]
GLUCOSE = ["glucose", "error-grids", "hypo", "profile", "strata"]
RUN = ["training", "cost", "provenance"]
WARNING = "Research use only, not for treatment decisions."
INPUTS = [f"{name}.json" for name in ("metrics", "verdict", "manifest", "environment", "evaluation")]
INPUTS += ["cohort.csv", "history.jsonl", "config.yaml"]

VARIANTS = {
    "full": {},
    "names": {"items": 3, "num_examples": 4, "names": {0: NASTY, 1: LONG}},
    "one item": {"items": 1, "num_examples": 4},
    "many items": {"items": 300, "num_examples": 20},
    "zero-shot": {"trained": False, "uncertainty": False, "intervals": False, "items": 4},
    "mmol/L": {"unit": "mmol/L", "items": 4},
    "several targets": {"glucose": False, "targets": ("left", "right"), "items": 3},
    "no unit": {"glucose": False, "unit": None, "targets": ("load",), "step_seconds": None, "items": 3},
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    base = tmp_path_factory.mktemp("runs")
    found = {name: write_run(base / name.replace("/", " per "), **options) for name, options in VARIANTS.items()}
    for folder in found.values():
        write_report(folder)
    return found


@pytest.fixture(scope="module")
def pages(folders):
    return {name: Page((folder / "report.html").read_text(encoding="utf-8")) for name, folder in folders.items()}


def expected_sections(name):
    glucose = [] if VARIANTS[name].get("glucose") is False else GLUCOSE
    sections = [*SECTIONS, *glucose, *RUN]
    if name == "zero-shot":
        sections = [one for one in sections if one not in ("calibration", "training")]
    return sections


@pytest.mark.parametrize("name", VARIANTS)
def test_sections_are_there_in_order_and_nothing_is_left_open(pages, name):
    page = pages[name]
    assert page.open_tags == []
    assert len(page.ids) == len(set(page.ids))
    assert [one for one in page.ids if one in SECTIONS + GLUCOSE + RUN] == expected_sections(name)
    links = [value for tag, key, value in page.attributes if tag == "a" and key == "href"]
    assert {link.removeprefix("#") for link in links} <= set(page.ids)


@pytest.mark.parametrize("name", VARIANTS)
def test_headings_never_skip_a_level(pages, name):
    levels = [level for level, _ in pages[name].headings]
    assert levels[:2] == [1, 2]
    assert all(later <= earlier + 1 for earlier, later in pairwise(levels))


@pytest.mark.parametrize("name", VARIANTS)
def test_every_plot_is_described_and_has_its_numbers_beneath(pages, name):
    page = pages[name]
    assert len(page.figures) >= 8
    for figure, (plots, tables) in page.figures.items():
        heat = figure.startswith("heat-map")
        assert tables == (2 if heat else 1), figure
        assert plots == (0 if heat else plots), figure
        assert plots >= (0 if heat else 1), figure
    labels = [value for tag, key, value in page.attributes if tag == "svg" and key == "aria-label"]
    assert len(labels) == sum(plots for plots, _ in page.figures.values())
    assert all(labels)


@pytest.mark.parametrize("name", VARIANTS)
def test_every_number_has_a_unit(pages, name):
    for table in pages[name].tables:
        assert all(len(row) == len(table.header) for row in table.rows), table.caption
        for column, header in enumerate(table.header[1:], start=1):
            cells = [row[column] for row in table.rows]
            numeric = [cell for cell in cells if re.fullmatch(r"[+-]?[\d,]+(\.\d+)?", cell)]
            if numeric:
                by_row = all("(" in row[0] for row in table.rows)  # the table of all metrics
                assert "(" in header or "(" in table.caption or by_row or header in ("Version",), (
                    table.caption,
                    header,
                )


@pytest.mark.parametrize("name", VARIANTS)
def test_nothing_comes_from_elsewhere(folders, name):
    text = (folders[name] / "report.html").read_text(encoding="utf-8")
    page = Page(text)
    for tag, key, value in page.attributes:
        if key in ("src", "href", "xlink:href", "action", "srcset"):
            assert value.startswith(("#", "data:")), (tag, key, value)
    style = text.partition("<style>")[2].partition("</style>")[0]
    assert "url(" not in style
    assert "@import" not in style
    assert len(page.scripts) == 1
    assert not re.search(r"fetch\(|XMLHttpRequest|import\(|https?:", page.scripts[0])
    assert (folders[name] / "report.html").stat().st_size < 3e6


def test_names_are_shown_and_never_run(folders, pages):
    text = (folders["names"] / "report.html").read_text(encoding="utf-8")
    assert NASTY not in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text
    names = [row[0] for row in pages["names"].table("Cohort").rows]
    assert names[:2] == [NASTY, LONG]
    markdown = (folders["names"] / "report.md").read_text(encoding="utf-8")
    assert "<script" not in markdown
    cohort = markdown.partition("\nCohort:\n")[2].splitlines()[2:6]
    assert len({len(re.findall(r"(?<!\\)\|", line)) for line in cohort}) == 1, "a pipe in a name makes no new column"


@pytest.mark.parametrize("name", VARIANTS)
def test_the_warning_stands_at_both_ends_for_glucose_only(folders, name):
    markdown = (folders[name] / "report.md").read_text(encoding="utf-8")
    html = (folders[name] / "report.html").read_text(encoding="utf-8")
    wanted = 0 if name == "no unit" else 2
    assert html.count(f">{WARNING}<") == markdown.count(WARNING) == wanted
    if wanted:
        assert html.index(WARNING) < html.index('id="summary"') < html.index('id="provenance"') < html.rindex(WARNING)


def test_the_scoreboard_is_that_of_the_metrics(folders, pages):
    metrics = json.loads((folders["full"] / "metrics.json").read_text())["test"]
    models = json.loads((folders["full"] / "evaluation.json").read_text())["models"]
    table = pages["full"].table("All models on the test windows")
    assert [row[0].replace("-", "_").replace(" ", "_") for row in table.rows] == models
    column = table.header.index("RMSE at 60 min (mg/dL)")
    assert [float(row[column]) for row in table.rows] == pytest.approx(
        [metrics[model]["rmse@60min"] for model in models], abs=0.0051
    )


def test_the_comparisons_are_those_of_the_verdict(folders, pages):
    verdict = json.loads((folders["full"] / "verdict.json").read_text())
    rows = pages["full"].table("fine-tuned against the others").rows
    assert [(row[1], float(row[2]), float(row[3]), float(row[4]), int(row[5])) for row in rows] == [
        (
            one["effect"],
            pytest.approx(100 * one["change"], abs=0.051),
            pytest.approx(100 * one["low"], abs=0.051),
            pytest.approx(100 * one["high"], abs=0.051),
            one["items_better"],
        )
        for one in verdict["comparisons"]
    ]


def test_coverage_hypo_grids_and_items_are_those_of_the_evaluation(folders, pages):
    evaluation, page = json.loads((folders["full"] / "evaluation.json").read_text()), pages["full"]
    coverage = page.table("Coverage and width").rows
    assert len(coverage) == 9
    by_method = {(row[0], row[1]): (float(row[2]), float(row[5])) for row in coverage}
    wanted = evaluation["uncertainty"]["methods"]["split_conformal"]["intervals"][1]
    shown = by_method["split conformal (used)", "80"]
    assert shown == (pytest.approx(100 * wanted["coverage"], abs=0.051), pytest.approx(wanted["width"], abs=0.051))

    windows = evaluation["glucose"]["hypo"]["low"]["windows_up_to"]["60min"]
    row = next(row for row in page.table("Warnings by window, next 60 min").rows if row[0] == "fine-tuned")
    assert int(row[2]) == windows["fine_tuned"]["num_low"]
    assert float(row[5]) == pytest.approx(windows["fine_tuned"]["auprc"], abs=0.00051)
    assert "context mean" not in [row[0] for row in page.table("Warnings by event").rows], "it has no alarm"

    shares = evaluation["glucose"]["error_grids"]["dts"]["horizons"]["30min"]["ridge"]
    grids = [table for table in page.tables if table.caption.startswith("Share of each zone at 30 min")]
    assert len(grids) == 3
    row = next(row for row in grids[2].rows if row[0] == "ridge")
    assert [float(cell) for cell in row[1:6]] == pytest.approx(list(shares.values()), abs=0.051)

    items = {one["item"]: one["rmse"] for one in evaluation["per_item"]}
    heat = page.table("Change of RMSE against zero-shot")
    column = heat.header.index("fine-tuned (%)")
    changes = [float(row[column]) for row in heat.rows]
    assert changes == sorted(changes)
    assert changes == pytest.approx(
        [100 * (items[row[0]]["fine_tuned"] / items[row[0]]["zero_shot"] - 1) for row in heat.rows], abs=0.051
    )


def test_both_units_of_glucose_are_shown(pages):
    for name, native in (("full", "mg/dL"), ("mmol/L", "mmol/L")):
        tables = [table for table in pages[name].tables if table.caption in ("RMSE (mg/dL)", "RMSE (mmol/L)")]
        mgdl, mmol = (next(t for t in tables if t.caption == f"RMSE ({unit})") for unit in ("mg/dL", "mmol/L"))
        ratio = [float(a[1]) / float(b[1]) for a, b in zip(mgdl.rows, mmol.rows, strict=True)]
        assert ratio == pytest.approx([18.016] * len(ratio), rel=0.01)
        assert f"Mean ({native})" in pages[name].table("Cohort").header


def test_the_split_is_dated_from_its_borders(pages, folders):
    item = json.loads((folders["full"] / "manifest.json").read_text())["items"][0]
    row = pages["full"].table("Borders of the split").rows[0]
    assert row[1] == item["first"][:16].replace("T", " ")
    assert row[2] < row[3] or row[2] == row[3]
    assert row[4] < row[5], "a purge lies between validation and test"
    held_out = pages["full"].table("Borders of the split").rows[4]
    assert held_out[1:5] == ["–"] * 4


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("zero-shot", "No calibration: this run forecasts no quantiles"),
        ("zero-shot", "No training curves: nothing was trained"),
        ("zero-shot", "too few days to draw from"),
        ("zero-shot", "No bands: the test windows are too few days"),
        ("zero-shot", "No interval bands: this run forecasts no quantiles"),
        ("several targets", "No glucose sections: they need one target in mg/dL or mmol/L; this run has 2 targets"),
        ("full", "No table of events: the validation windows hold no event below this limit"),
        ("many items", "40 of 300 items, evenly chosen"),
    ],
)
def test_what_is_missing_is_said_in_one_line(folders, name, reason):
    assert reason in (folders[name] / "report.html").read_text(encoding="utf-8")


def test_markdown_has_the_same_tables_without_plots(folders, pages):
    markdown = (folders["full"] / "report.md").read_text(encoding="utf-8")
    assert "<svg" not in markdown
    headings = re.findall(r"^## (.+)$", markdown, re.MULTILINE)
    assert headings == [text for level, text in pages["full"].headings if level == 2]
    for caption in ("All models on the test windows", "Coverage and width of all methods", "Warnings by event"):
        own = markdown.partition(f"\n{caption}:\n\n")[2].partition("\n\n")[0].splitlines()
        assert [cell.strip().strip("*") for cell in own[2].strip("|").split("|")] == pages["full"].table(caption).rows[
            0
        ]
    assert len(markdown) < 60_000
    assert len((folders["many items"] / "report.md").read_bytes()) < 300_000


def test_it_is_drawn_from_the_named_files_alone_and_always_the_same(folders, tmp_path):
    for name in INPUTS:
        shutil.copy(folders["full"] / name, tmp_path)
    write_report(tmp_path)
    first = [(tmp_path / name).read_bytes() for name in ("report.html", "report.md")]
    assert first == [(folders["full"] / name).read_bytes() for name in ("report.html", "report.md")]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*INPUTS, "report.html", "report.md"])


def test_1000_items_stay_below_3_mb(tmp_path):
    write_report(write_run(tmp_path, items=1000, num_examples=20))
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert len(text.encode()) < 3e6
    assert "the first 400 of 1,000 rows" in text
    assert "the 200 items that gain most and least, of 1,000" in text


def test_the_script_draws_a_report_again(folders, capsys):
    folder = folders["one item"]
    before = (folder / "report.html").read_bytes()
    (folder / "report.html").write_text("edited", encoding="utf-8")
    assert script.main([str(folder)]) == 0
    assert (folder / "report.html").read_bytes() == before
    assert capsys.readouterr().out == f"report: {folder / 'report.html'}\n"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda run: (run / "evaluation.json").unlink(), r"holds no evaluation\.json, .* the run is older"),
        (lambda run: (run / "verdict.json").unlink(), r"verdict\.json is missing"),
        (lambda run: (run / "metrics.json").write_text('{"test": '), r"metrics\.json is damaged: "),
        (lambda run: (run / "manifest.json").write_text("[]"), r"manifest\.json is damaged: it does not hold names"),
        (lambda run: (run / "metrics.json").write_text("{}"), r"metrics\.json .* the key 'test' is missing"),
        (lambda run: (run / "history.jsonl").write_text("{}\nno"), r"history\.jsonl is damaged"),
        (lambda run: (run / "config.yaml").write_text("a: [1"), r"config\.yaml is not valid YAML"),
        (lambda run: (run / "cohort.csv").write_bytes(b"\xff\xfe"), r"cohort\.csv cannot be read"),
        (lambda run: _edit(run, "rmse_by_step", {"ridge": {}}), r"the section horizons cannot be drawn: .*'values'"),
        (shutil.rmtree, r"is no folder"),
    ],
)
def test_a_folder_that_cannot_be_drawn_is_one_clear_line(folders, tmp_path, capsys, change, message):
    run = tmp_path / "run"
    run.mkdir()
    for name in INPUTS:
        shutil.copy(folders["one item"] / name, run)
    change(run)
    assert script.main([str(run)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert re.search(message, error)
    with pytest.raises((FolderError, ReportError)):
        write_report(run)
    assert not (run / "report.html").exists()


def test_a_report_that_cannot_be_written_leaves_nothing_behind(folders, tmp_path, capsys):
    for name in INPUTS:
        shutil.copy(folders["one item"] / name, tmp_path)
    (tmp_path / "report.md").mkdir()
    assert script.main([str(tmp_path)]) == 2
    assert re.fullmatch(r"error: .*report\.md cannot be written: Is a directory\n", capsys.readouterr().err)
    assert list(tmp_path.glob(".*")) == []


def _edit(run, key, value):
    content = json.loads((run / "evaluation.json").read_text())
    (run / "evaluation.json").write_text(json.dumps(content | {key: value}))


def test_the_reference_is_the_best_baseline_without_a_zero_shot_model(folders):
    run = read_run(folders["zero-shot"])
    assert run.judged == "zero_shot"
    others = {model: values["rmse"] for model, values in run.metrics.items() if model != "zero_shot"}
    assert run.reference == min(others, key=others.get)
