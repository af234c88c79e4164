"""Every recipe is one valid run that says what it is and writes to a folder of its own."""

from __future__ import annotations

import re
from collections import Counter

import pytest
from documented import MAKEFILE, ROOT, commands, parse

from tstune.config.schema import RunConfig
from tstune.config.simple_manager import SimpleConfigManager
from tstune.data.sources import available_sources
from tstune.models.builtin_weights import BUILTIN

FOLDER = ROOT / "recipes"
YAML_FILES = sorted(path.relative_to(ROOT).as_posix() for path in FOLDER.rglob("*.yaml"))
COMPOSED = [path for path in YAML_FILES if path.startswith("recipes/hydra/")]  # see test_both_managers.py
RECIPES = [path for path in YAML_FILES if path not in COMPOSED]
validated: list[str] = []


@pytest.mark.parametrize("recipe", RECIPES)
def test_recipe_is_valid(recipe):
    config = SimpleConfigManager().load_config(ROOT / recipe)
    assert isinstance(config, RunConfig)
    assert config.data.source in available_sources()
    assert config.overwrite is False, "a recipe never replaces an earlier run by itself"
    validated.append(recipe)


@pytest.mark.parametrize("recipe", YAML_FILES)
def test_first_line_says_what_it_is(recipe):
    text = (ROOT / recipe).read_text(encoding="utf-8")
    if recipe in COMPOSED:
        text = text.removeprefix("# @package _global_\n")  # Hydra reads it in front of all else only
    first = text.splitlines()[0]
    assert re.fullmatch(r"# \S.{20,}", first), f"{recipe}: {first}"


@pytest.mark.parametrize("recipe", RECIPES)
def test_path_is_model_dataset_method(recipe):
    config = SimpleConfigManager().load_config(ROOT / recipe)
    _, model, _, _ = recipe.split("/")
    assert model == config.model.type
    assert config.output_dir == recipe.replace("recipes/", "runs/", 1).removesuffix(".yaml")


def test_no_file_is_left_out():
    files = [path for path in FOLDER.rglob("*") if path.is_file()]
    kinds = Counter(path.suffix for path in files)
    assert set(kinds) == {".yaml", ".md", ".slurm"}
    assert kinds[".slurm"] == 1
    assert len(YAML_FILES) == kinds[".yaml"]
    assert len(RECIPES) >= 6
    folders = {path.name for path in FOLDER.iterdir() if path.is_dir()}
    assert folders == {"ttm", "chronos_bolt", "chronos2", "patchtst", "patchtsmixer", "timegpt", "hydra"}
    if validated:  # empty when this test runs alone
        assert sorted(validated) == RECIPES


def test_the_demo_runs_a_recipe_that_needs_no_download():
    (demo,) = [command for command in commands(MAKEFILE) if "scripts/finetune_ttm.py" in command.words]
    arguments = parse(demo)
    assert arguments.config in RECIPES
    config = SimpleConfigManager().load_config(ROOT / arguments.config, arguments.overrides)
    assert config.model.pretrained == BUILTIN
    assert config.data.source == "cgm_sample"
    assert config.overwrite is True, "make demo can be repeated"
