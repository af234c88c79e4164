"""Some data and a time budget: the best forecaster, whatever it is, and whether tuning was worth it.

    python scripts/autotune.py --data readings.csv --horizon 2h --minutes 30
    python scripts/autotune.py --data exports/ --horizon 1h --minutes 10 data.item_from=folder
    python scripts/autotune.py --data recipes/ttm/cgm_sample/demo.yaml --minutes 5 --metric mae --output runs/best

The data is looked at as scripts/describe_data.py does; lengths and split follow it. Then, as long as there is time:
simple forecasts, weights as they are (those that ship with the project, and --weights), LightGBM, alone and with the
best untuned forecast among its inputs, trainings on shares of the data, which say whether tuning will pay, tuning modes
and learning rates by successive halving, adapters per item, interpolation and a stack of the best. The
validation windows choose; the test windows are forecast once, at the end, by the winner and the simple forecasts. The
winner is said whatever it is.

The same command goes on with a search that was stopped; started several times at once, on any machines that see
--output and the database, it shares the work. In --output: best (a run folder, which predicts and serves like any),
best.yaml (runs it again alone), report.html, leaderboard.json, will_tuning_pay.json. Exit codes: 0 done, 2 your input
needs a change or nothing could be trained, 75 SIGTERM, 130 Ctrl-C; after the last two the same command goes on.
"""

from __future__ import annotations

import argparse
import shlex
import time
from collections.abc import Sequence

from tstune.command_line import minutes, script_parser
from tstune.errors import EXIT_OK, exits_cleanly


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = script_parser(__doc__)
    option = parser.add_argument
    option("--data", required=True, metavar="PATH", help="a file or folder of series, or a recipe (.yaml)")
    option("--horizon", metavar="TIME", help="how far to forecast, as 2h, or in steps; left out: as the data suggest")
    option("--minutes", type=minutes, default=30.0, metavar="N", help="time for all of it (default 30)")
    option("--weights", action="append", default=[], metavar="FOLDER", help="further weights, also as family:folder")
    option("--metric", default="rmse", metavar="NAME", help="column of the scoreboard that chooses (default rmse)")
    option("--higher", action="store_true", help="a higher value of --metric is better")
    option("--output", metavar="FOLDER", help="where all of it goes; left out: runs/autotune/<name of the data>")
    option("--storage", metavar="URL", help="database of the search; left out: $TSTUNE_SWEEP_STORAGE, else study.db")
    option("overrides", nargs="*", metavar="key=value", help="keys of a recipe that are known")
    return parser.parse_intermixed_args(argv)


@exits_cleanly
def main(argv: Sequence[str] | None = None) -> int:
    """Search, finish, print."""
    args, begun = parse_args(argv), time.monotonic()
    from tstune.runs.folder import RunFolder
    from tstune.sweeps.autotune import autotune

    found = autotune(
        args.data,
        args.horizon,
        args.minutes,
        args.overrides,
        args.weights,
        args.metric,
        args.higher,
        args.output,
        begun,  # libraries take their time to load
        args.storage,
    )
    print(f"\nwinner: {found.winner.name} ({args.metric} {found.winner.score:.5g} on the validation windows)")
    print("\n".join(filter(None, (found.sentence, found.came_true))))
    late = sum(why.startswith("no time left") for why in found.not_tried.values())
    if late:
        print(f"not tried for want of time: {late} candidates (report); more --minutes and another --output try them")
    best = found.folder / "best"
    path = RunFolder(best).config.data.path
    data = shlex.quote(path) if path else "…"
    script = f"python scripts/predict_forecast.py --model {shlex.quote(str(best))}"
    print(f"forecast: {script} --input {data} --output forecast.csv")
    print(f"report: {found.folder}/report.html\nrecipe: {found.folder}/best.yaml")
    return EXIT_OK


if __name__ == "__main__":
    raise SystemExit(main())
