"""Run recipes, keep what came of each, and write the tables of recipes/ from the run folders.

    python scripts/run_recipes.py recipes/ttm/cgm_sample
    python scripts/run_recipes.py recipes --paths paths.yaml --timeout 60
    python scripts/run_recipes.py recipes/ttm/etth1 --paths paths.yaml training.max_steps=200 --output runs/short
    python scripts/run_recipes.py --tables-only
    python scripts/run_recipes.py --smoke

Each recipe is a process of its own; its run folder is <output>/<its path in recipes/>, what it said is the .log beside
it, and <output>/rows.jsonl has one line per attempt. A recipe whose run folder is whole and of the same settings is not
run again, so the same command goes on after an interruption; failed ones are tried again. A run that failed, ran out
of memory or time, or is worse than a baseline is a row like any other.

--paths says what this machine has, in YAML; paths are relative to that file, and get into no table:

    data: {ett: ETTh1.csv, brist1d_open: brist1d_open}          # data.source: file or folder
    weights: {ibm-granite/granite-timeseries-ttm-r2: ttm-r2}    # Hub id: folder of a downloaded checkpoint

--smoke runs the tiny form of every recipe in this process, on data and weights made for it: two steps, few windows.
Exit codes: 0 every recipe is done, 1 some failed (their rows say why), 2 your input needs a change (one `error:` line
says which), 75 preempted and 130 interrupted (the same command goes on).
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from tstune.command_line import minutes, script_parser
from tstune.errors import EXIT_DIFFERENT, EXIT_INTERRUPTED, EXIT_OK, ConfigError, exits_cleanly

if TYPE_CHECKING:
    from tstune.recipe_book.recipes import Recipe
    from tstune.recipe_book.running import Plan


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = script_parser(__doc__)
    parser.add_argument("words", nargs="*", metavar="recipe|folder|key=value", help="recipes, and changes to each")
    parser.add_argument("--paths", type=Path, metavar="file", help="YAML: where data and weights lie on this machine")
    parser.add_argument(
        "--output", type=Path, default=Path("runs/recipes"), metavar="folder", help="default: %(default)s"
    )
    parser.add_argument("--timeout", type=minutes, metavar="minutes", help="longest time of one recipe")
    parser.add_argument(
        "--tables", type=Path, metavar="folder", help="book whose .md files have tables (default: recipes/)"
    )
    parser.add_argument("--tables-only", action="store_true", help="write the tables from what lies in --output")
    parser.add_argument("--smoke", action="store_true", help="run the tiny form of each recipe, write no table")
    args = parser.parse_intermixed_args(argv)
    args.recipes = [word for word in args.words if "=" not in word]
    args.overrides = [word for word in args.words if "=" in word]
    if not (args.recipes or args.tables_only or args.smoke):
        parser.error("one of the arguments recipe --smoke --tables-only is required; recipes/ runs them all")
    if args.smoke and (args.tables_only or args.paths or args.timeout):
        parser.error("--smoke makes its own data and writes no table: leave out --tables-only, --paths and --timeout")
    if args.tables_only and (args.overrides or args.timeout):
        parser.error("--tables-only runs nothing: leave out --timeout and key=value")
    return args


@exits_cleanly
def main(argv: Sequence[str] | None = None) -> int:
    """Run and write."""
    args = parse_args(argv)
    if args.smoke:
        os.environ.setdefault("OMP_NUM_THREADS", "1")  # tiny models: more threads only wait for each other
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
    from tstune.recipe_book.recipes import BOOK, MachinePaths, find_recipes, read_machine_paths
    from tstune.recipe_book.running import Plan, run_recipes
    from tstune.runs.folder import refuse_full

    if args.smoke:
        return _smoke_module().run_smoke(find_recipes(args.recipes, tiny=True), args.overrides)

    refuse_full("--output", args.output, overwrite=True)
    book = BOOK if args.tables is None else args.tables
    if not book.is_dir():
        raise ConfigError(f"--tables {book} is not a folder")
    recipes = find_recipes(args.recipes, book=book)
    machine = MachinePaths()
    if args.paths is not None:
        machine = read_machine_paths(args.paths, lambda: set().union(*(one.hub_ids() for one in find_recipes([]))))
    seconds = None if args.timeout is None else 60 * args.timeout
    plan = Plan(args.output, machine, args.overrides, seconds, _say)
    if args.tables_only:
        _write_tables(plan, recipes, book)
        return EXIT_OK
    try:
        attempts = run_recipes(plan, recipes)
    except KeyboardInterrupt:
        _say("interrupted: what is done is kept, the same command goes on")
        return EXIT_INTERRUPTED
    finally:
        _write_tables(plan, recipes, book)
    failed = sum(attempt.status == "failed" for attempt in attempts)
    _say(f"{len(recipes)} recipes, {len(attempts)} run now, {failed} failed")
    return EXIT_DIFFERENT if failed else EXIT_OK


def _smoke_module() -> ModuleType:
    """What makes recipes tiny lies with the tests (`ConfigError`: only a clone of the repository has it)."""
    from tstune.recipe_book.recipes import ROOT

    tests = ROOT / "tests"
    if not (tests / "support").is_dir():
        raise ConfigError(f"--smoke needs {tests / 'support'}, which a clone of the repository has")
    if str(tests) not in sys.path:
        sys.path.append(str(tests))
    return importlib.import_module("support.smoke")


def _write_tables(plan: Plan, recipes: Sequence[Recipe], book: Path) -> None:
    from tstune.recipe_book.tables import read_rows, rewrite_tables

    rows = read_rows(plan, recipes)
    changed = rewrite_tables(book, rows)
    written = f"written: {', '.join(map(str, changed))}" if changed else "the tables stay as they are"
    _say(f"{len(rows)} rows; {written}")


def _say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    raise SystemExit(main())
