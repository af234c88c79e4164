"""Rebuild the long series of the Kaggle competition brist1d from its wide rows, and write them as Parquet once.

    python scripts/prepare_brist1d.py --input <folder>/kaggle_brisT1D --output <folder>/kaggle_brisT1D/brist1d.parquet

The input folder holds train.csv and, if you like, test.csv (plain, .gz, .zip, or both in brist1d.zip). Beside the
output a .json of the same name says what was found: rows, participants, segments, conflicts, hashes of the files. A run
with data.source=kaggle_brisT1D reads the folder, where it finds brist1d.parquet, or the Parquet file itself.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from tstune.command_line import add_output_arguments, new_file, script_parser
from tstune.errors import EXIT_OK, DataError, exits_cleanly


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = script_parser(__doc__)
    parser.add_argument("--input", required=True, help="folder with train.csv and test.csv of the competition")
    add_output_arguments(parser, "file to write (.parquet)")
    return parser.parse_args(argv)


@exits_cleanly
def main(argv: Sequence[str] | None = None) -> int:
    """Read, rebuild, write."""
    args = parse_args(argv)
    folder, output = Path(args.input), new_file(args.output, (".parquet",), args.overwrite)
    new_file(output.with_suffix(".json"), (".json",), args.overwrite)

    from tstune.data.sources.kaggle_brist1d import HOW_TO_GET, convert_folder, report_of, write_prepared
    from tstune.runtime.logs import setup_logging

    setup_logging()
    if not folder.is_dir():
        raise DataError(f"--input {folder} is not a folder; {HOW_TO_GET}")
    table = convert_folder(folder)
    write_prepared(table, output)
    report = report_of(table)
    for file in report["files"]:
        name = file["file"]
        people = sum(counts["file"] == name for counts in report["participants"])
        print(
            f"{file['name']}: {file['rows']:,} rows of {people} participants -> {report['instants'][name]:,} instants "
            f"in {report['segments'][name]:,} segments, {report['clock_jumps'][name]} clocks set"
        )
    for name, meaning in (("conflicts", "rows that disagree"), ("partly_empty", "rows that leave it empty")):
        found = ", ".join(f"{channel} {count:,}" for channel, count in report[name].items() if count)
        print(f"instants with {meaning}: {found or 'none'}")
    print(f"prepared file: {output}")
    return EXIT_OK


if __name__ == "__main__":
    raise SystemExit(main())
