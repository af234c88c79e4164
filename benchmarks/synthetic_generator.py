"""Windows per second of the synthetic generator and of the training step that consumes them, one core each.

    python benchmarks/synthetic_generator.py
    python benchmarks/synthetic_generator.py --batch-size 512 --repeats 9

The generator makes batches of 512 past and 96 future steps with the default recipe. The consumer is a TTM in the
architecture of TTM-r2 (805,280 parameters), trained in full: forward, masked loss, backward, clip, AdamW step, on such
batches that lie ready in memory. They run in turn, round after round, in one process with one thread; the figures are
medians over the rounds. The last line is `RESULT ratio=… generator=… training=…`, in windows per second. A ratio of 3
means that a loader without worker processes spends a quarter of its time on generation, and that one worker process
feeds three training processes.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "scripts"))
# One core each; read when numpy is imported.
os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"

from tstune.errors import EXIT_OK, exits_cleanly

if TYPE_CHECKING:
    from tstune.data.synthetic import SyntheticWindows
    from tstune.data.windows import Batch
    from tstune.models.ttm import TTMForecaster

CONTEXT, PREDICTION = 512, 96
SEED = 0


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch-size", type=int, default=256, help="windows per batch, for both")
    parser.add_argument("--generated", type=int, default=40, help="batches to generate per round")
    parser.add_argument("--steps", type=int, default=10, help="optimizer steps per round")
    parser.add_argument("--repeats", type=int, default=5, help="rounds; each round times both")
    return parser.parse_args(argv)


@exits_cleanly
def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print."""
    args = parse_args(argv)
    import torch

    from tstune.data.synthetic import SyntheticWindows
    from tstune.runtime.logs import logger, setup_logging

    setup_logging()
    logger.setLevel("WARNING")
    torch.set_num_threads(1)
    windows = SyntheticWindows(CONTEXT, PREDICTION, num_windows=10**9, seed=SEED)
    step = Trainer(new_model())
    ready = [windows.__getitems__(range(i * args.batch_size, (i + 1) * args.batch_size)) for i in range(4)]
    step.run(ready[:1])  # warm-up
    print(
        f"{step.num_parameters:,} parameters, context {CONTEXT}, prediction {PREDICTION}, "
        f"batches of {args.batch_size}, one thread"
    )
    rounds = []
    for number in range(1, args.repeats + 1):
        speed = {}
        # take turns at going first, so that neither always meets the warmer machine
        for name in ("generator", "training")[:: 1 if number % 2 else -1]:
            begin = time.perf_counter()
            if name == "generator":
                count = generate(windows, number, args.generated, args.batch_size)
            else:
                count = step.run([ready[i % len(ready)] for i in range(args.steps)])
            speed[name] = count / (time.perf_counter() - begin)
        rounds.append((speed["generator"] / speed["training"], speed["generator"], speed["training"]))
        print(
            f"  round {number}: generator {speed['generator']:,.0f}, training {speed['training']:,.0f} windows/s, "
            f"{rounds[-1][0]:.1f} x"
        )
    ratio, generated, trained = (median(values) for values in zip(*rounds, strict=True))
    print(f"RESULT ratio={ratio:.2f} generator={generated:.0f} training={trained:.0f}")
    return EXIT_OK


def generate(windows: SyntheticWindows, number: int, num_batches: int, batch_size: int) -> int:
    """Make new batches; returns the number of windows."""
    first = number * num_batches * batch_size
    for batch in range(num_batches):
        begin = first + batch * batch_size
        windows.__getitems__(range(begin, begin + batch_size))
    return num_batches * batch_size


def new_model() -> TTMForecaster:
    """The published architecture with random weights; the series come scaled, so its scaler changes nothing."""
    import numpy as np
    import torch

    from tstune import TTMConfig, TTMForecaster
    from tstune.data.preprocess import Preprocessor
    from tstune.data.scaler import Scaler
    from tstune.data.table import Roles

    model = TTMForecaster(TTMConfig(context_length=CONTEXT, prediction_length=PREDICTION, tuning_mode="from_scratch"))
    torch.manual_seed(SEED)
    model.build(
        Preprocessor(
            roles=Roles(target=("value",)),
            frequency="h",
            max_gap=0,
            scaler=Scaler(np.zeros(1), np.ones(1)),
            unit=None,
            timestamp_column="timestamp",
            timestamp_format=None,
            item_id_column=None,
            columns_as="channels",
            on_duplicate="mean",
        )
    )
    return model


class Trainer:
    """Optimizer steps without anything around them."""

    def __init__(self, model: TTMForecaster) -> None:
        import torch

        self.model, self.config = model, model.config.training
        self.parameters = [parameter for parameter in model.module.parameters() if parameter.requires_grad]
        self.num_parameters = sum(parameter.numel() for parameter in self.parameters)
        self.optimizer = torch.optim.AdamW(self.parameters, lr=self.config.learning_rate, fused=True)
        model.module.train()

    def run(self, batches: Sequence[Batch]) -> int:
        """One step per batch; returns the number of windows."""
        import torch

        for batch in batches:
            totals, weights = self.model.window_losses(self.model.module, batch)
            (totals.sum() / weights.sum().clamp_min(1)).backward()
            torch.nn.utils.clip_grad_norm_(self.parameters, self.config.max_grad_norm)
            self.optimizer.step()
            self.optimizer.zero_grad()
        return sum(len(batch["start"]) for batch in batches)


if __name__ == "__main__":
    raise SystemExit(main())
