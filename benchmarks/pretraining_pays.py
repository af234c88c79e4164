"""Does tuning from pre-trained weights beat training from random ones? With little data and with all of it.

    python benchmarks/pretraining_pays.py
    python benchmarks/pretraining_pays.py --etth1 <folder>/ETTh1.csv

For each data set, share of the training windows (drawn by the seed) and seed: the `decoder` recipe from `--pretrained`,
and the `from_scratch` recipe, same windows, same test. A share is passed over as much more often as it is smaller, so
every run has the steps of its recipe, and early stopping on the same validation windows. A table of mean ± deviation
over the seeds; the last line is `RESULT data_share_tuned=… data_share_scratch=…`: RMSE in mg/dL for glucose, MSE of
scaled values for the oil temperature of ETTh1.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "scripts"))
# One channel is a seventh of the work of the published benchmark, whose borders stay.
OIL_TEMPERATURE = (
    "data.source=csv",
    "data.timestamp_column=date",
    "data.target_columns=[OT]",
    "data.frequency=h",
    "data.split.borders=[8640,11520,14400]",
    "data.validation_stride=4",
    "training.eval_every_steps=50",
    "training.early_stopping_patience=6",
)


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pretrained", default="builtin", help="builtin, a folder or a Hub id")
    parser.add_argument("--etth1", type=Path, help="ETTh1.csv; without it only the glucose series is used")
    parser.add_argument("--no-glucose", action="store_true", help="only ETTh1")
    parser.add_argument("--shares", type=float, nargs="+", default=[0.05, 0.2, 1.0], help="of the training windows")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--set", nargs="*", default=[], metavar="key=value", help="changes to every run")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Run and print."""
    args = parse_args(argv)
    data_sets = {} if args.no_glucose else {"cgm_sample": ("rmse", [])}
    if args.etth1 is not None:
        data_sets["etth1"] = ("mse_scaled", [f"data.path={args.etth1}", *OIL_TEMPERATURE])
    result = []
    print("| data | share of training windows | metric | tuned from pre-trained | from scratch | zero-shot | better |")
    print("|---|---:|---|---:|---:|---:|---|", flush=True)
    for data, (metric, changes) in data_sets.items():
        for share in args.shares:
            scores: dict[str, list[float]] = {"zero_shot": [], "tuned": [], "scratch": []}
            for seed in args.seeds:
                common = [*changes, f"data.train_fraction={share}", f"seed={seed}", "data.train_fraction_from=uniform"]
                common += args.set
                tuned = run(data, "decoder", [f"model.pretrained={args.pretrained}", *common])
                scores["zero_shot"].append(tuned["zero_shot"][metric])
                scores["tuned"].append(tuned["fine_tuned"][metric])
                scores["scratch"].append(run(data, "from_scratch", common)["fine_tuned"][metric])
            pairs = zip(scores["tuned"], scores["scratch"], strict=True)
            wins = sum(tuned < scratch for tuned, scratch in pairs)
            shown = {name: spread(values) for name, values in scores.items()}
            print(
                f"| {data} | {100 * share:g} % | {metric} | {shown['tuned']} | {shown['scratch']} "
                f"| {statistics.mean(scores['zero_shot']):.4g} | {wins} of {len(args.seeds)} seeds |",
                flush=True,
            )
            key = f"{data}_{round(100 * share)}"
            result += [f"{key}_{name}={statistics.mean(scores[name]):.4f}" for name in ("tuned", "scratch")]
    print("RESULT " + " ".join(result))
    return 0


def run(data: str, recipe: str, changes: Sequence[str]) -> dict[str, dict[str, float]]:
    """One run without a folder: model -> metric -> value."""
    from tstune.config.managers import SimpleConfigManager
    from tstune.models.ttm import TTMForecaster

    path = ROOT / "recipes/ttm" / data / f"{recipe}.yaml"
    fixed = ["evaluation.baselines=[]", "evaluation.horizons=[]", "evaluation.num_plots=0"]
    config = SimpleConfigManager().load_config(path, [*changes, *fixed])
    epochs = math.ceil(config.training.num_epochs / config.data.train_fraction)
    config = config.model_copy(update={"training": config.training.model_copy(update={"num_epochs": epochs})})
    return TTMForecaster(config).fit()["metrics"]


def spread(values: Sequence[float]) -> str:
    """Mean and standard deviation."""
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.mean(values):.4g} ± {deviation:.2g}"


if __name__ == "__main__":
    raise SystemExit(main())
