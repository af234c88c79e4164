"""Fine-tune a Tiny Time Mixer and judge it against zero-shot and baselines.

    accelerate launch scripts/finetune_ttm.py --config recipes/ttm/cgm_sample/decoder.yaml
    accelerate launch scripts/finetune_ttm.py --config recipes/ttm/cgm_sample/decoder.yaml training.learning_rate=5e-4
    accelerate launch scripts/finetune_ttm.py --hydra recipes/hydra/ttm.yaml data=cgm_sample tuning=lora
    accelerate launch --num_processes 2 --config_file accelerate_configs/ddp.yaml scripts/finetune_ttm.py --config …
    python scripts/finetune_ttm.py --config recipes/ttm/cgm_sample/demo.yaml output_dir=runs/mine

The run folder `output_dir` appears when the run is done. Exit codes: 0 done, 2 your input needs a change
(one `error:` line says which), 75 preempted (start it again with training.resume_from_checkpoint=auto), 130
interrupted.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from tstune.config.command_line import add_config_arguments, config_manager, config_path
from tstune.errors import EXIT_OK, exits_cleanly


class _ListSources(argparse.Action):
    """Like --help, but for the data."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from tstune.data.sources import describe_sources

        print(describe_sources())
        parser.exit()


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_config_arguments(parser)
    parser.add_argument("--list-sources", action=_ListSources, nargs=0, help="describe the data sources and stop")
    return parser.parse_args(argv)


@exits_cleanly
def main(argv: Sequence[str] | None = None) -> int:
    """Run the recipe."""
    args = parse_args(argv)
    from tstune.run_folder import is_finished
    from tstune.runtime.logs import setup_logging

    manager = config_manager(args)
    config = manager.load_config(config_path(args), args.overrides)
    setup_logging()
    if config.training.resume_from_checkpoint == "auto" and is_finished(config):
        print(f"run folder: {config.output_dir} is complete, there is nothing to go on with")
        return EXIT_OK  # preempted in its last second and queued again

    from tstune.trainer import TTMTrainer

    # data → weights and tuning mode → zero-shot scores → training → tuned scores → baselines → run folder, trackers
    trainer = TTMTrainer(manager, None, config_path(args), args.overrides)
    results = trainer.train()
    if trainer.manager.is_main:
        print(f"\n{results['scoreboard']}\n")
        if config.evaluation.report:
            print(f"report: {config.output_dir}/report.html")
        print(f"run folder: {config.output_dir}")
    return EXIT_OK


if __name__ == "__main__":
    raise SystemExit(main())
