"""Fine-tune a Tiny Time Mixer and judge it against zero-shot and baselines.

    accelerate launch scripts/finetune_ttm.py --config recipes/ttm/cgm_sample/decoder.yaml
    accelerate launch scripts/finetune_ttm.py --config recipes/ttm/cgm_sample/decoder.yaml training.learning_rate=5e-4
    accelerate launch --num_processes 2 --config_file accelerate_configs/ddp.yaml scripts/finetune_ttm.py --config …
    python scripts/finetune_ttm.py --config recipes/ttm/cgm_sample/demo.yaml output_dir=runs/mine

The run folder `output_dir` appears when the run is done. Exit codes: 0 done, 2 your input needs a change
(one `error:` line says which), 75 preempted (start it again with training.resume_from_checkpoint=auto), 130
interrupted.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from tstune.errors import EXIT_OK, exits_cleanly


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", required=True, help="a recipe, e.g. recipes/ttm/cgm_sample/decoder.yaml")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="changes to the recipe, the last word")
    return parser.parse_args(argv)


@exits_cleanly
def main(argv: Sequence[str] | None = None) -> int:
    """Run the recipe."""
    args = parse_args(argv)
    from tstune.config.simple_manager import SimpleConfigManager
    from tstune.run_folder import is_finished
    from tstune.runtime.logs import setup_logging

    config = SimpleConfigManager().load_config(args.config, args.overrides)
    setup_logging()
    if config.training.resume_from_checkpoint == "auto" and is_finished(config):
        print(f"run folder: {config.output_dir} is complete, there is nothing to go on with")
        return EXIT_OK  # preempted in its last second and queued again

    from tstune.models.ttm import TTMForecaster
    from tstune.runtime.distributed import DistributedManager

    manager = DistributedManager(config.distributed, config.training.mixed_precision)
    model = TTMForecaster(config)
    # data → weights and tuning mode → zero-shot scores → training → tuned scores → baselines → run folder
    results = model.fit(output_dir=config.output_dir, overwrite=config.overwrite, manager=manager)
    if manager.is_main:
        print(f"\n{results['scoreboard']}\n\nrun folder: {config.output_dir}")
    return EXIT_OK


if __name__ == "__main__":
    raise SystemExit(main())
