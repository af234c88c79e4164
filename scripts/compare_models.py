"""Compare models on the same source and the same windows: one recipe with a list of models, one report.

    python scripts/compare_models.py --config recipes/comparison/cgm_sample.yaml
    python scripts/compare_models.py --config recipes/comparison/cgm_sample.yaml data.test_stride=1 output_dir=runs/mine

The recipe has the sections of any recipe, which all models share, and `models`: a name for each, with the sections it
has of its own (model, tuning, lora, training). Each is tuned into <output_dir>.models/<name>; a run folder there that
is whole and of the same settings is taken as it is, so the same command goes on after an interruption. Then all of
them, and the baselines of `evaluation.baselines`, forecast the same windows; <output_dir>/report.html has the
scoreboard, the paired tests of the first model against all others, and what each cost. One process only.

A model that cannot be had (weights that nobody gives, out of memory) is a row with its reason and ends nothing. Exit
codes: 0 compared, at least one of the models was had; 2 none was, or your input needs a change (one `error:` line says
which); 130 interrupted.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from tstune.command_line import add_trust_argument, script_parser
from tstune.errors import EXIT_OK, exits_cleanly
from tstune.named_code import trusting


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = script_parser(__doc__)
    parser.add_argument("--config", required=True, metavar="FILE", help="a recipe with models:")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="changes to it, models.<name>.… among them")
    add_trust_argument(parser)
    return parser.parse_args(argv)


@exits_cleanly
def main(argv: Sequence[str] | None = None) -> int:
    """Tune, judge, print."""
    args = parse_args(argv)
    from tstune.runtime.distributed import refuse_ranks

    refuse_ranks("scripts/compare_models.py", "several would tune the same models")
    from tstune.runs.compare.evaluate import compare_members
    from tstune.runs.compare.recipe import load_comparison

    comparison = load_comparison(args.config, args.overrides)
    with trusting(args.trust_code):
        evaluation = compare_members(comparison)
    listed = evaluation.environment["members"]
    missing = [one for one in listed if one["reason"] is not None]
    print(f"\n{evaluation.scoreboard()}\n")
    for one in missing:
        print(f"left out: {one['name']}: {one['reason']}")
    print(f"{len(listed) - len(missing)} of {len(listed)} models compared")
    if comparison.config.evaluation.report:
        print(f"report: {comparison.config.output_dir}/report.html")
    print(f"folder: {comparison.config.output_dir}")
    return EXIT_OK


if __name__ == "__main__":
    raise SystemExit(main())
