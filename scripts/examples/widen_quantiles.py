"""Widen the quantiles of a network by what its validation people say, one factor per lead time, in the weights it has.

    python scripts/examples/widen_quantiles.py runs/ttm/pretrain/glucose_quantiles --output runs/wider

A quantile head that learned from the people its points learned from is too sure of itself. The factor is the 80 %
quantile of |error| over the distance of the 10 % or 90 % quantile from the median, as in conformal prediction, on the
windows of people who taught the points nothing: the mean over people, smoothed over an hour. The network needs a skip
head, whose stretch of the distances takes the factor.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # scripts/, where tstune lies

from tstune import load_model
from tstune.errors import EXIT_OK, CheckpointError, exits_cleanly

LEVEL = 0.8


@exits_cleanly
def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="run folder of tuning.mode=quantile_head")
    parser.add_argument("--output", type=Path, required=True, help="folder for the network")
    args = parser.parse_args(argv)
    model = load_model(args.run)
    if getattr(model.network, "skip_head", None) is None or not model.native_levels:
        raise CheckpointError(f"{args.run} holds no network with a skip head and quantiles")
    ratios, people = _ratios(model)
    factor = _factor(ratios, people)
    others = [
        _covered(ratios[people == one], _factor(ratios[people != one], people[people != one])) for one in set(people)
    ]
    before = [_covered(ratios[people == one], np.ones_like(factor)) for one in set(people)]
    print(
        f"{LEVEL:.0%} interval, mean over {len(before)} people: {np.mean(before):.1%} covered, {np.mean(others):.1%} "
        "by the factor of the others"
    )
    print("factor every twelfth step:", " ".join(f"{one:.2f}" for one in factor[::12]))
    with torch.no_grad():
        model.network.skip_head.quantile_stretch.bias += torch.from_numpy(np.log(factor)).float()
    model.network.save_pretrained(args.output)
    print(f"network: {args.output}")
    return EXIT_OK


def _ratios(model: object) -> tuple[np.ndarray, np.ndarray]:
    """[windows, steps] how far truth lies beyond the interval, NaN where there is none; [windows] whose they are."""
    low, mid, high = (model.native_levels.index(level) for level in (0.1, 0.5, 0.9))
    ratios, people = [], []
    data = model.prepare()
    for part in ("validation", "calibration"):  # calibration is the other half of the validation windows
        for begin in range(0, len(data.windows[part]), 256):
            batch = data.windows[part].__getitems__(range(begin, min(begin + 256, len(data.windows[part]))))
            with torch.inference_mode():
                said = model.native_quantiles(batch)[:, :, 0]
            error = batch["future_values"][..., 0] - said[..., mid]
            reach = torch.where(error > 0, said[..., high] - said[..., mid], said[..., mid] - said[..., low])
            ratios.append(torch.where(batch["future_observed_mask"][..., 0], error.abs() / reach, torch.nan).numpy())
            people.append(batch["item"].numpy())
    return np.concatenate(ratios), np.concatenate(people)


def _factor(ratios: np.ndarray, people: np.ndarray) -> np.ndarray:
    each = [np.nanquantile(ratios[people == one], LEVEL, axis=0) for one in np.unique(people)]
    return np.convolve(np.pad(np.nanmean(each, axis=0), 6, mode="edge"), np.ones(13) / 13, mode="valid")


def _covered(ratios: np.ndarray, factor: np.ndarray) -> float:
    return float((ratios <= factor)[~np.isnan(ratios)].mean())


if __name__ == "__main__":
    raise SystemExit(main())
