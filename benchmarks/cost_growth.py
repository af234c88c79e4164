"""How seconds and memory grow with windows, channels, items and context, each over three decades.

    python benchmarks/cost_growth.py
    python benchmarks/cost_growth.py --output growth.png

Random walks, from a table in memory to scores: `prepare_data` (checks, cleaning, panel, parts, leak check, windows),
one epoch of training with its validation, and a `Backtest` of the test windows, by a network that costs next to nothing
(means of 16 stretches, one linear layer). One axis grows while the others stay. Every point runs in a process of its
own, on one thread, forked from one that has loaded the libraries, after a small panel that warms it up. Seconds are
those of the processor; memory is the highest resident size that the kernel saw (VmHWM) over the size before. Points
take turns, round after round; the figures are medians. An exponent is the slope over the last decade, where constant
costs weigh least; that of n log n is a little above 1. The last line is
`RESULT windows_seconds=… windows_memory=… … worst=…`: the exponents, and the largest growth of any of the eight over
the last decade divided by that of n log n, which should not be above 1.
"""

from __future__ import annotations

import argparse
import math
import multiprocessing
import os
import re
import sys
import time
from collections.abc import Mapping, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "scripts"))

from tstune.errors import EXIT_OK, exits_cleanly

if TYPE_CHECKING:
    from tstune.data.prepared import PreparedData
    from tstune.models.base import BaseTimeSeriesFoundationModel

AHEAD, BATCH = 8, 256
SIZES = {
    "windows": [1000, 10_000, 100_000, 1_000_000],
    "channels": [1, 10, 100, 1000],
    "items": [10, 100, 1000, 10_000],
    "context": [16, 160, 1600, 16_000],
}
"""Axis -> what it is grown to; all else is small."""
PHASES = ("prepare", "train", "judge")
LIBRARIES = ["pandas", "torch", "tstune.models.base", "tstune.evaluation.backtest", "tstune.training.loop"]


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--axes", nargs="+", choices=list(SIZES), default=list(SIZES))
    parser.add_argument("--decades", type=int, choices=(1, 2, 3), default=3, help="how far each axis grows")
    parser.add_argument("--repeats", type=int, default=3, help="rounds; each measures every point")
    parser.add_argument("--output", type=Path, help="figure to write (.png, .svg)")
    return parser.parse_args(argv)


