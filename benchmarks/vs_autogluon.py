"""`scripts/autotune.py` against AutoGluon-TimeSeries: the same data, windows, metric and minutes.

    python benchmarks/vs_autogluon.py --python <venv with autogluon.timeseries>/bin/python --minutes 5
    python benchmarks/vs_autogluon.py --python <venv>/bin/python --found <folder>

<folder> is what benchmarks/time_budget.py left in its --output; without it the searches are made here.
AutoGluon is given what the search of ours was given: each series up to the test part, training and validation together,
to divide as it likes, the models of its best preset but those from the Hub, and RMSE to choose by. What it found then
forecasts the same test windows from the same contexts, each window a series of its own; the time for that is on top of
its minutes, while ours are counted to the end of the report. Windows beyond `--series` are left out, evenly. The last
line is `RESULT sets=… ratio=…`, the geometric mean of our RMSE over theirs.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))

from time_budget import DATA_SETS, command, folder_of  # noqa: E402

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

FROM_THE_HUB = ["Chronos2", "Toto2"]
TIE = 0.005
"""Of RMSE."""


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", type=Path, help="interpreter of the environment with AutoGluon")
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared", help="holds data/ and cases/")
    parser.add_argument("--found", type=Path, help="folder of searches that are done; those missing are made here")
    parser.add_argument("--minutes", type=float, default=5.0, help="for each data set and side")
    parser.add_argument("--series", type=int, default=600, help="windows times targets to forecast, at most")
    parser.add_argument("--only", nargs="+", choices=DATA_SETS, default=list(DATA_SETS), help="which of them")
    parser.add_argument("--theirs", type=Path, help=argparse.SUPPRESS)  # the part that runs in their environment
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Run and print."""
    args = parse_args(argv)
    if args.theirs is not None:
        return fit_and_forecast(args.theirs)
    if args.python is None:
        print("error: --python: name the interpreter of an environment with autogluon.timeseries", file=sys.stderr)
        return 2
    print("| data | ours | RMSE | AutoGluon's best | RMSE | ours over AutoGluon | windows × targets |")
    print("|---|---|---:|---|---:|---:|---:|", flush=True)
    changes = []
    with tempfile.TemporaryDirectory() as scratch:
        for name in args.only:
            one, scratch_of = DATA_SETS[name], Path(scratch) / folder_of(name)
            scratch_of.mkdir()
            place = None if one.place is None else args.data / one.place
            if place is not None and not place.exists():
                print(f"{name} left out: {place} is not there", file=sys.stderr)
                continue
            found = scratch_of / "found" if args.found is None else args.found / folder_of(name)
            if not (found / "best/metrics.json").is_file():
                subprocess.run(command(one, place, found, args.minutes), check=True, stdout=subprocess.DEVNULL)
            ours = hand_over(found / "best", scratch_of, args.series, args.minutes)
            answer = subprocess.run([args.python, __file__, "--theirs", scratch_of], capture_output=True, text=True)
            if answer.returncode:
                reason = answer.stderr.strip().splitlines()[-1]
                print(f"| {name} | {ours['winner']} | {ours['rmse']:.4g} | failed: {reason} | | | |", flush=True)
                continue
            theirs = json.loads((scratch_of / "theirs.json").read_text())
            change = ours["rmse"] / theirs["rmse"] - 1
            changes.append(change)
            cells = [name, ours["winner"], f"{ours['rmse']:.4g}", theirs["model"], f"{theirs['rmse']:.4g}"]
            print(f"| {' | '.join(cells)} | {change:+.1%} | {ours['series']} |", flush=True)
    better, worse = sum(change < -TIE for change in changes), sum(change > TIE for change in changes)
    print(f"ours better {better}, worse {worse}, within {TIE:.1%} of each other {len(changes) - better - worse}")
    ratio = math.prod(1 + change for change in changes) ** (1 / max(len(changes), 1))
    print(f"RESULT sets={len(changes)} ratio={ratio:.3f}")
    return 0


