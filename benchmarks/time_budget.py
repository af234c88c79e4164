"""Does a time budget find the best forecaster, keep to its time, and know beforehand whether tuning pays?

    python benchmarks/time_budget.py --minutes 5
    python benchmarks/time_budget.py --data <folder> --only ETTh1 national_illness --minutes 1
    python benchmarks/time_budget.py --share

Runs scripts/autotune.py, a process of its own, on eight data sets of `--data` (data/ett, data/brist1d_open, … and one
vendor's export of cases/); those that are not there are left out with a line. A winner is worse than the best single
baseline where the 95 % interval on the test windows says so. The last line is `RESULT sets=… not_worse=… in_budget=…
signs_right=… signs=…`.

With --share a search of national_illness, 60 steps a training, goes to its end, everything tried: by one process, then
by two at once, one thread each. The last line is `RESULT one=… two=… ratio=…`, in seconds.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
WITHIN = 1.15
"""Of the minutes, start of Python included."""


@dataclass(frozen=True)
class DataSet:
    """What is given to the search.

    Attributes:
        place: below `--data`; None ships with a package.
        recipe: below recipes/, None gives the place itself.
        words: further ones of the command.
    """

    place: str | None
    recipe: str | None = None
    words: tuple[str, ...] = ()


DATA_SETS = {
    "cgm_sample": DataSet(None, "ttm/cgm_sample/demo.yaml"),
    "brist1d_open, 1 h": DataSet("data/brist1d_open", "ttm/brist1d_open/one_hour.yaml"),
    "t1d_uom": DataSet("data/t1d_uom", "ttm/t1d_uom/glucose.yaml"),
    "vendor export": DataSet("cases/files/v01-dexcom-clarity", None, ("--horizon", "1h")),
    "ETTh1": DataSet("data/ett/ETTh1.csv", "ttm/etth1/decoder.yaml", ("model.pretrained=builtin",)),
    "electricity_weekly": DataSet("data/monash/electricity_weekly_dataset.tsf.gz"),
    "traffic_weekly": DataSet("data/monash/traffic_weekly_dataset.tsf.gz"),
    "national_illness": DataSet("data/monash/national_illness.csv"),
}


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared", help="holds data/ and cases/")
    parser.add_argument("--minutes", type=float, default=5.0, help="for each data set")
    parser.add_argument("--only", nargs="+", choices=DATA_SETS, default=list(DATA_SETS), help="which of them")
    parser.add_argument("--share", action="store_true", help="time two processes that share one search")
    parser.add_argument("--output", type=Path, help="keep what is found here; left out: thrown away")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Run and print."""
    args = parse_args(argv)
    if args.share:
        return share(args.data)
    print("| data | winner | RMSE, test | against the best single baseline | tuning: expected, found | seconds |")
    print("|---|---|---:|---|---|---:|", flush=True)
    checks = []
    with tempfile.TemporaryDirectory() as scratch:
        for name in args.only:
            one, folder = DATA_SETS[name], (args.output or Path(scratch)) / folder_of(name)
            place = None if one.place is None else args.data / one.place
            if place is not None and not place.exists():
                print(f"{name} left out: {place} is not there", file=sys.stderr)
                continue
            begin = time.perf_counter()
            answer = subprocess.run(command(one, place, folder, args.minutes), capture_output=True, text=True)
            seconds = time.perf_counter() - begin
            if answer.returncode:
                print(
                    f"| {name} | failed: {answer.stderr.strip().splitlines()[-1]} | | | | {seconds:.0f} |", flush=True
                )
                checks.append((False, False, None))
                continue
            cells, check = row(folder)
            in_time = seconds <= WITHIN * 60 * args.minutes
            print(f"| {name} | {' | '.join(cells)} | {seconds:.0f} of {60 * args.minutes:.0f} |", flush=True)
            checks.append((check[0], in_time, check[1]))
    not_worse, in_budget, signs = zip(*checks, strict=True) if checks else ((), (), ())
    told = [sign for sign in signs if sign is not None]
    right = f" signs_right={sum(told)} signs={len(told)}" if told else ""
    print(f"RESULT sets={len(checks)} not_worse={sum(not_worse)} in_budget={sum(in_budget)}{right}")
    return 0


def share(data: Path) -> int:
    """Time one search by one process and by two."""
    one, seconds = DATA_SETS["national_illness"], []
    with tempfile.TemporaryDirectory() as scratch:
        for count in (1, 2):
            words = command(one, data / one.place, Path(scratch) / str(count), 60.0)
            words += ["training.max_steps=60", "training.eval_every_steps=20"]
            begin = time.perf_counter()
            processes = [
                subprocess.Popen(words, env=os.environ | {"OMP_NUM_THREADS": "1"}, stdout=subprocess.DEVNULL)
                for _ in range(count)
            ]
            codes = [process.wait() for process in processes]
            if any(codes):
                return 1
            seconds.append(time.perf_counter() - begin)
            board = json.loads((Path(scratch) / str(count) / "leaderboard.json").read_text())
            print(
                f"{count}: {len(board['rows'])} candidates, {seconds[-1]:.0f} s, winner {board['winner']}", flush=True
            )
    print(f"RESULT one={seconds[0]:.1f} two={seconds[1]:.1f} ratio={seconds[1] / seconds[0]:.3f}")
    return 0


def folder_of(name: str) -> str:
    """Where the search of a data set lies."""
    return name.replace(", ", "_").replace(" ", "_")


def command(one: DataSet, place: Path | None, folder: Path, minutes: float) -> list[str]:
    """The words of one search."""
    given = str(place) if one.recipe is None else str(ROOT / "recipes" / one.recipe)
    words = [sys.executable, str(ROOT / "scripts/autotune.py"), "--data", given, f"--minutes={minutes:g}"]
    moved = [f"data.path={place}"] if one.recipe is not None and place is not None else []
    return [*words, "--output", str(folder), *one.words, "evaluation.keep_forecasts=true", *moved]


def shown(change: float) -> str:
    """As a percentage; draws of few blocks may be without end."""
    return f"{change:+.1%}" if change <= 10 else "over +1000%"


def percent(interval: dict) -> str:
    """A change of RMSE with its interval."""
    low, high = interval["low"], interval["high"]
    return f"{shown(interval['change'])} ({'no interval' if low is None else f'{shown(low)} to {shown(high)}'})"


def row(folder: Path) -> tuple[list[str], tuple[bool, bool | None]]:
    """Cells of a data set, and (not worse than the best baseline, the sign of what tuning brings was foretold)."""
    board = json.loads((folder / "leaderboard.json").read_text())
    judged = json.loads((folder / "best/verdict.json").read_text())
    scores = json.loads((folder / "best/metrics.json").read_text())["test"]
    own, untuned = judged["model"], ("zero_shot", "average", "fine_tuned", "per_item")
    baselines = {name: values["rmse"] for name, values in scores.items() if name not in untuned}
    best = min(baselines, key=baselines.get)
    against = next(one for one in judged["comparisons"] if one["reference"] == best)
    pays, said, right = folder / "will_tuning_pay.json", "no time to ask", None
    if pays.is_file():
        told = json.loads(pays.read_text())
        true = told["found"].get("test") or told["found"].get("validation")
        said = f"{percent(told['curve']['1.0'])}; {'not tuned' if true is None else percent(true)}"
        right = None if true is None else true["same_sign"]
    cells = [board["winner"], f"{scores[own]['rmse']:.4g}", f"{percent(against)}, {best}", said]
    return cells, (against["low"] is None or against["low"] <= 0, right)


if __name__ == "__main__":
    raise SystemExit(main())
