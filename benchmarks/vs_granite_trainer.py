"""Speed and quality of our training and evaluation against granite-tsfm's documented recipe (HF Trainer).

    python benchmarks/vs_granite_trainer.py
    python benchmarks/vs_granite_trainer.py --weights <folder of TTM-r2 512-96> --path <folder>/ETTh1.csv --channels 1

Same weights, same windows, same batch size, learning rate and epochs on both sides, in turn, each in a process of
its own, which ends before the next begins (what one asks of the C library's memory the other would profit from);
medians of several repeats. Theirs: ForecastDFDataset, HF Trainer, AdamW + OneCycleLR, evaluation and checkpoint after
each epoch, best model loaded at the end (as in granite-tsfm's notebooks; without loader processes, which are slower on
two cores). Ours: `tstune.training.loop.train` with the frozen features stored once, the time to fill that store
included. Both validate after each epoch inside the measured time.
Without --weights the architecture is the same with random weights; without --path the series is generated.
"""

from __future__ import annotations

import argparse
import logging
import multiprocessing
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "scripts"))

import numpy as np
import pandas as pd
import torch

from tstune.config.schema import DataSection, RunConfig, SplitSection, TrainingSection, TuningSection
from tstune.data.prepared import PreparedData, prepare_data
from tstune.data.table import ITEM, TIMESTAMP, Roles, SourceTable
from tstune.models.ttm import TTMForecaster, TTMSection
from tstune.runtime.distributed import DistributedManager
from tstune.runtime.environment import set_seed
from tstune.runtime.logs import quiet_transformers, setup_logging

