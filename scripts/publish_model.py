"""Publish a run as a Hugging Face model folder: weights, what loads them, a model card, and no data.

    python scripts/publish_model.py runs/ttm/cgm_sample/demo --to-folder shared/demo --licence apache-2.0 --dry-run
    python scripts/publish_model.py runs/ttm/cgm_sample/demo --to-folder shared/demo --licence apache-2.0
    python scripts/publish_model.py registry:cgm@champion --repo <owner/name> --private --licence cc-by-4.0

The folder loads with the family's own library and with ours. Readings, reports and checkpoints stay where they are;
paths, accounts and secrets are taken out. --repo needs a token with the right to write: HF_TOKEN or `hf auth login`.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from tstune.command_line import add_registry_argument, script_parser
from tstune.errors import EXIT_OK, exits_cleanly


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = script_parser(__doc__)
    parser.add_argument("run", help="run folder, or registry:name@alias, registry:name:version")
    target = parser.add_mutually_exclusive_group(required=True)
    target.add_argument("--to-folder", metavar="DIR", help="write it here")
    target.add_argument("--repo", metavar="OWNER/NAME", help="push it to this repository of the Hugging Face Hub")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--merged", action="store_true", help="whole weights, adapter merged (default)")
    form.add_argument("--adapter", action="store_true", help="the adapter alone, in peft's format; it needs its base")
    parser.add_argument("--private", action="store_true", help="create the repository as a private one")
    parser.add_argument("--licence", default="unknown", help="of the weights, e.g. apache-2.0 (default: unknown)")
    parser.add_argument("--base-model", metavar="OWNER/NAME", help="Hub id of the base, where the run had a local copy")
    parser.add_argument("--dry-run", action="store_true", help="show every file and the card; write and send nothing")
    parser.add_argument("--overwrite", action="store_true", help="replace what the folder or the repository holds")
    add_registry_argument(parser)
    return parser.parse_args(argv)


@exits_cleanly
def main(argv: Sequence[str] | None = None) -> int:
    """Read the run, show or publish it."""
    args = parse_args(argv)
    from tstune.registry import saved_folder
    from tstune.sharing.publish import prepare

    with saved_folder(args.run, args.registry) as folder:
        publication = prepare(folder, args.adapter, args.licence, args.base_model, args.repo)
        if args.dry_run:
            print(publication.preview(args.to_folder, args.private))
            return EXIT_OK
        where = publication.publish(args.to_folder, args.private, args.overwrite)
        print(f"{publication.summary}: {where}")
    return EXIT_OK


if __name__ == "__main__":
    raise SystemExit(main())
