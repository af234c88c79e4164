"""Write the page of every configuration key, docs/configuration.md, from the schema.

    python scripts/write_reference.py docs/configuration.md

Its test fails when the page is older than the schema. `make docs` runs this.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from tstune.errors import EXIT_OK, exits_cleanly


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("page", type=Path, help="file to write")
    return parser.parse_args(argv)


@exits_cleanly
def main(argv: Sequence[str] | None = None) -> int:
    """Write it."""
    args = parse_args(argv)

    from tstune.config.reference import reference

    args.page.write_text(reference(), encoding="utf-8")
    print(args.page)
    return EXIT_OK


if __name__ == "__main__":
    raise SystemExit(main())
