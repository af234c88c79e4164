"""Memory and speed of a run whose series are mapped from `data.cache` instead of held in memory.

    python benchmarks/large_panel.py
    python benchmarks/large_panel.py --items 200 --repeats 3

Writes a long Parquet table of random walks with a daily season (20 million rows by default) and runs
`scripts/finetune_ttm.py` on it for one step from the built-in weights: with an empty cache, with the panel that this
left there, and without a cache. Peak memory is that of each process as a whole, start included: `peak` is the largest
resident size (VmHWM; pages of mapped files count, although the system can take them back), `anonymous` the largest
size of what cannot be taken back (RssAnon, looked at every 10 ms). Then shuffled windows are fetched from the mapped
panel and from a copy in memory, in turn, one thread each; the windows are compared. The last line is
`RESULT peak_gb=… ratio=…`, ratio = windows per second in memory over mapped.
"""

from __future__ import annotations

import argparse
import itertools
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from mmap import mmap
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "scripts"))

from tstune.errors import EXIT_OK, exits_cleanly

if TYPE_CHECKING:
    from tstune.data.windows import WindowDataset

ROOT = Path(__file__).resolve().parents[1]
CONTEXT, PREDICTION = 512, 96
ITEMS_PER_WRITE = 50


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=2000, help="series of the table")
    parser.add_argument("--rows", type=int, default=10_000, help="rows of each series")
    parser.add_argument("--batch-size", type=int, default=64, help="windows per batch")
    parser.add_argument("--windows", type=int, default=200_000, help="windows fetched per round and side")
    parser.add_argument("--repeats", type=int, default=5, help="rounds; each times both sides")
    return parser.parse_args(argv)


@exits_cleanly
def main(argv: Sequence[str] | None = None) -> int:
    """Generate, train, measure, print."""
    args = parse_args(argv)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        table = folder / "series.parquet"
        write_table(table, args.items, args.rows)
        size = table.stat().st_size / 1e9
        print(f"{args.items * args.rows:,} rows, {size:.2f} GB of Parquet, load {os.getloadavg()[0]:.1f}", flush=True)
        runs = {}
        for name, cache in (("first", folder / "cache"), ("again", folder / "cache"), ("in_memory", None)):
            runs[name] = run = train_one_step(table, cache, folder / name, args.rows)
            print(f"{name}: {run.seconds:.1f} s, peak {run.peak:.2f} GB, anonymous {run.anonymous:.2f} GB", flush=True)
        speed = compare_speed(table, folder / "cache", args)
    figures = {
        "peak_gb": f"{max(runs['first'].peak, runs['again'].peak):.3f}",
        "anonymous_gb": f"{max(runs['first'].anonymous, runs['again'].anonymous):.3f}",
        "in_memory_peak_gb": f"{runs['in_memory'].peak:.3f}",
        "first_seconds": f"{runs['first'].seconds:.1f}",
        "again_seconds": f"{runs['again'].seconds:.1f}",
        "in_memory_seconds": f"{runs['in_memory'].seconds:.1f}",
        "ratio": f"{speed['ratio']:.2f}",
        "mapped": f"{speed['mapped']:.0f}",
        "in_memory": f"{speed['in_memory']:.0f}",
    }
    print("RESULT " + " ".join(f"{name}={value}" for name, value in figures.items()))
    return EXIT_OK


