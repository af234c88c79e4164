"""Launches on CPU processes, forks that have the libraries already."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable

import pytest
from launched import ROOT, free_port
from support import forks


@pytest.fixture(scope="session")
def launch() -> Callable[..., subprocess.CompletedProcess]:
    """`accelerate launch` of a script of the checkout, in forks, on CPU processes; a probe trains many recipes."""

    def launch(config: str, script: str, *arguments: object, num_processes: int) -> subprocess.CompletedProcess:
        command = [forks.ACCELERATE, "launch"]
        command += ["--config_file", f"accelerate_configs/{config}.yaml", "--num_processes", str(num_processes)]
        command += ["--main_process_port", str(free_port()), script, *map(str, arguments)]
        environment = os.environ | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "PYTHONPATH": "scripts"}
        return forks.run(command, cwd=ROOT, env=environment)

    return launch


@pytest.fixture(scope="session")
def run_ranks() -> Callable[..., list[subprocess.CompletedProcess]]:
    """The processes of a launch without the launcher, which would turn every exit code into 1; one result per rank."""

    def run_ranks(
        script: str, *arguments: object, num_ranks: int = 1, **settings: str
    ) -> list[subprocess.CompletedProcess]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("ACCELERATE_", "FSDP_"))}
        together = {"WORLD_SIZE": str(num_ranks), "LOCAL_WORLD_SIZE": str(num_ranks), "MASTER_ADDR": "127.0.0.1"}
        together |= {"MASTER_PORT": str(free_port()), "OMP_NUM_THREADS": "1", "PYTHONPATH": "scripts"}
        command, ranks = [sys.executable, script, *arguments], []
        for rank in map(str, range(num_ranks)):
            own = {"RANK": rank, "LOCAL_RANK": rank, "CUDA_VISIBLE_DEVICES": ""}
            ranks.append(forks.Fork(command, cwd=ROOT, env=kept | together | own | settings))
        return forks.finish(ranks)

    return run_ranks