def hand_over(run: Path, to: Path, most: int, minutes: float) -> dict:
    """Write what the other side gets.

    Args:
        run: folder of our winner, with its forecasts kept.
        to: gets `train.parquet`, `contexts.parquet`, `truth.parquet` and `task.json`.
        most: windows times targets.
        minutes: for the search of the other side.

    Returns:
        our winner, its RMSE on these windows, and how many series they are.
    """
    import numpy as np
    import pandas as pd

    sys.path.insert(0, str(ROOT / "scripts"))
    from tstune.config.managers import SimpleConfigManager
    from tstune.data.frequency import parse_frequency
    from tstune.data.panel import MISSING, rows_between
    from tstune.evaluation.record import FORECASTS_FILE, KeptForecasts
    from tstune.runs.compare.evaluate import configured_data

    data = configured_data(SimpleConfigManager().load_config(run / "config.yaml"))
    panel, names, test = data.panel, data.panel.roles.target, data.test
    step = parse_frequency(panel.frequency)
    winner = json.loads((run / "verdict.json").read_text())["model"]
    kept = pd.read_parquet(run / FORECASTS_FILE)
    scored = KeptForecasts.of(kept).windows[winner]
    chosen = np.arange(0, len(test), math.ceil(len(test) * len(names) / most))
    batch = test.__getitems__(chosen)
    origins = batch["origin"].numpy().astype("datetime64[s]").astype("datetime64[ns]")
    if not np.array_equal(kept["origin"].to_numpy().reshape(len(test), -1)[chosen, 0], origins):
        raise ValueError(f"{run}: its forecasts are not those of its windows")
    level = panel.level_of(batch["item"].numpy()) + np.zeros((len(chosen), len(names)))
    past = np.where(batch["past_observed_mask"], batch["past_values"], np.nan)[..., : len(names)] + level[:, None]
    truth = np.where(scored.observed, scored.truth, np.nan)[chosen] + level[:, None]
    contexts, truths = [], []
    for number, origin in enumerate(origins):
        times = pd.date_range(end=pd.Timestamp(origin) - step, periods=test.context_length, freq=step)
        for channel in range(len(names)):
            key = f"{number:06d} {channel}"
            contexts.append(series(key, times, past[number, :, channel]))
            truths.append(pd.DataFrame({"item_id": key, "truth": truth[number, :, channel]}))
    begin, end = data.split.bounds("train")[0], data.split.bounds("validation")[1]
    known, item = rows_between(panel, begin, end, slice(0, panel.num_rows)), panel.row_item()
    values = np.where(panel.status == MISSING, np.nan, panel.values) + panel.level_of(item)
    train = [
        series(f"{item_id} {channel}", panel.timestamps[rows], values[rows, channel])
        for rows, item_id in ((known & (item == number), item_id) for number, item_id in enumerate(panel.item_ids))
        for channel in range(len(names))
    ]
    for name, frames in (("train", train), ("contexts", contexts), ("truth", truths)):
        pd.concat(frames).to_parquet(to / f"{name}.parquet")
    task = {"horizon": test.prediction_length, "frequency": panel.frequency, "seconds": 60 * minutes}
    (to / "task.json").write_text(json.dumps(task))
    error = rmse(scored.forecast[chosen] + level[:, None], truth)
    found = json.loads((run.parent / "leaderboard.json").read_text())["winner"]
    return {"winner": found, "rmse": error, "series": len(contexts)}


def series(name: str, times: pd.DatetimeIndex, values: np.ndarray) -> pd.DataFrame:
    """One series from its first reading on, as AutoGluon reads it."""
    import numpy as np
    import pandas as pd

    read = np.flatnonzero(np.isfinite(values))
    first = read[0] if len(read) else len(values)
    return pd.DataFrame({"item_id": name, "timestamp": times[first:], "target": values[first:]})


def rmse(forecast: np.ndarray, truth: np.ndarray) -> float:
    """Where something was read."""
    import numpy as np

    return float(np.sqrt(np.nanmean((forecast - truth) ** 2)))


def fit_and_forecast(folder: Path) -> int:
    """Their side, in their environment: fit, forecast the windows, write `theirs.json`."""
    import pandas as pd
    from autogluon.timeseries import TimeSeriesDataFrame, TimeSeriesPredictor

    task = json.loads((folder / "task.json").read_text())
    frames = {}
    for name in ("train", "contexts"):
        frame = TimeSeriesDataFrame.from_data_frame(pd.read_parquet(folder / f"{name}.parquet"))
        frames[name] = frame.convert_frequency(task["frequency"])
    predictor = TimeSeriesPredictor(
        prediction_length=task["horizon"], freq=task["frequency"], eval_metric="RMSE", path=str(folder / "models")
    )
    predictor.fit(
        frames["train"], presets="best_quality", time_limit=task["seconds"], excluded_model_types=FROM_THE_HUB
    )
    found = predictor.predict(frames["contexts"])["mean"]
    truth = pd.read_parquet(folder / "truth.parquet")
    forecast = pd.concat([found.loc[key] for key in truth["item_id"].unique()])
    error = rmse(forecast.to_numpy(), truth["truth"].to_numpy())
    (folder / "theirs.json").write_text(json.dumps({"model": predictor.model_best, "rmse": error}))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