def write_table(path: Path, items: int, rows: int) -> None:
    """Five-minute random walks around a daily season, the same for the same arguments, some items at a time."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    random = np.random.default_rng(0)
    stamps = np.datetime64("2024-01-01", "us") + np.arange(rows) * np.timedelta64(5, "m")
    season = 10 * np.sin(2 * np.pi * np.arange(rows) / 288)
    schema = pa.schema({"item_id": pa.string(), "timestamp": pa.timestamp("us"), "load": pa.float32()})
    with pq.ParquetWriter(path, schema) as writer:
        for first in range(0, items, ITEMS_PER_WRITE):
            count = min(ITEMS_PER_WRITE, items - first)
            walks = 100 + season + np.cumsum(random.normal(0, 0.5, (count, rows)), axis=1)
            names = [f"item{first + number:05d}" for number in range(count)]
            columns = [np.repeat(names, rows), np.tile(stamps, count), walks.reshape(-1).astype(np.float32)]
            writer.write_table(pa.table(columns, schema=schema))


@dataclass(frozen=True)
class Run:
    """What a process needed: seconds, and gigabytes at its peak."""

    seconds: float
    peak: float
    anonymous: float


def train_one_step(table: Path, cache: Path | None, output_dir: Path, rows: int) -> Run:
    """Run the training script and watch its memory."""
    settings = {
        "data.source": "parquet",
        "data.path": table,
        "data.cache": "null" if cache is None else cache,
        "data.item_id_column": "item_id",
        "data.target_columns": "[load]",
        "data.validation_stride": rows,  # one window per series is enough to judge a single step
        "data.test_stride": rows,
        "model.pretrained": "builtin",
        "model.context_length": CONTEXT,
        "model.prediction_length": PREDICTION,
        "data.split.mode": "deployment",
        "tuning.mode": "full",
        "training.max_steps": 1,
        "evaluation.baselines": "[persistence]",
        "evaluation.num_plots": 0,
        "output_dir": output_dir,
    }
    recipe = output_dir.parent / "recipe.yaml"
    recipe.write_text("")
    command = [sys.executable, str(ROOT / "scripts" / "finetune_ttm.py"), "--config", str(recipe)]
    command += [f"{key}={value}" for key, value in settings.items()]
    begin, peak, anonymous = time.perf_counter(), 0.0, 0.0
    with (output_dir.parent / f"{output_dir.name}.log").open("w+") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=os.environ | {"HF_HUB_OFFLINE": "1"})
        while process.poll() is None:
            status = Path(f"/proc/{process.pid}/status").read_text()
            peak, anonymous = max(peak, _gigabytes("VmHWM", status)), max(anonymous, _gigabytes("RssAnon", status))
            time.sleep(0.01)
        log.seek(0)
        if process.returncode:
            raise RuntimeError(f"the training failed:\n{log.read()}")
    return Run(time.perf_counter() - begin, peak, anonymous)


def _gigabytes(name: str, status: str) -> float:
    found = re.search(rf"^{name}:\s+(\d+) kB$", status, re.MULTILINE)
    return int(found[1]) * 1024 / 1e9 if found else 0.0


def compare_speed(table: Path, cache: Path, args: argparse.Namespace) -> dict[str, float]:
    """Medians of windows per second, mapped and in memory, over interleaved rounds."""
    from dataclasses import replace

    import numpy as np
    import torch

    from tstune.config.schema import DataSection
    from tstune.data.prepared import prepare_data
    from tstune.data.windows import WindowDataset
    from tstune.runtime.logs import setup_logging

    setup_logging()
    torch.set_num_threads(1)
    section = DataSection(
        source="parquet",
        path=str(table),
        cache=str(cache),
        item_id_column="item_id",
        target_columns=["load"],
        validation_stride=args.rows,
        test_stride=args.rows,
        split={"mode": "deployment"},
    )
    mapped = prepare_data(section, CONTEXT, PREDICTION).train
    arrays = {name: np.array(getattr(mapped.panel, name)) for name in ("values", "status", "timestamps")}
    panel = replace(mapped.panel, **arrays)
    assert is_mapped(mapped.panel.values)
    assert not is_mapped(panel.values)
    sides = {"mapped": mapped, "in_memory": WindowDataset(panel, mapped.ranges, CONTEXT, PREDICTION)}
    require_equal(*sides.values())
    rounds = []
    for number in range(args.repeats):
        speed = {}
        for name in list(sides)[:: 1 if number % 2 else -1]:  # neither always meets the warmer machine
            speed[name] = windows_per_second(sides[name], args.batch_size, args.windows, number)
        rounds.append(speed | {"ratio": speed["in_memory"] / speed["mapped"]})
        shown = f"mapped {speed['mapped']:,.0f}, in memory {speed['in_memory']:,.0f} windows/s"
        print(f"  round {number + 1}: {shown}", flush=True)
    return {name: median(values[name] for values in rounds) for name in rounds[0]}


def is_mapped(values: object) -> bool:
    """Whether an array is a view of a file."""
    while values is not None and not isinstance(values, mmap):
        values = getattr(values, "base", None)
    return values is not None


def require_equal(one: WindowDataset, other: WindowDataset) -> None:
    """Compare a few thousand windows."""
    import numpy as np
    import torch

    some = np.random.default_rng(1).integers(len(one), size=4096)
    first, second = one.__getitems__(some), other.__getitems__(some)
    assert first.keys() == second.keys()
    for name in first:
        assert torch.equal(first[name], second[name]), f"{name} of mapped windows differs"


def windows_per_second(windows: WindowDataset, batch_size: int, count: int, epoch: int) -> float:
    """Fetch shuffled windows; drawing the order of the epoch is not counted, it is the same on both sides."""
    from tstune.data.windows import training_loader

    loader = training_loader(windows, batch_size, seed=0)
    loader.batch_sampler.set_epoch(epoch)
    batches = iter(loader)
    next(batches)
    begin = time.perf_counter()
    fetched = sum(len(batch["start"]) for batch in itertools.islice(batches, max(1, count // batch_size)))
    return fetched / (time.perf_counter() - begin)


if __name__ == "__main__":
    raise SystemExit(main())
