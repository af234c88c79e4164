"""The best forecaster in a time budget: whatever wins is a run folder, a killed search goes on, several share one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import optuna
import pytest
import yaml
from optuna.exceptions import StorageInternalError
from support.tiny import series, write_desk, write_series

import autotune as script
import finetune_ttm
import tstune
from tstune.data.plan import NoWindow
from tstune.errors import ConfigError, OutputError, Preempted, TstuneError
from tstune.models.registry import load_model
from tstune.runs.folder import RunFolder
from tstune.sweeps import autotune as module
from tstune.sweeps import candidates as tried
from tstune.sweeps.storage import open_storage, points

MODES = (("decoder", 1e-3),)
TRAINING = {"max_steps": 8, "num_epochs": 50, "eval_every_steps": 2}
JUDGING = {"baselines": ["persistence", "context_mean"], "num_plots": 0, "report": False}
MINUTES = 20.0  # more than there is to do
SCRIPTS = Path(script.__file__).parent


@pytest.fixture
def search(tmp_path, monkeypatch):
    """A search of seconds, started as often as a test likes."""
    write_desk(tmp_path, training=TRAINING, evaluation=JUDGING)
    monkeypatch.setattr(tried, "MODES", MODES)
    monkeypatch.setattr(module, "FINISH_SECONDS", 1.0)

    def start(minutes: float = MINUTES, **options: object) -> module.Autotuned:
        options = {"data": tmp_path / "recipe.yaml", "output": tmp_path / "found"} | options
        return tstune.autotune(minutes=minutes, **options)

    return start


def as_process(tmp_path: Path, *words: str, shares: bool = True) -> subprocess.Popen:
    """The same search as a program of its own, with or without trainings on shares of the data."""
    code = "import sys, autotune; from tstune.sweeps import autotune as search, candidates; "
    code += "candidates.MODES = (('decoder', 1e-3),); " + ("" if shares else "search.SHARES, search.MADE = {}, (); ")
    code += "raise SystemExit(autotune.main(sys.argv[1:]))"
    command = [sys.executable, "-c", code, "--data", str(tmp_path / "recipe.yaml"), f"--minutes={MINUTES}"]
    command += ["--output", str(tmp_path / "found"), *words]
    environment = os.environ | {"PYTHONPATH": str(SCRIPTS)}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def attempts(tmp_path: Path) -> dict[int, tuple[str, int]]:
    """Number of a candidate -> state, and how often it was begun."""
    url = f"sqlite:///{tmp_path / 'found/study.db'}"
    study = optuna.load_study(study_name="autotune found", storage=url)
    return {point.number: (point.state, point.attempts) for point in points(study)}


def test_everything_is_a_row_and_the_winner_is_a_run(search, tmp_path, capsys):
    found = search(weights=["nowhere"])
    rows = {row.name: row for row in found.rows}
    own = "decoder.0.01"  # the recipe's own rate comes first
    assert {"persistence", "context_mean", "ridge", "zero_shot", own, "decoder.0.001", "stack"} <= rows.keys()
    assert {f"{own}.on_{share}_percent" for share in (5, 20)} <= rows.keys()
    assert {name.rpartition(".")[2] for name, row in rows.items() if row.made_of} >= {
        "interpolated",
        "per_item",
        "trees",
    }
    assert rows["nowhere.zero_shot"].state == "failed"
    assert "nowhere" in rows["nowhere.zero_shot"].reason
    assert found.not_tried[f"nowhere.{own}"] == "nowhere.zero_shot could not be had"
    scores = [row.score for row in found.rows if row.score is not None]
    assert scores == sorted(scores)
    assert found.winner == found.rows[0]
    assert all(row.losses for row in found.rows if row.kind == "share" or row.state == "pruned")

    best = tmp_path / "found/best"
    assert RunFolder(best).config.output_dir == str(best), "it names the folder that it lies in"
    assert load_model(best).predict(series()).notna().all(axis=None)
    assert found.test == RunFolder(best).metrics["test"]
    assert "fine_tuned" not in found.sentence, "ridge wins here, and nothing was tuned"
    board = json.loads((tmp_path / "found/leaderboard.json").read_text())
    assert board["winner"] == found.winner.name
    assert board["rows"][0]["test"] == found.test["fine_tuned"]["rmse"]
    page = (tmp_path / "found/report.html").read_text()
    assert all(name in page for name in rows)
    told = json.loads((tmp_path / "found/will_tuning_pay.json").read_text())
    assert told["reference"] == "ridge"
    assert told["answer"] == "no"
    low, high = (told["curve"]["1.0"][end] for end in ("low", "high"))
    assert 0 < low < told["curve"]["1.0"]["change"] < high
    assert told["found"]["validation"]["low"] > 0
    assert told["found"]["validation"]["same_sign"]
    assert told["sentence"] in page
    said = capsys.readouterr()
    assert "best so far" in said.out
    assert told["sentence"] in said.out
    assert "train:" not in said.err, "no bars within the table"
    assert not list((tmp_path / "found/candidates").glob("*.checkpoints"))

    assert finetune_ttm.main(["--config", str(tmp_path / "found/best.yaml")]) == 0, "it runs again, alone"
    assert RunFolder(tmp_path / "found/again").metrics["test"] == found.test


def test_weights_that_know_no_inputs_are_used_without_them(search, tmp_path, monkeypatch):
    recipe = yaml.safe_load((tmp_path / "recipe.yaml").read_text())
    recipe["data"] |= {"conditional_columns": ["dose"], "control_columns": ["plan"]}
    recipe["evaluation"]["baselines"] = ["persistence"]
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    monkeypatch.setattr(module, "SHARES", {})
    monkeypatch.setattr(module, "MADE", ())
    monkeypatch.setattr(module, "list_candidates", lambda *given: kept(tried.list_candidates(*given)))

    def kept(found: list[tried.Candidate]) -> list[tried.Candidate]:
        return [one for one in found if one.name in ("zero_shot", "decoder.0.01")]

    found = search(metric="mae", higher=True)  # the worst wins
    assert {row.name: row.state for row in found.rows} == {"zero_shot": "finished", "decoder.0.01": "finished"}
    assert found.winner.name == "zero_shot"
    model = load_model(tmp_path / "found/best")
    assert model.preprocessor.roles.channels == ("load",)
    assert model.predict(series()[["item_id", "timestamp", "load"]]).notna().all(axis=None)
    assert finetune_ttm.main(["--config", str(tmp_path / "found/best.yaml")]) == 0
    assert RunFolder(tmp_path / "found/again").metrics["test"] == found.test


@pytest.mark.parametrize("breaks", [{"decoder.0.01"}, None], ids=["one", "all"])
def test_a_candidate_that_fails_in_any_way_is_a_row(search, tmp_path, monkeypatch, capsys, breaks):
    def until_trained(run: tried.CandidateRun, row: object) -> dict[str, float]:
        if breaks is None or row.name in breaks:
            raise ValueError("not what\nthe library expects")
        return whole(run, row)

    whole = tried.CandidateRun.until_trained
    monkeypatch.setattr(tried.CandidateRun, "until_trained", until_trained)
    reason = "ValueError: not what the library expects"
    if breaks is None:
        assert script.main(["--data", str(tmp_path / "recipe.yaml"), "--output", str(tmp_path / "found")]) == 2
        (error,) = capsys.readouterr().err.splitlines()
        assert error.startswith("error: none of the ")
        assert reason in error
        return
    rows = {row.name: row for row in search().rows}
    assert (rows["decoder.0.01"].state, rows["decoder.0.01"].reason) == ("failed", reason)
    assert rows["decoder.0.001"].score is not None, "the search went on"
    assert f"  {reason}\n" in capsys.readouterr().out


@pytest.mark.parametrize("stop", [Preempted, KeyboardInterrupt, StorageInternalError])
def test_what_ends_a_search_is_not_taken_for_a_failure(search, tmp_path, monkeypatch, stop):
    monkeypatch.setattr(tried.CandidateRun, "until_trained", lambda *_: (_ for _ in ()).throw(stop("now")))
    with pytest.raises(OutputError if stop is StorageInternalError else stop, match="; the same command goes on"):
        search()
    assert [state for state, _ in attempts(tmp_path).values()] == ["waiting"]


def test_the_best_are_combined_where_no_network_could_be_had(search, monkeypatch):
    def kept(*given: object) -> list[tried.Candidate]:
        return [one for one in tried.list_candidates(*given) if one.name in ("ridge", "persistence")]

    monkeypatch.setattr(module, "list_candidates", kept)
    found = {row.name: row for row in search().rows}
    assert {name: row.state for name, row in found.items()} == dict.fromkeys(
        ("ridge", "persistence", "stack"), "finished"
    )
    assert set(found["stack"].made_of) == {"ridge", "persistence"}
    assert found["stack"].score < 1.1 * found["ridge"].score < found["persistence"].score


def test_the_winner_has_one_name(search, tmp_path, monkeypatch):
    """Its verdict called every stack ``stack``, also LightGBM that reads an untuned forecast."""
    monkeypatch.setattr(tried, "MODES", ())
    monkeypatch.setattr(module, "SHARES", {})
    trees = property(lambda self: next((row for row in self.rows.values() if row.how == "trees"), None))
    monkeypatch.setattr(module.Search, "best", trees)
    found = search()
    assert found.winner.name == "zero_shot.trees"
    assert "zero_shot.trees" in found.sentence
    assert "stack" not in found.sentence
    assert found.sentence in (tmp_path / "found/report.md").read_text()


def test_a_baseline_wins_where_nothing_else_can_be_had_in_the_time(search, tmp_path):
    begin = time.monotonic()
    found = search(minutes=0.02)
    assert found.winner.kind == "baseline"
    assert found.sentence.startswith(("ridge", "No verdict"))
    assert "no time left" in found.not_tried["decoder.0.001"]
    assert found.came_true == ""
    assert load_model(tmp_path / "found/best").model_type == found.winner.name
    assert "decoder.0.001" in (tmp_path / "found/report.md").read_text()
    assert time.monotonic() - begin < 60


@pytest.mark.parametrize(
    ("place", "shares"),
    [
        ("candidates/ridge.checkpoints", False),
        pytest.param("candidates/decoder.0.01.checkpoints", True, marks=pytest.mark.slow),
        pytest.param("best.yaml", True, marks=pytest.mark.slow),
    ],
)
def test_a_killed_search_goes_on(search, tmp_path, monkeypatch, place, shares):
    """SIGKILL while the place is there: amid a candidate, or at the end."""
    if not shares:
        monkeypatch.setattr(module, "SHARES", {})
        monkeypatch.setattr(module, "MADE", ())
    with as_process(tmp_path, shares=shares) as process:
        while not (tmp_path / "found" / place).exists():
            assert process.poll() is None, process.stdout.read()
            time.sleep(0.001)
        process.send_signal(signal.SIGKILL)
    before = attempts(tmp_path)
    done = [number for number, (state, _) in before.items() if state in ("finished", "failed")]
    assert done
    found = search()
    after = attempts(tmp_path)
    assert {number: after[number] for number in done} == {number: before[number] for number in done}
    assert {state for state, _ in after.values()} == {"finished"}, "what was amid is done again, and the rest"
    assert max(times for _, times in after.values()) == 2
    assert RunFolder(tmp_path / "found/best").metrics["test"] == found.test
    assert search() == found, "a finished search has nothing left to do"
    assert attempts(tmp_path) == after


@pytest.mark.slow
def test_two_processes_share_one_search(search, tmp_path):
    storage = f"sqlite:///{tmp_path / 'found/study.db'}"
    both = [as_process(tmp_path, "--storage", storage) for _ in range(2)]
    said = [process.communicate()[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    winners = {line for text in said for line in text.splitlines() if line.startswith("winner: ")}
    assert len(winners) == 1
    assert {times for _, times in attempts(tmp_path).values()} == {1}, "each of them once"
    rows = json.loads((tmp_path / "found/leaderboard.json").read_text())["rows"]
    counts = [sum(row["process"] == process.pid for row in rows) for process in both]
    assert min(counts) > 0
    assert sum(counts) == len(rows) == len(attempts(tmp_path)) - 1


def test_time_that_is_up_is_heard_wherever_it_rings():
    class Slow:
        def __del__(self) -> None:  # where an exception is printed and forgotten
            time.sleep(0.3)

    begin = time.monotonic()
    with pytest.raises(module.OutOfTime, match="stopped after the 0 seconds"), module._at_most(0.1):  # noqa: PT012
        Slow()
        time.sleep(20)
    assert time.monotonic() - begin < 10


def test_the_end_is_part_of_the_time(search, tmp_path):
    """What the test windows will take is kept, however much: a candidate that is too slow for them cannot win."""
    base, data = module.settled(tmp_path / "recipe.yaml", None, [], "rmse")
    storage = open_storage(f"sqlite:///{tmp_path / 'study.db'}", 60)
    study = optuna.create_study(storage=storage)
    found = module.Search(base, data, [], "rmse", False, tmp_path, 600.0, time.monotonic(), study, storage)
    windows = (len(data.test) + len(data.validation)) / len(data.validation)
    found.rows = {"ridge": module.Row("ridge", "baseline", score=1.0, fit_seconds=10.0, predict_seconds=20.0)}
    assert found._end_seconds(found.best) >= 10 + 20 * windows + 0.05 * 600
    slow = module.Row("decoder.0.001", "tuned", score=0.5, fit_seconds=99.0, predict_seconds=200.0)
    assert found._end_seconds(slow) > found._end_seconds(found.best) + 2 * 200 * windows - 99 > 600
    found._start_seconds = 500.0  # however long a busy machine took to begin
    assert found._end_seconds(None) <= (0.15 + 0.05) * 600 + 10 + 20 * windows
    found._start_seconds = 0.0
    again = module.Row("decoder.0.001.per_item", "tuned", "per_item", score=0.5, fit_seconds=99.0, predict_seconds=0.0)
    assert found._end_seconds(again) == pytest.approx(found._end_seconds(found.best) + 99)


def test_a_metric_that_is_higher_where_it_is_better(search):
    found = search(minutes=0.02, metric="mae", higher=True)
    scores = [row.score for row in found.rows if row.score is not None]
    assert scores == sorted(scores, reverse=True)


def test_a_folder_of_something_else_is_refused_before_anything_is_tried(search, tmp_path, monkeypatch, capsys):
    (tmp_path / "found/best").mkdir(parents=True)
    (tmp_path / "found/best/notes.txt").write_text("of mine")
    monkeypatch.setattr(module.Search, "_tried", lambda *_: pytest.fail("it is tried"))
    assert script.main(["--data", str(tmp_path / "recipe.yaml"), "--output", str(tmp_path / "found")]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.endswith("found/best of something else; take another --output")
    assert error.startswith(f"error: --output {tmp_path / 'found'} holds ")


def test_another_search_is_not_mixed_in(search, tmp_path, capsys):
    words = ["--data", str(tmp_path / "recipe.yaml"), "--output", str(tmp_path / "found"), "--minutes=0.02"]
    assert script.main(words) == script.main(words) == 0
    said = capsys.readouterr().out
    assert "candidates (report); more --minutes and another --output try them" in said
    assert "found holds this search already; another --output begins a new one" in said
    with pytest.raises(OutputError, match="another --output"):
        search(minutes=0.02, metric="mae")
    with pytest.raises(OutputError, match="holds a search of other data, settings or --storage"):
        search(minutes=0.02, storage=f"sqlite:///{tmp_path}/mistyped.db")
    with pytest.raises(ConfigError, match="neither a higher nor a lower"):
        search(metric="bias")


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"horizon": "0"}, "--horizon 0 is no step of h"),
        ({"horizon": "900"}, "the longest series has 400; this works: .*--horizon 48 "),
        ({"metric": "rmsee"}, "--metric rmsee is no column of these scores: rmse, mae"),
        ({"storage": "sqlite:///mistyped/study.db"}, "there is no folder mistyped; for a new study: mkdir -p mistyped"),
    ],
)
def test_what_cannot_be_searched_is_refused_before_anything_is_written(search, tmp_path, asked, words):
    with pytest.raises(TstuneError, match=words):
        search(**asked)
    assert not (tmp_path / "found").exists()


@pytest.mark.parametrize("data", ["recipe.yaml", "series.csv"])
def test_a_horizon_that_is_too_long_is_answered_by_one_that_works(tmp_path, capsys, data):
    write_desk(tmp_path)
    with pytest.raises(NoWindow) as refused:
        module.settled(tmp_path / data, "900", [], "rmse")
    said = capsys.readouterr().out
    for text in [str(refused.value), *([said.partition("\n\n")[0]] if data == "series.csv" else [])]:
        works = text.partition("this works: ")[2]
        assert "model.prediction_length" not in works
        before, _, after = works.partition("--horizon ")
        horizon, *rest = after.split()
        overrides = [*before.split(), *rest]
        assert len(module.settled(tmp_path / data, horizon, overrides, "rmse")[1].test) > 0


def test_a_table_without_a_recipe(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(tried, "MODES", ())
    table = tmp_path / "my load.csv"
    series(rows=700).to_csv(table, index=False)
    words = ["--data", str(table), "--horizon", "6h", "--minutes", "0.02"]
    words += ["--output", str(tmp_path / "found"), "evaluation.num_plots=0", "evaluation.report=false"]
    assert script.main(words) == 0, capsys.readouterr().err
    said = capsys.readouterr().out
    assert "winner: " in said
    assert " + 6 steps: train " in said
    assert "prediction_length: 6\n" in said
    assert f"predict_forecast.py --model {tmp_path}/found/best --input '{table}' --output forecast.csv" in said
    assert RunFolder(tmp_path / "found/best").config.model.prediction_length == 6
    assert script.main(["--data", str(table), "--horizon", "90min"]) == 2
    assert "--horizon" in capsys.readouterr().err


def test_a_share_is_learned_from_like_the_whole(tmp_path):
    """The latest windows, as many passes; of series with a window each, a share of the series."""
    write_desk(tmp_path, training=TRAINING | {"max_steps": 200})
    base, data = module.settled(tmp_path / "recipe.yaml", None, [], "rmse")
    assert tried.as_share(base, 0.05).training.max_steps == 10
    part = tried.latest(data, 0.25)
    assert part.train.by_item() == pytest.approx(data.train.by_item() / 4, abs=1)
    every = data.train.starts(range(len(data.train)))
    assert max(part.train.starts(range(len(part.train)))) == max(every)
    assert min(part.train.starts(range(len(part.train)))) > min(every)

    ids = tuple(map(str, range(20)))
    one_each = write_series(tmp_path / "many.csv", rows=80, items=ids)
    words = [f"data.path={one_each}", "data.split.mode=deployment", "data.train_stride=100"]
    _, many = module.settled(tmp_path / "recipe.yaml", None, words, "rmse")
    assert set(many.train.by_item()) == {1}
    assert [sum(tried.latest(many, share).train.by_item()) for share in (0.05, 0.2, 0.5)] == [1, 4, 10]


@pytest.mark.parametrize("label", ["", "from_scratch.", "my.trees.", "a.per_item."])
def test_names_of_folders_say_nothing_about_how_a_model_was_made(label):
    row = module.Row(f"{label}decoder.0.001", "tuned", "decoder")
    assert row.tunes_weights
    assert tried.Candidate(row.name, None, "tuned", "decoder").slot == row.name
    assert tried.Candidate(f"{row.name}.stack", None, "tuned", "stack", (row.name,)).slot == "stack"
    assert not any(module.Row(row.name, "tuned", how).tunes_weights for how in ("from_scratch", "stack", "trees"))
