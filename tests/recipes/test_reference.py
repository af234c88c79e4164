"""docs/configuration.md is what the schema says: every key of every family, once, with its default."""

from __future__ import annotations

import re

from documented import ROOT, load_script

from tstune.config.section import section_classes
from tstune.config.validation import leaf_paths
from write_reference import reference


def test_the_page_is_as_old_as_the_schema(tmp_path, capsys):
    page = tmp_path / "configuration.md"
    assert load_script("scripts/write_reference.py").main([str(page)]) == 0
    assert capsys.readouterr().out.strip() == str(page)
    assert page.read_text() == (ROOT / "docs/configuration.md").read_text(), "run make docs"


def test_every_key_is_there():
    keys = re.findall(r"^\| `([\w.]+)` \|", reference(), re.MULTILINE)
    expected = {path for family in section_classes() for path in leaf_paths(family=family)} - {"model.type"}
    assert set(keys) == expected
    assert len(expected) > 150
    assert [key for key in set(keys) if keys.count(key) > 1 and not key.startswith("model.")] == []


def test_every_key_says_what_it_takes_and_does():
    rows = [line.strip("| ").split(" | ") for line in reference().splitlines() if line.startswith("| `")]
    assert all(len(row) >= 4 and all(cell.strip() for cell in row) for row in rows)
    assert not [row[0] for row in rows if row[1] == "anything"]


def test_bounds_choices_and_durations_are_words():
    page = reference()
    assert "| `data.train_fraction` | number ≤ 1, > 0 | `1.0` |" in page or "number > 0, ≤ 1" in page
    assert "| `data.max_gap` | *duration* or null | `null` |" in page
    assert "| `tuning.mode` | `zero_shot`, `skip_head`, `quantile_head`, `head`," in page
    assert re.findall(r"[\w.:]+", " ".join(re.findall(r"### model\.type: (.*)", page))) == [*section_classes()]
