"""What the READMEs name exists: paths, make targets, folders, notebooks, benchmarks, exit codes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from documented import MAKEFILE, READMES, ROOT, load_script

import tstune.errors
from tstune.config.section import section_classes
from tstune.config.validation import leaf_paths
from write_reference import reference

TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / MAKEFILE).read_text(encoding="utf-8"), re.MULTILINE))
SUFFIXES = (".py", ".yaml", ".md", ".ipynb", ".toml", ".txt")
# Folders and files of a run or of the reader, which the READMEs name too.
NOT_OURS = re.compile(
    r"(\.\./shared|runs|path/to|\.venv)(/|$)|.*[<…]|(model|adapter|plots|checkpoints)/|config\.yaml|report\.md|(example|mlp|sawtooth|my_metrics|gradient_norms)\.py"
)


def named_paths(readme: str) -> list[str]:
    """Links, and code that looks like a path: a folder with a slash at its end, or a file of a kind we have."""
    text = (ROOT / readme).read_text(encoding="utf-8")
    links = [target for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", text) if "://" not in target]
    words = [word.strip("'\"") for span in re.findall(r"`([^`\n]+)`", text) for word in span.split()]
    code = [
        word
        for word in words
        if re.fullmatch(r"[\w./*<>…-]+", word) and word.endswith(("/", *SUFFIXES)) and word not in SUFFIXES
    ]
    return sorted({path for path in [*links, *code] if not NOT_OURS.match(path)})


@pytest.mark.parametrize("readme", READMES)
def test_every_named_path_exists(readme):
    folder = (ROOT / readme).parent
    paths = named_paths(readme)
    missing = [path for path in paths if not any(_exists(base, path) for base in (folder, ROOT, *_subfolders(folder)))]
    assert missing == [], f"{readme} names {len(paths)} paths"


def test_how_many_paths_are_checked():
    assert len(named_paths("README.md")) >= 20
    assert "recipes/ttm/cgm_sample/decoder.yaml" not in named_paths("README.md"), "commands are checked elsewhere"
    assert sum(len(named_paths(readme)) for readme in READMES) >= 28


def test_every_make_target_exists():
    named = {t for readme in READMES for t in re.findall(r"\bmake ([a-z-]+)\b", _code((ROOT / readme).read_text()))}
    assert {"demo", "test", "benchmarks"} <= named <= TARGETS


def test_every_path_of_the_makefile_exists():
    named = re.findall(r"\btests/[\w./]+", (ROOT / MAKEFILE).read_text(encoding="utf-8"))
    assert {"tests/unit", "tests/gpu"} <= set(named)
    assert [path for path in named if not (ROOT / path).exists()] == []


def test_the_tree_has_one_line_per_folder():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    section = text.partition("## Where things are")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (`.+?`) \|", section, re.MULTILINE)
    listed = [name for row in rows for name in re.findall(r"`([\w./]+)/`", row)]
    assert len(section.splitlines()) <= 34, "fits on one screen"
    packages = {f"scripts/tstune/{path.parent.relative_to(ROOT / 'scripts/tstune')}" for path in _modules()}
    top = {path.name for path in ROOT.iterdir() if path.is_dir() and (path.name == ".ci" or path.name[0] not in "._")}
    ignored = {line.strip("/\n") for line in (ROOT / ".gitignore").read_text().splitlines() if line.endswith("/")}
    assert sorted(listed) == sorted((top - ignored) | {package.removesuffix("/.") for package in packages})


def test_exit_codes_are_those_of_the_scripts():
    codes = sorted(value for name, value in vars(tstune.errors).items() if name.startswith("EXIT_"))
    section = (ROOT / "README.md").read_text(encoding="utf-8").partition("## Exit codes")[2].partition("\n## ")[0]
    assert [int(code) for code in re.findall(r"^\| (\d+) \|", section, re.MULTILINE)] == codes


def test_the_table_of_tuning_modes_is_complete():
    from typing import get_args

    from tstune.config.schema import TuningMode

    section = (ROOT / "README.md").read_text(encoding="utf-8").partition("## What learns")[2].partition("\n## ")[0]
    rows = [line.partition("|")[2].partition("|")[0] for line in section.splitlines() if line.startswith("| `")]
    assert sorted(mode for row in rows for mode in re.findall(r"`(\w+)`", row)) == sorted(get_args(TuningMode))


@pytest.mark.parametrize(("folder", "pattern"), [("notebooks", "*.ipynb"), ("benchmarks", "*.py")])
def test_a_readme_lists_what_lies_beside_it(folder, pattern):
    files = [path.name for path in (ROOT / folder).glob(pattern)]
    text = (ROOT / folder / "README.md").read_text(encoding="utf-8")
    assert len(files) >= 1
    assert [name for name in files if name not in text] == []


def _code(text: str) -> str:
    return "\n".join(re.findall(r"^```\n.*?^```$|`[^`\n]+`", text, re.MULTILINE | re.DOTALL))


def _exists(base: Path, path: str) -> bool:
    return any(base.glob(path)) if "*" in path else (base / path).exists()


def _subfolders(folder: Path) -> list[Path]:
    return [] if folder == ROOT else [path for path in folder.rglob("*") if path.is_dir()]


def _modules() -> list[Path]:
    return list((ROOT / "scripts/tstune").rglob("*.py"))


# docs/configuration.md is what the schema says


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
