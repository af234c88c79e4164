"""Fine-tune Chronos-Bolt, Chronos-2 or Chronos T5 and judge it against zero-shot and baselines.

    python scripts/finetune_chronos.py --config recipes/chronos_bolt/cgm_sample/lora.yaml
    python scripts/finetune_chronos.py --config recipes/chronos2/cgm_sample/lora.yaml lora.rank=16
    python scripts/finetune_chronos.py --config recipes/chronos_bolt/cgm_sample/zero_shot.yaml output_dir=runs/mine

`model.type` is chronos_bolt, chronos2 or chronos_t5; data, windows, tuning modes, launchers and run folder are those of
finetune_ttm.py. The loop is ours, not the `fit` of chronos-forecasting: ranks see disjoint windows, a killed run
goes on where it stopped. Exit codes: 0 done, 2 your input needs a change (one `error:` line says which), 75 preempted
(start it again with training.resume_from_checkpoint=auto), 130 interrupted.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from tstune.command_line import finetune_parser, load_config, print_results
from tstune.errors import EXIT_OK, exits_cleanly

FAMILIES = ("chronos_bolt", "chronos2", "chronos_t5")


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    return finetune_parser(__doc__).parse_args(argv)


@exits_cleanly
def main(argv: Sequence[str] | None = None) -> int:
    """Run the recipe; the steps of `fit` stand in finetune_ttm.py."""
    config = load_config(parse_args(argv), FAMILIES)
    from tstune.data.sources import check_source

    check_source(config.data)

    from tstune.models.registry import model_class
    from tstune.runtime.distributed import DistributedManager

    processes = DistributedManager.for_run(config)
    results = model_class(config.model.type)(config).fit(output_dir=config.output_dir, manager=processes)
    if processes.is_main:
        print_results(results, config)
    return EXIT_OK


if __name__ == "__main__":
    raise SystemExit(main())
