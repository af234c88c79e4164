"""Watch a model in use: score what it forecast when the truth arrives, forecast on, and say whether something changed.

    python scripts/monitor_model.py registry:cgm@champion --input new.csv --output monitor/cgm
    python scripts/monitor_model.py runs/mine --input new.csv --output monitor/mine --reference-days 14
    python scripts/monitor_model.py runs/mine --input new.csv --output monitor/mine data.unit=mg/dL

Call it as often as readings come: --input holds those since the last call, with the history of a forecast before them,
or all there are. --output keeps every forecast (forecasts-<version>.parquet, as evaluation.keep_forecasts writes them)
and holds what there is to see: monitor.html, monitor.json, and ahead.csv, the forecasts of what comes with intervals
that follow the stream (adaptive conformal). Drift of inputs and errors is looked for series by series, hour by hour;
the first --reference-days are the usual. Exit codes: 0 nothing changed, 3 a drift was found since this version is
watched, 2 your input needs a change (one `error:` line says which).
"""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Sequence
from pathlib import Path

from tstune import command_line
from tstune.errors import EXIT_DRIFT, EXIT_OK, ConfigError, exits_cleanly


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = command_line.script_parser(__doc__)
    parser.add_argument("model", help="run folder, or registry:name@alias, registry:name:version")
    parser.add_argument("--input", required=True, type=Path, help="table with the readings up to now (CSV, Parquet, …)")
    parser.add_argument("--output", required=True, type=Path, metavar="folder", help="what is kept from call to call")
    parser.add_argument("--future", type=Path, help="table with known-future columns, for models that use them")
    parser.add_argument("--reference-days", type=float, default=30.0, help="first days, the usual (default: 30)")
    command_line.add_registry_argument(parser)
    command_line.add_reading_arguments(parser)
    command_line.add_trust_argument(parser)
    return parser.parse_intermixed_args(argv)


@exits_cleanly
def main(argv: Sequence[str] | None = None) -> int:
    """Score, forecast, compare, write, say."""
    args = parse_args(argv)
    if not 0 < args.reference_days <= 36_525:
        raise ConfigError(f"--reference-days {args.reference_days:g} is not above 0 and at most 36525")

    from tstune.runs.folder import refuse_full
    from tstune.runtime.logs import setup_logging

    setup_logging()
    refuse_full("--output", args.output, overwrite=True)
    from tstune.data.files import read_table
    from tstune.evaluation.drift import DriftRule
    from tstune.runs.compare.monitoring import PAGE, monitor

    found = monitor(
        args.model,
        args.input,
        args.output,
        future=read_table(args.future) if args.future else None,
        rename=command_line.read_renames(args.rename) or None,
        overrides=args.overrides,
        registry=args.registry,
        rule=DriftRule(reference_days=args.reference_days),
        trust_code=args.trust_code,
    )
    print(found.sentence())
    if not found.is_news:
        print(f"{args.input} adds nothing: no forecast waited for its readings, and none can be made of new ones")
    print(f"page: {args.output / PAGE}")
    if not found.drifts:
        return EXIT_OK
    if "@" in args.model:  # an alias, which a challenger could take over
        since = min(one.since for one in found.drifts).date()
        words = [args.model, *args.overrides, "--input", str(args.input), "--since", str(since)]
        words += [f"--rename={one}" for one in args.rename]
        words += [f"--registry={args.registry}"] if args.registry else []
        print(f"a challenger: python scripts/retune.py {shlex.join(words)} --output retuned")
    return EXIT_DRIFT


if __name__ == "__main__":
    raise SystemExit(main())
