r"""Search the hyperparameters of a recipe: every trial is a run of its own, chosen by the validation loss.

    python scripts/sweep_hparams.py --config recipes/ttm/cgm_sample/small.yaml --sampler grid --output runs/grid \
        training.learning_rate=1e-4,1e-3 model.d_model=32,64
    python scripts/sweep_hparams.py --config recipes/ttm/cgm_sample/lora.yaml --trials 20 --output runs/sweeps/lora \
        'lora.rank=choice(4,8,16)' 'training.learning_rate=tag(log,interval(1e-5,1e-2))'
    python scripts/sweep_hparams.py --hydra recipes/hydra/ttm.yaml --accelerate-config accelerate_configs/ddp.yaml \
        --num-processes 2 --output runs/sweeps/modes tuning=lora,decoder 'lora.rank=range(2,17,2)'

A key with several values is swept, in Hydra's grammar: a,b or choice(a,b) · range(start,stop,step) ·
interval(low,high) · int(interval(low,high)) · tag(log,interval(low,high)). All other key=value go to every trial.

The same command goes on with a sweep that stopped. Several at once, on any machines that see --output and the
database, share its trials. A database with a password is given in TSTUNE_SWEEP_STORAGE, not on the command line.

Results in --output: README.md and trials.csv (all trials), best.yaml (reruns the best), importance.png, history.png.
Exit codes: 0 done, 2 your input needs a change or every trial failed, 75 SIGTERM, 130 Ctrl-C; after the last two
the same command goes on.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from tstune.command_line import add_config_arguments, config_manager, config_path, script_parser
from tstune.errors import EXIT_INTERRUPTED, EXIT_OK, ConfigError, exits_cleanly


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line; `overrides` are those of every trial, `swept` those with several values."""
    parser = script_parser(__doc__)
    add_config_arguments(parser)
    option = parser.add_argument
    option("--output", required=True, metavar="FOLDER", help="where results and trials go")
    option("--study", metavar="NAME", help="name in the database; left out: that of the output folder")
    told = "grid: every combination; tpe: learns from finished trials (default); random"
    option("--sampler", choices=("grid", "tpe", "random"), default="tpe", help=told)
    option("--trials", type=_positive, metavar="N", help="trials of the whole study (default 20; grid: all)")
    told = "median: stop a trial whose loss is worse than the median of the finished ones (default, but for grid)"
    option("--pruner", choices=("median", "none"), help=told)
    option("--prune-after", type=_positive, default=1, metavar="N", help="validations every trial may take (default 1)")
    told = "finished trials before tpe learns from them and the pruner compares with them (default 5)"
    option("--startup-trials", type=_positive, default=5, metavar="N", help=told)
    option("--metric", default="validation_loss", help="what the best trial is chosen by")
    option("--storage", metavar="URL", help="database; left out: $TSTUNE_SWEEP_STORAGE, else study.db")
    option("--accelerate-config", metavar="FILE", help="how trials run, e.g. accelerate_configs/ddp.yaml")
    option("--num-processes", type=_positive, metavar="N", help="processes of each trial")
    option("--keep", choices=("best", "all"), default="best", help="trials whose weights are kept")
    told = "a job silent for two times as long is taken for dead, and its trial is made again (default 60)"
    option("--heartbeat-seconds", type=_positive, default=60, metavar="N", help=told)
    args = parser.parse_args(argv)
    from tstune.sweeps.space import split_overrides

    args.overrides, args.swept = split_overrides(args.overrides)
    return args


@exits_cleanly
def main(argv: Sequence[str] | None = None) -> int:
    """Run the sweep, or the part of it that is left."""
    args = parse_args(argv)
    from tstune.runs.folder import refuse_full
    from tstune.runtime.logs import setup_logging
    from tstune.sweeps.space import check_base, check_metric, check_space, number_of_trials, parse_space

    setup_logging()
    refuse_full("--output", Path(args.output), overwrite=True)
    check_metric(args.metric)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ConfigError("start sweep_hparams.py with python, not with accelerate launch: it launches the trials")
    space = parse_space(args.swept)
    check_space(space, args.overrides, Path(args.hydra).parent if args.hydra else None)
    trials = number_of_trials(space, args.sampler, args.trials)
    manager, path = config_manager(args), config_path(args)

    def compose(overrides: Sequence[str]) -> object:
        return manager.load_config(path, [*args.overrides, *overrides])

    check_base(compose([]), space)

    from tstune.sweeps.report import Launch, SweepPlan
    from tstune.sweeps.storage import quiet_optuna, storage_url
    from tstune.sweeps.study import run_sweep

    quiet_optuna()
    folder = Path(args.output)
    plan = SweepPlan(
        name=args.study or folder.resolve().name,
        compose=compose,
        space=space,
        folder=folder,
        launch=Launch(args.accelerate_config, args.num_processes),
        sampler=args.sampler,
        pruner=args.pruner or ("none" if args.sampler == "grid" else "median"),
        trials=trials,
        startup_trials=args.startup_trials,
        prune_after=args.prune_after,
        keep_all=args.keep == "all",
        heartbeat_seconds=args.heartbeat_seconds,
    )
    try:
        table = run_sweep(plan, storage_url(args.storage, folder))
    except KeyboardInterrupt:
        print("interrupted: finished trials are kept, the same command goes on", file=sys.stderr)
        return EXIT_INTERRUPTED
    print(f"\n{table}")
    return EXIT_OK


def _positive(text: str) -> int:
    if int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not 1 or more")
    return int(text)


if __name__ == "__main__":
    raise SystemExit(main())
