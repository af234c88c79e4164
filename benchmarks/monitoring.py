"""Is a new model of sensor noticed, is a quiet year quiet, and does a challenger that was tuned afterwards win?

    python benchmarks/monitoring.py
    python benchmarks/monitoring.py --seed 101 --confidence 1e-4

Simulated people live a year twice, once with a new model of sensor from day 200 on. A ridge regression (6 hours back,
an hour ahead) learns from their first 60 days, is registered, and is monitored for each person alone. A month after the
change retune.py tunes a challenger on what was read since. DriftRule.confidence was chosen with --seed 101. The last
line is `RESULT people=… noticed_within_10_days=… quiet_people=… delay_days=… rmse_ratio=…`.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "scripts"))

from tstune.errors import EXIT_OK, exits_cleanly

if TYPE_CHECKING:
    import pandas as pd

    from tstune.runs.compare.monitoring import Monitored

NAME = "cgm"
SOON = 10.0
"""Days within which the change should be noticed."""


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--people", type=int, default=20, help="each is a draw of its own")
    parser.add_argument("--days", type=int, default=365)
    parser.add_argument("--new-sensor-day", type=int, default=200)
    parser.add_argument("--learned-days", type=int, default=60, help="what the champion learns from")
    parser.add_argument("--reference-days", type=float, default=30.0)
    parser.add_argument("--new-days", type=int, default=30, help="what the challenger learns from and is judged on")
    parser.add_argument("--confidence", type=float, help="of DriftRule (default: its own)")
    parser.add_argument("--seed", type=int, default=1)
    return parser.parse_args(argv)


@exits_cleanly
def main(argv: Sequence[str] | None = None) -> int:
    """Live, watch, retune, print."""
    args = parse_args(argv)
    from tstune.evaluation.drift import DriftRule
    from tstune.runs.compare.monitoring import monitor

    rule = DriftRule(args.reference_days, args.confidence or DriftRule().confidence)
    with tempfile.TemporaryDirectory() as scratch, contextlib.chdir(scratch):
        quiet, changed = (year(args, day) for day in (0, args.new_sensor_day))
        champion(args, changed)
        found = []
        for number, (person, own) in enumerate(changed.groupby("item_id")):
            unchanged = quiet[quiet["item_id"] == person]
            places = (f"changed-{number}", own), (f"quiet-{number}", unchanged)
            found.append(tuple(monitor("run", one, place, rule=rule) for place, one in places))
        change = changed["timestamp"].min() + day(args.new_sensor_day)
        delays, quiet_people = report(found, change)
        challenger = retuned(args, changed, change)
    print(
        f"RESULT people={len(found)} noticed_within_10_days={sum(delay <= SOON for delay in delays)} "
        f"quiet_people={quiet_people} delay_days={sorted(delays)[len(delays) // 2]:.2f} "
        f"rmse_ratio={1 + challenger['change']:.3f}"
    )
    return EXIT_OK


def day(number: float) -> pd.Timedelta:
    """So many days."""
    import pandas as pd

    return pd.Timedelta(days=number)


def year(args: argparse.Namespace, new_sensor_day: int) -> pd.DataFrame:
    """What the sensors of all people showed: item_id, timestamp, glucose."""
    from tstune.config.schema import DataSection
    from tstune.data.sources import load_source

    keys = {"people": args.people, "days": args.days, "seed": args.seed, "new_sensor_day": new_sensor_day}
    return load_source(DataSection(source="simulated_t1d", source_options=keys)).frame.dropna()


def champion(args: argparse.Namespace, readings: pd.DataFrame) -> None:
    """Train run/ on the first days and register it as cgm@champion."""
    from tstune.config.validation import validate
    from tstune.models.registry import model_class
    from tstune.registry import open_registry

    first = readings["timestamp"].min()
    readings[readings["timestamp"] < first + day(args.learned_days)].to_parquet("learned.parquet")
    values = {
        "model": {"type": "ridge", "context_length": 72, "prediction_length": 12},
        "data": {
            "source": "parquet",
            "path": "learned.parquet",
            "item_id_column": "item_id",
            "target_columns": ["glucose"],
            "unit": "mmol/L",
        },
        "evaluation": {"baselines": [], "report": False, "num_plots": 0},
        "output_dir": "run",
    }
    model_class("ridge")(validate(values, "champion")).fit(output_dir="run")
    open_registry("registry").register("run", NAME)
    open_registry("registry").set_alias(f"{NAME}:1", "champion")


def report(found: Sequence[tuple[Monitored, Monitored]], change: pd.Timestamp) -> tuple[list[float], int]:
    """Print what the watch of each person said; returns the delays in days, and who had no false alarm."""
    delays, alarms, watched, inside = [], [], 0.0, []
    for changed, quiet in found:
        after = [(one.found - change) / day(1) for one in changed.drifts if one.found >= change]
        delays.append(min(after, default=float("inf")))
        alarms.append([*quiet.drifts, *(one for one in changed.drifts if one.found < change)])
        times = quiet.table["timestamp"]
        watched += (times.max() - times.min()) / day(1) - quiet.rule.reference_days
        later = changed.weeks[changed.weeks["week"] >= change]
        inside.append((later["calibrated"].mean(), later["adapted"].mean()))
    years, false = watched / 365, sum(len({(one.signal, one.found) for one in own}) for own in alarms)
    calibrated, adapted = (sum(column) / len(inside) for column in zip(*inside, strict=True))
    signals = sorted({one.signal for own in alarms for one in own})
    print(f"the new sensor was noticed after {min(delays):.1f} to {max(delays):.1f} days")
    print(f"{false} false alarms in {years:.1f} quiet years, {false / years:.2f} a year {' '.join(signals)}")
    print(f"inside the 80 % interval afterwards: {calibrated:.1%} as calibrated, {adapted:.1%} adapted")
    return delays, sum(not own for own in alarms)


def retuned(args: argparse.Namespace, readings: pd.DataFrame, change: pd.Timestamp) -> dict:
    """Let retune.py decide on the days after the change; returns the comparison of its verdict."""
    import retune

    since, until = change, change + day(args.new_days)
    readings[readings["timestamp"] < until].to_parquet("new.parquet")
    words = ["--input", "new.parquet", "--since", str(since), "--output", "retuned", "--registry", "registry"]
    with contextlib.redirect_stdout(io.StringIO()) as said:
        code = retune.main([f"registry:{NAME}@champion", *words])
    judged = json.loads(Path("retuned/verdict/verdict.json").read_text())
    print(f"{judged['sentence']}\nretune.py ended with {code}: {said.getvalue().strip().splitlines()[-2]}")
    return judged["comparisons"][0]


if __name__ == "__main__":
    raise SystemExit(main())
