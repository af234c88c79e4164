"""Send what a tracker missed while it was dead: the backlog a run names when it ends.

    python scripts/replay_tracking.py runs/tracking/backlog
    python scripts/replay_tracking.py runs/tracking/backlog/tstune/20261122-134307-16e648c6/1-mlflow.jsonl

A backlog that was sent is removed. Of one that cannot be sent yet, the part that is left stays. Credentials come
from the environment, as in training. Exit code 2 if any backlog is left.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from tstune.command_line import add_trust_argument, script_parser
from tstune.errors import EXIT_OK, EXIT_USER_ERROR, TrackingError, exits_cleanly, visible


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = script_parser(__doc__)
    parser.add_argument("backlogs", nargs="+", type=Path, metavar="BACKLOG", help="a .jsonl file, or a folder of them")
    add_trust_argument(parser)
    return parser.parse_args(argv)


@exits_cleanly
def main(argv: Sequence[str] | None = None) -> int:
    """Send one backlog after the other."""
    args = parse_args(argv)
    from tstune.named_code import trusting
    from tstune.runtime.logs import setup_logging
    from tstune.tracking.backlog import find_backlogs, replay_backlog

    setup_logging()
    exit_code = EXIT_OK
    for backlog in find_backlogs(args.backlogs):
        try:
            with trusting(args.trust_code):
                sent = replay_backlog(backlog)
        except TrackingError as error:
            print(f"error: {visible(str(error))}", file=sys.stderr)
            exit_code = EXIT_USER_ERROR
        else:
            print(f"{sent} calls sent: {backlog}")
    return exit_code


if __name__ == "__main__":
    raise SystemExit(main())
