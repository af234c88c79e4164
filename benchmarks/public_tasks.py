"""Four local tasks of fev by three models and fev's baseline: write them as its Parquet, run scripts/eval_benchmark.py.

    python benchmarks/public_tasks.py --data <folder> --output runs/public_tasks

<folder> holds ett/, monash/ and brist1d_open/. ETTh1 and ETTm1 (7 columns, 48 steps), electricity by the week (321
series, 8 steps) and, as a proposed public task, the glucose of 12 people every five minutes (an hour). The last five
windows of each, 16,384 past steps at most. The last line is `RESULT rows=… best=…`, the lowest MASE.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import yaml

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "scripts"))
MODELS = ("builtin", "builtin:glucose", "fracast")
LEVELS = [round(0.1 * level, 1) for level in range(1, 10)]
SHARED = {"eval_metric": "MASE", "extra_metrics": ["WQL"], "quantile_levels": LEVELS}


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, type=Path, help="holds ett/, monash/, brist1d_open/")
    parser.add_argument("--output", required=True, type=Path, help="new folder for tasks and results")
    parser.add_argument("--model", action="append", dest="models", help=f"default: {', '.join(MODELS)}")
    return parser.parse_args(argv)


def transformer(path: Path) -> pd.DataFrame:
    """ETT as one series."""
    return pd.read_csv(path, parse_dates=["date"]).rename(columns={"date": "timestamp"}).assign(id=path.name[:5])


def weekly(path: Path) -> pd.DataFrame:
    """A Monash file of one row a series as long rows."""
    from tstune.data.files import read_table

    long = read_table(path).rename(columns={"item_id": "id"}).explode("target", ignore_index=True)
    weeks = pd.to_timedelta(7 * long.groupby("id").cumcount(), unit="D")
    return pd.DataFrame({"id": long["id"], "timestamp": long["start"] + weeks, "target": long["target"].astype(float)})


def glucose(folder: Path) -> pd.DataFrame:
    """The people on a grid of five minutes, which fev wants; NaN where nothing was read."""
    people = []
    for path in sorted(folder.glob("P*.csv.gz")):
        table = pd.read_csv(path, parse_dates=["timestamp"], index_col="timestamp")
        values = table["glucose_value_mg_dl"].resample("5min").mean()
        people.append(values.rename("target").reset_index().assign(id=path.name.partition(".")[0]))
    return pd.concat(people, ignore_index=True)


def write_tasks(data: Path, folder: Path) -> list[dict]:
    """tasks.yaml and a Parquet file per task."""
    ett = ["HUFL", "HULL", "MUFL", "MULL", "LUFL", "LULL", "OT"]
    week = data / "monash" / "electricity_weekly_dataset.tsf.gz"
    tasks = {
        "ETTh1": (transformer(data / "ett" / "ETTh1.csv"), 48, 24, ett, "Energy"),
        "ETTm1": (transformer(data / "ett" / "ETTm1.csv.gz"), 48, 96, ett, "Energy"),
        "electricity_weekly": (weekly(week), 8, 52, "target", "Energy"),
        "brist1d": (glucose(data / "brist1d_open"), 12, 288, "target", "Healthcare"),
    }
    listed = []
    for name, (table, horizon, seasonality, target, domain) in tasks.items():
        file = folder / f"{name}.parquet"
        table.to_parquet(file, index=False)
        task = {"dataset_path": file.name, "task_name": name, "horizon": horizon, "seasonality": seasonality}
        task |= {"num_windows": 5, "max_context_length": 16_384, "target": target, "domain": domain}
        listed.append(task | SHARED)
    (folder / "tasks.yaml").write_text(yaml.safe_dump({"tasks": listed}, sort_keys=False), encoding="utf-8")
    return listed


def main(argv: Sequence[str] | None = None) -> int:
    """Write, run, print one row per task."""
    args = parse_args(argv)
    import eval_benchmark

    args.output.mkdir(parents=True)
    write_tasks(args.data, args.output)
    words = [word for model in args.models or MODELS for word in ("--model", model)]
    results = args.output / "results"
    code = eval_benchmark.main(
        ["--tasks", str(args.output / "tasks.yaml"), *words, "--output", str(results), "--gift-eval"]
    )
    if code:
        return code
    rows = pd.read_csv(results / "results.csv")
    for metric in ("MASE", "WQL", "training_time_s", "inference_time_s"):
        print(f"\n{metric}\n{rows.pivot(index='task_name', columns='model_name', values=metric).round(4).to_string()}")
    print(f"RESULT rows={len(rows)} best={rows['test_error'].min():.4f}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
