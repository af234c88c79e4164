"""Forecast what follows the series of a file, with a saved model.

    python scripts/predict_forecast.py --model runs/ttm/cgm_sample/decoder --input input.csv --output forecast.csv
    python scripts/predict_forecast.py --model registry:cgm@champion --input input.csv --output forecast.csv

The input has the columns the model was trained on (CSV, gzipped CSV or Parquet); the last context of each
series is used. The output has one row per series and future step, in original units.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from tstune import command_line
from tstune.errors import EXIT_OK, CheckpointError, exits_cleanly


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = command_line.script_parser(__doc__)
    command_line.add_model_arguments(parser)
    parser.add_argument("--input", required=True, help="table with the history (CSV and other text, Parquet, …)")
    command_line.add_output_arguments(parser, "forecast to write (.csv, .csv.gz, .parquet)")
    parser.add_argument("--future", help="table with known-future columns, for models that use them")
    command_line.add_reading_arguments(parser)
    parser.add_argument(
        "--keep-formulas", action="store_true", help="leave names such as =A1 as they are; a CSV gets '=A1 otherwise"
    )
    return parser.parse_intermixed_args(argv)


@exits_cleanly
def main(argv: Sequence[str] | None = None) -> int:
    """Load, forecast, write."""
    args = parse_args(argv)
    output = command_line.new_file(args.output, (".csv", ".csv.gz", ".parquet"), args.overwrite)

    from tstune.runtime.logs import setup_logging

    setup_logging()

    from tstune.data.files import read_table
    from tstune.data.preprocess import Preprocessor
    from tstune.registry import load_saved_model
    from tstune.runtime.files import aside, without_formulas

    rename = command_line.read_renames(args.rename) or None  # the model's names -> columns of this table
    if (Path(args.model) / "preprocessor.json").is_file():  # a wrong file or column is said before torch is loaded
        with suppress(CheckpointError):  # what is damaged is said by who loads it, with what else is wrong there
            Preprocessor.read(Path(args.model))[1].changed(args.overrides).for_file(Path(args.input), rename)
    future = read_table(Path(args.future)) if args.future else None
    model = load_saved_model(args.model, args.registry, args.trust_code)
    model.preprocessor = model.preprocessor.changed(args.overrides).for_file(Path(args.input), rename)
    forecast = model.predict(args.input, future=future)
    with aside(output, "--output ") as file:
        if output.suffix == ".parquet":
            forecast.to_parquet(file, index=False)
        else:
            compression = "gzip" if output.suffix == ".gz" else None
            table = forecast if args.keep_formulas else without_formulas(forecast)
            table.to_csv(file, index=False, compression=compression)
    print(f"{len(forecast)} forecast rows: {output}")
    return EXIT_OK


if __name__ == "__main__":
    raise SystemExit(main())
