"""Seconds until a wrong path, column or key is said, and until a table of 10 MB is described.

    python benchmarks/startup.py
    python benchmarks/startup.py --megabytes 30 --repeats 5
    python benchmarks/startup.py --sweep

Each is a command of its own, as a user starts it. Seconds are those of the processor, which other programs lengthen
less, and those on the clock; the least of several rounds counts. The last line is
`RESULT error_cpu_s=… error_s=… describe_cpu_s=… describe_s=…`: of the slowest of the wrong commands, and of the look.
With `--sweep` a line before it tells how long four trials of 30 steps take.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RECIPE = str(ROOT / "recipes/ttm/csv/decoder.yaml")
WRONG = (
    ["finetune_ttm.py", "--config", RECIPE, "data.path=nowhere.csv"],
    ["finetune_ttm.py", "--config", RECIPE, "data.path=readings.csv", "data.target_columns=[glu]"],
    ["finetune_ttm.py", "--config", RECIPE, "data.pth=readings.csv"],
    ["eval_forecast.py", "--model", "builtin", "--config", RECIPE, "data.path=nowhere.csv"],
    ["predict_forecast.py", "--model", "nowhere", "--input", "readings.csv", "--output", "forecast.csv"],
    ["describe_data.py", "nowhere.csv"],
)
SWEEP = [
    *("sweep_hparams.py", "--config", str(ROOT / "recipes/ttm/cgm_sample/small.yaml"), "--sampler", "grid"),
    *(
        "--output",
        "sweep",
        "training.learning_rate=1e-4,2e-4,5e-4,1e-3",
        "training.max_steps=30",
        "evaluation.num_plots=0",
    ),
]
SECONDS_A_STEP, PEOPLE = 300, 5


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=float, default=10, help="size of the table")
    parser.add_argument("--repeats", type=int, default=3, help="rounds; the least of each command counts")
    parser.add_argument("--sweep", action="store_true", help="time a sweep of four trials too, once")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print."""
    args = parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="startup-") as folder:
        size = _write_readings(Path(folder) / "readings.csv", args.megabytes)
        errors = [_least(command, folder, 2, args.repeats) for command in WRONG]
        look = _least(["describe_data.py", "readings.csv"], folder, 0, args.repeats)
        sweep = _least(SWEEP, folder, 0, 1) if args.sweep else None
    for (cpu, clock), command in zip(errors, WRONG, strict=True):
        shown = " ".join(word.replace(f"{ROOT}/", "") for word in command)
        print(f"{cpu:5.2f} s of the processor, {clock:5.2f} s: {shown}")
    print(f"{look[0]:5.2f} s of the processor, {look[1]:5.2f} s: describe_data.py, {size / 1e6:.1f} MB")
    if sweep is not None:
        print(f"{sweep[0]:5.2f} s of the processor, {sweep[1]:5.2f} s: sweep_hparams.py, four trials of 30 steps")
    cpu, clock = map(max, zip(*errors, strict=True))
    print(f"RESULT error_cpu_s={cpu:.2f} error_s={clock:.2f} describe_cpu_s={look[0]:.2f} describe_s={look[1]:.2f}")
    return 0


def _write_readings(file: Path, megabytes: float) -> int:
    """A long table of several people's glucose and doses; its size in bytes."""
    import numpy as np
    import pandas as pd

    rows, tables = max(2_000, round(megabytes * 1e6 / 28.5 / PEOPLE)), []
    for person in range(PEOPLE):
        random = np.random.default_rng(person)
        times = pd.date_range("2020-01-01", periods=rows, freq=f"{SECONDS_A_STEP}s").strftime("%Y-%m-%d %H:%M")
        glucose = (140 + 40 * np.sin(np.arange(rows) / 46) + random.normal(0, 5, rows)).round().astype(int)
        doses = np.where(random.random(rows) < 0.01, random.integers(1, 9, rows), 0)
        tables.append(pd.DataFrame({"person": f"P{person:02d}", "time": times, "glucose": glucose, "insulin": doses}))
    pd.concat(tables).to_csv(file, index=False)
    return file.stat().st_size


def _least(command: Sequence[str], folder: str, code: int, repeats: int) -> tuple[float, float]:
    """Seconds of the processor and on the clock, each of its best round."""
    rounds = []
    for _ in range(repeats):
        before, begin = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        script = str(ROOT / "scripts" / command[0])
        done = subprocess.run([sys.executable, script, *command[1:]], cwd=folder, capture_output=True, check=False)
        clock, after = time.perf_counter() - begin, resource.getrusage(resource.RUSAGE_CHILDREN)
        if done.returncode != code:
            raise SystemExit(f"{command} ended with {done.returncode}: {done.stderr.decode()}")
        rounds.append((after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, clock))
    cpu, clock = map(min, zip(*rounds, strict=True))
    return cpu, clock


if __name__ == "__main__":
    raise SystemExit(main())
