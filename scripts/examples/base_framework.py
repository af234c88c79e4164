"""The framework in four small examples, on generated series, in less than two minutes.

    python scripts/examples/base_framework.py                 # all four
    python scripts/examples/base_framework.py --example 1     # the interface: fit, predict, evaluate, save, load
    python scripts/examples/base_framework.py --example 2     # low-rank adapters
    python scripts/examples/base_framework.py --example 3     # processes, strategy, memory
    python scripts/examples/base_framework.py --example 4     # train, track, register, promote, reload, forecast

Everything is written to a temporary folder, or to `--output`.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # scripts/, where tstune lies

from tstune.errors import EXIT_OK, exits_cleanly

if TYPE_CHECKING:
    import pandas as pd

    from tstune import TTMConfig

ARCHITECTURE = {
    "patch_length": 12,
    "d_model": 16,
    "num_layers": 1,
    "adaptive_patching_levels": 2,
    "decoder_num_layers": 1,
    "decoder_d_model": 8,
}


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--example", type=int, choices=sorted(EXAMPLES), help="which one; all if left out")
    parser.add_argument("--output", type=Path, help="folder for what the examples write; temporary if left out")
    return parser.parse_args(argv)


def daily_series() -> pd.DataFrame:
    """Two hourly series of a daily rhythm with noise: item_id, timestamp, value."""
    import numpy as np
    import pandas as pd

    random, hours = np.random.default_rng(0), np.arange(600)
    tables = []
    for number, item in enumerate(("north", "south")):
        value = 20 + 5 * np.sin(2 * np.pi * (hours + 6 * number) / 24) + random.normal(0, 0.7, len(hours))
        stamps = pd.date_range("2024-01-01", periods=len(hours), freq="h")
        tables.append(pd.DataFrame({"item_id": item, "timestamp": stamps, "value": value}))
    return pd.concat(tables, ignore_index=True)


def small_config(**keywords: object) -> TTMConfig:
    """A TTM of a few thousand parameters that learns the series in a second."""
    from tstune import TTMConfig

    settings = ARCHITECTURE | {
        "context_length": 48,
        "prediction_length": 12,
        "item_id_column": "item_id",
        "target_columns": ["value"],
        "max_steps": 60,
        "learning_rate": 5e-3,
        "horizons": ["1h", "12h"],
        "num_plots": 0,
    }
    return TTMConfig(**settings | keywords)


def basic_interface(folder: Path) -> None:
    """Example 1: fit, predict, evaluate, save, load."""
    from tstune import TTMForecaster

    series = daily_series()
    model = TTMForecaster(small_config())
    results = model.fit(series)
    print(results["scoreboard"])
    model.save(folder / "basic")
    loaded = TTMForecaster.load(folder / "basic")
    forecast = loaded.predict(series)
    print(f"\nthe loaded model forecasts the same: {forecast.equals(model.predict(series))}")
    print(f"evaluated again on the test part: RMSE {loaded.evaluate(series)['rmse']:.3f}")
    print(forecast.head(3).to_string(index=False))
    arrays = loaded.predict(series, return_dict=True)
    print(f"as arrays: forecasts {arrays['forecasts'].shape} of {', '.join(arrays['item_ids'])}")


def low_rank_adapters(folder: Path) -> None:
    """Example 2: a base model, then an adapter on top of its frozen weights."""
    from tstune import LoRAConfig, TTMForecaster

    series = daily_series()
    TTMForecaster(small_config()).fit(series, output_dir=folder / "base")
    read_from_it = dict.fromkeys(ARCHITECTURE)  # the architecture comes from the weights of that run
    model = TTMForecaster(small_config(pretrained=str(folder / "base"), **read_from_it), LoRAConfig(rank=4, alpha=8))
    model.enable_lora()
    results = model.fit(series, output_dir=folder / "adapted")
    info = TTMForecaster.load(folder / "adapted").get_model_info()
    print(f"{info['trainable']:,} of {info['total']:,} parameters learned ({info['percentage']} %)")
    print(f"adapter of rank {info['adapter']['rank']} on {', '.join(info['adapter']['target_modules'])}")
    before, after = (results["metrics"][name]["rmse"] for name in ("zero_shot", "fine_tuned"))
    print(f"RMSE {before:.3f} before, {after:.3f} after")
    print("adapter:", ", ".join(sorted(path.name for path in (folder / "adapted" / "adapter").iterdir())))


def distributed_setup(folder: Path) -> None:
    """Example 3: what this process group is, and what a configuration may ask of it."""
    from tstune import DistributedConfig, DistributedManager, GPUManager, TstuneError, TTMForecaster

    noted = DistributedConfig(enabled=False, strategy="ddp", world_size=4)  # a note: nothing is required
    manager = TTMForecaster(small_config(), distributed_config=noted).setup_distributed()
    print(manager.describe())
    report = GPUManager(manager.device).report()
    print(f"{report['visible_gpus']} GPU(s), {report['free_memory_mib']:,.0f} MiB of memory free")
    asked = manager.num_processes + 3
    try:
        DistributedManager(DistributedConfig(enabled=True, world_size=asked))
    except TstuneError as error:
        print(f"asked for {asked} processes, it does not train on {manager.num_processes} in silence:\n  {error}")


def full_workflow(folder: Path) -> None:
    """Example 4: train, evaluate, track, register, promote, load by alias, forecast."""
    from tstune import DistributedConfig, LocalModelRegistry, LoRAConfig, SimpleExperimentTracker, TTMForecaster

    series = daily_series()
    registry = LocalModelRegistry(folder / "registry")
    for seed in (1, 2):
        model = TTMForecaster(small_config(seed=seed), LoRAConfig(enabled=False), DistributedConfig(strategy=None))
        run = folder / f"run_{seed}"
        results = model.fit(
            train_data=series,
            output_dir=run,
            resume_from_checkpoint=None,
            tracker=SimpleExperimentTracker(folder / "experiments"),
        )
        version = registry.register(run, "daily")
        print(
            f"{version.reference}: RMSE {results['metrics']['fine_tuned']['rmse']:.4f}, tracked as {results['run_id']}"
        )
    registry.promote("daily:1", "champion", "test/fine_tuned/rmse")
    try:
        registry.promote("daily:2", "champion", "test/fine_tuned/rmse")
    except ValueError as refusal:
        print(refusal)
    champion = registry.get("daily@champion")
    forecast = registry.load("daily@champion").predict(series)
    print(f"champion is {champion.reference}, {len(champion.files)} files checked")
    print(forecast.groupby("item_id")["value"].agg(["first", "last"]).round(2).to_string())


EXAMPLES: dict[int, Callable[[Path], None]] = {
    1: basic_interface,
    2: low_rank_adapters,
    3: distributed_setup,
    4: full_workflow,
}


@exits_cleanly
def main(argv: Sequence[str] | None = None) -> int:
    """Run the examples."""
    args = parse_args(argv)
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.output or Path(temporary)
        for number in [args.example] if args.example else sorted(EXAMPLES):
            example = EXAMPLES[number]
            print(f"\n=== {example.__doc__.splitlines()[0]}\n", flush=True)
            example(folder)
    return EXIT_OK


if __name__ == "__main__":
    raise SystemExit(main())
