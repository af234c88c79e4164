"""The tables in the READMEs of the recipes: what stands between two markers is written, nothing else."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tstune.errors import OutputError
from tstune.recipe_book.rows import Row
from tstune.runs.report.words import MISSING, counts, duration, measured, percents, significant_digits
from tstune.runtime.files import aside, escape

_BEGIN = "<!-- results of scripts/run_recipes.py"
_END = "<!-- end of results -->"
_BLOCK = re.compile(
    rf"^(?P<begin>{re.escape(_BEGIN)}(?:: (?P<folder>[\w./-]+?))?(?:, also (?P<also>[\w@, ]+?))? -->)\n"
    rf"(?P<body>.*?)^{re.escape(_END)}$",
    re.MULTILINE | re.DOTALL,
)
_BEFORE_ALSO = ("recipe", "model", "data", "mode", "learned", "hardware", "time", "memory", "RMSE")
_AFTER_ALSO = ("untuned", "best baseline", "verdict", "commit", "date")
_RIGHT = ("learned", "time", "memory", "RMSE", "untuned")
_NAMES = {"mse_scaled": "scaled MSE", "mae_scaled": "scaled MAE"}


@dataclass(frozen=True)
class Block:
    """One table of one README."""

    file: Path
    folder: str  # recipes that begin so are shown, e.g. ttm/etth1; empty shows all
    also: tuple[str, ...]  # further metrics, each a column beside the RMSE

    def shows(self, recipe: str) -> bool:
        """Whether a recipe belongs into this table."""
        return not self.folder or recipe.startswith(f"{self.folder}/")


def rewrite_tables(book: Path, rows: Sequence[Row]) -> list[Path]:
    """Write the rows into every README of the book that has a place for them.

    A recipe without a row here keeps the line it has; a recipe that is not, or no longer, in the book has none.

    Returns:
        the files that changed.

    Raises:
        OutputError: a marker without its end, or a file that cannot be written.
    """
    changed, rows = [], [row for row in rows if _is_listed(row.recipe, book)]
    for file in sorted(book.rglob("*.md")):
        before = file.read_text(encoding="utf-8")
        if before.count(_BEGIN) != len(_BLOCK.findall(before)):
            raise OutputError(f"{file}: each '{_BEGIN} … -->' needs a line '{_END}' below it")
        after = _BLOCK.sub(lambda found, file=file: _rewritten(found, file, book, rows), before)
        if after != before:
            with aside(file) as partial:
                partial.write_text(after, encoding="utf-8")
            changed.append(file)
    return changed


def _rewritten(found: re.Match, file: Path, book: Path, rows: Sequence[Row]) -> str:
    also = tuple(name.strip() for name in (found["also"] or "").split(",") if name.strip())
    block = Block(file, found["folder"] or "", also)
    lines = {name: line for name, line in _lines(found["body"], block, book).items() if _is_listed(name, book)}
    width = len(_columns(block))
    lines = {name: line for name, line in lines.items() if line.count("|") - line.count(r"\|") == width + 1}
    lines |= {row.recipe: _line(row, block, book) for row in rows if block.shows(row.recipe)}
    body = "\n".join([*_head(block), *(lines[name] for name in sorted(lines))])
    return f"{found['begin']}\n\n{body}\n\n{_END}" if lines else f"{found['begin']}\n{_END}"


def _is_listed(recipe: str, book: Path) -> bool:
    return (book / f"{recipe}.yaml").is_file()


def _lines(body: str, block: Block, book: Path) -> dict[str, str]:
    """Recipe -> the line it has now."""
    found = {}
    for line in body.splitlines():
        if link := re.match(r"\| \[[^\]]*\]\(([^)]+)\.yaml\)", line):
            place = os.path.normpath(block.file.parent / link[1])
            found[Path(os.path.relpath(place, book)).as_posix()] = line
    return found


def _columns(block: Block) -> list[str]:
    return [*_BEFORE_ALSO, *(_NAMES.get(name, name) for name in block.also), *_AFTER_ALSO]


def _head(block: Block) -> list[str]:
    columns = _columns(block)
    right = {*_RIGHT, *(_NAMES.get(name, name) for name in block.also)}
    rule = "|".join("---:" if name in right else "---" for name in columns)
    return ["| " + " | ".join(columns) + " |", f"|{rule}|"]


def _line(row: Row, block: Block, book: Path) -> str:
    target = Path(os.path.relpath(book / f"{row.recipe}.yaml", block.file.parent)).as_posix()
    shown = row.recipe.removeprefix(f"{block.folder}/") if block.folder else row.recipe
    changed = "".join(f", `{escape(override)}`" for override in row.changed)
    cells = {
        "recipe": f"[{shown}]({target}){changed}",
        "model": escape(row.model),
        "data": escape(row.data),
        "mode": escape(row.mode),
        "learned": counts([row.trainable])[0],
        "hardware": escape(row.hardware or MISSING),
        "time": duration(None if row.seconds is None else float(f"{row.seconds:.3g}")),
        "memory": measured(row.peak_memory_mib, "MiB"),
        "RMSE": _score(row.scores, row.unit),
        "untuned": _number(row.untuned),
        "best baseline": MISSING if row.baseline is None else f"{escape(row.baseline)} {_number(row.baseline_scores)}",
        "verdict": _verdict(row),
        "commit": row.commit or MISSING,
        "date": row.date or MISSING,
    }
    for name in block.also:
        cells[_NAMES.get(name, name)] = significant_digits([(row.scores or {}).get(name)])[0]
    return "| " + " | ".join(cells[name].replace("\n", " ") for name in _columns(block)) + " |"


def _score(scores: Mapping[str, float] | None, unit: str | None) -> str:
    if scores is not None and "rmse" not in scores and "loss" in scores:
        return f"loss {_number(scores)}"
    return measured((scores or {}).get("rmse"), unit or "")


def _number(scores: Mapping[str, float] | None) -> str:
    values = scores or {}
    return significant_digits([values.get("rmse", values.get("loss"))])[0]


def _verdict(row: Row) -> str:
    if row.reason is not None:
        return escape(_shortened(row.reason))
    said = row.effect or MISSING
    if row.change is not None:
        said += f", {percents([row.change], signed=True)[0]} %"
    return f"{said}; recipe changed since" if row.outdated else said


def _shortened(reason: str, limit: int = 120) -> str:
    return reason if len(reason) <= limit else reason[: limit - 1].rstrip() + "…"
