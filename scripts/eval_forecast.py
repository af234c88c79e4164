"""Score models on exactly the same windows, or rebuild the scoreboard of a run from its folder alone.

    python scripts/eval_forecast.py --run runs/ttm/cgm_sample/demo
    python scripts/eval_forecast.py --model runs/mine --model builtin --config recipes/ttm/cgm_sample/demo.yaml
    python scripts/eval_forecast.py --model runs/mine --config recipes/ttm/cgm_sample/demo.yaml data.test_stride=1
    python scripts/eval_forecast.py --model registry:cgm@champion --config … --output runs/evaluated

A model is a run folder, registry:name@alias or registry:name:version, builtin, a folder of weights or a Hub id (both as
they are, zero-shot), or the name of a baseline. The first one is judged against the others. --config says data, split,
windows and metrics. With --run the numbers are compared with metrics.json to the last digit.

Exit codes: 0 done (with --run: identical), 1 with --run: numbers differ, 2 your input needs a change (one `error:` line
says which).
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from tstune.config.command_line import add_config_arguments, load_config
from tstune.errors import EXIT_DIFFERENT, EXIT_OK, exits_cleanly


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--run", help="run folder whose scoreboard is rebuilt")
    what.add_argument("--model", action="append", dest="models", help="may be given several times")
    add_config_arguments(parser, required=False)
    parser.add_argument("--part", choices=("test", "validation", "train"), default="test", help="default: test")
    parser.add_argument("--output", metavar="folder", help="write scores, verdict, record and report there")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing output folder")
    parser.add_argument(
        "--registry", help="for registry:…, as in manage_registry.py (default: TSTUNE_REGISTRY, registry/)"
    )
    args = parser.parse_intermixed_args(argv)
    given = args.config is not None or args.hydra is not None
    if args.run is not None and (given or args.part != "test"):
        parser.error("--run takes everything from the run's own config.yaml: leave out --config, --hydra and --part")
    if args.models is not None and not given:
        parser.error("--model needs --config or --hydra, which say the data, the split and the windows")
    return args


@exits_cleanly
def main(argv: Sequence[str] | None = None) -> int:
    """Score and print."""
    args = parse_args(argv)
    from tstune.runtime.logs import setup_logging

    setup_logging()
    if args.run is not None:
        return _rebuild(args)

    config = load_config(args)
    from tstune.comparison.evaluate_models import evaluate_models

    found = evaluate_models(args.models, config, args.part, args.output, args.overwrite, args.registry)
    if found.judge.manager.is_main:
        print(f"\n{found.scoreboard()}")
        _say_where(args, config.evaluation.report)
    return EXIT_OK


def _rebuild(args: argparse.Namespace) -> int:
    from tstune.comparison.rebuild import rebuild

    found = rebuild(args.run, args.overrides, args.output, args.overwrite)
    if found.evaluation.judge.manager.is_main:
        print(f"\n{found.evaluation.scoreboard()}\n\n{found.summary()}")
        _say_where(args, found.evaluation.judge.config.evaluation.report)
    return EXIT_DIFFERENT if found.deviations else EXIT_OK


def _say_where(args: argparse.Namespace, has_report: bool) -> None:
    if args.output is not None:
        print(f"\nreport: {args.output}/report.html" if has_report else "")
        print(f"folder: {args.output}")


if __name__ == "__main__":
    raise SystemExit(main())
