"""A dry look at data: what was recognised, as a recipe to run; who is in it, gaps, windows, and whether it is enough.

    python scripts/describe_data.py readings.csv
    python scripts/describe_data.py exports/ --html look.html
    python scripts/describe_data.py readings.csv item_id_column=person 'conditional_columns=[insulin]' --yaml mine.yaml
    python scripts/describe_data.py --list-sources

Keys of the section `data` are taken as they are given; what is left open is found in the file. The recipe that is
printed (and written by --yaml) runs: python scripts/finetune_ttm.py --config mine.yaml. Nothing is trained, written or
downloaded otherwise. Exit codes: 0 there are windows, 2 there are none, or your input needs a change (one `error:` line
says which).
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from tstune.command_line import script_parser
from tstune.errors import EXIT_OK, EXIT_USER_ERROR, exits_cleanly


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = script_parser(__doc__)
    parser.add_argument("path", nargs="?", help="a file, or a folder of them")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="keys of data that are known")
    parser.add_argument("--yaml", type=Path, metavar="file", help="write the recipe there")
    parser.add_argument("--html", type=Path, metavar="file", help="write a page with pictures there")
    parser.add_argument(
        "--list-sources", nargs="?", const="all", metavar="source", help="describe all sources, or one, and stop"
    )
    args = parser.parse_intermixed_args(argv)
    if (args.path is None) == (args.list_sources is None):
        parser.error("one of the arguments path, --list-sources is required")
    return args


@exits_cleanly
def main(argv: Sequence[str] | None = None) -> int:
    """Look and print."""
    args = parse_args(argv)
    if args.list_sources is not None:
        from tstune.data.sources import describe_sources

        print(describe_sources(None if args.list_sources == "all" else args.list_sources))
        return EXIT_OK
    from omegaconf import OmegaConf

    from tstune.config.managers import check_override, parse_override
    from tstune.data.describe import describe

    for override in args.overrides:
        check_override(override)
    given = {}
    for override in args.overrides:
        given |= OmegaConf.to_container(parse_override(override.removeprefix("data.")))
    found = describe(args.path, given)
    print(found.text())
    if args.yaml is not None or args.html is not None:
        from tstune.runs.report.data_page import data_page
        from tstune.runs.report.render import write_page

        if args.yaml is not None:
            write_page(args.yaml, found.recipe())
        if args.html is not None:
            write_page(args.html, data_page(found, args.path))
    return EXIT_OK if found.why_not is None else EXIT_USER_ERROR


if __name__ == "__main__":
    raise SystemExit(main())
