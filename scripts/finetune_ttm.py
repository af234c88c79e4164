"""Fine-tune a Tiny Time Mixer and judge it against zero-shot and baselines.

    python scripts/finetune_ttm.py --config recipes/ttm/cgm_sample/decoder.yaml
    python scripts/finetune_ttm.py --config recipes/ttm/cgm_sample/decoder.yaml training.learning_rate=5e-4
    python scripts/finetune_ttm.py --hydra recipes/hydra/ttm.yaml data=cgm_sample tuning=lora
    accelerate launch --num_processes 2 --config_file accelerate_configs/ddp.yaml scripts/finetune_ttm.py --config …
    python scripts/finetune_ttm.py --config recipes/ttm/cgm_sample/demo.yaml output_dir=runs/mine
    python scripts/finetune_ttm.py --config recipes/ttm/cgm_sample/demo.yaml --experiment-dir ./experiments

Any other `model.type` runs too. The run folder `output_dir` appears when the run is done. Exit codes: 0 done, 2 your
input needs a change (one `error:` line says which), 75 preempted (start it again with
training.resume_from_checkpoint=auto), 130 interrupted.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from tstune.command_line import add_trust_argument, finetune_parser, load_config, print_results, track_in
from tstune.errors import EXIT_OK, exits_cleanly
from tstune.named_code import trusting


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = finetune_parser(__doc__)
    add_trust_argument(parser)
    told = "also track the run in files below DIR; a run folder that is taken gets a number behind its name"
    parser.add_argument("--experiment-dir", metavar="DIR", help=told)
    return parser.parse_args(argv)


@exits_cleanly
def main(argv: Sequence[str] | None = None) -> int:
    """One run from top to bottom; `TTMForecaster.fit` takes the same steps."""
    args = parse_args(argv)
    config = load_config(args)  # file, then key=value; every problem at once

    from tstune.data.sources import check_source

    check_source(config.data)  # a wrong path or column is said at once

    from tstune.models.registry import model_class  # heavy imports wait until the recipe is known to be right
    from tstune.runs.finetune import FineTuning
    from tstune.runtime.distributed import DistributedManager

    processes = DistributedManager.for_run(config)  # asked for = given, or stop
    model = model_class(config.model.type)(config)
    resume = config.training.resume_from_checkpoint
    tracker, output_dir = track_in(args.experiment_dir, config)
    output_dir = processes.from_main(output_dir)  # one folder for all
    tuning = FineTuning(model, output_dir, config.overwrite, resume, processes, tracker)  # owns output_dir
    with trusting(args.trust_code), tuning as run:
        if run.has("registered"):
            print(f"run folder: {output_dir} is complete, there is nothing to go on with")
            return EXIT_OK
        if not run.has("judged"):  # a run that was stopped at its end has only the rest to do
            run.prepare()  # source, panel, split, windows; leaks are refused
            run.build()  # weights and tuning mode: what learns, what is frozen
            run.start_tracking()  # files, MLflow, Weights & Biases, …
            run.judge_before()  # zero-shot, on the test windows
            run.train()  # the loop: checkpoints, callbacks, the weights of the lowest validation loss
            run.judge_after()  # tuned, averaged, per item: the same windows
            run.judge_baselines()  # persistence, ridge, …: the same windows
            run.conclude()  # quantiles, verdict, scoreboard
            run.save()  # model and numbers
            run.report()  # plots and report.html
        run.commit()  # the run folder appears, whole
        run.track()  # the trackers get it
        run.register()  # and the model registry, if tracking.register_as names a model
    if processes.is_main:
        print_results(run.results, config, args.experiment_dir)
    return EXIT_OK


if __name__ == "__main__":
    raise SystemExit(main())
