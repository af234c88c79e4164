"""Fine-tune a Tiny Time Mixer and judge it against zero-shot and baselines.

    accelerate launch scripts/finetune_ttm.py --config recipes/ttm/cgm_sample/decoder.yaml
    accelerate launch scripts/finetune_ttm.py --config recipes/ttm/cgm_sample/decoder.yaml training.learning_rate=5e-4
    accelerate launch scripts/finetune_ttm.py --hydra recipes/hydra/ttm.yaml data=cgm_sample tuning=lora
    accelerate launch --num_processes 2 --config_file accelerate_configs/ddp.yaml scripts/finetune_ttm.py --config …
    python scripts/finetune_ttm.py --config recipes/ttm/cgm_sample/demo.yaml output_dir=runs/mine

Any other `model.type` runs too. The run folder `output_dir` appears when the run is done. Exit codes: 0 done, 2 your
input needs a change (one `error:` line says which), 75 preempted (start it again with
training.resume_from_checkpoint=auto), 130 interrupted.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from tstune.errors import exits_cleanly
from tstune.finetune_command import parse_finetune_args, run_finetuning


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    return parse_finetune_args(__doc__, argv)


@exits_cleanly
def main(argv: Sequence[str] | None = None) -> int:
    """Run the recipe."""
    return run_finetuning(parse_args(argv))


if __name__ == "__main__":
    raise SystemExit(main())
