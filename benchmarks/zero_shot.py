"""A checkpoint without any tuning on every data set at hand, beside forecasts anyone can make.

    python benchmarks/zero_shot.py --pretrained builtin
    python benchmarks/zero_shot.py --pretrained <folder of a checkpoint> --data <folder>

Without --data only the series that comes with a Python package is scored. The 12 people of `brist1d_open`, the 3 of
`t1d_uom` and the 3 of the Kaggle sample get a test window an hour, ETTh1 has its published borders and every window.
The last line is `RESULT data_model=error …`: the MSE of scaled values for ETTh1, the RMSE over the path in mg/dL
elsewhere.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "scripts"))
BASELINES = ["persistence", "seasonal_naive", "context_mean"]
_MG_DL_PER_MMOL_L = 18.0


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pretrained", default="builtin", help="builtin, a folder or a Hub id")
    parser.add_argument("--data", type=Path, help="holds ett/, brist1d_open/, t1d_uom/, kaggle_brisT1D_sample/")
    parser.add_argument("--prediction-length", type=int, default=96)
    parser.add_argument("--context-length", type=int, default=512)
    parser.add_argument("--ridge", action="store_true", help="a ridge regression fitted to the training part, too")
    return parser.parse_args(argv)


def data_sets(folder: Path | None) -> dict[str, tuple[str, list[str], str, float]]:
    """Name -> recipe, changes to it, metric, factor to mg/dL."""
    cgm = {"cgm_sample": ("ttm/cgm_sample/zero_shot.yaml", [], "rmse", 1.0)}
    if folder is None:
        return cgm
    people = "ttm/brist1d_open/per_item.yaml"
    manchester = [
        f"data.path={folder}/t1d_uom/UoMGlucose*.csv.gz",
        "data.timestamp_column=bg_ts",
        "data.timestamp_format=%d/%m/%Y %H:%M",
        "data.target_columns=[value]",
        "data.unit=mmol/L",
    ]
    return cgm | {
        "brist1d_open": (people, [f"data.path={folder}/brist1d_open/P*.csv.gz"], "rmse", 1.0),
        "t1d_uom": (people, manchester, "rmse", _MG_DL_PER_MMOL_L),
        "kaggle_sample": (
            "ttm/kaggle_brisT1D/zero_shot.yaml",
            [f"data.path={folder}/kaggle_brisT1D_sample"],
            "rmse",
            _MG_DL_PER_MMOL_L,
        ),
        "ETTh1": ("ttm/etth1/zero_shot.yaml", [f"data.path={folder}/ett/ETTh1.csv"], "mse_scaled", 1.0),
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Score and print."""
    args = parse_args(argv)
    from tstune.config.managers import SimpleConfigManager
    from tstune.models.ttm import TTMForecaster

    baselines = [*BASELINES, "ridge"] if args.ridge else BASELINES
    result = []
    print(f"| data | windows | metric | zero_shot | {' | '.join(baselines)} |")
    print("|---|---:|---|---:" + "|---:" * len(baselines) + "|", flush=True)
    for name, (recipe, changes, metric, factor) in data_sets(args.data).items():
        changes = [
            *changes,
            f"model.pretrained={args.pretrained}",
            f"model.context_length={args.context_length}",
            f"model.prediction_length={args.prediction_length}",
            "tuning.mode=zero_shot",
            "tuning.per_item=false",
            f"evaluation.baselines=[{','.join(baselines)}]",
            "evaluation.horizons=[]",
        ]
        config = SimpleConfigManager().load_config(ROOT / "recipes" / recipe, changes)
        metrics = TTMForecaster(config).fit()["metrics"]
        errors = {model: factor * values[metric] for model, values in metrics.items()}
        digits = 4 if metric == "mse_scaled" else 2
        row = " | ".join(
            f"{errors[model]:.{digits}f}" if model in errors else "–" for model in ("zero_shot", *baselines)
        )
        print(f"| {name} | {metrics['zero_shot']['num_windows']:,} | {metric} | {row} |", flush=True)
        result += [f"{name}_{model}={error:.4f}" for model, error in errors.items()]
    print("RESULT " + " ".join(result))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
