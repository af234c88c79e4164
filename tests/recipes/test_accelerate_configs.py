"""Every accelerate config is short, explains each key, and is read by Accelerate; the README's figures are right."""

from __future__ import annotations

import re

import pytest
import yaml
from accelerate.commands.config.config_args import ClusterConfig, load_config_from_file
from documented import ROOT
from torch import nn

from tstune.runtime.memory import estimate_training_memory

FOLDER = ROOT / "accelerate_configs"
CONFIGS = sorted(path.name for path in FOLDER.iterdir() if path.name != "README.md")
ONE_PROCESS = ("cpu.yaml", "single_gpu.yaml")
MAX_LINES = 25
# What the README calls them, and the estimate.
ESTIMATED = {
    "single_gpu.yaml": "none",
    "ddp.yaml": "ddp",
    "fsdp2.yaml": "fsdp",
    "deepspeed_zero1.yaml": "zero1",
    "deepspeed_zero2.yaml": "zero2",
    "deepspeed_zero3.yaml": "zero3",
}


def test_these_files_and_no_others():
    several = ["ddp", "fsdp2", *[f"deepspeed_{kind}" for kind in ("zero1", "zero2", "zero3", "zero3_offload")]]
    assert sorted([*ONE_PROCESS, *[f"{name}.yaml" for name in several], "multi_node.yaml"]) == CONFIGS
    assert len(CONFIGS) == 9


@pytest.mark.parametrize("name", CONFIGS)
def test_accelerate_reads_it_and_the_number_of_processes_is_the_command_s(name):
    config = load_config_from_file(str(FOLDER / name))
    assert isinstance(config, ClusterConfig)
    written = yaml.safe_load((FOLDER / name).read_text(encoding="utf-8"))
    assert written.get("num_processes") == (1 if name in ONE_PROCESS else None)
    for key, value in written.items():
        assert str(getattr(config, key)).removeprefix("DistributedType.") == str(value) or getattr(config, key) == value


@pytest.mark.parametrize("name", CONFIGS)
def test_it_is_short_and_every_key_has_a_comment_above(name):
    lines = (FOLDER / name).read_text(encoding="utf-8").splitlines()
    assert len(lines) <= MAX_LINES
    keys = {line.partition(":")[0].strip(): number for number, line in enumerate(lines) if re.match(r"\s*\w+:", line)}
    assert len(keys) >= len(yaml.safe_load("\n".join(lines)))
    bare = [key for key, number in keys.items() if number == 0 or not lines[number - 1].lstrip().startswith("# ")]
    assert bare == [], f"{name}: no comment above {', '.join(bare)} ({len(keys)} keys)"


def test_the_readme_lists_each_file_once():
    text = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert sorted(re.findall(r"^\| \[([\w.]+)\]\(\1\) \|", text, re.MULTILINE)) == CONFIGS


def memory_rows() -> dict[str, list[str]]:
    """File -> the other cells of its row in the table of the memory."""
    section = (FOLDER / "README.md").read_text(encoding="utf-8").partition("## Memory")[2].partition("\n## ")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in section.splitlines() if line[:2] == "| "]
    return {name.strip("`"): cells for name, *cells in rows if name.startswith("`")}


def test_the_memory_table_has_every_strategy():
    assert sorted(memory_rows()) == sorted(ESTIMATED)


@pytest.mark.parametrize("name", ESTIMATED)
@pytest.mark.parametrize(("column", "precision"), [(0, "no"), (1, "bf16")])
def test_the_memory_table_agrees_with_the_estimate(name, column, precision):
    layer, processes = nn.Linear(1000, 1000, bias=False), 4
    estimate = estimate_training_memory(layer, "adamw", ESTIMATED[name], processes, precision)
    cells = memory_rows()[name]
    terms = re.fullmatch(r"(\d+)(/N)? \+ (\d+)(/N)? \+ (\d+)(/N)?", cells[column]).groups()
    written = [int(terms[i]) / (processes if terms[i + 1] else 1) for i in (0, 2, 4)]
    assert written == [part / 1e6 for part in (estimate.weights, estimate.gradients, estimate.optimizer_states)]
    assert cells[column + 2] == f"{700e6 * estimate.total / 1e6 / 1e9 + 1e-9:.1f} GB"
