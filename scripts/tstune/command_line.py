"""What scripts share: how they read their command lines, files they read or write, and what they say at the end."""

from __future__ import annotations

import argparse
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from tstune.errors import ConfigError, OutputError

if TYPE_CHECKING:  # `--help` waits for none of these
    from tstune.config.managers import ConfigManager
    from tstune.config.schema import RunConfig
    from tstune.tracking.interfaces import ExperimentTracker


def script_parser(docstring: str | None) -> argparse.ArgumentParser:
    """A parser whose help is the docstring of the script."""
    return argparse.ArgumentParser(description=docstring, formatter_class=argparse.RawDescriptionHelpFormatter)


def add_config_arguments(parser: argparse.ArgumentParser, required: bool = True) -> None:
    """Add ``--config FILE`` or ``--hydra FILE``, one of them (required unless told otherwise), and the overrides."""
    file = parser.add_mutually_exclusive_group(required=required)
    file.add_argument("--config", metavar="FILE", help="a recipe, e.g. recipes/ttm/cgm_sample/decoder.yaml")
    file.add_argument("--hydra", metavar="FILE", help="a composition of config groups, e.g. recipes/hydra/ttm.yaml")
    told = "changes to the file, the last word; with --hydra also group=option, +key=value and ~key"
    parser.add_argument("overrides", nargs="*", metavar="key=value", help=told)


def add_trust_argument(parser: argparse.ArgumentParser) -> None:
    """Add ``--trust-code``: folders that are loaded may name code."""
    told = "import code that a loaded folder names: a model, source, metric"
    parser.add_argument("--trust-code", action="store_true", help=told)


def add_registry_argument(parser: argparse.ArgumentParser) -> None:
    """Add ``--registry``, where models and runs that are called ``registry:…`` lie."""
    told = "for registry:…, as in manage_registry.py (default: TSTUNE_REGISTRY, registry/)"
    parser.add_argument("--registry", help=told)


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Add ``--model``, ``--registry`` and ``--trust-code``."""
    parser.add_argument("--model", required=True, help="run folder, or registry:name@alias, registry:name:version")
    add_registry_argument(parser)
    add_trust_argument(parser)


def add_output_arguments(parser: argparse.ArgumentParser, what: str) -> None:
    """Add ``--output``, the file that the script writes, and ``--overwrite``."""
    parser.add_argument("--output", required=True, help=what)
    parser.add_argument("--overwrite", action="store_true", help="replace an existing output file")


def new_file(output: str | Path, kinds: tuple[str, ...], overwrite: bool, refusal: str = "") -> Path:
    """``--output`` as a file that can be written, before anything is read; else an `OutputError`.

    `kinds` are the ends its name may have, and `refusal` is said of another one.
    """
    path, *others = Path(output), *kinds[:-1]
    if not path.name.endswith(kinds):
        known = f"unknown kind of file; use {' or '.join(filter(None, (', '.join(others), kinds[-1])))}"
        raise OutputError(f"--output {path}: {refusal or known}")
    try:
        taken, is_folder = path.exists() and not overwrite, path.is_dir()
    except OSError as error:
        raise OutputError(f"--output {path} cannot be written: {error.strerror}") from None
    if is_folder and overwrite:
        raise OutputError(f"--output {path} cannot be written: it is a directory")
    if taken:
        raise OutputError(f"--output {path} exists; add --overwrite or choose another file")
    if not path.parent.is_dir():
        raise OutputError(f"--output {path}: the folder {path.parent} does not exist")
    return path


def minutes(text: str) -> float:
    """A number above 0, as a type of `argparse`."""
    if not 0 < float(text) < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return float(text)


def add_rename_argument(parser: argparse.ArgumentParser) -> None:
    """Add ``--rename NAME=COLUMN``."""
    told = "a name that the model knows, and the column of this table that it is; may be given several times"
    parser.add_argument("--rename", action="append", default=[], metavar="NAME=COLUMN", help=told)


def add_reading_arguments(parser: argparse.ArgumentParser) -> None:
    """Add ``--rename`` and ``data.key=value``, for a file that a saved model reads."""
    add_rename_argument(parser)
    told = "where this table is written otherwise than that of the training, e.g. data.on_duplicate=mean"
    parser.add_argument("overrides", nargs="*", metavar="data.key=value", help=told)


def read_renames(given: list[str]) -> dict[str, str]:
    """``--rename NAME=COLUMN`` as `data.rename`."""
    for text in given:
        if not all(text.partition("=")):
            raise ConfigError(f"--rename {text}: write NAME=COLUMN, e.g. --rename glucose=glucose_value_mg_dl")
    return dict(text.split("=", 1) for text in given)


def config_path(args: argparse.Namespace) -> str:
    """The file that was given, whichever manager reads it."""
    return args.config if args.hydra is None else args.hydra


def config_manager(args: argparse.Namespace) -> ConfigManager:
    """The manager that reads the file."""
    from tstune.config.managers import HydraConfigManager, SimpleConfigManager

    return SimpleConfigManager() if args.hydra is None else HydraConfigManager()


def load_config(args: argparse.Namespace, families: Collection[str] = ()) -> RunConfig:
    """The validated run; all that is wrong with it is one `ConfigError`, and so is a family that is none of these."""
    config = config_manager(args).load_config(config_path(args), args.overrides)
    if families and config.model.type not in families:
        raise ConfigError(
            f"model.type={config.model.type}: this script tunes {', '.join(families)}; set model.type, or use "
            "scripts/finetune_ttm.py, which takes every family"
        )
    return config


class _ListSources(argparse.Action):
    """Like --help, but for the data."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from tstune.data.sources import describe_sources

        print(describe_sources())
        parser.exit()


def finetune_parser(docstring: str | None) -> argparse.ArgumentParser:
    """The parser of a script that fine-tunes: a recipe, and ``--list-sources``."""
    parser = script_parser(docstring)
    add_config_arguments(parser)
    parser.add_argument("--list-sources", action=_ListSources, nargs=0, help="describe the data sources and stop")
    return parser


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


def print_results(results: Mapping[str, object], config: RunConfig, experiment_dir: str | None = None) -> None:
    """The scoreboard, and where everything else lies."""
    print(f"\n{results['scoreboard']}\n")
    if config.evaluation.report:
        print(f"report: {results['output_dir']}/report.html")
    print(f"run folder: {results['output_dir']}")
    if experiment_dir is not None:
        print(f"Training completed. Run ID: {results['run_id']}")
