"""The examples of docs/contributing.md are run as they stand, in one run: a source and two metrics of one's own."""

from __future__ import annotations

import re
from typing import get_args

import pytest
import yaml
from documented import ROOT, fenced_blocks
from support import tiny

from tstune.config.schema import TrainingSection
from tstune.config.validation import validate
from tstune.models.registry import model_class
from tstune.training.optim import SCHEDULES, learning_rate_factor

PAGE = (ROOT / "docs/contributing.md").read_text(encoding="utf-8")


def examples(language: str) -> list[str]:
    return [body for found, body in fenced_blocks(PAGE) if found == language]


def test_the_page_has_a_source_a_metric_and_a_model():
    assert re.findall(r"^## Add (.*)$", PAGE, re.MULTILINE) == [
        *("a source", "a metric", "a callback", "a schedule, a tuning mode", "a model")
    ]
    assert len(examples("python")) == len(examples("yaml")) == 3
    assert "(../recipes/README.md#add-your-own-model)" in PAGE, "that example is run by tests/models/test_own_model.py"


def test_source_metrics_and_callback_in_one_run(tmp_path, monkeypatch, capsys):
    names = re.findall(r"`(\w+)\.py`:$", PAGE, re.MULTILINE)
    assert names == ["sawtooth", "my_metrics", "gradient_norms"], "one file each"
    for name, body in zip(names, examples("python"), strict=True):
        (tmp_path / f"{name}.py").write_text(body, encoding="utf-8")
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


def test_a_schedule_touches_two_files():
    """The table and the schema name the same ones, and what is in neither is no schedule."""
    assert set(get_args(TrainingSection.model_fields["scheduler"].annotation)) == set(SCHEDULES)
    with pytest.raises(KeyError):
        learning_rate_factor("falls", 0, 10, 0.1)


@pytest.mark.parametrize("name", ["CHANGELOG.md", "CITATION.cff", "LICENSE"])
def test_what_a_repository_should_have(name):
    assert (ROOT / name).stat().st_size > 200
