"""Windows per second of one recipe on several processes, and what checkpoints cost.

    python benchmarks/scaling.py
    python benchmarks/scaling.py --strategies ddp fsdp2 --processes 2 4 8 --weak --set training.mixed_precision=bf16

Every run is a real `accelerate launch` with a file of accelerate_configs/: on all GPUs of the machine, or without any
(or with ACCELERATE_USE_CPU=true) on CPU processes of one thread each. The model is a TTM in the architecture of TTM-r2
512-96 (805,280 parameters) with random weights, all of them learn; the series is generated (1 channel). The batch of a
step is the same on any number of processes (strong scaling), or with --weak that of each process is. Speeds are the
training's own (`environment.json` of the run folder): start, validation and scores are not counted, checkpoints are.
A repeat measures one process, the same with a checkpoint every 10 steps, and each strategy; the figures are medians of
ratios within a repeat. On the last line, `RESULT`, `ddp_2` is the speed of two processes over that of one, and
`checkpoint_overhead` the time with checkpoints over the time without.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = {"ddp": "ddp", "fsdp2": "fsdp2", "zero2": "deepspeed_zero2", "zero3": "deepspeed_zero3"}
CHECKPOINT_EVERY = 10


class Setup(NamedTuple):
    """Where a run takes place; the same recipe in each."""

    name: str
    config: str
    num_processes: int = 1
    checkpoints: bool = False


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--strategies", nargs="*", choices=list(CONFIGS), default=list(CONFIGS), help="which to run")
    parser.add_argument("--processes", nargs="+", type=int, help="default: 2 on CPUs, else 2, 4, … all GPUs")
    parser.add_argument("--batch-size", type=int, default=64, help="windows per step; with --weak per process")
    parser.add_argument("--weak", action="store_true", help="the same batch for each process, however many there are")
    parser.add_argument("--steps", type=int, default=100, help="optimizer steps per run")
    parser.add_argument("--repeats", type=int, default=3, help="each runs every setup once")
    parser.add_argument("--no-checkpoints", action="store_true", help="leave out what checkpoints cost")
    parser.add_argument("--set", nargs="*", default=[], metavar="key=value", help="changes to the recipe")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print."""
    args = parse_args(argv)
    num_gpus = usable_gpus()
    setups = choose_setups(args, num_gpus)
    print(f"{num_gpus} GPU(s)" if num_gpus else f"CPU processes, {os.cpu_count()} cores", end=", ")
    print(f"{args.steps} steps of {args.batch_size} windows" + " per process" * args.weak)
    speeds: dict[str, list[float]] = {setup.name: [] for setup in setups}
    with tempfile.TemporaryDirectory() as scratch:
        recipe = write_recipe(Path(scratch), args.steps)
        for repeat in range(args.repeats):
            # take turns at going first, so that none always meets the warmer machine
            for setup in setups[:: -1 if repeat % 2 else 1]:
                speed = run(setup, recipe, args, on_cpu=not num_gpus)
                speeds[setup.name].append(speed)
                print(f"  repeat {repeat + 1}: {setup.name:11} {speed:8.1f} windows/s", flush=True)
    ratios = {
        name: median(speed / one for speed, one in zip(values, speeds["one"], strict=True))
        for name, values in speeds.items()
    }
    print("\n| run | processes | windows/s | over one process | share of the ideal |")
    print("|---|---:|---:|---:|---:|")
    for setup in setups:
        ratio, count = ratios[setup.name], setup.num_processes
        speed = median(speeds[setup.name])
        print(f"| {setup.name} | {count} | {speed:.1f} | {ratio:.2f} x | {100 * ratio / count:.0f} % |")
    figures = {setup.name: ratios[setup.name] for setup in setups if setup.num_processes > 1}
    if "checkpoints" in speeds:
        pairs = zip(speeds["one"], speeds["checkpoints"], strict=True)
        figures["checkpoint_overhead"] = median(without / with_them for without, with_them in pairs)
    print("\nRESULT " + " ".join(f"{name}={value:.3f}" for name, value in figures.items()))
    return 0


def usable_gpus() -> int:
    """GPUs the runs will take; 0 rehearses them on the CPU."""
    if os.environ.get("ACCELERATE_USE_CPU", "").lower() == "true":
        return 0
    import torch

    return torch.cuda.device_count()


