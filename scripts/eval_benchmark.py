"""Run tasks of fev, the forecast evaluation benchmark, with any models, and compare them by its own functions.

    python scripts/eval_benchmark.py --tasks tasks.yaml --model builtin --model runs/mine --output results
    python scripts/eval_benchmark.py --tasks tasks.yaml --model fracast --model registry:cgm@champion --output results

tasks.yaml is a benchmark of fev: `tasks:`, a list with dataset_path (a Parquet or Arrow file, relative to that file, or
a data set of the Hub), horizon, num_windows, seasonality, eval_metric, quantile_levels, … as fev.Task has them. A model
is what `tstune.forecast` takes; seasonal_naive is added, as the baseline. Nothing is tuned here. A point forecast gets
its quantiles from its errors in the history of the first window.

<output>/results.csv has one row per model and task in fev's own schema, which fev reads, compares and publishes:
errors, seconds, version, and trained_on_this_dataset, answered from the record in the manifest of the weights.
leaderboard.csv and pairwise.csv are fev's. --gift-eval also writes gift_eval/<model>/all_results.csv, as the
leaderboard of GIFT-Eval collects it; each task then has a `domain:` beside fev's keys, and its nine levels.

fev wants datasets below 5 for one class only, and runs without: pip install --no-deps 'fev>=0.10,<0.11'.
Exit codes: 0 done, 2 your input needs a change (one `error:` line says which).
"""

from __future__ import annotations

import argparse
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tstune.command_line import add_registry_argument, add_trust_argument, script_parser
from tstune.errors import EXIT_OK, ConfigError, DataError, OutputError, exits_cleanly
from tstune.named_code import trusting

if TYPE_CHECKING:
    import pandas as pd

    from tstune.runs.compare.frames import Ready

BASELINE = "seasonal_naive"
PACKAGE = "fev>=0.10,<0.11"
GIFT_EVAL_LEVELS = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]
GIFT_EVAL_LETTERS = {"h": "H", "min": "T", "s": "S", "ME": "M", "MS": "M", "QE": "Q", "QS": "Q", "YE": "A", "YS": "A"}
GIFT_EVAL_STEPS = {"M": 12, "W": 8, "D": 30, "H": 48, "T": 48, "S": 60}
"""Of its shortest forecast, by letter of the frequency."""


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = script_parser(__doc__)
    parser.add_argument("--tasks", required=True, type=Path, metavar="FILE", help="YAML with tasks of fev")
    parser.add_argument("--model", required=True, action="append", dest="models", help="may be given several times")
    parser.add_argument("--output", required=True, type=Path, metavar="folder", help="where the tables go")
    parser.add_argument("--gift-eval", action="store_true", help="write the tables of GIFT-Eval, too")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing output folder")
    add_registry_argument(parser)
    add_trust_argument(parser)
    return parser.parse_args(argv)


@exits_cleanly
def main(argv: Sequence[str] | None = None) -> int:
    """Forecast every window of every task, let fev judge, write its tables."""
    args = parse_args(argv)
    if args.output.exists() and not args.overwrite:
        raise OutputError(f"--output {args.output} exists; choose another folder or add --overwrite")

    import pandas as pd

    from tstune.runtime.logs import setup_logging

    setup_logging()
    fev = library()
    tasks, domains = read_tasks(args.tasks, fev)
    if args.gift_eval:
        require_gift_eval(tasks, domains)
    models = list(dict.fromkeys([*args.models, BASELINE]))
    rows, gift_eval = [], []
    with trusting(args.trust_code):
        for task, domain in zip(tasks, domains, strict=True):
            for model in models:
                row, predictions = run_task(task, model, args.registry, fev)
                rows.append(row)
                if args.gift_eval:
                    gift_eval.append(gift_eval_row(task, domain, row["model_name"], predictions))
    leaderboard = fev.leaderboard(rows, baseline_model=BASELINE)
    args.output.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(rows).to_csv(args.output / "results.csv", index=False)
    leaderboard.to_csv(args.output / "leaderboard.csv")
    fev.pairwise_comparison(rows).to_csv(args.output / "pairwise.csv")
    for model, table in pd.DataFrame(gift_eval).groupby("model") if gift_eval else ():
        file = args.output / "gift_eval" / re.sub(r"[^\w.@=+-]", "_", model) / "all_results.csv"
        file.parent.mkdir(parents=True, exist_ok=True)
        table.to_csv(file, index=False)
    print(leaderboard.to_string())
    for row in rows:
        if row["trained_on_this_dataset"]:
            print(f"{row['model_name']} was trained on {row['dataset_path']}: its row is no zero-shot result")
    print(f"{len(tasks)} tasks, {len(models)} models: {args.output / 'results.csv'}")
    return EXIT_OK


