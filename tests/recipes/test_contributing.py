"""The walks of docs/contributing.md, done as they stand: by dotted path, or in a copy of the code."""

from __future__ import annotations

import json
import re
import shutil
import sys
from typing import get_args

import pytest
import yaml
from documented import ROOT, fenced_blocks
from safetensors.torch import load_file
from support import forks, tiny

from tstune.config.schema import TrainingSection
from tstune.config.validation import validate
from tstune.errors import ConfigError
from tstune.models.registry import model_class
from tstune.training.optim import SCHEDULES, learning_rate_factor

PAGE = (ROOT / "docs/contributing.md").read_text(encoding="utf-8")


def examples(language: str) -> list[str]:
    return [body for found, body in fenced_blocks(PAGE) if found == language]


def diffs(text: str) -> list[str]:
    return [body for found, body in fenced_blocks(text) if found == "diff"]


def changed(diff: str) -> dict[str, list[tuple[str, str]]]:
    """File -> (text before, text after) of each hunk."""
    files: dict[str, list[tuple[str, str]]] = {}
    for name, body in re.findall(
        r"^--- a/.*\n\+\+\+ b/(.*)\n((?:@@ @@\n(?:[ +-].*\n)+?(?=@@|---|\Z))+)", diff, re.MULTILINE
    ):
        hunks = [hunk.splitlines(keepends=True) for hunk in body.split("@@ @@\n")[1:]]
        files[name] = [
            tuple("".join(line[1:] for line in hunk if line[0] in " " + sign) for sign in "-+") for hunk in hunks
        ]
    return files


def test_every_walk_is_there_with_the_number_of_its_files():
    walks = dict(re.findall(r"^## Add (.*)\n((?:(?!## ).*\n?)*)", PAGE, re.MULTILINE))
    rows = re.findall(r"^\| \[(.*)\]\(#add-(.*)\) \| (\d) \|$", PAGE, re.MULTILINE)
    assert [(name, anchor) for name, anchor, _ in rows] == [(name, name.replace(" ", "-")) for name in walks]
    said = {name: int(number) for name, _, number in rows}
    own = {name: len([1 for found, _ in fenced_blocks(text) if found == "python"]) for name, text in walks.items()}
    ours = {name: len({f for d in diffs(text) for f in changed(d)}) for name, text in walks.items()}
    assert "(../recipes/README.md#add-your-own-model)" in walks["a model"], "run by tests/models/test_own_model.py"
    assert said == {name: own[name] + ours[name] for name in walks} | {"a model": 1}
    assert said == {"a source": 1, "a metric": 1, "a callback": 1, "a tuning mode": 2, "a schedule": 2, "a model": 1}


def test_mode_and_schedule_in_a_copy_of_the_code(tmp_path):
    shutil.copytree(ROOT / "scripts", tmp_path / "scripts", ignore=shutil.ignore_patterns("assets", "__pycache__"))
    for diff in diffs(PAGE):
        for name, hunks in changed(diff).items():
            path = tmp_path / name
            for before, after in hunks:
                text = path.read_text(encoding="utf-8")
                assert text.count(before) == 1, f"{name} is no longer as the page says"
                path.write_text(text.replace(before, after), encoding="utf-8")
    run, weights = tmp_path / "run", tiny.write_checkpoint(tmp_path / "weights")
    sections = {
        "tuning": {"mode": "norms"},
        "training": {"scheduler": "warmup_linear", "max_steps": 5, "warmup_fraction": 0.4, "learning_rate": 0.01},
        "evaluation": {"baselines": ["persistence"], "num_plots": 0, "report": False},
    }
    recipe = tiny.recipe(tiny.write_series(tmp_path / "series.csv"), run, weights, **sections)
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
    with pytest.raises(ConfigError, match=r"norms(.|\n)*warmup_linear"):
        validate(recipe, "the code as it is")
    command = [sys.executable, tmp_path / "scripts/finetune_ttm.py", "--config", tmp_path / "recipe.yaml"]
    done = forks.run(command)
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in (run / "history.jsonl").read_text().splitlines()]
    rates = [row["learning_rate"] for row in rows if "learning_rate" in row]
    assert rates == pytest.approx([0.0, 0.005, 0.01, 0.02 / 3, 0.01 / 3])
    before, after = (load_file(folder / "model.safetensors") for folder in (weights, run / "model"))
    assert before.keys() == after.keys()
    moved = {name for name, values in before.items() if not values.equal(after[name])}
    assert moved == {name for name in before if ".norm." in name}
    assert len(moved) > 5


def test_source_metrics_and_callback_in_one_run(tmp_path, monkeypatch, capsys):
    names = re.findall(r"`(\w+)\.py`:$", PAGE, re.MULTILINE)
    assert names == ["sawtooth", "my_metrics", "gradient_norms"], "one file each"
    for name, body in zip(names, examples("python"), strict=True):
        (tmp_path / f"{name}.py").write_text(body, encoding="utf-8")
        monkeypatch.delitem(sys.modules, name, raising=False)  # another test has one of this name
    monkeypatch.syspath_prepend(tmp_path)
    sections: dict = {"training": {"max_steps": 2}, "data": {"path": None, "item_id_column": None}}
    for body in examples("yaml"):
        sections = tiny.merged(sections, yaml.safe_load(body))
    values = tiny.recipe(tmp_path / "unused.csv", tmp_path / "run", tiny.write_checkpoint(tmp_path / "weights"))
    sections["data"]["target_columns"] = None
    config = validate(tiny.merged(values, sections), "docs/contributing.md")
    model_class("ttm")(config).fit(output_dir=tmp_path / "run")
    (said,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("gradient norms: ")]
    assert [float(norm) > 0 for norm in said.split()[2:]] == [True, True]
    scores = tiny.read_json(tmp_path / "run/metrics.json")["test"]
    assert {"fine_tuned", "zero_shot", "persistence"} <= set(scores)
    for row in scores.values():
        assert row["worst_miss"] >= row["rmse"] > 0
        assert 0 <= row["off_by_a_tenth"] <= 1
    manifest = tiny.read_json(tmp_path / "run/manifest.json")
    assert manifest["source"] == "sawtooth:load"
    assert [item["item_id"] for item in manifest["items"]] == ["first", "second"]


def test_table_and_schema_name_the_same_schedules():
    assert set(get_args(TrainingSection.model_fields["scheduler"].annotation)) == set(SCHEDULES)
    with pytest.raises(KeyError):
        learning_rate_factor("falls", 0, 10, 0.1)


@pytest.mark.parametrize("name", ["CHANGELOG.md", "CITATION.cff", "LICENSE"])
def test_what_a_repository_should_have(name):
    assert (ROOT / name).stat().st_size > 200
