"""Seconds until a wrong path, column or key is said, a table of 10 MB described, a forecast written, a training begun.

    python benchmarks/startup.py
    python benchmarks/startup.py --megabytes 30 --repeats 5
    python benchmarks/startup.py --sweep

Each is a command of its own, as a user starts it. Seconds are those of the processor, which other programs lengthen
less, and those on the clock; the least of several rounds counts. The last line is
`RESULT error_cpu_s=… error_s=… describe_cpu_s=… describe_s=… predict_cpu_s=… …`: of the slowest of the wrong commands,
of the look, of `predict_forecast.py` with the demo's model, and of `finetune_ttm.py` up to the first step of the demo.
Exit code 1: one of them took more than 1.5 times the processor's seconds of its budget; `--no-budget` does without.
With `--sweep` a line before it tells how long four trials of 30 steps take.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BUDGET = {"error": 1.5, "describe": 2.0, "predict": 3.0, "training": 5.0}
"""Seconds of the processor."""
DEMO = ["finetune_ttm.py", "--config", str(ROOT / "recipes/ttm/cgm_sample/demo.yaml"), "overwrite=true"]
MODEL = [*DEMO, "tuning.mode=zero_shot", "evaluation.num_plots=0", "evaluation.baselines=[]", "output_dir=model"]
PREDICT = ["predict_forecast.py", "--model=model", "--input=glucose.csv", "--output=forecast.csv", "--overwrite"]
TRAINING = [*DEMO, "training.callbacks=[reached:Reached]"]
REACHED = """
from tstune.training.callbacks import Callback

class Reached(Callback):
    def on_train_begin(self, state):
        raise SystemExit(0)
"""
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
    parser.add_argument("--no-budget", action="store_true", help="measure only, on a machine that is busy or slow")
    parser.add_argument("--sweep", action="store_true", help="time a sweep of four trials too, once")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print."""
    args = parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="startup-") as folder:
        size = _write_readings(Path(folder) / "readings.csv", args.megabytes)
        _write_readings(Path(folder) / "glucose.csv", 0.1, time="timestamp", person="item_id")
        (Path(folder) / "reached.py").write_text(REACHED)
        errors = [_least(command, folder, 2, args.repeats) for command in WRONG]
        for (cpu, clock), command in zip(errors, WRONG, strict=True):
            _show(cpu, clock, " ".join(word.replace(f"{ROOT}/", "") for word in command))
        found = {"error": tuple(map(max, zip(*errors, strict=True)))}
        found["describe"] = _least(["describe_data.py", "readings.csv"], folder, 0, args.repeats)
        _show(*found["describe"], f"describe_data.py, {size / 1e6:.1f} MB")
        _least(MODEL, folder, 0, 1)
        found["predict"] = _least(PREDICT, folder, 0, args.repeats)
        _show(*found["predict"], "predict_forecast.py, the demo's model")
        found["training"] = _least(TRAINING, folder, 0, args.repeats)
        _show(*found["training"], "finetune_ttm.py, the demo until its first step")
        if args.sweep:
            _show(*_least(SWEEP, folder, 0, 1), "sweep_hparams.py, four trials of 30 steps")
    slow = [name for name, (cpu, _) in found.items() if cpu > 1.5 * BUDGET[name] and not args.no_budget]
    for name in slow:
        print(f"{name}: {found[name][0]:.2f} s of the processor are more than 1.5 times its budget, {BUDGET[name]} s")
    print("RESULT", *(f"{name}_cpu_s={cpu:.2f} {name}_s={clock:.2f}" for name, (cpu, clock) in found.items()))
    return 1 if slow else 0


def _show(cpu: float, clock: float, what: str) -> None:
    print(f"{cpu:5.2f} s of the processor, {clock:5.2f} s: {what}", flush=True)


def _write_readings(file: Path, megabytes: float, time: str = "time", person: str = "person") -> int:
    """A long table of several people's glucose and doses; its size in bytes."""
    import numpy as np
    import pandas as pd

    rows, tables = max(2_000, round(megabytes * 1e6 / 28.5 / PEOPLE)), []
    for number in range(PEOPLE):
        random = np.random.default_rng(number)
        times = pd.date_range("2020-01-01", periods=rows, freq=f"{SECONDS_A_STEP}s").strftime("%Y-%m-%d %H:%M")
        glucose = (140 + 40 * np.sin(np.arange(rows) / 46) + random.normal(0, 5, rows)).round().astype(int)
        doses = np.where(random.random(rows) < 0.01, random.integers(1, 9, rows), 0)
        tables.append(pd.DataFrame({person: f"P{number:02d}", time: times, "glucose": glucose, "insulin": doses}))
    pd.concat(tables).to_csv(file, index=False)
    return file.stat().st_size


def _least(command: Sequence[str], folder: str, code: int, repeats: int) -> tuple[float, float]:
    """Seconds of the processor and on the clock, each of its best round."""
    rounds, env = [], os.environ | {"PYTHONPATH": folder}
    for _ in range(repeats):
        before, begin = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        script = str(ROOT / "scripts" / command[0])
        done = subprocess.run([sys.executable, script, *command[1:]], cwd=folder, env=env, capture_output=True)
        clock, after = time.perf_counter() - begin, resource.getrusage(resource.RUSAGE_CHILDREN)
        if done.returncode != code:
            raise SystemExit(f"{command} ended with {done.returncode}: {done.stderr.decode()}")
        rounds.append((after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, clock))
    cpu, clock = map(min, zip(*rounds, strict=True))
    return cpu, clock


if __name__ == "__main__":
    raise SystemExit(main())
