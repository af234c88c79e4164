"""Real launches on CPU processes."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import finetune_ttm

ROOT = Path(finetune_ttm.__file__).parent.parent


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="session")
def launch() -> Callable[..., subprocess.CompletedProcess]:
    """`accelerate launch` of scripts/finetune_ttm.py from the checkout, on CPU processes."""

    def launch(config: str, *arguments: object, num_processes: int) -> subprocess.CompletedProcess:
        command = [Path(sys.executable).parent / "accelerate", "launch"]
        command += ["--config_file", f"accelerate_configs/{config}.yaml", "--num_processes", str(num_processes)]
        command += ["--main_process_port", str(free_port()), "scripts/finetune_ttm.py", *map(str, arguments)]
        environment = os.environ | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
        return subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False
        )

    return launch
