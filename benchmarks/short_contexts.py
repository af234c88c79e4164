"""One model for all histories against models of one length: RMSE by how much of the context is shown.

    python benchmarks/short_contexts.py

Tunes `recipes/ttm/cgm_sample/short_context.yaml` (512 steps, contexts cut short at random), the same without cutting,
and `six_hours.yaml` (96 steps), then judges all three on the same forecasts of the test part, shown their last 72, 144,
288 and 512 steps; ridge regressions fitted on as many steps and persistence beside them. The last line is
`RESULT model_steps=rmse …`, in mg/dL.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "scripts"))

from tstune.errors import EXIT_OK, exits_cleanly

if TYPE_CHECKING:
    from tstune.data.prepared import PreparedData
    from tstune.models.base import BaseTimeSeriesFoundationModel

ROOT = Path(__file__).resolve().parents[1]
LENGTHS = (72, 144, 288, 512)
WHOLE = ("training.context_dropping=0", "data.min_context=null", "evaluation.context_steps=null")
RECIPES = {
    "cut_short": ("short_context.yaml", ()),
    "whole": ("short_context.yaml", WHOLE),
    "six_hours": ("six_hours.yaml", ()),
}


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="changes to every recipe")
    return parser.parse_args(argv)


@exits_cleanly
def main(argv: Sequence[str] | None = None) -> int:
    """Tune, judge, print."""
    args = parse_args(argv)
    from tstune.evaluation.backtest import Backtest
    from tstune.runtime.distributed import DistributedManager

    models = {name: tuned(recipe, [*changes, *args.set]) for name, (recipe, changes) in RECIPES.items()}
    config = models["whole"].config
    every = models["whole"].prepare()
    manager = DistributedManager(config.distributed, config.training.mixed_precision)
    found: dict[str, dict[int, float]] = {}
    for steps in LENGTHS:
        for name, model in (models | baselines(config, every, steps)).items():
            data = ending_as(every, model.config.model.context_length, steps)
            score = Backtest(data, model.config.evaluation, manager).score(model)
            found.setdefault(name, {})[steps] = score.metrics["rmse"]
    print(f"{len(every.test)} test windows of cgm_sample, RMSE over {every.test.prediction_length} steps in mg/dL\n")
    print("| model | " + " | ".join(f"{steps} steps shown" for steps in LENGTHS) + " |")
    print("|---|" + "---:|" * len(LENGTHS))
    for name, values in found.items():
        print(f"| {name} | " + " | ".join(f"{values[steps]:.2f}" for steps in LENGTHS) + " |")
    print("RESULT " + " ".join(f"{name}_{steps}={v:.2f}" for name, row in found.items() for steps, v in row.items()))
    return EXIT_OK


def tuned(recipe: str, changes: Sequence[str]) -> BaseTimeSeriesFoundationModel:
    """A model as its recipe trains it."""
    from tstune.config.managers import SimpleConfigManager
    from tstune.models.ttm import TTMForecaster

    quiet = ["evaluation.baselines=[]", "evaluation.num_plots=0"]
    path = ROOT / "recipes/ttm/cgm_sample" / recipe
    model = TTMForecaster(SimpleConfigManager().load_config(path, [*quiet, *changes]))
    model.fit()
    return model


def baselines(config: object, data: PreparedData, steps: int) -> dict[str, BaseTimeSeriesFoundationModel]:
    """Persistence, and a ridge regression on so many steps."""
    from tstune.models.registry import model_class

    found = {name: model_class(name)(config) for name in ("ridge", "persistence")}
    for model in found.values():
        model.build(data.preprocessor)
        model.train_on(data.judged_on(steps).as_judged())
    return found


def ending_as(data: PreparedData, context_length: int, steps: int) -> PreparedData:
    """The same forecasts from shorter contexts, of which the last steps are shown."""
    from tstune.data.splits import WindowRanges
    from tstune.data.windows import WindowDataset

    whole = data.test
    first = whole.ranges.first + whole.context_length - context_length
    ranges = WindowRanges(first, whole.ranges.count, whole.ranges.stride)
    windows = WindowDataset(data.panel, ranges, context_length, whole.prediction_length)
    return replace(data, windows=data.windows | {"test": windows.showing(min(steps, context_length))})


if __name__ == "__main__":
    raise SystemExit(main())
