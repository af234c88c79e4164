"""Every accelerate config is short, explains each key, and is read by Accelerate itself."""

from __future__ import annotations

import re

import pytest
import yaml
from accelerate.commands.config.config_args import ClusterConfig, load_config_from_file
from documented import ROOT

FOLDER = ROOT / "accelerate_configs"
CONFIGS = sorted(path.name for path in FOLDER.iterdir() if path.suffix in (".yaml", ".yml", ".json"))
MAX_LINES = 25


def test_the_files_are_found():
    assert len(CONFIGS) == sum(path.suffix != ".md" for path in FOLDER.iterdir()) >= 3
    assert {"cpu.yaml", "single_gpu.yaml", "ddp.yaml"} <= set(CONFIGS)


@pytest.mark.parametrize("name", CONFIGS)
def test_accelerate_reads_it(name):
    config = load_config_from_file(str(FOLDER / name))
    assert isinstance(config, ClusterConfig)
    for key, value in yaml.safe_load((FOLDER / name).read_text(encoding="utf-8")).items():
        assert str(getattr(config, key)).removeprefix("DistributedType.") == str(value) or getattr(config, key) == value


@pytest.mark.parametrize("name", CONFIGS)
def test_it_is_short(name):
    assert len((FOLDER / name).read_text(encoding="utf-8").splitlines()) <= MAX_LINES


@pytest.mark.parametrize("name", CONFIGS)
def test_every_key_has_a_comment_above(name):
    lines = (FOLDER / name).read_text(encoding="utf-8").splitlines()
    keys = {line.partition(":")[0].strip(): number for number, line in enumerate(lines) if re.match(r"\s*\w+:", line)}
    assert len(keys) >= len(yaml.safe_load("\n".join(lines)))
    bare = [key for key, number in keys.items() if number == 0 or not lines[number - 1].lstrip().startswith("# ")]
    assert bare == [], f"{name}: no comment above {', '.join(bare)} ({len(keys)} keys)"


def test_the_readme_lists_each_file_once():
    text = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert sorted(re.findall(r"^\| \[([\w.]+)\]\(\1\) \|", text, re.MULTILINE)) == CONFIGS
