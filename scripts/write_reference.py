"""Write the page of every configuration key, docs/configuration.md, from the schema.

    python scripts/write_reference.py

Its test fails when the page is older than the schema. `make docs` runs this.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from tstune.errors import EXIT_OK, exits_cleanly

PAGE = Path(__file__).resolve().parents[1] / "docs" / "configuration.md"


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=PAGE, help="file to write (default: docs/configuration.md)")
    return parser.parse_args(argv)


@exits_cleanly
def main(argv: Sequence[str] | None = None) -> int:
    """Write it."""
    args = parse_args(argv)

    from tstune.config.reference import reference

    args.output.write_text(reference(), encoding="utf-8")
    print(args.output)
    return EXIT_OK


if __name__ == "__main__":
    raise SystemExit(main())
