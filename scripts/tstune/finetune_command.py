"""What the scripts that fine-tune share: their command line and their run."""

from __future__ import annotations

import argparse
from collections.abc import Collection, Sequence

from tstune.config.command_line import add_config_arguments, config_manager, config_path
from tstune.errors import EXIT_OK, ConfigError


class _ListSources(argparse.Action):
    """Like --help, but for the data."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from tstune.data.sources import describe_sources

        print(describe_sources())
        parser.exit()


def parse_finetune_args(description: str | None, argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line of a script with this docstring."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_config_arguments(parser)
    parser.add_argument("--list-sources", action=_ListSources, nargs=0, help="describe the data sources and stop")
    return parser.parse_args(argv)


def run_finetuning(args: argparse.Namespace, families: Collection[str] | None = None) -> int:
    """Run the recipe and print the scoreboard.

    Args:
        args: of `parse_finetune_args`.
        families: values of `model.type` that are accepted; None takes every family.

    Returns:
        exit code.

    Raises:
        ConfigError: another family, or any problem of the configuration.
    """
    from tstune.runs.folder import is_finished
    from tstune.runtime.logs import setup_logging

    manager = config_manager(args)
    config = manager.load_config(config_path(args), args.overrides)
    if families is not None and config.model.type not in families:
        raise ConfigError(
            f"model.type={config.model.type}: this script tunes {', '.join(families)}; set model.type, or use "
            "scripts/finetune_ttm.py, which takes every family"
        )
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