@exits_cleanly
def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, draw."""
    args = parse_args(argv)
    points = [(axis, size) for axis in args.axes for size in SIZES[axis][: args.decades + 1]]
    multiprocessing.get_context("forkserver").set_forkserver_preload(LIBRARIES)
    rounds = [{point: in_a_process(*point) for point in points} for _ in range(args.repeats)]
    found = {point: {name: median(one[point][name] for one in rounds) for name in rounds[0][point]} for point in points}
    for (axis, size), figures in found.items():
        seconds = ", ".join(f"{phase} {figures[phase]:.3f} s" for phase in PHASES)
        print(f"{axis} {size:,}: {figures['seconds']:.3f} s ({seconds}), {figures['memory']:.1f} MiB")
    exponents, worst = {}, 0.0
    for axis in args.axes:
        before, last = SIZES[axis][args.decades - 1 : args.decades + 1]
        for name in (*PHASES, "seconds", "memory"):
            growth = found[axis, last][name] / found[axis, before][name]
            slope = math.log(growth, last / before)
            print(f"{axis}, {name}: exponent {slope:.2f} from {before:,} to {last:,}")
            if name not in PHASES:
                exponents[f"{axis}_{name}"] = max(slope, 0.001)  # a cost may be lost in the constant ones
                worst = max(worst, growth / (last / before * math.log(last) / math.log(max(before, 2))))
    if args.output is not None:
        draw(found, args.output)
    told = " ".join(f"{name}={value:.3f}" for name, value in exponents.items())
    print(f"RESULT {told} worst={worst:.3f}")
    return EXIT_OK


def in_a_process(axis: str, size: int) -> dict[str, float]:
    """Seconds of each phase and of all, and MiB, of one point."""
    server = multiprocessing.get_context("forkserver")
    ours, theirs = server.Pipe()
    process = server.Process(target=measure, args=(theirs, axis, size))
    process.start()
    theirs.close()
    try:
        figures = ours.recv()
    except EOFError:
        raise SystemExit(f"{axis} {size}: the process ended without figures") from None
    process.join()
    print(f"  {axis} {size:,}: {figures['seconds']:.2f} s, load {os.getloadavg()[0]:.1f}", file=sys.stderr, flush=True)
    return figures


def measure(answer: Connection, axis: str, size: int) -> None:
    """What a process does: all phases once on a small panel, then on that of the point."""
    import logging

    import torch

    from tstune.runtime.logs import setup_logging

    setup_logging()
    logging.getLogger("tstune").setLevel(logging.ERROR)
    torch.set_num_threads(1)
    run_phases(**shape("items", 10))
    before = resident("VmRSS")
    figures = run_phases(**shape(axis, size))
    answer.send(figures | {"seconds": sum(figures.values()), "memory": max(0.1, resident("VmHWM") - before)})


def resident(name: str) -> float:
    """MiB of this process, by the kernel."""
    return int(re.search(rf"^{name}:\s+(\d+) kB$", Path("/proc/self/status").read_text(), re.MULTILINE)[1]) / 1024


def shape(axis: str, size: int) -> dict[str, int]:
    """Items, training windows of each, channels and context of the panel of a point."""
    plain = {"items": 1, "windows": 1000, "channels": 1, "context": 32}
    if axis == "items":
        plain["windows"] = 100
    if axis == "channels":
        plain["windows"] = 200
    return plain | {axis: size}


def run_phases(items: int, windows: int, channels: int, context: int) -> dict[str, float]:
    """Seconds of the processor from a table to windows, of one epoch, and of scores."""
    import numpy as np
    import pandas as pd

    from tstune.config.schema import DataSection, EvaluationSection, SplitSection
    from tstune.data.prepared import prepare_data
    from tstune.data.table import ITEM, TIMESTAMP, Roles, SourceTable
    from tstune.evaluation.backtest import Backtest
    from tstune.runtime.distributed import DistributedManager

    judged = max(10, windows // 10)  # windows of the validation and of the test part
    ends = np.cumsum([count + context + AHEAD - 1 for count in (windows, judged, judged)])
    rows = int(ends[-1])
    names = [f"c{number}" for number in range(channels)]
    walks = np.random.default_rng(0).normal(size=(items, rows, channels)).cumsum(axis=1).reshape(-1, channels)
    table = pd.DataFrame(walks.astype("float32"), columns=names)
    table.insert(0, ITEM, np.repeat([f"item{number:05d}" for number in range(items)], rows))
    table.insert(1, TIMESTAMP, np.tile(pd.date_range("2020-01-01", periods=rows, freq="min"), items))
    strides = {f"{part}_stride": 1 for part in ("train", "validation", "test")}
    section = DataSection(split=SplitSection(borders=tuple(map(int, ends))), **strides)
    begin = time.process_time()
    source = SourceTable(table, Roles(target=tuple(names)), frequency="min")
    data = prepare_data(section, context, AHEAD, source)
    prepared = time.process_time()
    model, manager = tiny_forecaster(context, data), DistributedManager()
    model.train_on(data, manager)
    counts = [len(data.windows[part]) for part in ("train", "validation", "test")]
    assert counts == [items * windows, items * judged, items * judged], counts
    trained = time.process_time()
    Backtest(data, EvaluationSection(seasonality=1), manager).score(model)
    scored = time.process_time()
    return dict(zip(PHASES, (prepared - begin, trained - prepared, scored - trained), strict=True))


def tiny_forecaster(context: int, data: PreparedData) -> BaseTimeSeriesFoundationModel:
    """Means of 16 stretches of the context, and a linear layer."""
    import torch
    from torch import nn

    from tstune.config.schema import RunConfig, TrainingSection, TuningSection
    from tstune.config.section import OwnModelSection
    from tstune.models.base import BaseTimeSeriesFoundationModel

    class Stretches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.pool, self.head = nn.AdaptiveAvgPool1d(16), nn.Linear(16, AHEAD)

        def forward(self, past_values: torch.Tensor, past_observed_mask: torch.Tensor) -> torch.Tensor:
            return self.head(self.pool(past_values.transpose(1, 2))).transpose(1, 2)

    class Tiny(BaseTimeSeriesFoundationModel):
        def _initialize_model(self) -> None:
            self.model = Stretches()

    config = RunConfig(
        model=OwnModelSection(type="cost_growth:Tiny", context_length=context, prediction_length=AHEAD),
        tuning=TuningSection(mode="from_scratch"),
        training=TrainingSection(num_epochs=1, per_device_batch_size=BATCH),
    )
    model = Tiny(config)
    model.build(data.preprocessor)
    return model


def draw(found: Mapping[tuple[str, int], Mapping[str, float]], path: Path) -> None:
    """Both costs over each axis, both scales logarithmic, with a line that grows as n log n through the last point."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    axes = list(dict.fromkeys(axis for axis, _ in found))
    figure, plots = plt.subplots(2, len(axes), figsize=(3.4 * len(axes), 6), squeeze=False, layout="constrained")
    for column, axis in enumerate(axes):
        sizes = [size for one, size in found if one == axis]
        for plot, names, unit in zip(plots[:, column], ((*PHASES, "seconds"), ("memory",)), ("s", "MiB"), strict=True):
            for name in names:
                plot.loglog(sizes, [found[axis, size][name] for size in sizes], marker="o", label=name)
            last = found[axis, sizes[-1]][names[-1]] / (sizes[-1] * math.log(sizes[-1]))
            bound = [max(size, 2) * math.log(max(size, 2)) * last for size in sizes]
            plot.loglog(sizes, bound, color="grey", linestyle=":", label="n log n")
            plot.set(xlabel=axis, ylabel=unit)
            plot.legend(fontsize="small")
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    raise SystemExit(main())