def choose_setups(args: argparse.Namespace, num_gpus: int) -> list[Setup]:
    """One process, with and without checkpoints side by side, then every strategy on every number of processes."""
    counts = args.processes or default_processes(num_gpus, 0 if args.weak else args.batch_size)
    if num_gpus and max(counts) > num_gpus:
        raise SystemExit(f"--processes {max(counts)}: this machine has {num_gpus} GPU(s)")
    if not args.weak and any(args.batch_size % count for count in counts):
        raise SystemExit(f"--batch-size {args.batch_size} cannot be shared evenly by {counts} processes")
    alone = "single_gpu" if num_gpus else "cpu"
    setups = [Setup("one", alone)]
    if not args.no_checkpoints:
        setups.append(Setup("checkpoints", alone, checkpoints=True))
    several = sorted({count for count in counts if count > 1})
    setups += [Setup(f"{name}_{count}", CONFIGS[name], count) for count in several for name in args.strategies]
    if len(setups) == 1:
        raise SystemExit("nothing to compare one process with: name a strategy and more than one process")
    return setups


def default_processes(num_gpus: int, shared: int) -> list[int]:
    """1, 2, 4, … and all GPUs, as far as they share a batch evenly; on CPUs two."""
    counts = {2**power for power in range(num_gpus.bit_length())} | {num_gpus} if num_gpus else {1, 2}
    return sorted(count for count in counts if shared % count == 0)


def write_recipe(folder: Path, num_steps: int) -> Path:
    """A noisy hourly wave and the run on it that all launches share; JSON is YAML too."""
    import numpy as np
    import pandas as pd

    hours = np.arange(20_000)  # about 13,000 training windows
    values = np.sin(2 * np.pi * hours / 24) + np.random.default_rng(0).normal(0, 0.1, len(hours))
    stamps = pd.date_range("2000-01-01", periods=len(hours), freq="h")
    pd.DataFrame({"timestamp": stamps, "load": values.round(4)}).to_csv(folder / "series.csv", index=False)
    recipe = {
        "model": {"pretrained": None, "context_length": 512, "prediction_length": 96},
        "data": {"source": "csv", "path": str(folder / "series.csv"), "validation_stride": 16, "test_stride": 32},
        "tuning": {"mode": "from_scratch"},
        "training": {
            "num_epochs": num_steps,  # as many as the steps may need
            "max_steps": num_steps,
            "eval_every_steps": num_steps,
            "scheduler": "constant",
        },
        "evaluation": {"baselines": [], "num_plots": 0},
    }
    path = folder / "recipe.yaml"
    path.write_text(json.dumps(recipe), encoding="utf-8")
    return path


def run(setup: Setup, recipe: Path, args: argparse.Namespace, on_cpu: bool) -> float:
    """Windows per second of one launch."""
    batch_size = args.batch_size if args.weak else args.batch_size // setup.num_processes
    command = [Path(sys.executable).parent / "accelerate", "launch"]
    command += ["--config_file", ROOT / f"accelerate_configs/{setup.config}.yaml"]
    command += ["--num_processes", setup.num_processes, "--main_process_port", free_port()]
    command += [ROOT / "scripts/finetune_ttm.py", "--config", recipe, f"training.per_device_batch_size={batch_size}"]
    if setup.checkpoints:
        command.append(f"training.checkpoint_every_steps={CHECKPOINT_EVERY}")
    rehearsal = {"ACCELERATE_USE_CPU": "true"} if on_cpu else {}
    with tempfile.TemporaryDirectory() as scratch:
        command += [f"output_dir={scratch}/run", *args.set]
        answer = subprocess.run(
            [str(word) for word in command],
            env=os.environ | {"OMP_NUM_THREADS": "1"} | rehearsal,
            capture_output=True,
            text=True,
        )
        if answer.returncode:
            raise SystemExit(f"{setup.name} failed:\n{answer.stderr[-4000:]}")
        environment = json.loads(Path(scratch, "run", "environment.json").read_text(encoding="utf-8"))
    assert environment["num_processes"] == setup.num_processes, environment["num_processes"]
    return environment["training"]["windows_per_second"]


def free_port() -> int:
    """A port where the processes of a launch can meet."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


if __name__ == "__main__":
    raise SystemExit(main())
