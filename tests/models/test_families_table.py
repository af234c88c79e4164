"""The table of families in recipes/README.md says what the conformance suite covers."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from families import FOUNDATION, SERVICES

README = (Path(__file__).parents[2] / "recipes/README.md").read_text(encoding="utf-8")
SECTION = README.partition("## Model families")[2].partition("\n## ")[0]
HEADER, _, *LINES = [line for line in SECTION.splitlines() if line.startswith("|")]
COLUMNS = [cell.strip() for cell in HEADER.strip("|").split("|")]
ROWS = {
    re.search(r"`(\w+)`", line)[1]: dict(zip(COLUMNS, (c.strip() for c in line.strip("|").split("|")), strict=True))
    for line in LINES
}
REFUSED_BY = {
    "past-only columns": "conditional_columns",
    "known-future columns, `time_features`": "control_columns",
    "static columns": "static_real_columns",
}


def test_every_family_has_a_row():
    assert set(ROWS) == {*FOUNDATION, *SERVICES, "ensemble", "stack"}


@pytest.mark.parametrize("name", FOUNDATION)
def test_a_row_is_what_is_tested(name):
    family, row = FOUNDATION[name], ROWS[name]
    assert row["learns"].startswith("all modes")
    for mode in ("bias", "decoder"):
        assert (row[mode] == "yes") == (not isinstance(family.counts[mode], str)), mode
    for mode in ("zero_shot", "full", "head", "lora", "dora", "from_scratch"):
        assert not isinstance(family.counts[mode], str), mode
    for column, key in REFUSED_BY.items():
        given = row[column] == "yes" or row[column].startswith("with ")
        assert given == (key not in family.refused) or row[column].startswith("with "), column
    assert row["own quantiles"].startswith("–") == (not family.forecasts_quantiles)


def test_every_blank_has_its_reason():
    used = {number for row in ROWS.values() for cell in row.values() for number in re.findall(r"\((\d)\)", cell)}
    given = set(re.findall(r"\((\d)\)", SECTION.partition("Why a blank is blank:")[2]))
    assert used == given
    assert [cell for name, row in ROWS.items() for cell in row.values() if cell == "–" and name != "ensemble"] == []