CONTEXT, AHEAD, BATCH = 512, 96, 64
LEARNING_RATE = 5e-4
HEAD_DROPOUT = 0.7
LENGTHS = {"context_length": CONTEXT, "prediction_length": AHEAD}


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", help="TTM-r2 512-96 checkpoint folder")
    parser.add_argument("--path", help="ETTh1.csv")
    parser.add_argument(
        "--channels", type=int, default=7, help="how many columns, from the last; ETTh1's is its target"
    )
    parser.add_argument("--precision", choices=("no", "bf16"), default="no", help="mixed precision of both sides")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--train-windows", type=int, default=640)
    parser.add_argument("--validation-windows", type=int, default=192)
    parser.add_argument("--frozen-epochs", type=int, default=10)
    parser.add_argument("--full-epochs", type=int, default=2)
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print."""
    args = parse_args(argv)
    be_quiet()
    with tempfile.TemporaryDirectory() as scratch:
        weights = args.weights or random_checkpoint(Path(scratch) / "random", args.channels)
        frame = read_series(args.path, args.channels)
        rows = CONTEXT + AHEAD - 1
        frame = frame.iloc[: args.train_windows + args.validation_windows + args.validation_windows + 3 * rows]
        data = our_data(frame, args.train_windows, args.validation_windows)
        results = {}
        for name, epochs in (("frozen", args.frozen_epochs), ("full", args.full_epochs)):
            results[name] = compare_training(name, data, frame, weights, epochs, args, scratch)
        results["eval"] = compare_evaluation(data, frame, weights, args, scratch)
        flops = forward_flops(weights, args.channels)
    peak = matmul_peak()
    fraction = results["eval"]["ours"] * flops / peak
    print(f"\nfp32 matmul peak {peak / 1e9:.0f} GFLOP/s; our evaluation reaches {100 * fraction:.0f} % of it")
    ratios = " ".join(f"{name}_ratio={values['ratio']:.2f}" for name, values in results.items())
    print(f"RESULT {ratios} peak_fraction={fraction:.3f}")
    return 0


def compare_training(
    name: str,
    data: PreparedData,
    frame: pd.DataFrame,
    weights: str,
    epochs: int,
    args: argparse.Namespace,
    scratch: str,
) -> dict:
    """Interleave both trainings; windows per second and final validation MSE."""
    ours, theirs = [], []
    for repeat in range(args.repeats):
        folder = Path(scratch) / f"{name}{repeat}"
        theirs.append(apart(train_theirs, name, data, frame, weights, epochs, args.precision, folder))
        ours.append(apart(train_ours, name, data, weights, epochs, args.precision))
        print(
            f"{name:6} repeat {repeat + 1}: granite-tsfm + Trainer {theirs[-1][0]:6.0f} windows/s, validation MSE "
            f"{theirs[-1][1]:.4f} · ours {ours[-1][0]:6.0f} windows/s, validation MSE {ours[-1][1]:.4f}",
            flush=True,
        )
    ratio = statistics.median(mine[0] / other[0] for mine, other in zip(ours, theirs, strict=True))
    mse_ours, mse_theirs = (statistics.median(run[1] for run in runs) for runs in (ours, theirs))
    print(f"{name:6} {epochs} epochs: ratio {ratio:.2f}, validation MSE ours {mse_ours:.4f}, theirs {mse_theirs:.4f}")
    return {"ratio": ratio, "ours": statistics.median(run[0] for run in ours)}


def train_ours(name: str, data: PreparedData, weights: str, epochs: int, precision: str) -> tuple[float, float]:
    """(windows per second with everything included, validation MSE)."""
    config = RunConfig(
        model=TTMSection(**LENGTHS, pretrained=weights, head_dropout=HEAD_DROPOUT),
        tuning=TuningSection(mode="decoder" if name == "frozen" else "full"),
        training=TrainingSection(
            num_epochs=epochs, per_device_batch_size=BATCH, learning_rate=LEARNING_RATE, warmup_fraction=0.3
        ),
    )
    set_seed(42)
    model = TTMForecaster(config)
    model.build(data.preprocessor)
    manager = DistributedManager(mixed_precision=precision)
    begin = time.perf_counter()
    model.train_on(data, manager)
    seconds = time.perf_counter() - begin
    return epochs * len(data.train) / seconds, validation_mse(model.network, data)


def train_theirs(
    name: str, data: PreparedData, frame: pd.DataFrame, weights: str, epochs: int, precision: str, folder: Path
) -> tuple[float, float]:
    """The same with granite-tsfm's dataset and HF Trainer."""
    from torch.optim.lr_scheduler import OneCycleLR
    from transformers import EarlyStoppingCallback, Trainer, TrainingArguments

    set_seed(42)
    model = their_model(weights, len(frame.columns) - 1)
    if name == "frozen":
        for parameter in model.backbone.parameters():
            parameter.requires_grad = False
    train_set, validation_set = their_dataset(data, frame, "train"), their_dataset(data, frame, "validation")
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(learning, lr=LEARNING_RATE)
    steps = -(-len(train_set) // BATCH)
    trainer = Trainer(
        model=model,
        args=TrainingArguments(
            output_dir=str(folder),
            learning_rate=LEARNING_RATE,
            num_train_epochs=epochs,
            eval_strategy="epoch",
            save_strategy="epoch",
            per_device_train_batch_size=BATCH,
            per_device_eval_batch_size=BATCH,
            report_to="none",
            save_total_limit=1,
            logging_strategy="epoch",
            load_best_model_at_end=True,
            metric_for_best_model="eval_loss",
            greater_is_better=False,
            disable_tqdm=True,
            use_cpu=True,
            bf16=precision == "bf16",
        ),
        train_dataset=train_set,
        eval_dataset=validation_set,
        callbacks=[EarlyStoppingCallback(early_stopping_patience=epochs)],
        optimizers=(optimizer, OneCycleLR(optimizer, LEARNING_RATE, epochs=epochs, steps_per_epoch=steps)),
    )
    trainer.pop_callback(__import__("transformers").PrinterCallback)
    begin = time.perf_counter()
    trainer.train()
    seconds = time.perf_counter() - begin
    return epochs * len(train_set) / seconds, validation_mse(trainer.model, data)


def compare_evaluation(
    data: PreparedData, frame: pd.DataFrame, weights: str, args: argparse.Namespace, scratch: str
) -> dict:
    """Windows per second of `Trainer.evaluate` and of our backtest, metrics included on our side."""
    pairs = []
    for repeat in range(args.repeats):
        mine = apart(evaluate_ours, data, weights, args.precision)
        other = apart(evaluate_theirs, data, frame, weights, args.precision, Path(scratch) / "eval")
        pairs.append((mine, other))
        print(
            f"eval   repeat {repeat + 1}: Trainer.evaluate {other:6.0f} windows/s · ours {mine:6.0f} windows/s",
            flush=True,
        )
    ratio = statistics.median(mine / other for mine, other in pairs)
    print(f"eval   ratio {ratio:.2f}")
    return {"ratio": ratio, "ours": statistics.median(mine for mine, _ in pairs)}


def evaluate_ours(data: PreparedData, weights: str, precision: str) -> float:
    """Windows per second of a backtest, the best of three after one that warms up."""
    from tstune.evaluation.backtest import Backtest

    model = TTMForecaster(
        RunConfig(model=TTMSection(**LENGTHS, pretrained=weights), tuning=TuningSection(mode="zero_shot"))
    )
    model.build(data.preprocessor)
    backtest = Backtest(data, model.config.evaluation, DistributedManager(mixed_precision=precision), "train")
    return windows_per_second(lambda: backtest.score(model), data)


def evaluate_theirs(data: PreparedData, frame: pd.DataFrame, weights: str, precision: str, folder: Path) -> float:
    """The same of `Trainer.evaluate`."""
    from transformers import PrinterCallback, Trainer, TrainingArguments

    arguments = TrainingArguments(
        output_dir=str(folder),
        per_device_eval_batch_size=BATCH,
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
        bf16=precision == "bf16",
    )
    trainer = Trainer(model=their_model(weights, len(frame.columns) - 1), args=arguments)
    trainer.pop_callback(PrinterCallback)
    dataset = their_dataset(data, frame, "train")
    return windows_per_second(lambda: trainer.evaluate(dataset), data)


def windows_per_second(evaluate: Callable[[], object], data: PreparedData) -> float:
    """Of all training windows; the best of three passes after one that warms up."""
    seconds = []
    for _ in range(4):
        begin = time.perf_counter()
        evaluate()
        seconds.append(time.perf_counter() - begin)
    return len(data.train) / min(seconds[1:])


def apart(function: Callable[..., Any], *args: object) -> Any:
    """What a function returns, called in a fresh process that ends with it."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"), initializer=be_quiet) as pool:
        return pool.submit(function, *args).result()


def be_quiet() -> None:
    """Let only errors through."""
    setup_logging()
    quiet_transformers()
    logging.getLogger("tstune").setLevel(logging.ERROR)


def read_series(path: str | None, channels: int) -> pd.DataFrame:
    """The last columns of ETTh1, or a generated series of the same shape, standardised."""
    if path is not None:
        frame = pd.read_csv(path, parse_dates=["date"])
    else:
        random = np.random.default_rng(0)
        steps = np.arange(6000)[:, None]
        waves = np.sin(2 * np.pi * steps / 24 + random.uniform(0, 6, channels)) + 0.5 * np.sin(2 * np.pi * steps / 168)
        values = waves + np.cumsum(random.normal(0, 0.05, (6000, channels)), axis=0)
        frame = pd.DataFrame(values, columns=[f"c{index}" for index in range(channels)])
        frame.insert(0, "date", pd.date_range("2020-01-01", periods=6000, freq="h"))
    columns = frame.columns[1:][-channels:]
    frame = frame[["date", *columns]]
    frame[columns] = (frame[columns] - frame[columns].mean()) / frame[columns].std()
    return frame


def our_data(frame: pd.DataFrame, train_windows: int, validation_windows: int) -> PreparedData:
    """Windows with stride 1; each part is a stretch of rows of its own."""
    rows = CONTEXT + AHEAD - 1
    ends = np.cumsum([train_windows + rows, validation_windows + rows, validation_windows + rows])
    channels = tuple(frame.columns[1:])
    long = frame.rename(columns={"date": TIMESTAMP})
    long.insert(0, ITEM, "series")
    section = DataSection(split=SplitSection(borders=tuple(map(int, ends))), scaling="none")
    return prepare_data(section, CONTEXT, AHEAD, SourceTable(long, Roles(target=channels), frequency="h"))


def their_dataset(data: PreparedData, frame: pd.DataFrame, part: str) -> torch.utils.data.Dataset:
    """granite-tsfm's `ForecastDFDataset` over the same rows."""
    from tsfm_public import ForecastDFDataset

    begin, end = (int(values[0]) for values in data.split.bounds(part))
    dataset = ForecastDFDataset(
        frame.iloc[begin:end].reset_index(drop=True),
        timestamp_column="date",
        target_columns=list(frame.columns[1:]),
        context_length=CONTEXT,
        prediction_length=AHEAD,
    )
    if len(dataset) != len(data.windows[part]):
        raise SystemExit(f"{part}: {len(dataset)} windows on their side, {len(data.windows[part])} on ours")
    return dataset


def their_model(weights: str, channels: int) -> torch.nn.Module:
    """A fresh copy of the same weights."""
    from tsfm_public import TinyTimeMixerForPrediction

    return TinyTimeMixerForPrediction.from_pretrained(
        weights,
        num_input_channels=channels,
        prediction_channel_indices=None,
        decoder_mode="common_channel",
        head_dropout=HEAD_DROPOUT,
        loss="mse",
    )


def random_checkpoint(folder: Path, channels: int) -> str:
    """TTM-r2's architecture with random weights."""
    from tstune.models.ttm import build_from_scratch

    set_seed(0)
    roles = Roles(target=tuple(f"c{index}" for index in range(channels)))
    build_from_scratch(TTMSection(**LENGTHS), roles).save_pretrained(folder)
    return str(folder)


@torch.inference_mode()
def validation_mse(ttm: torch.nn.Module, data: PreparedData) -> float:
    """Mean squared error over all validation windows, computed alike for both sides."""
    ttm.eval()
    total, windows = 0.0, data.validation
    for begin in range(0, len(windows), BATCH):
        batch = windows.__getitems__(range(begin, min(begin + BATCH, len(windows))))
        forecast = ttm(past_values=batch["past_values"], return_loss=False).prediction_outputs
        total += ((forecast - batch["future_values"]) ** 2).double().sum().item()
    return total / (len(windows) * AHEAD * forecast.shape[2])


def matmul_peak(size: int = 2048) -> float:
    """FLOP/s of a large fp32 matrix product, best of ten."""
    left, right = torch.randn(size, size), torch.randn(size, size)
    seconds = []
    for _ in range(10):
        begin = time.perf_counter()
        left @ right
        seconds.append(time.perf_counter() - begin)
    return 2 * size**3 / min(seconds)


def forward_flops(weights: str, channels: int) -> float:
    """FLOPs of one window's forward pass, matrix products only."""
    from torch.utils.flop_counter import FlopCounterMode

    model = their_model(weights, channels).eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(past_values=torch.zeros(1, CONTEXT, channels), return_loss=False)
    return counter.get_total_flops()


if __name__ == "__main__":
    raise SystemExit(main())
