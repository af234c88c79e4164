"""Every documented command parses, and its recipe and overrides are a valid run."""

from __future__ import annotations

import pytest
from documented import MAKEFILE, PLACEHOLDER, READMES, ROOT, RUN_README, SCRIPTS, SOURCES, commands, num_mentions, parse

from tstune.config.managers import HydraConfigManager, SimpleConfigManager
from tstune.runs.compare.recipe import load_comparison

WITH_COMMANDS = [source for source in SOURCES if num_mentions(source)]
COMMANDS = [
    pytest.param(command, id=f"{source}:{n}") for source in SOURCES for n, command in enumerate(commands(source))
]


def test_the_sources_are_found():
    for expected in ("README.md", "benchmarks/README.md", "accelerate_configs/README.md", "notebooks/README.md"):
        assert expected in READMES
    assert "scripts/finetune_ttm.py" in SCRIPTS
    assert "scripts/predict_forecast.py" in SCRIPTS
    assert {"README.md", "benchmarks/README.md", "accelerate_configs/README.md", RUN_README, MAKEFILE} <= set(
        WITH_COMMANDS
    )
    assert set(SCRIPTS) <= set(WITH_COMMANDS), "each script's docstring shows the command that runs it"


@pytest.mark.parametrize("source", WITH_COMMANDS)
def test_every_mention_of_a_script_is_a_command_that_is_checked(source):
    assert len(commands(source)) == num_mentions(source) > 0


def test_how_many_commands_are_checked():
    assert len(COMMANDS) == sum(map(num_mentions, SOURCES))
    assert len(COMMANDS) >= 18


@pytest.mark.parametrize("command", COMMANDS)
def test_command_parses_and_its_run_is_valid(command, monkeypatch):
    monkeypatch.chdir(ROOT)
    arguments = parse(command)
    if arguments.launch is not None and arguments.launch.config_file is not None:
        from accelerate.commands.config.config_args import load_config_from_file

        load_config_from_file(arguments.launch.config_file)
    hydra = getattr(arguments, "hydra", None)
    config = hydra or getattr(arguments, "config", None)
    if config is None:
        assert command.launcher == "python", "a script without a recipe needs no launcher"
    elif "scripts/compare_models.py" in command.words:
        assert load_comparison(config, [o for o in arguments.overrides if o != PLACEHOLDER]).config.output_dir
    elif config != PLACEHOLDER:
        manager = HydraConfigManager() if hydra else SimpleConfigManager()
        run = manager.load_config(config, [o for o in arguments.overrides if o != PLACEHOLDER])
        assert run.output_dir


def test_a_launcher_is_printed_for_what_needs_one():
    """For one process without a file of its own it only says five lines more, and a traceback beneath each error."""
    launched = [param.values[0] for param in COMMANDS if param.values[0].launcher == "accelerate"]
    assert len(launched) >= 6
    for command in launched:
        launch = parse(command).launch
        assert launch.config_file or (launch.num_processes or 1) > 1, command.text


def test_placeholders_are_the_exception():
    with_recipe = [parse(param.values[0]) for param in COMMANDS if "--config" in param.values[0].words]
    left_out = [arguments for arguments in with_recipe if arguments.config == PLACEHOLDER]
    assert len(left_out) <= 2 < len(with_recipe), "one in the docstring of each training script"
