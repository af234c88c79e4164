"""Every tuning mode on one data set: what it trains, how fast, what it needs and what it brings.

    python benchmarks/tuning_modes.py --weights <folder of TTM-r2 512-96>
    python benchmarks/tuning_modes.py --weights <folder> --recipes recipes/ttm/etth1 --set data.path=<folder>/ETTh1.csv

Runs each recipe of the folder as a process of its own and reads the table from the run folders. The last line
is `RESULT mode=rmse …`.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
MODES = ("zero_shot", "head", "decoder", "bias", "lora", "dora", "full", "from_scratch")


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", required=True, help="TTM-r2 512-96 checkpoint folder")
    parser.add_argument("--recipes", default=str(ROOT / "recipes/ttm/cgm_sample"), help="folder of <mode>.yaml files")
    parser.add_argument("--modes", nargs="+", default=list(MODES), help="which of them")
    parser.add_argument("--metric", default="rmse", help="column of the table, e.g. mse_scaled")
    parser.add_argument("--set", nargs="*", default=[], metavar="key=value", help="changes to every recipe")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Run and print."""
    args = parse_args(argv)
    rows, baselines = [], {}
    with tempfile.TemporaryDirectory() as scratch:
        for mode in args.modes:
            folder = Path(scratch) / mode
            weights = [] if mode == "from_scratch" else [f"model.pretrained={args.weights}"]
            command = [sys.executable, str(ROOT / "scripts/finetune_ttm.py")]
            command += [
                "--config",
                str(Path(args.recipes) / f"{mode}.yaml"),
                f"output_dir={folder}",
                *weights,
                *args.set,
            ]
            answer = subprocess.run(command, capture_output=True, text=True)
            if answer.returncode:
                rows.append(f"| {mode} | failed: {answer.stderr.strip().splitlines()[-1]} |")
                continue
            rows.append(row(mode, folder, args.metric))
            scores = json.loads((folder / "metrics.json").read_text())["test"]
            baselines |= {name: values[args.metric] for name, values in scores.items() if name != "fine_tuned"}
            print(rows[-1], flush=True)
    print(f"\n| mode | parameters that learn | adapter | windows/s | peak memory | seconds | {args.metric} |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    print("\n".join(rows))
    print("\nbaselines: " + " · ".join(f"{name} {value:.4g}" for name, value in baselines.items()))
    results = {text.split("|")[1].strip(): text.rsplit("|", 2)[1].strip() for text in rows}
    print("RESULT " + " ".join(f"{mode}={value}" for mode, value in results.items()))
    return 0


def row(mode: str, folder: Path, metric: str) -> str:
    """One line of the table, from a run folder."""
    environment = json.loads((folder / "environment.json").read_text())
    scores = json.loads((folder / "metrics.json").read_text())["test"]
    counts, training = environment["parameters"], environment["training"]
    score = scores["fine_tuned" if training else "zero_shot"][metric]
    adapter = folder / "adapter" / "adapter_model.safetensors"
    return " | ".join(
        [
            f"| {mode}",
            f"{counts['trainable']:,} ({counts['percentage']:.1f} %)",
            f"{adapter.stat().st_size / 1000:.0f} KB" if adapter.exists() else "",
            f"{training['windows_per_second']:.0f}" if training else "",
            f"{environment['peak_memory_mb']['host']:.0f} MiB",
            f"{training['seconds']:.0f}" if training else "",
            f"{score:.4g} |",
        ]
    )


if __name__ == "__main__":
    raise SystemExit(main())
