"""Pre-train a Tiny Time Mixer on generated series: no data, no licence, no network.

    python scripts/pretrain_ttm.py --config recipes/ttm/pretrain/ttm_512_96.yaml
    python scripts/pretrain_ttm.py --config recipes/ttm/pretrain/tiny.yaml output_dir=runs/pretrain
    accelerate launch --num_processes 8 --config_file accelerate_configs/ddp.yaml scripts/pretrain_ttm.py --config …

The weights of the lowest loss on generated validation series end in `<output_dir>/model`; start from them with
`model.pretrained=<output_dir>/model`. Exit codes are those of finetune_ttm.py; a run that was killed goes on with
training.resume_from_checkpoint=auto.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from tstune.command_line import add_config_arguments, load_config, script_parser
from tstune.errors import EXIT_OK, exits_cleanly


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = script_parser(__doc__)
    add_config_arguments(parser)
    return parser.parse_args(argv)


@exits_cleanly
def main(argv: Sequence[str] | None = None) -> int:
    """Run the recipe."""
    config = load_config(parse_args(argv))

    from tstune.models.ttm import TTMForecaster
    from tstune.runs.pretrain import PreTraining
    from tstune.runtime.distributed import DistributedManager

    processes = DistributedManager.for_run(config)
    resume = config.training.resume_from_checkpoint
    with PreTraining(TTMForecaster(config), config.output_dir, config.overwrite, resume, processes) as run:
        if run.has("registered"):
            print(f"run folder: {config.output_dir} is complete, there is nothing to go on with")
            return EXIT_OK
        if not run.has("judged"):
            run.prepare()  # generated windows
            run.build()  # random weights
            run.start_tracking()
            run.train()  # the loop: checkpoints, the weights of the lowest validation loss
            run.save()
        run.commit()  # the run folder appears, whole
        run.track()
        run.register()
    if processes.is_main:
        for name, loss in run.results["losses"].items():
            print(f"{name}: {loss:.4f}")
        print(f"run folder: {config.output_dir}")
    return EXIT_OK


if __name__ == "__main__":
    raise SystemExit(main())
