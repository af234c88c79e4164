"""Write the public glucose cohorts as one table of people, as `recipes/ttm/pretrain/glucose.yaml` reads it.

    python scripts/prepare_cohorts.py <folder> --output <folder>/glucose.parquet

The folder holds the cohorts as the Glucose-ML project harmonised them, a Parquet file each with `item_id`, `timestamp`
and `glucose` in mg/dL. People whom other recipes judge themselves by are left out, so that each of those can start from
weights that were trained on the table. (The rows that T1D-UOM has in mmol/L by mistake are all of those people.)
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from tstune.command_line import add_output_arguments, new_file, script_parser
from tstune.errors import EXIT_OK, DataError, exits_cleanly

LEFT_OUT = ("2301", "2304", "2307")
"""People of T1D-UOM on whom recipes/ttm/t1d_uom is judged."""
COLUMNS = ["item_id", "timestamp", "glucose"]


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = script_parser(__doc__)
    parser.add_argument("folder", help="folder with a .parquet file for each cohort")
    add_output_arguments(parser, "file to write (.parquet)")
    return parser.parse_args(argv)


@exits_cleanly
def main(argv: Sequence[str] | None = None) -> int:
    """Read, mend, write."""
    args = parse_args(argv)
    folder, output = Path(args.folder), new_file(args.output, (".parquet",), args.overwrite)
    files = [file for file in sorted(folder.glob("*.parquet")) if file.resolve() != output.resolve()]
    if not files:
        raise DataError(f"{folder} holds no .parquet file; give the folder of the cohorts")

    import pandas as pd

    from tstune.foreign_files import damage
    from tstune.runtime.files import aside

    cohorts = []
    for file in files:
        with damage(file, DataError):
            table = pd.read_parquet(file)
            missing = [name for name in COLUMNS if name not in table]
            if missing:
                raise DataError(f"{file} has no column {missing[0]!r}; its columns: {', '.join(map(str, table))}")
            kinds = {"item_id": str, "timestamp": "datetime64[ms]", "glucose": "float32"}
            table = table[COLUMNS].dropna().astype(kinds)
        table = table[~table["item_id"].str.contains(rf"(?<!\d)(?:{'|'.join(LEFT_OUT)})(?!\d)")]
        table = table.sort_values(["item_id", "timestamp"]).drop_duplicates(["item_id", "timestamp"])
        people = table["item_id"].nunique()
        table["item_id"] = f"{file.stem}/" + table["item_id"]
        print(f"{file.name}: {people} people, {len(table):,} readings")
        cohorts.append(table)
    with aside(output, "--output ") as path:
        pd.concat(cohorts, ignore_index=True).to_parquet(path, index=False)
    return EXIT_OK


if __name__ == "__main__":
    raise SystemExit(main())
