"""Every documented command parses, and its recipe and overrides are a valid run."""

from __future__ import annotations

import io
import re

import numpy as np
import pandas as pd
import pytest
from documented import (
    MAKEFILE,
    PLACEHOLDER,
    READMES,
    ROOT,
    RUN_README,
    SCRIPTS,
    SOURCES,
    commands,
    fenced_blocks,
    load_script,
    num_mentions,
    parse,
)

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


# The examples run from the shell and from Python

README, DATA = ((ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "docs/data.md"))
QUICK = ["training.max_steps=3", "evaluation.num_plots=0"]
DAYS = 26  # a tenth of them, the validation part, must hold 50 hours
HOURS = 7000


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty current folder with the two tables of the README, made long enough to train on."""
    monkeypatch.chdir(tmp_path)
    long_table, wide_table = (
        pd.read_csv(io.StringIO(body)) for language, body in fenced_blocks(README + DATA) if language == "csv"
    )
    random = np.random.default_rng(0)
    stamps = pd.date_range("2024-05-01", periods=DAYS * 288, freq="5min")
    people = []
    for person in long_table["person"].unique():
        glucose = 130 + 40 * np.sin(np.arange(len(stamps)) / 60) + random.normal(0, 3, len(stamps))
        insulin = np.where(random.random(len(stamps)) < 0.02, 2.5, 0.0)
        people.append(pd.DataFrame({"person": person, "time": stamps, "glucose": glucose, "insulin": insulin}))
    pd.concat(people)[list(long_table.columns)].to_csv("readings.csv", index=False)
    hours = pd.date_range("2024-05-01", periods=HOURS, freq="h")
    values = 20 + 5 * np.sin(np.arange(HOURS) / 24 * 2 * np.pi)[:, None] + random.normal(0, 1, (HOURS, 2))
    wide = pd.DataFrame(values, columns=wide_table.columns[1:])
    wide.insert(0, "timestamp", hours)
    wide[list(wide_table.columns)].to_csv("load.csv", index=False)
    return tmp_path


def run(page: str, script: str, *needles: str, extra: tuple[str, ...] | list[str] = ()) -> int:
    """Run the one command of a page that names the script and all needles."""
    (command,) = [c for c in commands(page) if script in c.words and all(n in c.text for n in needles)]
    words = [str(ROOT / word) if word.startswith("recipes/") else word for word in command.words]
    assert parse(command)
    return load_script(script).main([*words[words.index(script) + 1 :], *extra])


def test_long_table_from_the_shell_then_forecast(folder):
    assert run("README.md", "scripts/finetune_ttm.py", "data.path=readings.csv", extra=QUICK) == 0
    assert (folder / "runs/mine/model/model.safetensors").is_file()
    assert run("README.md", "scripts/predict_forecast.py", "--model runs/mine") == 0
    forecast = pd.read_csv(folder / "forecast.csv")
    assert list(forecast.columns) == ["item_id", "timestamp", "glucose"]
    assert forecast.groupby("item_id").size().to_dict() == {"P01": 96, "P02": 96}
    assert forecast["glucose"].between(40, 260).all()


def test_wide_table_from_the_shell(folder, capsys):
    assert run("docs/data.md", "scripts/finetune_ttm.py", "data.path=load.csv", extra=QUICK) == 0
    assert "| rmse@6h" in re.sub(r" +", " ", capsys.readouterr().out)
    assert (folder / "runs/load/metrics.json").is_file()


def test_python_example(folder, capsys):
    (example,) = [body for language, body in fenced_blocks(README) if language == "python"]
    quick = example.replace("max_steps=200", "max_steps=3, num_plots=0")
    assert quick != example
    names: dict = {}
    exec(compile(quick, "README.md", "exec"), names)
    assert len(names["forecast"]) == 2 * 96
    assert "| fine_tuned" in capsys.readouterr().out
