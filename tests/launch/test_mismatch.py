"""What was asked for and what is there differ: one `error:` line, exit code 2, an unchanged disk.

The scripts run with the variables that the launcher would set, without the launcher: it turns every exit code into 1.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest
from support import tiny

from tstune.runtime.distributed import _asked_for_several

RunRanks = Callable[..., list[subprocess.CompletedProcess]]

CPU = {"ACCELERATE_USE_CPU": "true"}
FSDP, DEEPSPEED = {"ACCELERATE_USE_FSDP": "true"}, {"ACCELERATE_USE_DEEPSPEED": "true"}
NO_GPU = (
    "error: accelerate was launched for {name} but runs ddp on cpu:0: there is no GPU here; put "
    "ACCELERATE_USE_CPU=true in front to rehearse it on CPU processes, or use accelerate_configs/cpu.yaml or ddp.yaml"
)
HIDE_DEEPSPEED = """
import sys
from importlib.machinery import PathFinder

class Without(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] == "deepspeed" else super().find_spec(name, path, target)

sys.meta_path[sys.meta_path.index(PathFinder)] = Without
"""


@dataclass(frozen=True)
class Mismatch:
    """Environment and settings of a run that must not start, and what it says."""

    environment: dict[str, str]
    error: str
    settings: list[str] = field(default_factory=list)
    num_ranks: int = 1


MISMATCHES = {
    "fsdp without a GPU": Mismatch(FSDP | {"FSDP_VERSION": "2"}, NO_GPU.format(name="FSDP")),
    "deepspeed without a GPU": Mismatch(
        DEEPSPEED | {"ACCELERATE_DEEPSPEED_ZERO_STAGE": "2"}, NO_GPU.format(name="DEEPSPEED")
    ),
    "fsdp 1": Mismatch(
        CPU | FSDP | {"FSDP_VERSION": "1"},
        "error: FSDP 1 is not supported: set fsdp_version: 2, as in accelerate_configs/fsdp2.yaml",
    ),
    "fsdp asked for, ddp launched": Mismatch(
        CPU,
        "error: distributed.strategy=fsdp but Accelerate runs ddp; pick the matching file of accelerate_configs/",
        settings=["distributed.strategy=fsdp"],
        num_ranks=2,
    ),
    **{
        f"{kind} under fsdp": Mismatch(
            CPU | FSDP | {"FSDP_VERSION": "2"},
            "error: model.quantization packs the base into whole numbers, which FSDP cannot cut into shards; set "
            "model.quantization=none, or use accelerate_configs/ddp.yaml or deepspeed_zero3.yaml",
            settings=[f"model.quantization={kind}", "tuning.mode=lora"],
        )
        for kind in ("int8", "nf4")
    },
    "gradient checkpointing": Mismatch(
        CPU,
        "error: training.gradient_checkpointing=true but TinyTimeMixerForPrediction does not support it; "
        "set it to false",
        settings=["training.gradient_checkpointing=true"],
    ),
}


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("desk")
    csv = tiny.write_series(folder / "series.csv")
    # wide enough to be packed into 8 and 4 bits
    checkpoint = tiny.write_checkpoint(folder / "checkpoint", d_model=64, adaptive_patching_levels=0)
    tiny.write_recipe(folder / "recipe.yaml", tiny.recipe(csv, folder / "run", checkpoint))
    return folder


@pytest.fixture
def refused(desk: Path, run_ranks: RunRanks) -> Callable[..., str]:
    """Start a run that must stop, and return its one error line."""

    def refused(*settings: str, num_ranks: int = 1, **environment: str) -> str:
        before = tiny.snapshot(desk)
        arguments = ["--config", desk / "recipe.yaml", *settings]
        ranks = run_ranks("scripts/finetune_ttm.py", *arguments, num_ranks=num_ranks, **environment)
        assert [rank.returncode for rank in ranks] == [2] * num_ranks, ranks[0].stderr
        assert tiny.snapshot(desk) == before
        assert not any("Traceback" in rank.stderr for rank in ranks)
        (error,) = [line for rank in ranks for line in rank.stderr.splitlines() if line.startswith("error: ")]
        return error

    return refused


SLOW = ("deepspeed without a GPU", "fsdp 1", "gradient checkpointing", "nf4 under fsdp")  # beside others of their kind


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if name in SLOW else []) for name in MISMATCHES]
)
def test_mismatch_stops_the_run(name: str, refused: Callable[..., str]) -> None:
    mismatch = MISMATCHES[name]
    error = refused(*mismatch.settings, num_ranks=mismatch.num_ranks, **mismatch.environment)
    assert error == mismatch.error


def test_deepspeed_is_not_installed(refused: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(HIDE_DEEPSPEED)
    environment = CPU | DEEPSPEED | {"ACCELERATE_DEEPSPEED_ZERO_STAGE": "2", "PYTHONPATH": str(tmp_path)}
    assert refused(**environment) == "error: this accelerate config needs DeepSpeed: pip install deepspeed"


def test_a_file_for_one_process_and_several_asked_for(desk: Path, launch: Callable) -> None:
    before = tiny.snapshot(desk)
    done = launch("cpu", "scripts/finetune_ttm.py", "--config", desk / "recipe.yaml", num_processes=2)
    (error,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert "its file starts one; start with: accelerate launch --config_file accelerate_configs/ddp.yaml" in error
    assert tiny.snapshot(desk) == before


def test_only_the_rank_that_knows_speaks(desk: Path, launch: Callable, tmp_path: Path) -> None:
    (tmp_path / "mine").touch()
    arguments = ["--config", desk / "recipe.yaml", f"output_dir={tmp_path}"]
    done = launch("ddp", "scripts/finetune_ttm.py", *arguments, num_processes=2)
    errors = [line for line in done.stderr.splitlines() if line.startswith("error")]
    assert errors == [
        f"error: output_dir={tmp_path} already holds files; set overwrite=true or choose another output_dir"
    ]


@pytest.mark.parametrize(("address", "asked"), [("127.0.0.1", True), ("node17", False)])
def test_an_address_that_a_job_exports_is_not_a_launch(address: str, asked: bool, monkeypatch) -> None:
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")
    monkeypatch.setenv("MASTER_ADDR", address)
    monkeypatch.delenv("RANK", raising=False)
    assert _asked_for_several() is asked
    monkeypatch.setattr(psutil.Process, "environ", lambda _: {"MASTER_ADDR": address})
    assert not _asked_for_several(), "the launcher had it, and did not set it"
