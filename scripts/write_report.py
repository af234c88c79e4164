"""Draw report.html and report.md of a run again, from the files of its folder.

    python scripts/write_report.py runs/ttm/cgm_sample/demo
    python scripts/write_report.py runs/ttm/cgm_sample/demo runs/ttm/cgm_sample/lora

Every run writes its report itself; this is for a folder that was moved, edited, or made by an earlier version of the
report. Exit codes: 0 drawn, 2 a folder is not that of a finished run (an `error:` line says why).
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from tstune.command_line import script_parser
from tstune.errors import EXIT_OK, exits_cleanly


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = script_parser(__doc__)
    parser.add_argument("run_folder", type=Path, nargs="+", help="output_dir of a finished run")
    return parser.parse_args(argv)


@exits_cleanly
def main(argv: Sequence[str] | None = None) -> int:
    """Draw the reports and say where they are."""
    args = parse_args(argv)
    from tstune.runs.report import HTML_FILE, write_report

    for folder in args.run_folder:
        write_report(folder)
        print(f"report: {folder / HTML_FILE}")
    return EXIT_OK


if __name__ == "__main__":
    raise SystemExit(main())
