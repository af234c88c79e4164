"""Everything the two design documents print is listed, run by a test or refused with a reason, and on the page."""

from __future__ import annotations

import pkgutil
import re
from collections import Counter

import pytest
from printed import DOCUMENTS, ROOT, marked, page

NUM_ENTRIES = {"000": 49, "002": 127}
CODE = re.compile(r"\bclass (\w+)|\bdef (\w+)|([A-Za-z_][\w.]*)\(")
# What Python and its libraries offer, inside the bodies that the document prints.
LIBRARIES = re.compile(
    r"(.*\.)?(open|all|str|sum|print|Path|items|write|dumps?|now|strftime|isoformat|mkdir|safe_load|numel|parameters)"
    r"|OmegaConf\.\w+|argparse\.\w+|parser\.parse_args|hydra\.main|mlflow\..+|LoraConfig|get_peft_model"
)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: document.number)
def test_every_entry_is_run_or_has_a_reason(document):
    listed = {(entry.line, entry.text): entry for entry in document.entries}
    assert len(listed) == len(document.entries) == NUM_ENTRIES[document.number]
    run = {(line, text) for number, line, text, _ in marked() if number == document.number}
    assert run - set(listed) == set(), "marked, but not in the list"
    assert {key for key, entry in listed.items() if not entry.reason} == run


def test_every_place_is_there():
    for entry in (entry for document in DOCUMENTS for entry in document.entries):
        assert pkgutil.resolve_name(entry.where) if ":" in entry.where else (ROOT / entry.where).exists()


def test_the_page_is_current():
    assert (ROOT / "docs/design_documents.md").read_text(encoding="utf-8") == page(), "run make docs"


@pytest.mark.shared
@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: document.number)
def test_the_list_holds_all_that_the_document_prints(document, shared):
    lines = (shared / "seeds" / document.file).read_text(encoding="utf-8").splitlines()
    assert [entry for entry in document.entries if entry.text not in lines[entry.line - 1]] == []
    listed = {}
    for entry in document.entries:
        listed[entry.line] = listed.get(entry.line, "") + entry.text
    language, found, missing = None, Counter(), []
    for number, line in enumerate(lines, 1):
        if line.startswith("```"):
            language = line[3:] if language is None else None
        elif language == "python":
            for name in ("".join(groups) for groups in CODE.findall(line.partition("#")[0])):
                if line.strip().startswith('"""') or LIBRARIES.fullmatch(name):
                    continue
                found[name] += 1
                if name not in listed.get(number, ""):
                    missing.append((number, name))
    assert missing == []
    assert found.total() >= 29
