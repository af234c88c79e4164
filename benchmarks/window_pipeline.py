"""Windows per second of our loader and of granite-tsfm's `ForecastDFDataset` + `DataLoader`, on the same data.

    python benchmarks/window_pipeline.py
    python benchmarks/window_pipeline.py --path ETTh1.csv --repeats 9

The series has the shape of ETTh1 (17,420 hourly rows, 7 channels) and is generated from a seed; `--path` reads
the real file. First every window of both loaders is compared: they must be equal. Then both deliver all windows,
shuffled, in turn, round after round, on one core each; the figures are medians over the rounds. The last line is
`RESULT ratio=… ours=… granite=… gaps=… ratio_1_channel=…`, in windows per second, ratio for 7 channels. `gaps` is ours
where one row of a hundred is missing, so that masks are written (granite-tsfm's does not interpolate).
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "scripts"))

from tstune.errors import EXIT_OK, exits_cleanly

if TYPE_CHECKING:
    import pandas as pd
    from torch.utils.data import DataLoader, Dataset

    from tstune.data.windows import WindowDataset

CHANNELS = ("HUFL", "HULL", "MUFL", "MULL", "LUFL", "LULL", "OT")
CONTEXT, PREDICTION = 512, 96
COMPARED = ("past_values", "past_observed_mask", "future_values", "future_observed_mask")
OUR_PASSES = 5  # our pass takes a fraction of a second: several make it measurable


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--path", type=Path, help="a real ETTh1.csv instead of the generated series")
    parser.add_argument("--rows", type=int, default=17_420, help="length of the generated series")
    parser.add_argument("--batch-size", type=int, default=64, help="windows per batch, for both loaders")
    parser.add_argument("--repeats", type=int, default=5, help="rounds; each round times both loaders")
    return parser.parse_args(argv)


@exits_cleanly
def main(argv: Sequence[str] | None = None) -> int:
    """Compare, measure, print."""
    args = parse_args(argv)
    import torch

    from tstune.data.windows import window_loader
    from tstune.runtime.environment import keep_freed_memory
    from tstune.runtime.logs import setup_logging

    setup_logging()
    keep_freed_memory()  # as in every run
    torch.set_num_threads(1)  # granite-tsfm's loader works on one core, so ours gets no more
    frame = read_series(args.path) if args.path else generate_series(args.rows)
    print(f"{len(frame):,} rows, context {CONTEXT}, prediction {PREDICTION}, batches of {args.batch_size}, one thread")
    seven = compare_speed(frame, CHANNELS, args.batch_size, args.repeats)
    one = compare_speed(frame, CHANNELS[-1:], args.batch_size, args.repeats)
    gappy = window_loader(our_windows(frame, CHANNELS, missing_every=100), args.batch_size, shuffle=True)
    gaps = median(windows_per_second(gappy, OUR_PASSES) for _ in range(args.repeats))
    print(
        f"RESULT ratio={seven[0]:.1f} ours={seven[1]:.0f} granite={seven[2]:.0f} gaps={gaps:.0f} "
        f"ratio_1_channel={one[0]:.1f} ours_1_channel={one[1]:.0f} granite_1_channel={one[2]:.0f}"
    )
    return EXIT_OK


def compare_speed(
    frame: pd.DataFrame, channels: Sequence[str], batch_size: int, repeats: int
) -> tuple[float, float, float]:
    """Median (ratio, our windows/s, granite-tsfm's windows/s) over interleaved rounds."""
    from torch.utils.data import DataLoader

    from tstune.data.windows import window_loader

    ours, theirs = our_windows(frame, channels), granite_windows(frame, channels)
    require_equal(window_loader(ours, 256), DataLoader(theirs, 256))
    print(f"{len(channels)} channel(s): {len(ours):,} windows, equal in both loaders")
    our_loader = window_loader(ours, batch_size, shuffle=True)
    their_loader = DataLoader(theirs, batch_size, shuffle=True)
    rounds = []
    for number in range(1, repeats + 1):
        speed = {}
        # take turns at going first, so that neither always meets the warmer machine
        for name in ("ours", "granite")[:: 1 if number % 2 else -1]:
            loader, passes = (our_loader, OUR_PASSES) if name == "ours" else (their_loader, 1)
            speed[name] = windows_per_second(loader, passes)
        ratio = speed["ours"] / speed["granite"]
        rounds.append((ratio, speed["ours"], speed["granite"]))
        print(f"  round {number}: ours {speed['ours']:,.0f}, granite {speed['granite']:,.0f} windows/s, {ratio:.1f} x")
    return tuple(median(values) for values in zip(*rounds, strict=True))


def our_windows(frame: pd.DataFrame, channels: Sequence[str], missing_every: int | None = None) -> WindowDataset:
    """All windows of the whole series, the way a run builds them; without every so many-th row, interpolated."""
    import numpy as np

    from tstune.data.preprocess import build_panel
    from tstune.data.splits import Split, window_ranges
    from tstune.data.table import ITEM, TIMESTAMP, Roles, SourceTable
    from tstune.data.windows import WindowDataset

    long = frame[list(channels)].assign(**{ITEM: "ETTh1", TIMESTAMP: frame["date"]})
    if missing_every:
        long = long[long.index % missing_every != 1]
    max_gap = 1 if missing_every else 0
    panel = build_panel(SourceTable(long, Roles(target=tuple(channels))), frequency="h", max_gap=max_gap)
    ends = np.array([[len(frame)] * 3])
    everything = Split(ends, "strict", begins=np.zeros_like(ends), takes_part=np.ones_like(ends, bool))
    ranges = window_ranges(panel, everything, "train", CONTEXT, PREDICTION, stride=1)
    return WindowDataset(panel, ranges, CONTEXT, PREDICTION)


def granite_windows(frame: pd.DataFrame, channels: Sequence[str]) -> Dataset:
    """The same windows by granite-tsfm, as cheap as it can: single precision, no timestamps to carry along."""
    from tsfm_public import ForecastDFDataset

    return ForecastDFDataset(
        frame[list(channels)].astype("float32"),
        target_columns=list(channels),
        context_length=CONTEXT,
        prediction_length=PREDICTION,
    )


def require_equal(ours: DataLoader, theirs: DataLoader) -> None:
    """Compare every value and mask of every window."""
    import torch

    num_windows = len(ours.dataset)
    assert num_windows == len(theirs.dataset), f"{num_windows} windows of ours, {len(theirs.dataset)} of granite-tsfm"
    seen = 0
    for mine, other in zip(ours, theirs, strict=True):
        for name in COMPARED:
            assert torch.equal(mine[name], other[name].to(mine[name].dtype)), f"{name} differs after window {seen}"
        seen += len(mine["past_values"])
    assert seen == num_windows, f"{seen} of {num_windows} windows came out of the loaders"


def windows_per_second(loader: DataLoader, passes: int) -> float:
    """Deliver every window `passes` times."""
    begin = time.perf_counter()
    num_windows = sum(len(batch["past_values"]) for _ in range(passes) for batch in loader)
    return num_windows / (time.perf_counter() - begin)


def generate_series(rows: int) -> pd.DataFrame:
    """Hourly random walks with a daily season, seven of them, always the same."""
    import numpy as np
    import pandas as pd

    random = np.random.default_rng(0)
    hours = np.arange(rows)[:, None]
    phase = random.uniform(0, 2 * np.pi, len(CHANNELS))
    values = np.cumsum(random.normal(0, 0.2, (rows, len(CHANNELS))), axis=0) + np.sin(2 * np.pi * hours / 24 + phase)
    frame = pd.DataFrame(values.astype("float32"), columns=list(CHANNELS))
    frame.insert(0, "date", pd.date_range("2016-07-01", periods=rows, freq="h"))
    return frame


def read_series(path: Path) -> pd.DataFrame:
    """The real file, its numbers in single precision as both loaders deliver them."""
    from tstune.data.files import read_table
    from tstune.data.frame import read_numbers
    from tstune.data.times import parse_timestamps

    raw = read_table(path)
    frame = read_numbers(raw, CHANNELS, path).astype("float32")
    frame.insert(0, "date", parse_timestamps(raw["date"], None, path))
    return frame


if __name__ == "__main__":
    raise SystemExit(main())
