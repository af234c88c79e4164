"""Seconds of our training loop over seconds of a bare PyTorch loop: same model, same loss, same batches.

    python benchmarks/loop_overhead.py
    python benchmarks/loop_overhead.py --steps 100 --repeats 5

The model is a TTM in the architecture of TTM-r2 (805,280 parameters) with random weights; the data is the glucose
series of bokeh_sampledata (1 channel). The bare loop does forward, masked loss, backward, clip and AdamW step on
batches that lie ready in memory. Ours does the same through Accelerate and adds what a run needs: loader, learning
rate schedule, history, progress bar, check of the loss. Its validation is not counted. Both start from the same
weights and must end with the same weights, bit by bit. They run in turn; the figure is the median of the ratios of
the rounds. The last line is `RESULT ratio=…`.
"""

from __future__ import annotations

import argparse
import itertools
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "scripts"))
# Torch's idle threads sleep instead of spinning: otherwise both loops measure what else the machine is doing.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

from tstune.errors import EXIT_OK, exits_cleanly

if TYPE_CHECKING:
    import torch

    from tstune.data.prepared import PreparedData
    from tstune.models.ttm import TTMForecaster

SEED = 0


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=30, help="optimizer steps per loop and round")
    parser.add_argument("--batch-size", type=int, default=64, help="windows per step")
    parser.add_argument("--repeats", type=int, default=11, help="rounds; each round times both loops")
    return parser.parse_args(argv)


@exits_cleanly
def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print."""
    args = parse_args(argv)
    import torch

    from tstune import TTMConfig, TTMForecaster
    from tstune.runtime.logs import logger, setup_logging

    setup_logging()
    logger.setLevel("WARNING")  # one line per validation would bury the rounds
    config = TTMConfig(
        data_source="cgm_sample",
        validation_stride=32,
        tuning_mode="from_scratch",
        scheduler="constant",
        batch_size=args.batch_size,
        max_steps=args.steps,
    )
    model = TTMForecaster(config)
    data = model.prepare()
    torch.manual_seed(SEED)
    model.build(data.preprocessor)
    start = {name: tensor.clone() for name, tensor in model.module.state_dict().items()}
    print(
        f"{sum(parameter.numel() for parameter in model.module.parameters()):,} parameters, {args.steps} steps of "
        f"{args.batch_size} windows, {torch.get_num_threads()} thread(s)"
    )
    rounds = []
    for number in range(args.repeats + 1):
        seconds, weights = {}, {}
        # take turns at going first, so that neither always meets the warmer machine
        for loop in (our_loop, bare_loop)[:: 1 if number % 2 else -1]:
            model.module.load_state_dict(start)
            seconds[loop] = loop(model, data, args.steps)
            weights[loop] = {name: tensor.clone() for name, tensor in model.module.state_dict().items()}
        require_equal(weights[our_loop], weights[bare_loop])
        if number == 0:
            continue  # warm-up
        rounds.append(seconds[our_loop] / seconds[bare_loop])
        print(f"  round {number}: ours {seconds[our_loop]:.2f} s, bare {seconds[bare_loop]:.2f} s, {rounds[-1]:.3f} x")
    print(f"RESULT ratio={median(rounds):.3f} best={min(rounds):.3f} worst={max(rounds):.3f} rounds={len(rounds)}")
    return EXIT_OK


def our_loop(model: TTMForecaster, data: PreparedData, num_steps: int) -> float:
    """Seconds of `tstune.training.loop.train`, its validation at the end left out."""
    import torch

    from tstune.runtime.distributed import DistributedManager
    from tstune.training.loop import train

    config = model.config.training
    manager = DistributedManager()
    torch.manual_seed(SEED)
    result = train(model, data.train, data.validation, config, manager, seed=SEED, start_counts=False)
    assert result.num_steps == num_steps, f"{result.num_steps} steps were trained, not {num_steps}"
    return num_steps * config.per_device_batch_size / result.windows_per_second


def bare_loop(model: TTMForecaster, data: PreparedData, num_steps: int) -> float:
    """Seconds of the same steps, written by hand."""
    import torch

    from tstune.data.windows import window_loader

    config, module = model.config.training, model.module
    groups = [
        {"params": [p for p in module.parameters() if p.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in module.parameters() if p.ndim < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=config.learning_rate, fused=True)
    torch.manual_seed(SEED)
    batches = window_loader(data.train, config.per_device_batch_size, shuffle=True, seed=SEED)
    batches = list(itertools.islice(batches, num_steps))
    assert len(batches) == num_steps, f"the data has {len(batches)} batches only; lower --steps"
    module.train()
    begin = time.perf_counter()
    for batch in batches:
        totals, weights = model.window_losses(module, batch)
        loss = totals.sum() / weights.sum().clamp_min(1)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(module.parameters(), config.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad()
    return time.perf_counter() - begin


def require_equal(ours: dict[str, torch.Tensor], bare: dict[str, torch.Tensor]) -> None:
    """Both loops must have done the same work."""
    import torch

    different = [name for name, tensor in ours.items() if not torch.equal(tensor, bare[name])]
    assert not different, f"the loops end with different weights: {', '.join(different[:3])}"


if __name__ == "__main__":
    raise SystemExit(main())
