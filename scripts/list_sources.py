"""What the data sources are: options, licence, and where to get the data.

    python scripts/list_sources.py all
    python scripts/list_sources.py t1d_uom

`scripts/finetune_ttm.py --list-sources` prints the same as `all`. Nothing is downloaded.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from tstune.errors import EXIT_OK, exits_cleanly


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", help="`all`, or a value of data.source, e.g. t1d_uom")
    return parser.parse_args(argv)


@exits_cleanly
def main(argv: Sequence[str] | None = None) -> int:
    """Print it."""
    args = parse_args(argv)
    from tstune.data.sources import describe_sources

    print(describe_sources(None if args.source == "all" else args.source))
    return EXIT_OK


if __name__ == "__main__":
    raise SystemExit(main())
