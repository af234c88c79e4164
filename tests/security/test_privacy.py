"""What a table says about people beside its readings stays in the table; the page of promises names its tests."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from support import tiny

import finetune_ttm
import manage_registry
import predict_forecast
import publish_model
from tstune.errors import EXIT_OK
from tstune.runtime.environment import loaded_packages

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "security.md"
PLANTED = {
    "name": "Zzyzx Quillfeather",
    "email": "quill@feather.invalid",
    "born": "1937-02-29x",
    "ward": "Ward-77-Xanadu",
}


@pytest.fixture(scope="module")
def desk(stock: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Everything that can be made of a table with personal columns that nobody asked for."""
    desk = tmp_path_factory.mktemp("personal")
    tiny.series().assign(**PLANTED).to_csv(desk / "series.csv", index=False)
    values = tiny.recipe(desk / "series.csv", desk / "run", stock / "checkpoint")
    values["training"]["max_steps"] = 1
    values["evaluation"]["num_plots"] = 1
    values["tracking"] = {"trackers": ["file", "tensorboard"], "folder": str(desk / "tracking")}
    values["tracking"] |= {"register_as": "cgm", "registry": str(desk / "registry")}
    values["data"]["cache"] = str(desk / "cache")
    assert finetune_ttm.main(["--config", str(tiny.write_recipe(desk / "recipe.yaml", values))]) == EXIT_OK
    run = str(desk / "run")
    archive = ["export", "cgm:1", "--to", str(desk / "cgm.tar.gz"), "--registry", str(desk / "registry")]
    assert manage_registry.main(archive) == EXIT_OK
    assert publish_model.main([run, "--to-folder", str(desk / "published")]) == EXIT_OK
    tables = ["--input", str(desk / "series.csv"), "--output", str(desk / "forecast.csv")]
    assert predict_forecast.main(["--model", run, *tables]) == EXIT_OK
    return desk


def test_personal_columns_are_nowhere_byte_by_byte(desk: Path):
    written = [path for path in desk.rglob("*") if path.is_file() and path.name != "series.csv"]
    tops = {path.relative_to(desk).parts[0] for path in written}
    assert {"run", "tracking", "registry", "cgm.tar.gz", "published", "forecast.csv", "cache"} <= tops
    for path in written:
        content = path.read_bytes()
        if path.suffix == ".parquet":  # packed inside
            content += pd.read_parquet(path).to_csv().encode()
        for value in PLANTED.values():
            assert value.encode() not in content, path
    assert sum(value.encode() in (desk / "series.csv").read_bytes() for value in PLANTED.values()) == len(PLANTED)


def test_a_published_folder_names_no_series_and_no_place(desk: Path):
    texts = [path.read_text() for path in (desk / "published").rglob("*") if path.suffix in (".md", ".json", ".yaml")]
    assert len(texts) >= 4
    assert not [text for text in texts if str(desk) in text]


def test_the_bill_of_materials_is_small_and_true(desk: Path):
    found = json.loads((desk / "run" / "environment.json").read_text())["sbom"]
    assert {"torch", "numpy", "pandas", "pydantic", "safetensors", "PyYAML"} <= set(found)
    assert len(json.dumps(found)) < 8000
    assert found.items() <= loaded_packages().items()


def test_the_audit_is_skipped_by_name_without_a_network():
    command = [
        "make",
        "-s",
        "-o",
        "install",
        "audit",
        f"VENV={Path(sys.executable).parents[1]}",
        "AUDIT_HOST=127.0.0.1",
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert done.stdout.startswith("skipped: 127.0.0.1 does not answer")


def test_every_promise_names_a_test_that_exists():
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", PAGE.read_text(encoding="utf-8"))
    assert len(named) >= 20
    for file, test in named:
        tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
        tests = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
        assert test in tests, f"docs/security.md names {file}::{test}"
    written = [path for folder in ("security", "serving") for path in (ROOT / "tests" / folder).glob("test_*.py")]
    faults = {name for path in written for name in re.findall(r"def (test_fault_(?:19|2\d)_\w+)", path.read_text())}
    assert faults - {test for _, test in named} == set(), "tests of promises that docs/security.md does not make"
    assert len(faults) >= 30
    page = PAGE.read_text(encoding="utf-8")
    rows = re.findall(r"^\|.*\|$", "".join(page.split("| promise | test |\n|---|---|\n")[1:]), re.MULTILINE)
    assert len(rows) == len(named), "a promise without a test"
