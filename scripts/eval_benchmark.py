"""Run tasks of fev, the forecast evaluation benchmark, with any models, and compare them by its own functions.

    python scripts/eval_benchmark.py --tasks tasks.yaml --model builtin --model runs/mine --output results
    python scripts/eval_benchmark.py --tasks tasks.yaml --model registry:cgm@champion --tune builtin --output results
    python scripts/eval_benchmark.py --tasks tasks.yaml --tune autotune --tune fracast --minutes 10 --output results

tasks.yaml is a benchmark of fev: `tasks:`, a list with dataset_path (a Parquet or Arrow file, relative to that file, or
a data set of the Hub), horizon, num_windows, seasonality, eval_metric, quantile_levels, … as fev.Task has them. A model
is what `tstune.forecast` takes; seasonal_naive is added, as the baseline. A point forecast gets its quantiles from its
errors in the history of the first window. --tune takes weights, a run folder or a baseline that learns, and tunes it
for every task on what lies before its first forecast, for --minutes at most (what has no steps is fitted to its end);
`--tune autotune` searches as scripts/autotune.py does. key=value changes the recipe of both.

<output>/results.csv has one row per model and task in fev's own schema, which fev reads, compares and publishes:
errors, seconds, version, and trained_on_this_dataset, answered from the record in the manifest of the weights.
leaderboard.csv and pairwise.csv are fev's, tuned/<model>/<task>/best are the run folders of --tune. --gift-eval also
writes gift_eval/<model>/all_results.csv, as the leaderboard of GIFT-Eval collects it; each task then has a `domain:`
beside fev's keys, and its nine levels.

fev wants datasets below 5 for one class only, and runs without: pip install --no-deps 'fev>=0.10,<0.11'.
Exit codes: 0 done, 2 your input needs a change (one `error:` line says which).
"""

from __future__ import annotations

import argparse
import json
import re
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tstune.command_line import add_registry_argument, add_trust_argument, minutes, script_parser
from tstune.errors import EXIT_OK, ConfigError, DataError, exits_cleanly
from tstune.named_code import trusting

if TYPE_CHECKING:
    import pandas as pd

    from tstune.runs.compare.frames import Ready

BASELINE, AUTOTUNE, PAST = "seasonal_naive", "autotune", "past.parquet"
TRAINING_SHARE = 2 / 3
"""Of --minutes, the most that training steps take; the rest is for reading, judging and files."""
PACKAGE = "fev>=0.10,<0.11"
GIFT_EVAL_LEVELS = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]
GIFT_EVAL_LETTERS = {"h": "H", "min": "T", "s": "S", "ME": "M", "MS": "M", "QE": "Q", "QS": "Q", "YE": "A", "YS": "A"}
GIFT_EVAL_STEPS = {"M": 12, "W": 8, "D": 30, "H": 48, "T": 48, "S": 60}
"""Of its shortest forecast, by letter of the frequency."""


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = script_parser(__doc__)
    parser.add_argument("--tasks", required=True, type=Path, metavar="FILE", help="YAML with tasks of fev")
    several = {"action": "append", "default": [], "metavar": "MODEL"}
    parser.add_argument("--model", dest="models", help="as it is; may be given several times", **several)
    parser.add_argument("--tune", help="tuned for each task, or autotune; may be given several times", **several)
    parser.add_argument("--minutes", type=minutes, default=10.0, metavar="N", help="per --tune and task (default 10)")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="keys of a recipe, for --tune")
    parser.add_argument("--output", required=True, type=Path, metavar="folder", help="where the tables go")
    parser.add_argument("--gift-eval", action="store_true", help="write the tables of GIFT-Eval, too")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing output folder")
    add_registry_argument(parser)
    add_trust_argument(parser)
    args = parser.parse_intermixed_args(argv)
    if not args.models and not args.tune:
        parser.error("give --model or --tune at least once")
    if args.overrides and not args.tune:
        parser.error(f"{args.overrides[0]} is for --tune, and nothing is tuned")
    return args


