"""Every recipe is one valid run, or one comparison, that says what it is and writes to a folder of its own."""

from __future__ import annotations

import re
from collections import Counter

import pytest
from documented import MAKEFILE, ROOT, commands, parse, read_commands

from tstune.config.managers import SimpleConfigManager
from tstune.config.schema import RunConfig
from tstune.data.defaults import SHIPPED
from tstune.data.sources import available_sources
from tstune.models.registry import families as known_families
from tstune.models.registry import model_class
from tstune.recipe_book.recipes import find_recipes
from tstune.runs.compare.recipe import load_comparison

FOLDER = ROOT / "recipes"
YAML_FILES = sorted(path.relative_to(ROOT).as_posix() for path in FOLDER.rglob("*.yaml"))
COMPOSED = [path for path in YAML_FILES if path.startswith("recipes/hydra/")]  # see test_both_managers.py
COMPARISONS = [path for path in YAML_FILES if path.startswith("recipes/comparison/")]
RECIPES = [path for path in YAML_FILES if path not in [*COMPOSED, *COMPARISONS]]
HEADER = re.compile(r"# \S.{20,}\n(?:#.*\n)*?# Needs: \S.+\n(?:#   .+\n)*# Run: (?P<run>python .+)\n# Got: \S.+\n(?!#)")
TRAINING_SCRIPTS = ("finetune_ttm.py", "finetune_chronos.py", "finetune_timegpt.py", "pretrain_ttm.py")
validated: list[str] = []


@pytest.mark.parametrize("recipe", RECIPES)
def test_recipe_is_valid_and_its_path_is_model_dataset_method(recipe):
    config = SimpleConfigManager().load_config(ROOT / recipe)
    assert isinstance(config, RunConfig)
    assert config.data.source in available_sources()
    assert config.overwrite is False, "a recipe never replaces an earlier run by itself"
    _, model, _, _ = recipe.split("/")
    assert model == config.model.type
    assert config.output_dir == recipe.replace("recipes/", "runs/", 1).removesuffix(".yaml")
    validated.append(recipe)


@pytest.mark.parametrize("recipe", YAML_FILES)
def test_first_line_says_what_it_is(recipe):
    text = (ROOT / recipe).read_text(encoding="utf-8")
    if recipe in COMPOSED:
        text = text.removeprefix("# @package _global_\n")  # Hydra reads it in front of all else only
    first = text.splitlines()[0]
    assert re.fullmatch(r"# \S.{20,}", first), f"{recipe}: {first}"


@pytest.mark.parametrize("recipe", [*RECIPES, *COMPARISONS])
def test_header_says_what_it_needs_how_it_is_run_and_where_its_figures_are(recipe, monkeypatch):
    monkeypatch.chdir(ROOT)
    found = HEADER.match((ROOT / recipe).read_text(encoding="utf-8"))
    assert found, f"{recipe} begins with what it is, and has lines '# Needs: …', '# Run: …', '# Got: …'"
    (command,) = read_commands(found["run"])
    (listed,) = find_recipes([ROOT / recipe], tiny=True)
    assert f"scripts/{listed.script(listed.load().model.type).name}" in command.words
    assert parse(command).config == recipe


@pytest.mark.parametrize("recipe", COMPARISONS)
def test_a_comparison_is_valid(recipe):
    comparison = load_comparison(ROOT / recipe)
    assert len(comparison.members) >= 2
    assert len(comparison.baselines) >= 2
    assert comparison.config.output_dir == recipe.replace("recipes/", "runs/", 1).removesuffix(".yaml")


def test_every_training_script_has_a_tiny_recipe():
    tiny = [path for path in [*RECIPES, *COMPARISONS] if path.endswith("/tiny.yaml")]
    scripts = Counter(one.script(one.load().model.type).name for one in find_recipes(tiny, tiny=True))
    assert scripts == dict.fromkeys((*TRAINING_SCRIPTS, "compare_models.py"), 1)


def test_no_file_is_left_out():
    files = [path for path in FOLDER.rglob("*") if path.is_file()]
    kinds = Counter(path.suffix for path in files)
    assert set(kinds) == {".yaml", ".md", ".slurm", ".py"}
    assert kinds[".slurm"] == 1
    assert len(YAML_FILES) == kinds[".yaml"]
    assert len(COMPARISONS) == 2
    assert len(RECIPES) >= 6
    folders = {path.name for path in FOLDER.iterdir() if path.is_dir()}
    foundation = {name for name in known_families() if not model_class(name).is_baseline} - {"ensemble"}
    assert folders == foundation | {"lightgbm", "comparison", "hydra", "ported"}  # the last: test_ported.py
    if validated:  # empty when this test runs alone
        assert sorted(validated) == RECIPES


def test_the_demo_runs_a_recipe_that_needs_no_download():
    (demo,) = [command for command in commands(MAKEFILE) if "scripts/finetune_ttm.py" in command.words]
    arguments = parse(demo)
    assert arguments.config in RECIPES
    config = SimpleConfigManager().load_config(ROOT / arguments.config, arguments.overrides)
    assert config.model.pretrained in SHIPPED
    assert config.data.source == "cgm_sample"
    assert config.overwrite is True, "make demo can be repeated"