def library() -> Any:
    """The package fev, of which 0.10 hands on a download setting that `datasets` has no longer since its version 5."""
    import datasets

    from tstune.models.contract import optional_module

    fev = optional_module("fev", "scripts/eval_benchmark.py", PACKAGE)
    if int(datasets.__version__.partition(".")[0]) >= 5:
        fev.utils.PatchedDownloadConfig = datasets.DownloadConfig
    return fev


def read_tasks(path: Path, fev: Any) -> tuple[list[Any], list[str | None]]:
    """The tasks of a benchmark, and their domains; local files are relative to it.

    Raises:
        ConfigError: it is no such file.
    """
    import yaml

    try:
        listed = yaml.safe_load(path.read_text(encoding="utf-8"))["tasks"]
        for task in listed:
            local = path.parent / str(task["dataset_path"])
            task["dataset_path"] = str(local) if local.exists() else task["dataset_path"]
        domains = [task.pop("domain", None) for task in listed]
        return fev.Benchmark.from_list(listed).tasks, domains
    except Exception as error:  # of pydantic, YAML, or asserted by fev: all say what is wrong with the file
        what = " ".join(f"{type(error).__name__}: {error}".split())
        raise ConfigError(f"--tasks {path} is no benchmark of fev: {what:.300}") from None


def run_task(task: Any, model: str, registry: str | None, fev: Any) -> tuple[dict[str, Any], list[dict]]:
    """One row of fev, and the forecasts behind it: every window forecast by one model.

    Raises:
        ConfigError, DataError: naming the model and what it lacks.
    """
    from tstune import __version__
    from tstune.data.trained_on import has_record
    from tstune.runs.compare.frames import make_ready

    ready, predictions, seconds, trained = None, [], [0.0, 0.0], False
    columns = {task.id_column: "item_id", task.timestamp_column: "timestamp"}
    for window in task.iter_windows():
        past, future = fev.convert_input_data(window, adapter="pandas")[:2]
        past, future = (table.rename(columns=columns) for table in (past, future))
        begin = time.perf_counter()
        if ready is None:
            known = past[["item_id", "timestamp", *task.target_columns]]
            where = {"id_col": "item_id", "time_col": "timestamp", "target_cols": task.target_columns}
            levels, season = task.quantile_levels, task.seasonality
            ready = make_ready(known, task.horizon, model, levels, seasonality=season, registry=registry, **where)
            trained = was_trained_on(task, ready, model)
            seconds[0] += time.perf_counter() - begin
            begin = time.perf_counter()
        predictions.append(forecast_window(task, ready, past, future, model))
        seconds[1] += time.perf_counter() - begin
    row = task.evaluation_summary(
        predictions,
        model_name=Path(model).resolve().name if Path(model).is_dir() else model,
        training_time_s=seconds[0],
        inference_time_s=seconds[1],
        trained_on_this_dataset=trained,
        extra_info={"tstune_version": __version__, "training_is_on_record": has_record(model)},
    )
    return row, predictions