@exits_cleanly
def main(argv: Sequence[str] | None = None) -> int:
    """Forecast every window of every task, let fev judge, write its tables."""
    args = parse_args(argv)
    import pandas as pd

    from tstune.config.schema import RunConfig
    from tstune.runs.compare.candidates import open_candidates
    from tstune.runs.folder import refuse_full, replacing
    from tstune.runtime.logs import setup_logging

    setup_logging()
    refuse_full("--output", args.output, overwrite=True)
    fev = library()
    tasks, domains = read_tasks(args.tasks, fev)
    if args.gift_eval:
        require_gift_eval(tasks, domains)
    models = named_models([*args.models, BASELINE], args.tune)
    inputs = {"--tasks": args.tasks} | {f"--model {model}": model for model, _ in models.values()}
    inputs |= {f"dataset_path {task.dataset_path}": task.dataset_path for task in tasks}
    rows, gift_eval = [], []
    with trusting(args.trust_code), replacing(args.output, args.overwrite, inputs):
        with ExitStack() as opened:  # before anything is forecast
            specs = [model for model, is_tuned in models.values() if not (is_tuned and model == AUTOTUNE)]
            open_candidates(list(dict.fromkeys(specs)), RunConfig(), args.registry, opened)
        for number, (task, domain) in enumerate(zip(tasks, domains, strict=True)):
            for name, (model, is_tuned) in models.items():
                folder = args.output / "tuned" / as_file(name) / f"{number}_{as_file(task.task_name)}"
                row, predictions = run_task(task, name, model, folder if is_tuned else None, args, fev)
                rows.append(row)
                if args.gift_eval:
                    gift_eval.append(gift_eval_row(task, domain, name, predictions))
        leaderboard = fev.leaderboard(rows, baseline_model=BASELINE)
        pd.DataFrame(rows).to_csv(args.output / "results.csv", index=False)
        leaderboard.to_csv(args.output / "leaderboard.csv")
        fev.pairwise_comparison(rows).to_csv(args.output / "pairwise.csv")
        for model, table in pd.DataFrame(gift_eval).groupby("model") if gift_eval else ():
            file = args.output / "gift_eval" / as_file(model) / "all_results.csv"
            file.parent.mkdir(parents=True)
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

    from tstune.named_code import optional_module

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


def named_models(untuned: Sequence[str], tuned: Sequence[str]) -> dict[str, tuple[str, bool]]:
    """Name of a row -> model, and whether it is tuned; a folder goes by its last part, if that tells it apart."""
    found: dict[str, tuple[str, bool]] = {}
    for model, is_tuned in [*((one, False) for one in untuned), *((one, True) for one in tuned)]:
        ending = "_tuned" if is_tuned and model != AUTOTUNE else ""
        short = f"{Path(model).resolve().name}{ending}"
        is_short = Path(model).is_dir() and short not in (*found, *untuned)
        found[short if is_short else f"{model}{ending}"] = model, is_tuned
    return found


def as_file(name: str) -> str:
    """A name that any file system takes."""
    return re.sub(r"[^\w.@=+-]", "_", name)


def run_task(
    task: Any, name: str, model: str, folder: Path | None, args: argparse.Namespace, fev: Any
) -> tuple[dict[str, Any], list[dict]]:
    """One row of fev, and the forecasts behind it: every window forecast by one model, tuned first if into a folder.

    Raises:
        ConfigError, DataError: naming the model and what it lacks.
    """
    from tstune import __version__
    from tstune.data.trained_on import has_record
    from tstune.registry.model_registry import saved_folder
    from tstune.runs.compare.frames import family_of, make_ready

    ready, predictions, seconds = None, [], [0.0, 0.0]
    columns = {task.id_column: "item_id", task.timestamp_column: "timestamp"}
    for window in task.iter_windows():
        past, future = fev.convert_input_data(window, adapter="pandas")[:2]
        past, future = (table.rename(columns=columns) for table in (past, future))
        begin = time.perf_counter()
        if ready is None:
            known = past[["item_id", "timestamp", *task.target_columns]]
            where = {"id_col": "item_id", "time_col": "timestamp", "target_cols": task.target_columns}
            levels, season = task.quantile_levels, task.seasonality
            with saved_folder(model, args.registry) as place:
                place = str(place) if folder is None else str(tune(task, known, str(place), args, folder))
                ready = make_ready(known, task.horizon, place, levels, seasonality=season, **where)
                if folder is not None:  # what a history lacks is masked
                    ready.model.preprocessor = replace(ready.model.preprocessor, min_context=1)
                seconds[0] += time.perf_counter() - begin
                weights = family_of(place)[1] or place
                on_record = has_record(weights)
                files = [Path(task.dataset_path), *([] if folder is None else [folder / PAST])]
                trained = was_trained_on(task, ready, weights, files)
            begin = time.perf_counter()
        predictions.append(forecast_window(task, ready, past, future, model))
        seconds[1] += time.perf_counter() - begin
    own = {"tstune_version": __version__, "training_is_on_record": on_record, "tuned_on_this_task": folder is not None}
    row = task.evaluation_summary(predictions, name, *seconds, trained_on_this_dataset=trained, extra_info=own)
    return row, predictions


