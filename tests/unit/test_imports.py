"""Imports run one way: the contracts are there, they hold, they see what breaks them, and there is no circle."""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import grimp
import pytest

import tstune

ROOT = Path(__file__).resolve().parents[2]
CONTRACTS = ["one way", "glucose is asked by hooks", "runs know the contract of a model, not its face or a family"]


def lint(root: Path) -> subprocess.CompletedProcess[str]:
    command = [Path(sys.executable).parent / "lint-imports", "--no-cache"]
    environment = {"PYTHONPATH": str(root / "scripts"), "PATH": ""}
    return subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)


def test_the_contracts_hold():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    assert [contract["name"] for contract in settings["contracts"]] == CONTRACTS
    assert sum(len(contract.get("ignore_imports", [])) for contract in settings["contracts"]) == 1
    done = lint(ROOT)
    assert done.returncode == 0, done.stdout
    assert f"{len(CONTRACTS)} kept, 0 broken" in done.stdout


def test_a_wrong_import_is_seen(tmp_path: Path):
    """One against each contract, and the line that is to blame."""
    wrong = {
        "data/windows.py": "from tstune.runs.life import Run\n",
        "evaluation/verdict.py": "from tstune.glucose.units import unit_of\n",
        "runs/judging.py": "from tstune.models.ttm import TTMForecaster\n",
    }
    shutil.copytree(
        ROOT / "scripts/tstune", tmp_path / "scripts/tstune", ignore=shutil.ignore_patterns("assets", "__pycache__")
    )
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    for module, line in wrong.items():
        with (tmp_path / "scripts/tstune" / module).open("a") as stream:
            stream.write(line)
    done = lint(tmp_path)
    assert done.returncode == 1
    for (module, line), contract in zip(wrong.items(), CONTRACTS, strict=True):
        assert f"{contract} BROKEN" in done.stdout
        source, target = module.removesuffix(".py").replace("/", "."), line.split()[1]
        assert f"tstune.{source} -> {target} (l." in done.stdout


def test_every_module_is_in_a_layer():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    layers = [name for layer in settings["contracts"][0]["layers"] for name in layer.split(" : ")]
    graph = grimp.build_graph("tstune", cache_dir=None)
    packages = {module for module in graph.modules if graph.find_children(module)}
    missing = [
        module
        for module in sorted(graph.modules - packages)
        if not any(module == name or module.startswith(f"{name}.") for name in layers)
    ]
    assert missing == []


def test_there_is_no_circle():
    """Also none by an import inside a function."""
    graph = grimp.build_graph("tstune", cache_dir=None, exclude_type_checking_imports=True)
    assert len(graph.modules) > 150
    below = {module: set(graph.find_modules_directly_imported_by(module)) for module in graph.modules}
    while leaves := {module for module, imported in below.items() if not imported & below.keys()}:
        for module in leaves:
            del below[module]
    assert not below, f"import each other: {sorted(below)}"


def test_the_shared_code_imports_no_script():
    scripts = {path.stem for path in (ROOT / "scripts").glob("*.py")}
    assert len(scripts) > 15
    for path in (ROOT / "scripts/tstune").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not {name.partition(".")[0] for name in names} & scripts, path


# Public names


@pytest.mark.parametrize("name", tstune.__all__)
def test_it_can_be_imported(name: str) -> None:
    assert getattr(tstune, name) is not None


def test_they_are_listed() -> None:
    assert dir(tstune) == tstune.__all__
    assert len(tstune.__all__) >= 40
