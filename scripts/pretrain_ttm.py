"""Pre-train a Tiny Time Mixer on generated series: no data, no licence, no network.

    accelerate launch scripts/pretrain_ttm.py --config recipes/ttm/pretrain/ttm_512_96.yaml
    python scripts/pretrain_ttm.py --config recipes/ttm/pretrain/tiny.yaml output_dir=runs/pretrain
    accelerate launch --num_processes 8 --config_file accelerate_configs/ddp.yaml scripts/pretrain_ttm.py --config …

The weights of the lowest loss on generated validation series end in `<output_dir>/model`; start from them with
`model.pretrained=<output_dir>/model`. Exit codes are those of finetune_ttm.py; a run that was killed goes on with
training.resume_from_checkpoint=auto.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from tstune.config.command_line import add_config_arguments, load_config
from tstune.errors import EXIT_OK, exits_cleanly


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_config_arguments(parser)
    return parser.parse_args(argv)


@exits_cleanly
def main(argv: Sequence[str] | None = None) -> int:
    """Run the recipe."""
    args = parse_args(argv)
    from tstune.runs.folder import is_finished
    from tstune.runtime.logs import setup_logging

    config = load_config(args)
    setup_logging()
    if config.training.resume_from_checkpoint == "auto" and is_finished(config):
        print(f"run folder: {config.output_dir} is complete, there is nothing to go on with")
        return EXIT_OK

    from tstune.models.ttm import TTMForecaster
    from tstune.runs.pretrain import pretrain
    from tstune.runtime.distributed import DistributedManager

    manager = DistributedManager(config.distributed, config.training.mixed_precision)
    model, resume = TTMForecaster(config), config.training.resume_from_checkpoint
    # generated windows → random weights → training, checkpoints → weights of the lowest validation loss → run folder
    results = pretrain(model, config.output_dir, config.overwrite, manager, resume)
    if manager.is_main:
        for name, loss in results["losses"].items():
            print(f"{name}: {loss:.4f}")
        print(f"run folder: {config.output_dir}")
    return EXIT_OK


if __name__ == "__main__":
    raise SystemExit(main())
