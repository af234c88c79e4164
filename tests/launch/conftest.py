"""Real launches on CPU processes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from launched import ROOT, free_port


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def _launched(config: str, script: str, *arguments: object, num_processes: int) -> subprocess.CompletedProcess:
    command = [Path(sys.executable).parent / "accelerate", "launch"]
    command += ["--config_file", f"accelerate_configs/{config}.yaml", "--num_processes", str(num_processes)]
    command += ["--main_process_port", str(free_port()), script, *map(str, arguments)]
    environment = os.environ | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "PYTHONPATH": "scripts"}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=900, check=False)


@pytest.fixture(scope="session")
def launch() -> Callable[..., subprocess.CompletedProcess]:
    """`accelerate launch` of scripts/finetune_ttm.py from the checkout, on CPU processes."""
    return lambda config, *arguments, **how: _launched(config, "scripts/finetune_ttm.py", *arguments, **how)


@pytest.fixture(scope="session")
def launch_probe() -> Callable[..., subprocess.CompletedProcess]:
    """`accelerate launch` of a script of this folder, on CPU processes; the probe trains any number of recipes."""
    return lambda config, script, *arguments, **how: _launched(config, f"tests/launch/{script}", *arguments, **how)


@pytest.fixture(scope="session")
def run_ranks() -> Callable[..., list[subprocess.CompletedProcess]]:
    """The processes of a launch without the launcher, which would turn every exit code into 1; one result per rank."""

    def run_ranks(
        script: str, *arguments: object, num_ranks: int = 1, **settings: str
    ) -> list[subprocess.CompletedProcess]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("ACCELERATE_", "FSDP_"))}
        together = {"WORLD_SIZE": str(num_ranks), "LOCAL_WORLD_SIZE": str(num_ranks), "MASTER_ADDR": "127.0.0.1"}
        together |= {"MASTER_PORT": str(free_port()), "OMP_NUM_THREADS": "1", "PYTHONPATH": "scripts"}
        command = [sys.executable, script, *map(str, arguments)]
        ranks = []
        for rank in map(str, range(num_ranks)):
            environment = kept | together | {"RANK": rank, "LOCAL_RANK": rank, "CUDA_VISIBLE_DEVICES": ""} | settings
            pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
            ranks.append(subprocess.Popen(command, cwd=ROOT, env=environment, **pipes))
        try:
            told = [rank.communicate(timeout=900) for rank in ranks]
        finally:
            for rank in ranks:
                rank.kill()
        return [
            subprocess.CompletedProcess(command, rank.returncode, *texts)
            for rank, texts in zip(ranks, told, strict=True)
        ]

    return run_ranks