def tune(task: Any, past: pd.DataFrame, model: str, args: argparse.Namespace, folder: Path) -> Path:
    """The run folder of a model that is tuned on these readings alone, those before the first forecast of the task.

    The last forecast that they hold judges the run folder, and three before it, or a tenth of all, validate.
    """
    from tstune.config.section import DEFAULT_FAMILY
    from tstune.config.validation import validate
    from tstune.models.registry import model_class
    from tstune.runs.compare.frames import family_of
    from tstune.sweeps.autotune import autotune, settled
    from tstune.sweeps.candidates import Halving, changed, lengths

    begun = time.monotonic()
    folder.mkdir(parents=True)
    file, best = folder / PAST, folder / "best"
    past.to_parquet(file, index=False)
    longest = past.groupby("item_id").size().max()
    test = min(0.2, 1.5 * task.horizon / longest)
    validation = max(0.1, 2 * test)  # the later half of it calibrates intervals
    values = {
        "data.item_id_column": "item_id",
        "data.target_columns": task.target_columns,
        "data.split": {"train": 1 - validation - test, "validation": validation, "test": test},
        "forecast.quantiles": task.quantile_levels,
        "evaluation.seasonality": task.seasonality,
        "evaluation.num_plots": 0,
    }
    family, weights = (AUTOTUNE, None) if model == AUTOTUNE else family_of(model)
    if weights is not None:
        section = {"type": family, "pretrained": weights, "context_length": "auto"}
        known = model_class(family)(validate({"model": section}, origin=f"--tune {model}")).known_lengths()
        room = int((1 - validation - test) * longest) - task.horizon  # for the context of a window that trains
        if known and room < min(context for context, _ in known):
            values["data.min_context"] = max(1, room // 2)  # what is lacking is masked
        values |= {f"model.{key}": value for key, value in section.items()}
        values["tuning.mode"] = "decoder" if family == DEFAULT_FAMILY else "full"
    keys = [*(f"{key}={json.dumps(value)}" for key, value in values.items()), *args.overrides]
    if family == AUTOTUNE:
        metric, study = "mase" if task.eval_metric in ("MASE", "SQL") else "rmse", f"sqlite:///{folder}/study.db"
        autotune(file, task.horizon, args.minutes, keys, (), metric, False, folder, begun, study)
        return best
    config, data = settled(file, task.horizon, ["evaluation.baselines=[]", "evaluation.report=false", *keys], "rmse")
    if weights is None:
        config = changed(config, model={"type": family} | lengths(config), tuning=None, lora=None)
    in_time = Halving(None, begun + TRAINING_SHARE * 60 * args.minutes)
    model_class(family)(config).fit(data, output_dir=best, callbacks=[in_time])
    return best


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
        columns = {str(level): f"{names[target]}_q{level:g}" for level in task.quantile_levels}
        if lacking := [level for level, column in columns.items() if column not in found]:
            raise DataError(
                f"--model {model} forecasts no quantile {lacking[0]}, which task {task.task_name} asks for; train it "
                f"with forecast.quantiles={task.quantile_levels}"
            )
        columns["predictions"] = names[target]
        arrays = [found[column].to_numpy(float).reshape(-1, task.horizon) for column in columns.values()]
        result[target] = [dict(zip(columns, series, strict=True)) for series in zip(*arrays, strict=True)]
    return result


def was_trained_on(task: Any, ready: Ready, weights: str, files: Sequence[Path]) -> bool:
    """Whether the record of the weights holds readings of this data set, as training or as choice of the weights.

    Series too short to be told by their readings are told by names and times in one of these files.
    """
    from tstune.data.trained_on import overlap_of_panel
    from tstune.foreign_files import sha256_of

    own, columns = ready.model.preprocessor, [task.timestamp_column, *task.target_columns]
    names = dict(zip(columns, ["timestamp", *own.roles.target], strict=False))
    names[task.id_column] = own.item_id_column or "item_id"
    long = task.load_full_dataset().to_pandas()[[task.id_column, *columns]].explode(columns, ignore_index=True)
    long = long.rename(columns=names).astype({"timestamp": "datetime64[ns]"})
    reader = own.targets_only()
    panel = reader.panel_of(reader.read_frame(long, task.task_name))
    hashes = {sha256_of(file) for file in files if file.is_file()}
    return bool(overlap_of_panel(panel, own.unit, hashes, weights))


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
