"""Speed and quality of our training and forecasts against chronos-forecasting's, on a Chronos-Bolt.

    python benchmarks/vs_chronos.py
    python benchmarks/vs_chronos.py --sizes tiny --repeats 5

Networks of the published sizes (the configs of amazon/chronos-bolt-tiny and -small) with random weights, the same for
both sides. The library's `fit` trains Chronos-2 only, so theirs is HF Trainer around the library's own Chronos-Bolt,
whose forward computes its loss, with the settings of that `fit`: fused AdamW, validation, best weights saved and loaded
again; its windows lie ready in memory. Ours is `train_on` of a forecaster. Same windows, batch size, learning rate and
steps, no clipping (the two losses differ by a factor), validation after each epoch inside the measured time of both.
Forecasts: `predict_quantiles` of the library's pipeline, given whole batches, and our windows, network and order of
quantiles; they are compared and must be equal. Sides take turns, on one thread; the figures are medians over rounds.
The last line is `RESULT tiny_training=… tiny_error=… tiny_forecasts=… …`: windows per second (of the processor) of ours
over theirs, and the pinball loss of their forecasts of the validation windows over that of ours, after training.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "scripts"))

from tstune.errors import EXIT_OK, exits_cleanly

if TYPE_CHECKING:
    import torch
    from chronos import ChronosBoltPipeline

    from tstune.data.prepared import PreparedData
    from tstune.data.windows import WindowDataset
    from tstune.models.chronos import ChronosBoltForecaster

CONTEXT, AHEAD, LEARNING_RATE = 512, 64, 1e-4
LEVELS = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]
SIZES = {"tiny": (256, 4), "small": (512, 6)}
"""Width, and layers of the encoder and of the decoder; 64 numbers a head, four times the width inside."""


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", choices=list(SIZES), default=list(SIZES))
    parser.add_argument("--train-windows", type=int, default=640)
    parser.add_argument("--validation-windows", type=int, default=256, help="also those that are forecast")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--batch-size", type=int, default=32, help="windows per step")
    parser.add_argument("--repeats", type=int, default=3, help="rounds; each times both sides")
    return parser.parse_args(argv)


@exits_cleanly
def main(argv: Sequence[str] | None = None) -> int:
    """Compare, measure, print."""
    args = parse_args(argv)
    import torch

    from tstune.runtime.logs import quiet_transformers, setup_logging

    setup_logging()
    quiet_transformers()
    torch.set_num_threads(1)  # seconds are those of the processor: other programs at work change them little
    logging.getLogger("tstune").setLevel(logging.ERROR)
    data, figures = series_in_windows(args.train_windows, args.validation_windows), {}
    with tempfile.TemporaryDirectory() as scratch:
        for size in args.sizes:
            weights = write_random(size, Path(scratch) / size)
            figures[f"{size}_training"], figures[f"{size}_error"] = compare_training(size, weights, data, args)
            figures[f"{size}_forecasts"] = compare_forecasts(size, weights, data, args)
    print("RESULT " + " ".join(f"{name}={value:.3f}" for name, value in figures.items()))
    return EXIT_OK


def series_in_windows(train_windows: int, validation_windows: int) -> PreparedData:
    """An hourly random walk around a daily season, windows with stride 1."""
    import numpy as np
    import pandas as pd

    from tstune.config.schema import DataSection, SplitSection
    from tstune.data.prepared import prepare_data
    from tstune.data.table import ITEM, TIMESTAMP, Roles, SourceTable

    ends = np.cumsum([count + CONTEXT + AHEAD - 1 for count in (train_windows, validation_windows, 1)])
    hours, random = np.arange(ends[-1]), np.random.default_rng(0)
    values = 5 * np.sin(2 * np.pi * hours / 24) + np.cumsum(random.normal(0, 0.3, len(hours)))
    stamps = pd.date_range("2024-01-01", periods=len(hours), freq="h")
    table = pd.DataFrame({ITEM: "walk", TIMESTAMP: stamps, "load": values.astype("float32")})
    section = DataSection(split=SplitSection(borders=tuple(map(int, ends))), scaling="none")
    return prepare_data(section, CONTEXT, AHEAD, SourceTable(table, Roles(target=("load",)), frequency="h"))


def write_random(size: str, folder: Path) -> str:
    """A checkpoint with random weights."""
    import torch
    from chronos.chronos_bolt import ChronosBoltModelForForecasting
    from transformers import T5Config

    width, layers = SIZES[size]
    torch.manual_seed(0)
    config = T5Config(
        d_model=width,
        d_kv=64,
        d_ff=4 * width,
        num_heads=width // 64,
        num_layers=layers,
        num_decoder_layers=layers,
        dropout_rate=0.1,
        feed_forward_proj="relu",
        initializer_factor=0.05,
        pad_token_id=0,
        decoder_start_token_id=0,
        chronos_pipeline_class="ChronosBoltPipeline",
        chronos_config={
            "context_length": 2048,
            "prediction_length": AHEAD,
            "input_patch_size": 16,
            "input_patch_stride": 16,
            "quantiles": LEVELS,
            "use_reg_token": True,
        },
    )
    ChronosBoltModelForForecasting(config).save_pretrained(folder)
    return str(folder)


def our_forecaster(
    weights: str, data: PreparedData, args: argparse.Namespace, mode: str = "full"
) -> ChronosBoltForecaster:
    """Built and ready for training, or for forecasts alone."""
    from tstune.config.schema import EvaluationSection, RunConfig, TrainingSection, TuningSection
    from tstune.config.section import ChronosBoltSection
    from tstune.models.chronos import ChronosBoltForecaster

    config = RunConfig(
        model=ChronosBoltSection(pretrained=weights, context_length=CONTEXT, prediction_length=AHEAD),
        tuning=TuningSection(mode=mode),
        training=TrainingSection(
            num_epochs=args.epochs,
            per_device_batch_size=args.batch_size,
            learning_rate=LEARNING_RATE,
            scheduler="constant",
            weight_decay=0.0,
            max_grad_norm=None,
        ),
        evaluation=EvaluationSection(keep_best=False),  # theirs does not validate before the first step either
    )
    model = ChronosBoltForecaster(config)
    model.build(data.preprocessor)
    return model


def compare_training(size: str, weights: str, data: PreparedData, args: argparse.Namespace) -> tuple[float, float]:
    """Medians over the rounds: our windows per second over theirs, their validation error over ours."""
    from chronos import ChronosBoltPipeline

    rounds = []
    for number in range(args.repeats):
        found = {}
        for side in ("ours", "theirs")[:: 1 if number % 2 else -1]:  # neither always meets the warmer machine
            network, seconds = (train_ours if side == "ours" else train_theirs)(weights, data, args)
            speed = args.epochs * len(data.train) / seconds
            found[side] = speed, pinball_loss(ChronosBoltPipeline(network.eval()), data.validation)
        told = " · ".join(f"{side} {speed:.1f} windows/s, loss {loss:.4f}" for side, (speed, loss) in found.items())
        print(f"{size} training {number + 1}: {told}", flush=True)
        rounds.append((found["ours"][0] / found["theirs"][0], found["theirs"][1] / found["ours"][1]))
    return tuple(statistics.median(values) for values in zip(*rounds, strict=True))


def train_ours(weights: str, data: PreparedData, args: argparse.Namespace) -> tuple[torch.nn.Module, float]:
    """The network and the seconds that its training took."""
    from tstune.runtime.distributed import DistributedManager
    from tstune.runtime.environment import set_seed

    set_seed(1)
    model, manager = our_forecaster(weights, data, args), DistributedManager()
    begin = time.process_time()
    model.train_on(data, manager)
    return model.network, time.process_time() - begin


def train_theirs(weights: str, data: PreparedData, args: argparse.Namespace) -> tuple[torch.nn.Module, float]:
    """The same by HF Trainer."""
    from chronos.chronos_bolt import ChronosBoltModelForForecasting
    from transformers import PrinterCallback, Trainer, TrainingArguments

    from tstune.runtime.environment import set_seed

    set_seed(1)
    with tempfile.TemporaryDirectory() as folder:
        settings = TrainingArguments(
            output_dir=folder,
            num_train_epochs=args.epochs,
            per_device_train_batch_size=args.batch_size,
            per_device_eval_batch_size=256,
            learning_rate=LEARNING_RATE,
            lr_scheduler_type="constant",
            max_grad_norm=0.0,
            optim="adamw_torch_fused",
            eval_strategy="epoch",
            save_strategy="epoch",
            save_only_model=True,
            save_total_limit=1,
            load_best_model_at_end=True,
            metric_for_best_model="eval_loss",
            prediction_loss_only=True,
            label_names=["target"],
            report_to="none",
            disable_tqdm=True,
            use_cpu=True,
        )
        trainer = Trainer(
            model=ChronosBoltModelForForecasting.from_pretrained(weights),
            args=settings,
            train_dataset=ready_windows(data.train),
            eval_dataset=ready_windows(data.validation),
        )
        trainer.pop_callback(PrinterCallback)
        begin = time.process_time()
        trainer.train()
        return trainer.model, time.process_time() - begin


def ready_windows(windows: WindowDataset) -> list[dict[str, torch.Tensor]]:
    """Contexts and targets, one by one, as the library's network takes them."""
    batch = windows.__getitems__(range(len(windows)))
    pairs = zip(batch["past_values"][..., 0], batch["future_values"][..., 0], strict=True)
    return [{"context": context, "target": target} for context, target in pairs]


