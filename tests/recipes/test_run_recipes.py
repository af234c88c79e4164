"""run_recipes: what is run, what is skipped, what failed, and what it writes into the tables."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml
from documented import ROOT
from support import tiny
from support.tiny_weights import WRITERS

import run_recipes
from tstune.recipe_book.recipes import find_recipes

BEFORE, AFTER = "# Mine\n\n| by hand |\n|---|\n| 1 |\n\n", "\n\nText below, | with a pipe\n"
MARKERS = "<!-- results of scripts/run_recipes.py{} -->\n<!-- end of results -->"


@pytest.fixture(scope="module")
def book(tmp_path_factory) -> Path:
    """A book of two recipes: one that can be run, one that is no valid run."""
    folder = tmp_path_factory.mktemp("book")
    csv = tiny.write_series(folder / "series.csv")
    (folder / "recipes/mine").mkdir(parents=True)
    good = tiny.recipe(csv, Path("runs/unused"), training={"max_steps": 2}, evaluation={"report": False})
    tiny.write_recipe(folder / "recipes/mine/good.yaml", good)
    tiny.write_recipe(folder / "recipes/mine/lost.yaml", tiny.recipe(csv, Path("runs/unused"), tuning={"mode": "al"}))
    (folder / "recipes/README.md").write_text(BEFORE + MARKERS.format("") + AFTER)
    return folder


@pytest.fixture(scope="module")
def first_call(book) -> tuple[int, list[dict]]:
    """(exit code, lines of the journal) of the call that runs everything, good.yaml in a process of its own."""
    before = Path.cwd()
    os.chdir(book)
    try:
        return call(book), journal(book)
    finally:
        os.chdir(before)


@pytest.fixture(autouse=True)
def _in_the_book(book, monkeypatch):
    monkeypatch.chdir(book)


def call(book: Path, *words: str) -> int:
    return run_recipes.main([str(book / "recipes"), "--output", "out", "--tables", str(book / "recipes"), *words])


def journal(book: Path) -> list[dict]:
    return [json.loads(line) for line in (book / "out/rows.jsonl").read_text().splitlines()]


def table(book: Path) -> dict[str, list[str]]:
    """Recipe -> its cells."""
    lines = (book / "recipes/README.md").read_text().splitlines()
    rows = [line for line in lines if line.startswith("| [")]
    return {row.partition("[")[2].partition("]")[0]: [cell.strip() for cell in row.split(" | ")] for row in rows}


def test_every_recipe_is_a_row_with_what_came_of_it(book, first_call):
    code, (good, lost) = first_call
    assert code == 1, "one failed"
    assert (good["recipe"], good["status"], good["reason"]) == ("mine/good", "done", None)
    assert (lost["recipe"], lost["status"]) == ("mine/lost", "failed")
    assert "tuning.mode" in lost["reason"]
    assert good["seconds"] > 0.5
    assert good["peak_memory_mib"] > 100
    cells = table(book)["mine/lost"]
    assert cells[8] == "–", "no numbers"
    assert cells[11].startswith("failed: ")
    text = (book / "recipes/README.md").read_text()
    assert text.startswith(BEFORE), "only what is between the markers is written"
    assert text.endswith(AFTER)
    assert text.count("<!--") == len(table(book)) == 2


def test_numbers_of_the_table_are_those_of_the_run_folder(book, first_call):
    folder = book / "out/mine/good"
    scores = tiny.read_json(folder / "metrics.json")["test"]
    environment = tiny.read_json(folder / "environment.json")
    cells = table(book)["mine/good"]
    best = min((name for name in scores if name != "fine_tuned"), key=lambda name: scores[name]["rmse"])
    assert len(cells) == 14
    assert cells[3:5] == ["from_scratch", f"{environment['parameters']['trainable']:,}"]
    assert cells[8] == f"{scores['fine_tuned']['rmse']:.4g}"
    assert cells[10] == f"{best} {scores[best]['rmse']:.4g}"
    assert cells[11].startswith(("worse, +", "no clear difference", "better, -"))
    memory, unit = cells[7].split()
    assert unit == "MiB"
    assert float(memory.replace(",", "")) == pytest.approx(environment["peak_memory_mb"]["host"], rel=1e-3)


def test_what_is_done_is_not_run_again_and_what_failed_is(book, first_call, capsys):
    before = (book / "out/mine/good/metrics.json").stat().st_mtime_ns
    lost = str(book / "recipes/mine/lost.yaml")
    assert run_recipes.main([str(book / "recipes/mine/good.yaml"), lost, "--output", "out", "--tables", "recipes"]) == 1
    said = capsys.readouterr().out
    assert "[1/2] mine/good: done before" in said
    assert "[2/2] mine/lost: failed: " in said
    assert (book / "out/mine/good/metrics.json").stat().st_mtime_ns == before
    assert [line["recipe"].rpartition("/")[2] for line in journal(book)[2:]] == ["lost"]


def test_the_tables_can_be_written_without_a_run(book, first_call, capsys):
    readme = book / "recipes/README.md"
    whole, attempts = readme.read_text(), len(journal(book))
    readme.write_text(BEFORE + MARKERS.format("") + AFTER)
    assert call(book, "--tables-only") == 0
    assert readme.read_text() == whole
    assert len(journal(book)) == attempts
    assert "2 rows; written: " in capsys.readouterr().out
    assert call(book, "--tables-only") == 0
    assert "the tables stay as they are" in capsys.readouterr().out


def test_a_recipe_that_was_run_elsewhere_keeps_its_row(book, first_call):
    before = table(book)
    assert run_recipes.main(["recipes", "--output", "empty", "--tables", "recipes", "--tables-only"]) == 0
    assert table(book) == before


@contextmanager
def rewritten(book: Path, file: Path, text: str) -> Iterator[None]:
    """The tables with another text of a file; at the end both are as they were."""
    before = file.read_text()
    file.write_text(text)
    try:
        assert call(book, "--tables-only") == 0
        yield
    finally:
        file.write_text(before)
        assert call(book, "--tables-only") == 0


def test_a_recipe_that_changed_since_is_said_to_have(book, first_call):
    recipe = book / "recipes/mine/good.yaml"
    with rewritten(book, recipe, recipe.read_text().replace("max_steps: 2", "max_steps: 3")):
        assert table(book)["mine/good"][11].endswith("; recipe changed since")
    assert "changed since" not in table(book)["mine/good"][11]


def test_a_line_that_a_crash_cut_off_is_passed_over(book, first_call):
    path = book / "out/rows.jsonl"
    with rewritten(book, path, path.read_text() + '{"recipe": "mine/good", "sta'):
        assert len(table(book)) == 2


@pytest.fixture
def sleeper(book, monkeypatch) -> None:
    """Every recipe is a program that sleeps."""
    (book / "sleeper.py").write_text("import time\nprint('begun', flush=True)\ntime.sleep(600)\n")
    monkeypatch.setattr("tstune.recipe_book.recipes.Recipe.script", lambda self, model_type: book / "sleeper.py")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 75)])
def test_interrupted_is_130_preempted_75_and_what_was_begun_is_no_row(book, first_call, sleeper, number, code, capsys):
    attempts, log = len(journal(book)), book / "out/mine/good.log"

    def interrupt() -> None:
        until = time.monotonic() + 300
        while time.monotonic() < until and "begun" not in (log.read_text() if log.exists() else ""):
            time.sleep(0.05)
        os.kill(os.getpid(), number)

    log.unlink(missing_ok=True)
    waiting = threading.Thread(target=interrupt)
    waiting.start()
    words = [str(book / "recipes/mine/good.yaml"), "--output", "out", "--tables", "recipes", "training.max_steps=5"]
    assert run_recipes.main(words) == code
    waiting.join()
    assert len(journal(book)) == attempts
    told = capsys.readouterr()
    assert "the same command goes on" in told.out + told.err


def test_too_long_is_a_reason(book, first_call, sleeper):
    good = str(book / "recipes/mine/good.yaml")
    code = run_recipes.main([good, "--output", "slow", "--tables", "recipes", "--timeout", "0.01", "seed=1"])
    (line,) = (book / "slow/rows.jsonl").read_text().splitlines()
    assert code == 1
    assert json.loads(line)["reason"].endswith("min (--timeout)")
    assert table(book)["mine/good"][0].endswith("`seed=1`"), "what was changed stands beside the name"
    assert call(book, "--tables-only") == 0


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("dta: {}", "unknown key dta, did you mean data?"),
        ("data: {etth: x.csv}", "data.etth: no recipe asks for it, did you mean ett?"),
        ("data: {ett: nowhere.csv}", "nowhere.csv does not exist"),
        ("data: {ett: 3}", "data.ett: 3 is not a path"),
        ("data: [ett]", "data must hold names with their paths"),
        ("weights: {granite-timeseries-ttm-r2: .}", "did you mean ibm-granite/granite-timeseries-ttm-r2?"),
        ("data: {", "is not valid YAML"),
    ],
)
def test_a_bad_paths_file_is_one_line(content, expected, tmp_path, capsys):
    (tmp_path / "paths.yaml").write_text(content)
    assert run_recipes.main(["recipes", "--tables-only", "--paths", str(tmp_path / "paths.yaml")]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert said.count("\n") == 1
    assert expected in said


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["recipes/mine/god.yaml", "--tables", "recipes"], "did you mean recipes/mine/good.yaml?"),
        (["recipes/mine/good.yaml", "training.max_step=3"], "did you mean training.max_steps?"),
        (["recipes/mine/good.yaml", "--tables", "nowhere"], "--tables nowhere is not a folder"),
    ],
)
def test_other_bad_input_is_one_line(words, expected, book, first_call, capsys):
    assert run_recipes.main([*words, "--output", "out"]) == 2
    assert expected in capsys.readouterr().err.splitlines()[-1]


def test_a_marker_without_an_end_stops_before_anything_is_written(book, tmp_path, capsys, first_call):
    (tmp_path / "README.md").write_text("<!-- results of scripts/run_recipes.py -->\n\n# Much text\n")
    assert run_recipes.main(["recipes", "--output", "out", "--tables", str(tmp_path), "--tables-only"]) == 2
    assert "needs a line '<!-- end of results -->'" in capsys.readouterr().err
    assert (tmp_path / "README.md").read_text().endswith("# Much text\n")


def test_a_table_of_one_folder_has_only_its_recipes(book, first_call):
    other = book / "recipes/other.md"
    other.write_text(MARKERS.format(": mine/nothing") + "\n" + MARKERS.format(": mine, also mse_scaled") + "\n")
    try:
        assert call(book, "--tables-only") == 0
        empty, full = other.read_text().split("<!-- end of results -->")[:2]
    finally:
        other.unlink()
    assert empty.count("\n") == 1
    assert full.count("| [") == 2
    assert "| RMSE | scaled MSE | untuned |" in full


def test_a_recipe_that_does_not_run_is_counted(book, capsys):
    code = run_recipes.main(["--smoke", str(book / "recipes/mine/lost.yaml")])
    lines = capsys.readouterr().out.splitlines()
    assert code == 1
    assert "[1/1] recipes/mine/lost: failed: " in lines[-2]
    assert lines[-1].startswith("1 recipes, 0 ok, 1 failed")


def test_smoke_without_a_clone_is_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("tstune.recipe_book.recipes.ROOT", tmp_path)
    assert run_recipes.main(["--smoke"]) == 2
    assert (
        capsys.readouterr().err
        == f"error: --smoke needs {tmp_path}/tests/support, which a clone of the repository has\n"
    )


@pytest.mark.slow
def test_what_a_process_says_is_the_reason(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "book").mkdir()
    weights = tiny.recipe(Path("nowhere.csv"), Path("runs/unused"))
    tiny.write_recipe(tmp_path / "book/lost.yaml", weights)
    paid = yaml.safe_load((ROOT / "recipes/timegpt/cgm_sample/tiny.yaml").read_text())
    tiny.write_recipe(tmp_path / "book/paid.yaml", paid)
    assert run_recipes.main(["book", "--output", "out", "--tables", "book"]) == 1
    lost, paid = (json.loads(line) for line in Path("out/rows.jsonl").read_text().splitlines())
    assert (lost["status"], paid["status"]) == ("failed", "nothing sent")
    assert lost["reason"].startswith("data file nowhere.csv does not exist")
    assert paid["reason"].startswith("this run would send forecasts of at most")


def test_the_tiny_form_of_every_recipe_runs(capsys):
    files = [path for path in (ROOT / "recipes").rglob("*.yaml") if "hydra" not in path.parts]
    assert run_recipes.main(["--smoke"]) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith(f"{len(files)} recipes, {len(files)} ok, 0 failed")


def test_every_family_with_weights_in_a_recipe_has_tiny_ones():
    named = {
        config.model.type
        for recipe in find_recipes([], tiny=True)
        for config in recipe.runs().values()
        if config.model.pretrained is not None
    }
    assert named - {"timegpt"} <= set(WRITERS)
