"""Time and memory of rebuilding the long series from files of the size of the Kaggle competition brist1d.

    python benchmarks/kaggle_conversion.py
    python benchmarks/kaggle_conversion.py --rows 20000

Simulated people, nine of them in train.csv (177,024 rows x 508 columns) and fifteen in test.csv, in the competition's
layout; three have fifteen-minute sensors, and everybody has outages. `scripts/prepare_brist1d.py` then runs as a
process of its own, whose peak memory is what counts. Every value of the result is compared with the simulated series.
The last line is `RESULT seconds=… peak_gb=… rows_per_second=…`.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "scripts"))

from tstune.errors import EXIT_OK, exits_cleanly
from tstune.runtime.children import Child

ROOT = Path(__file__).resolve().parents[1]
FULL_ROWS = 177_024
SEEN, UNSEEN = 9, 6
FIFTEEN_MINUTES = (0, 4, 5)
OUTAGE, OUTAGE_EVERY = 30, 2000  # steps: two and a half hours without glucose, once a week


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=FULL_ROWS, help="rows of train.csv, about")
    return parser.parse_args(argv)


@exits_cleanly
def main(argv: Sequence[str] | None = None) -> int:
    """Generate, convert, compare, print."""
    args = parse_args(argv)
    sys.path.insert(0, str(ROOT / "tests" / "data"))  # the generator is the one of the tests
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        num_rows = write_files(folder, args.rows)
        size = sum(path.stat().st_size for path in folder.glob("*.csv")) / 1e9
        print(f"{num_rows:,} rows, {size:.2f} GB of text, load {os.getloadavg()[0]:.1f}", flush=True)
        command = [sys.executable, str(ROOT / "scripts" / "prepare_brist1d.py")]
        command += ["--input", place, "--output", str(folder / "brist1d.parquet")]
        begin = time.perf_counter()
        with Child(command, folder / "said.log") as child:
            while not child.has_ended:
                time.sleep(0.02)
        seconds, peak = time.perf_counter() - begin, child.peak_memory_mib * 2**20 / 1e9
        if child.code:
            raise RuntimeError(f"the conversion failed: {child.why()}")
        print(f"{compare(folder / 'brist1d.parquet', args.rows):,} values are those that were simulated")
    print(f"RESULT seconds={seconds:.2f} peak_gb={peak:.3f} rows_per_second={num_rows / seconds:.0f}")
    return EXIT_OK


def people(num_rows: int) -> list:
    """The nine of train.csv; one with a fifteen-minute sensor has a third of the rows of another."""
    from kaggle_files import Person

    thirds = 3 * SEEN - 2 * len(FIFTEEN_MINUTES)
    steps = round(3 * num_rows / thirds * (OUTAGE_EVERY + OUTAGE) / OUTAGE_EVERY) + 84
    found = []
    for number in range(SEEN):
        sampling = 3 if number in FIFTEEN_MINUTES else 1
        outages = tuple((begin, OUTAGE) for begin in range(450, steps - OUTAGE, OUTAGE_EVERY))
        found.append(Person(f"p{number + 1:02d}", steps, sampling, 7 * number, number, outages))
    return found


def write_files(folder: Path, num_rows: int) -> int:
    """Write train.csv and test.csv; returns the rows of train.csv."""
    from kaggle_files import Person, write_folder

    unseen = [Person(f"p{number + 11:02d}", 0, seed=number) for number in range(UNSEEN)]
    num_test = max(2, 3644 * num_rows // FULL_ROWS // (SEEN + UNSEEN))
    truths = write_folder(folder, people(num_rows), unseen, num_test)
    return sum(len(truth.rows) for truth in truths)


def compare(prepared: Path, num_rows: int) -> int:
    """How many values of train.csv were rebuilt; stops at the first that differs from the simulated one."""
    import numpy as np
    from kaggle_files import LAGS, NUMBERS, simulate, training_rows

    from tstune.data.sources.kaggle_brist1d import read_prepared, report_of

    table = read_prepared(prepared, "train")
    doubts = {name: sum(report_of(table)[name].values()) for name in ("conflicts", "partly_empty")}
    if any(doubts.values()) or report_of(table)["segments"]["train"] != SEEN:
        raise AssertionError(f"the generator makes one segment each and no conflict: {doubts}")
    frame, count = table.to_pandas(), 0
    for person in people(num_rows):
        mine = frame[frame["item_id"] == person.name]
        since = (mine["timestamp"] - mine["timestamp"].iloc[0]).dt.total_seconds().to_numpy()
        rebuilt = mine[list(NUMBERS)].to_numpy().T
        true = training_rows(simulate(person))
        truth = true.values[:, true.rows[0] - len(LAGS) + 1 + (since / 300).astype(int)]
        lags = mine["in_lags"].to_numpy()
        np.testing.assert_array_equal(rebuilt[0], truth[0])
        np.testing.assert_array_equal(rebuilt[:, lags], truth[:, lags])
        count += int((~np.isnan(rebuilt)).sum())
    return count


if __name__ == "__main__":
    raise SystemExit(main())
