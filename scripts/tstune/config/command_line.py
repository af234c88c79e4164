"""What scripts are told on the command line: a run, as one file and the changes to it, and files to read or write."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from tstune.errors import ConfigError, OutputError

if TYPE_CHECKING:  # `--help` waits for none of these
    from tstune.config.managers import ConfigManager
    from tstune.config.schema import RunConfig


def add_config_arguments(parser: argparse.ArgumentParser, required: bool = True) -> None:
    """Add ``--config FILE`` or ``--hydra FILE``, one of them (required unless told otherwise), and the overrides."""
    file = parser.add_mutually_exclusive_group(required=required)
    file.add_argument("--config", metavar="FILE", help="a recipe, e.g. recipes/ttm/cgm_sample/decoder.yaml")
    file.add_argument("--hydra", metavar="FILE", help="a composition of config groups, e.g. recipes/hydra/ttm.yaml")
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="key=value",
        help="changes to the file, the last word; with --hydra also group=option, +key=value and ~key",
    )


def add_trust_argument(parser: argparse.ArgumentParser) -> None:
    """Add ``--trust-code``: folders that are loaded may name code."""
    parser.add_argument(
        "--trust-code", action="store_true", help="import code that a loaded folder names: a model, source, metric"
    )


def new_file(output: str | Path, kinds: tuple[str, ...], overwrite: bool, refusal: str = "") -> Path:
    """``--output`` as a file that can be written, before anything is read.

    Args:
        output: as it was given.
        kinds: what its name may end with.
        overwrite: it may be there already.
        refusal: what is said of another kind; by default which kinds there are.

    Raises:
        OutputError: it is of another kind, exists, or has no folder to lie in.
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


RENAME_HELP = "a name that the model knows, and the column of this table that it is; may be given several times"


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
    if args.hydra is not None:
        from tstune.config.managers import HydraConfigManager

        return HydraConfigManager()
    from tstune.config.managers import SimpleConfigManager

    return SimpleConfigManager()


def load_config(args: argparse.Namespace) -> RunConfig:
    """The validated run.

    Raises:
        ConfigError: with every problem found, in one message.
    """
    return config_manager(args).load_config(config_path(args), args.overrides)
