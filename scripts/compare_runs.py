"""Several runs side by side: what was set differently first, then data, metrics, paired tests, items and cost.

    python scripts/compare_runs.py runs/ttm/cgm_sample/demo runs/ttm/cgm_sample/lora --output compare.html
    python scripts/compare_runs.py registry:cgm@champion registry:cgm:2 runs/mine

A run is the output folder of a training or of eval_forecast.py, or a version of the model registry. The first one is
what the others are held against, window by window where all of them forecast the same windows. The terminal gets
Markdown, --output one HTML file that needs no network. Exit codes: 0 compared, whatever came of it; 2 your input needs
a change (one `error:` line says which).
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from tstune.command_line import add_registry_argument, new_file, script_parser
from tstune.errors import EXIT_OK, exits_cleanly


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = script_parser(__doc__)
    parser.add_argument(
        "runs", nargs="+", metavar="run", help="run folder, registry:name@alias or registry:name:version"
    )
    parser.add_argument("--output", type=Path, metavar="file", help="HTML page to write (.html)")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing output file")
    add_registry_argument(parser)
    return parser.parse_args(argv)


@exits_cleanly
def main(argv: Sequence[str] | None = None) -> int:
    """Compare, print, write."""
    args = parse_args(argv)
    if args.output is not None:
        new_file(args.output, (".html",), args.overwrite, "the page is HTML; name it with .html at the end")
    from tstune.domains import domain_of
    from tstune.runs.compare.side_by_side import TITLE, comparison_sections, read_runs
    from tstune.runs.report.render import as_html, as_markdown, write_page

    runs = read_runs(args.runs, args.registry)
    sections = comparison_sections(runs)
    domains = [domain_of(run.manifest.get("unit")) for run in runs]
    warning = next((domain.warning for domain in domains if domain and domain.warning), None)
    print(as_markdown(TITLE, sections, warning))
    if args.output is not None:
        write_page(args.output, as_html(TITLE, sections, warning), "--output ")
        print(f"page: {args.output}")
    return EXIT_OK


if __name__ == "__main__":
    raise SystemExit(main())
