"""Forecast with TimeGPT or fine-tune it, and judge it against the baselines.

    python scripts/finetune_timegpt.py --config recipes/timegpt/cgm_sample/zero_shot.yaml
    python scripts/finetune_timegpt.py --config recipes/timegpt/cgm_sample/finetune.yaml model.finetune_depth=2

TimeGPT is a paid service: readings leave this machine. With model.dry_run=true, as in the recipes, this script shows
what would be sent and its size, and sends nothing; model.dry_run=false sends it, up to model.max_windows series.
The key is read from NIXTLA_API_KEY and the address from NIXTLA_BASE_URL, never from a recipe. One process only.
Exit codes: 0 done, 2 your input needs a change or the service refused (one `error:` line says which), 130 interrupted.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from tstune.command_line import finetune_parser, load_config, print_results
from tstune.errors import EXIT_OK, exits_cleanly


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    return finetune_parser(__doc__).parse_args(argv)


@exits_cleanly
def main(argv: Sequence[str] | None = None) -> int:
    """Run the recipe, or show what it would send; the steps of `fit` stand in finetune_ttm.py."""
    args = parse_args(argv)
    from tstune.runtime.distributed import refuse_ranks

    refuse_ranks("scripts/finetune_timegpt.py")
    config = load_config(args, ["timegpt"])
    from tstune.data.sources import check_source

    check_source(config.data)

    from tstune.models.registry import model_class
    from tstune.models.timegpt import describe_dry_run
    from tstune.runtime.logs import setup_logging

    setup_logging()
    model = model_class("timegpt")(config)
    if config.model.dry_run:
        print(describe_dry_run(config, model.prepare()))
    else:
        print_results(model.fit(output_dir=config.output_dir), config)
    return EXIT_OK


if __name__ == "__main__":
    raise SystemExit(main())