def forecast_window(
    task: Any, ready: Ready, past: pd.DataFrame, future: pd.DataFrame, model: str
) -> dict[str, list[dict]]:
    """What fev takes: for each target, a point forecast and quantiles per series, in the order of the series."""
    import numpy as np

    own = ready.model.preprocessor
    targets, wanted = list(task.target_columns), own.roles.target
    if len(targets) != len(wanted):
        raise DataError(f"--model {model} forecasts {', '.join(wanted)}, task {task.task_name} {', '.join(targets)}")
    names = dict(zip(targets, wanted, strict=True)) if set(targets) != set(wanted) else {name: name for name in targets}
    names |= {"item_id": own.item_id_column or "item_id"}
    past = past.copy()
    held = past.groupby("item_id")[targets].ffill().fillna(0.0)
    behind = past.groupby("item_id")[targets].bfill().isna()  # up to the cutoff: a forecast begins there
    past[targets] = past[targets].mask(behind, held)
    control = future.rename(columns=names) if own.roles.control else None
    found = ready.forecast(past.rename(columns=names), control)
    if len(found) != len(future) or not np.array_equal(found.iloc[:, 1].to_numpy(), future["timestamp"].to_numpy()):
        raise DataError(f"--model {model} does not forecast the times of task {task.task_name}: its steps are others")
    result = {}
    for target in targets:
        column = names[target]
        levels = {str(level): f"{column}_q{level:g}" for level in task.quantile_levels}
        lacking = [level for level, name in levels.items() if name not in found]
        if lacking:
            raise DataError(
                f"--model {model} forecasts no quantile {lacking[0]}, which task {task.task_name} asks for; train it "
                f"with forecast.quantiles={task.quantile_levels}"
            )
        arrays = {key: found[name].to_numpy(float).reshape(-1, task.horizon) for key, name in levels.items()}
        arrays["predictions"] = found[column].to_numpy(float).reshape(-1, task.horizon)
        series = range(len(found) // task.horizon)
        result[target] = [{key: values[row] for key, values in arrays.items()} for row in series]
    return result


def was_trained_on(task: Any, ready: Ready, model: str) -> bool:
    """Whether the record of the weights holds readings of this data set, as training or as choice of the weights."""
    import pandas as pd

    from tstune.data.trained_on import overlap_of_panel
    from tstune.foreign_files import sha256_of

    whole = task.load_full_dataset().to_pandas()
    columns = [task.timestamp_column, *task.target_columns]
    long = whole[[task.id_column, *columns]].explode(columns, ignore_index=True)
    own = ready.model.preprocessor
    names = dict(zip(task.target_columns, own.roles.target, strict=False)) | {task.timestamp_column: "timestamp"}
    long = long.rename(columns=names | {task.id_column: own.item_id_column or "item_id"})
    long["timestamp"] = pd.to_datetime(long["timestamp"])
    reader = own.targets_only()
    panel = reader.panel_of(reader.read_frame(long, task.task_name))
    files = {sha256_of(Path(task.dataset_path))} if Path(task.dataset_path).is_file() else set()
    return bool(overlap_of_panel(panel, own.unit, files, model))


def require_gift_eval(tasks: Sequence[Any], domains: Sequence[str | None]) -> None:
    """Stop before anything is forecast if a task lacks what a row of GIFT-Eval needs.

    Raises:
        ConfigError: naming the task and the key.
    """
    for task, domain in zip(tasks, domains, strict=True):
        lacking = None
        if not domain:
            lacking = "domain: Energy (or Healthcare, Nature, Sales, Transport, Econ/Fin, Web/CloudOps)"
        elif task.quantile_levels != GIFT_EVAL_LEVELS:
            lacking = f"quantile_levels: {GIFT_EVAL_LEVELS}"
        elif task.generate_univariate_targets_from == "__ALL__":
            lacking = "generate_univariate_targets_from: [the columns, by name]"
        if lacking:
            raise ConfigError(f"--gift-eval: task {task.task_name} needs {lacking}")


def gift_eval_row(task: Any, domain: str, model: str, predictions: list[dict]) -> dict[str, Any]:
    """One row of GIFT-Eval's table: the errors as its library GluonTS has them, over all windows, series and targets.

    What has no reading or a scale of zero counts nowhere. The 95 % interval comes from the nine levels: an exponential
    tail through the outer two, which lies as far beyond them as three times their distance.
    """
    import numpy as np

    labels, points, levels, scales = [], [], [], []
    for window, found in zip(task.iter_windows(), predictions, strict=True):
        past, truth = window.get_input_data()[0], window.get_ground_truth()
        for target, series in found.items():
            labels.append(np.stack(truth[target]))
            points.append([one["predictions"] for one in series])
            levels.append([[one[str(level)] for level in GIFT_EVAL_LEVELS] for one in series])
            for history in map(np.asarray, past[target]):
                lag = task.seasonality if task.seasonality <= len(history) else 1
                scales.append(np.nanmean(np.abs(history[lag:] - history[:-lag])))
    label, mean = np.concatenate(labels).astype(float), np.concatenate(points)
    quantiles, scale = np.moveaxis(np.concatenate(levels), 1, 0), np.array(scales)[:, None]
    median, size = quantiles[4], np.abs(label)
    lower = quantiles[1] - 3 * (quantiles[1] - quantiles[0])
    upper = quantiles[7] + 3 * (quantiles[8] - quantiles[7])
    outside = np.maximum(lower - label, 0) + np.maximum(label - upper, 0)
    above = (label <= quantiles) - np.array(GIFT_EVAL_LEVELS)[:, None, None]

    def average(values: np.ndarray) -> float:
        return float(np.mean(values[np.isfinite(values)]))

    with np.errstate(divide="ignore", invalid="ignore"):
        errors = {
            "MSE[mean]": average((label - mean) ** 2),
            "MSE[0.5]": average((label - median) ** 2),
            "MAE[0.5]": average(np.abs(label - median)),
            "MASE[0.5]": average(np.abs(label - median) / scale),
            "MAPE[0.5]": average(np.abs(label - median) / size),
            "sMAPE[0.5]": average(2 * np.abs(label - median) / (size + np.abs(median))),
            "MSIS": average((upper - lower + 40 * outside) / scale),  # 2 / 0.05
            "RMSE[mean]": average((label - mean) ** 2) ** 0.5,
            "NRMSE[mean]": average((label - mean) ** 2) ** 0.5 / average(size),
            "ND[0.5]": average(np.abs(label - median)) / average(size),
            "mean_weighted_sum_quantile_loss": average(2 * np.abs((label - quantiles) * above)) / average(size),
        }
    sources = task.generate_univariate_targets_from or task.target_columns
    row = {"dataset": gift_eval_name(task), "model": model}
    row |= {f"eval_metrics/{name}": value for name, value in errors.items()}
    return row | {"domain": domain, "num_variates": len(sources)}


def gift_eval_name(task: Any) -> str:
    """``data set/frequency/term`` in its letters; medium and long are ten and fifteen times its shortest forecast."""
    import pandas as pd

    stamps = pd.DatetimeIndex(task.load_full_dataset()[0][task.timestamp_column])
    offset = pd.tseries.frequencies.to_offset(pd.infer_freq(stamps))
    letter = GIFT_EVAL_LETTERS.get(name := offset.name.partition("-")[0], name)
    times = task.horizon / GIFT_EVAL_STEPS.get(letter, task.horizon)
    term = "long" if times >= 15 else "medium" if times >= 10 else "short"
    return f"{task.task_name.replace('/', '_')}/{offset.n if offset.n > 1 else ''}{letter}/{term}"


if __name__ == "__main__":
    raise SystemExit(main())
