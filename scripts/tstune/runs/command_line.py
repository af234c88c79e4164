"""What the scripts that fine-tune share: their arguments, and what they say at the end."""

from __future__ import annotations

import argparse
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING

from tstune.config.command_line import add_config_arguments, add_trust_argument
from tstune.errors import ConfigError

if TYPE_CHECKING:
    from tstune.config.schema import RunConfig
    from tstune.tracking.interfaces import ExperimentTracker


class _ListSources(argparse.Action):
    """Like --help, but for the data."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from tstune.data.sources import describe_sources

        print(describe_sources())
        parser.exit()


def parse_finetune_args(
    description: str | None, argv: Sequence[str] | None = None, loads_folders: bool = False, experiments: bool = False
) -> argparse.Namespace:
    """Read the command line of a script with this docstring; one whose models may be made of run folders says so.

    `experiments` adds ``--experiment-dir``.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_config_arguments(parser)
    parser.add_argument("--list-sources", action=_ListSources, nargs=0, help="describe the data sources and stop")
    if loads_folders:
        add_trust_argument(parser)
    if experiments:
        told = "also track the run in files below DIR; a run folder that is taken gets a number behind its name"
        parser.add_argument("--experiment-dir", metavar="DIR", help=told)
    return parser.parse_args(argv)


def track_in(experiment_dir: str | None, config: RunConfig) -> tuple[ExperimentTracker | None, str]:
    """Tracker and output_dir of a run that may have been given ``--experiment-dir``."""
    if experiment_dir is None:
        return None, config.output_dir
    from tstune.runs.life import own_folder
    from tstune.tracking.composite import build_tracker, guarded
    from tstune.tracking.simple_tracker import SimpleExperimentTracker

    files = SimpleExperimentTracker(experiment_dir, config.tracking.run_name, config.tracking.parent_run)
    trackers = [files, *build_tracker(config.tracking).trackers]
    return guarded(trackers, config.tracking), own_folder(config, [files.base_dir])


def require_family(config: RunConfig, families: Collection[str]) -> None:
    """Refuse a recipe of another family.

    Raises:
        ConfigError: naming the script that takes it.
    """
    if config.model.type not in families:
        raise ConfigError(
            f"model.type={config.model.type}: this script tunes {', '.join(families)}; set model.type, or use "
            "scripts/finetune_ttm.py, which takes every family"
        )


def print_results(results: Mapping[str, object], config: RunConfig, experiment_dir: str | None = None) -> None:
    """The scoreboard, and where everything else lies."""
    print(f"\n{results['scoreboard']}\n")
    if config.evaluation.report:
        print(f"report: {results['output_dir']}/report.html")
    print(f"run folder: {results['output_dir']}")
    if experiment_dir is not None:
        print(f"Training completed. Run ID: {results['run_id']}")
