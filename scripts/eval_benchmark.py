"""Run tasks of fev, the forecast evaluation benchmark, with any models, and compare them by its own functions.

    python scripts/eval_benchmark.py --tasks tasks.yaml --model builtin --model runs/mine --output results
    python scripts/eval_benchmark.py --tasks tasks.yaml --model fracast --model registry:cgm@champion --output results

tasks.yaml is a benchmark of fev: `tasks:`, a list with dataset_path (a Parquet or Arrow file, relative to that file, or
a data set of the Hub), horizon, num_windows, seasonality, eval_metric, quantile_levels, … as fev.Task has them. A model
is what `tstune.forecast` takes; seasonal_naive is added, as the baseline. Nothing is tuned here. A point forecast gets
its quantiles from its errors in the history of the first window.

<output>/results.csv has one row per model and task in fev's own schema, which fev reads, compares and publishes:
errors, seconds, version, and trained_on_this_dataset, answered from the record in the manifest of the weights.
leaderboard.csv and pairwise.csv are fev's. It wants datasets below 5 for one class only, and runs without:
pip install --no-deps 'fev>=0.10,<0.11'. Exit codes: 0 done, 2 your input needs a change (one `error:` line says which).
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tstune.command_line import add_trust_argument
from tstune.errors import EXIT_OK, ConfigError, DataError, OutputError, exits_cleanly
from tstune.named_code import trusting

if TYPE_CHECKING:
    import pandas as pd

    from tstune.runs.compare.frames import Ready

BASELINE = "seasonal_naive"
PACKAGE = "fev>=0.10,<0.11"


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", required=True, type=Path, metavar="FILE", help="YAML with tasks of fev")
    parser.add_argument("--model", required=True, action="append", dest="models", help="may be given several times")
    parser.add_argument("--output", required=True, type=Path, metavar="folder", help="where the tables go")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing output folder")
    parser.add_argument("--registry", help="for registry:…, as in manage_registry.py")
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
    tasks = read_tasks(args.tasks, fev)
    models = list(dict.fromkeys([*args.models, BASELINE]))
    with trusting(args.trust_code):
        rows = [run_task(task, model, args.registry, fev) for task in tasks for model in models]
    leaderboard = fev.leaderboard(rows, baseline_model=BASELINE)
    args.output.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(rows).to_csv(args.output / "results.csv", index=False)
    leaderboard.to_csv(args.output / "leaderboard.csv")
    fev.pairwise_comparison(rows).to_csv(args.output / "pairwise.csv")
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


def read_tasks(path: Path, fev: Any) -> list[Any]:
    """The tasks of a benchmark; local files are relative to it.

    Raises:
        ConfigError: it is no such file.
    """
    import yaml

    try:
        listed = yaml.safe_load(path.read_text(encoding="utf-8"))["tasks"]
        for task in listed:
            local = path.parent / str(task["dataset_path"])
            task["dataset_path"] = str(local) if local.exists() else task["dataset_path"]
        return fev.Benchmark.from_list(listed).tasks
    except Exception as error:  # of pydantic, YAML, or asserted by fev: all say what is wrong with the file
        what = " ".join(f"{type(error).__name__}: {error}".split())
        raise ConfigError(f"--tasks {path} is no benchmark of fev: {what:.300}") from None


def run_task(task: Any, model: str, registry: str | None, fev: Any) -> dict[str, Any]:
    """One row of fev: every window forecast by one model.

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
    return task.evaluation_summary(
        predictions,
        model_name=Path(model).resolve().name if Path(model).is_dir() else model,
        training_time_s=seconds[0],
        inference_time_s=seconds[1],
        trained_on_this_dataset=trained,
        extra_info={"tstune_version": __version__, "training_is_on_record": has_record(model)},
    )


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


if __name__ == "__main__":
    raise SystemExit(main())
