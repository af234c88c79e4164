"""Say if two runs were trained and scored on the same data, and if not, what differs.

    python scripts/compare_manifests.py runs/ttm/cgm_sample/decoder runs/ttm/cgm_sample/lora
    python scripts/compare_manifests.py runs/one/manifest.json runs/other/manifest.json

The first line is "same data", or "different data" with what differs, the weightiest first; the details follow.
Exit codes: 0 compared, whatever came of it; 2 one of the two is no run (an `error:` line says which).
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from tstune.command_line import script_parser
from tstune.errors import EXIT_OK, exits_cleanly


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = script_parser(__doc__)
    parser.add_argument("run_a", type=Path, help="output_dir of a run, or its manifest.json")
    parser.add_argument("run_b", type=Path, help="the one to compare it with")
    return parser.parse_args(argv)


@exits_cleanly
def main(argv: Sequence[str] | None = None) -> int:
    """Compare and print."""
    args = parse_args(argv)
    from tstune.data.manifest import compare_manifests, format_differences

    differences = compare_manifests(_manifest(args.run_a), _manifest(args.run_b))
    print(format_differences(differences, str(args.run_a), str(args.run_b)))
    return EXIT_OK


def _manifest(path: Path) -> dict:
    from tstune.runs.folder import MANIFEST, RunFolder

    folder, name = (path, MANIFEST) if path.is_dir() else (path.parent, path.name)
    return RunFolder(folder).read_json(name, "source")


if __name__ == "__main__":
    raise SystemExit(main())
