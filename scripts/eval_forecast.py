"""Score models on exactly the same windows, or rebuild the scoreboard of a run from its folder alone.

    python scripts/eval_forecast.py --run runs/ttm/cgm_sample/demo
    python scripts/eval_forecast.py --forecasts runs/mine 'evaluation.metrics=[smape]'
    python scripts/eval_forecast.py --model runs/mine --model builtin --config recipes/ttm/cgm_sample/demo.yaml
    python scripts/eval_forecast.py --model runs/mine --config recipes/ttm/cgm_sample/demo.yaml data.test_stride=1
    python scripts/eval_forecast.py --model runs/mine --config recipes/ttm/cgm_sample/demo.yaml --all
    python scripts/eval_forecast.py --model registry:cgm@champion --hydra recipes/hydra/ttm.yaml --output runs/evaluated

A model is a run folder, registry:name@alias or registry:name:version, builtin, a folder of weights or a Hub id (both as
they are, zero-shot; of the family of the config, or as family:weights), or the name of a baseline. The first one is
judged against the others. --config says data, split, windows and metrics; --all takes all of the data for the test, as
for people a model never saw. With --run the numbers are compared with metrics.json to the last digit; data.path=… and
model.pretrained=… say where its files lie now. --forecasts does it from the forecasts that
evaluation.keep_forecasts=true kept, without data and model, and adds metrics and horizons.

Exit codes: 0 done (with --run and --forecasts: identical), 1 with these two: numbers differ, 2 your input needs a
change (one `error:` line says which).
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

from tstune import command_line
from tstune.errors import EXIT_DIFFERENT, EXIT_OK, exits_cleanly
from tstune.named_code import trusting

if TYPE_CHECKING:
    from tstune.runs.compare.evaluate import Evaluation


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = command_line.script_parser(__doc__)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--run", help="run folder whose scoreboard is rebuilt")
    what.add_argument("--forecasts", metavar="RUN", help="run folder whose kept forecasts are scored once more")
    what.add_argument("--model", action="append", dest="models", help="may be given several times")
    command_line.add_config_arguments(parser, required=False)
    parser.add_argument("--part", choices=("test", "validation", "train"), default="test", help="default: test")
    parser.add_argument("--all", action="store_true", help="every reading is test: the data needs no train part")
    parser.add_argument("--output", metavar="folder", help="write scores, verdict, record and report there")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing output folder")
    command_line.add_registry_argument(parser)
    command_line.add_rename_argument(parser)
    command_line.add_trust_argument(parser)
    args = parser.parse_intermixed_args(argv)
    given = args.config is not None or args.hydra is not None
    if args.models is None and (given or args.part != "test"):
        parser.error("--run and --forecasts take everything from the run: leave out --config, --hydra and --part")
    if args.forecasts is not None and args.output is not None:
        parser.error("--forecasts prints; leave out --output")
    if args.all and (args.models is None or args.part != "test"):
        parser.error("--all goes with --model, and without --part")
    if args.models is not None and not given:
        parser.error("--model needs --config or --hydra, which say the data, the split and the windows")
    return args


@exits_cleanly
def main(argv: Sequence[str] | None = None) -> int:
    """Score and print."""
    args = parse_args(argv)
    from tstune.runtime.logs import setup_logging

    setup_logging()
    with trusting(args.trust_code):
        if args.models is not None:
            return _evaluate(args)
        from tstune.runs.folder import CONFIG, METRICS, RunFolder

        RunFolder(args.run or args.forecasts).require(CONFIG, METRICS)  # before torch is loaded
        return _rebuild(args) if args.forecasts is None else _from_forecasts(args)


def _evaluate(args: argparse.Namespace) -> int:
    if args.rename:
        args.overrides.append(f"data.rename={json.dumps(command_line.read_renames(args.rename), ensure_ascii=False)}")
    config = command_line.load_config(args)
    from tstune.data.sources import check_source

    check_source(config.data)
    from tstune.runs.compare.evaluate import evaluate_models, without_parts

    config = without_parts(config) if args.all else config
    found = evaluate_models(args.models, config, args.part, args.output, args.overwrite, args.registry)
    _print(found, args.output)
    return EXIT_OK


def _from_forecasts(args: argparse.Namespace) -> int:
    from tstune.runs.rebuild import from_forecasts

    scoreboard, conclusion, is_same = from_forecasts(args.forecasts, args.overrides)
    print(f"\n{scoreboard}\n\n{conclusion}")
    return EXIT_OK if is_same else EXIT_DIFFERENT


def _rebuild(args: argparse.Namespace) -> int:
    from tstune.runs.rebuild import rebuild

    found = rebuild(args.run, args.overrides, args.output, args.overwrite)
    _print(found.evaluation, args.output, found.summary())
    return EXIT_DIFFERENT if found.deviations else EXIT_OK


def _print(evaluation: Evaluation, output: str | None, conclusion: str | None = None) -> None:
    if not evaluation.judge.manager.is_main:
        return
    print(f"\n{evaluation.scoreboard()}\n")
    if conclusion is not None:
        print(conclusion)
    if output is not None:
        if evaluation.has_report:
            print(f"report: {output}/report.html")
        print(f"folder: {output}")


if __name__ == "__main__":
    raise SystemExit(main())