def compare_forecasts(size: str, weights: str, data: PreparedData, args: argparse.Namespace) -> float:
    """Median over the rounds of our windows per second over theirs; the forecasts must be equal."""
    import torch
    from chronos import ChronosBoltPipeline

    from tstune.data.windows import window_loader

    model = our_forecaster(weights, data, args, "zero_shot")
    pipeline = ChronosBoltPipeline.from_pretrained(weights)
    batch_size = model.evaluation_batch_size(torch.device("cpu"))
    contexts = torch.stack([window["context"] for window in ready_windows(data.validation)])

    @torch.inference_mode()
    def ours() -> torch.Tensor:
        loader = window_loader(data.validation, batch_size)
        return torch.cat([model.native_quantiles(batch)[:, :, 0] for batch in loader])

    def theirs() -> torch.Tensor:
        return torch.cat([pipeline.predict_quantiles(part, AHEAD, LEVELS)[0] for part in contexts.split(batch_size)])

    found, expected = ours(), theirs().sort(dim=-1).values
    furthest = ((found - expected).abs().max() / expected.abs().max()).item()
    if furthest > 1e-5:
        raise SystemExit(f"{size}: the forecasts differ by {furthest:.1e} of the largest")
    print(f"{size}: the forecasts of {len(contexts)} windows differ by at most {furthest:.1e} of the largest")
    rounds = []
    for number in range(2 * args.repeats):
        seconds = {}
        for side in (ours, theirs)[:: 1 if number % 2 else -1]:
            begin = time.process_time()
            side()
            seconds[side] = time.process_time() - begin
        rounds.append(seconds[theirs] / seconds[ours])
        speeds = " · ".join(f"{side.__name__} {len(contexts) / took:.0f} windows/s" for side, took in seconds.items())
        print(f"{size} forecasts {number + 1}: {speeds}", flush=True)
    return statistics.median(rounds)


def pinball_loss(pipeline: ChronosBoltPipeline, windows: WindowDataset) -> float:
    """Mean over windows, steps and levels, in original units."""
    import torch

    batch, levels = windows.__getitems__(range(len(windows))), torch.tensor(LEVELS)
    parts = batch["past_values"][..., 0].split(256)
    forecast = torch.cat([pipeline.predict_quantiles(part, AHEAD, LEVELS)[0] for part in parts])
    error = batch["future_values"] - forecast  # [windows, steps, 1] less [windows, steps, levels]
    return torch.maximum(levels * error, (levels - 1) * error).mean().item()


if __name__ == "__main__":
    raise SystemExit(main())
