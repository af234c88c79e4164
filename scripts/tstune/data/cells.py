"""Cells of a table into numbers, however they are written in any country."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    import pyarrow as pa


MISSING_WORDS = frozenset(
    (
        *("?", "-", "--", "---", "*", ".", "..", "…", "na", "n/a", "n.a.", "#n/a", "#na", "<na>", "nan"),
        *("-nan", "nat", "none", "null", "nil", "missing", "invalid", "no data", "#value!", "#div/0!"),
        *("#ref!", "#name?", "#null!", "#num!"),
    )
)
"""What stands in a cell without a reading, in small letters; `data.missing_values` adds to it."""

_EXPONENT = "(?:[eE][+-]?[0-9]+)?"
_PLAIN = rf"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+){_EXPONENT}"
_STYLES = {
    "comma": rf"[+-]?(?:[0-9]{{1,3}}(?:\.[0-9]{{3}})+|[0-9]+)(?:,[0-9]*)?{_EXPONENT}",
    "point": rf"[+-]?(?:[0-9]{{1,3}}(?:,[0-9]{{3}})+|[0-9]+)(?:\.[0-9]*)?{_EXPONENT}",
}
_GROUPS = {"comma": r"[+-]?[1-9][0-9]{0,2}(?:\.[0-9]{3})+", "point": r"[+-]?[1-9][0-9]{0,2}(?:,[0-9]{3})+"}
"""Numbers whose points, or commas, may all be of thousands."""
_MANY_POINTS = r"[^.]*\..*\..*"
_BLANK_GROUP = "([0-9])['’\u00a0\u202f\u2009 ]([0-9]{3})"
_INFINITE = r"[+-]?(?i:inf|infinity)"
_SAMPLE = 2000


@dataclass
class Cells:
    """A column as numbers."""

    values: np.ndarray  # [rows] float64, NaN where nothing stands or nothing could be read
    unread: np.ndarray  # [rows] True where a cell is neither a number nor a word for no reading
    infinite: int = 0  # cells that held an infinity; they are NaN
    words: dict[str, int] = field(default_factory=dict)  # word -> cells that held it
    restyled: int = 0  # cells with a decimal comma, or with thousands
    style: str | None = None  # ``comma`` or ``point``, the decimal sign of those


class AmbiguousCommaError(ValueError):
    """A cell whose comma may be decimal or of thousands, and nothing in the table tells."""


def file_style(raw: pd.DataFrame) -> str | None:
    """``comma`` or ``point``: the decimal sign that those columns of a table tell that leave no doubt."""
    found = set()
    for column in raw.columns:
        if raw[column].dtype == object or pd.api.types.is_string_dtype(raw[column]):
            found.add(_style_of(_texts(raw[column].iloc[:_SAMPLE])))
    found &= {"comma", "point"}
    return found.pop() if len(found) == 1 else None


def read_cells(cells: pd.Series, missing: Collection[str] = (), style: str | None = None) -> Cells:
    """Read a column.

    Args:
        missing: words, or numbers such as -999, that stand for no reading, besides `MISSING_WORDS`.
        style: of the table, see `file_style`; it decides where the column leaves a doubt.

    Raises:
        AmbiguousCommaError: nothing decides it; its text is the cell.
    """
    if pd.api.types.is_numeric_dtype(cells):
        found = Cells(cells.to_numpy(np.float64, na_value=np.nan), np.zeros(len(cells), bool))
    else:
        found = _read_texts(_texts(cells), missing, style)
    for code in (float(word) for word in missing if re.fullmatch(_PLAIN, str(word))):
        coded = found.values == code
        found.words |= {f"{code:g}": int(coded.sum())} if coded.any() else {}
        found.values = np.where(coded, np.nan, found.values)
    infinite = np.isinf(found.values)
    found.infinite = int(infinite.sum())
    found.values = np.where(infinite, np.nan, found.values)
    return found


def _texts(cells: pd.Series) -> pa.Array:
    """Cells without blanks around them, with the minus of a keyboard; null where nothing stands."""
    import pyarrow as pa
    import pyarrow.compute as pc

    known = cells if pd.api.types.is_string_dtype(cells) else cells.where(cells.isna(), cells.astype(str))
    array = pa.array(known, pa.string(), from_pandas=True)
    texts = pc.replace_substring(pc.utf8_trim_whitespace(array), "\u2212", "-")
    return pc.if_else(pc.equal(texts, ""), None, texts)


def _matches(texts: pa.Array, pattern: str) -> np.ndarray:
    import pyarrow.compute as pc

    return pc.match_substring_regex(texts, f"^(?:{pattern})$").fill_null(False).to_numpy(zero_copy_only=False)


def _read_texts(texts: pa.Array, missing: Collection[str], style: str | None) -> Cells:
    import pyarrow as pa
    import pyarrow.compute as pc

    known = texts.is_valid().to_numpy(zero_copy_only=False)
    numeric, shown, own = _matches(texts, _PLAIN), texts, None
    if style == "comma" or not numeric[known].all():
        own = _style_of(texts)
        if own == "either" and style is None:
            commas = texts.filter(pc.match_substring(texts, ",").fill_null(False))
            raise AmbiguousCommaError(commas[0].as_py())
        if own == "either" or (own is None and style == "comma" and _points_group(texts)):
            own = style
        shown = _without_blank_groups(texts)
        numeric = _matches(shown, _STYLES[own] if own else _PLAIN)
        if own is not None:
            shown = pc.replace_substring(shown, "." if own == "comma" else ",", "")
            shown = pc.replace_substring(shown, ",", ".")
    restyled = pc.not_equal(shown, texts).fill_null(False).to_numpy(zero_copy_only=False) & numeric
    unsigned = pc.replace_substring_regex(shown, r"^\+", "")
    values = pc.if_else(pa.array(numeric), unsigned, None).cast(pa.float64()).to_numpy(zero_copy_only=False)
    found = Cells(values.copy(), known & ~numeric, restyled=int(restyled.sum()), style=own)
    if found.unread.any():
        _read_words(texts, missing, found)
    return found


def _read_words(texts: pa.Array, missing: Collection[str], found: Cells) -> None:
    """Count the words for no reading, and put infinities among the values."""
    absent = MISSING_WORDS | {str(word).strip().lower() for word in missing}
    rows = np.flatnonzero(found.unread)
    codes, words = pd.factorize(np.asarray(texts.take(rows).to_pylist(), dtype=object))
    for code, word in enumerate(words):
        own = rows[codes == code]
        if word.lower() in absent:
            found.words[word] = len(own)
        elif re.fullmatch(_INFINITE, word):
            found.values[own] = np.inf
        else:
            continue
        found.unread[own] = False


def _without_blank_groups(texts: pa.Array) -> pa.Array:
    import pyarrow.compute as pc

    for _ in range(2):  # the digits of 1 000 000 overlap
        texts = pc.replace_substring_regex(texts, _BLANK_GROUP, r"\1\2")
    return texts


def _style_of(texts: pa.Array) -> str | None:
    """Decimal sign of the numbers among some texts: None without any comma, ``either`` where they leave it open."""
    texts = _without_blank_groups(texts)
    fits = {style: _matches(texts, pattern) for style, pattern in _STYLES.items()}
    numbers = fits["comma"] | fits["point"] | _matches(texts, _PLAIN)
    commas = numbers & (fits["comma"] | fits["point"]) & _matches(texts, ".*,.*")
    if not commas.any():
        return (
            "comma" if (_matches(texts, _MANY_POINTS) & fits["comma"]).any() and fits["comma"][numbers].all() else None
        )
    if not _matches(texts, _GROUPS["point"])[commas].all():
        return "comma" if fits["comma"][numbers].all() else "point" if fits["point"][numbers].all() else None
    whole = {style: bool(fit[numbers].all()) for style, fit in fits.items()}
    return "either" if all(whole.values()) else next((style for style, fit in whole.items() if fit), None)


def _points_group(texts: pa.Array) -> bool:
    """True if every point of the numbers stands before three digits, and there is one."""
    pointed = _matches(texts, _PLAIN) & _matches(texts, r".*\..*")
    return bool(pointed.any()) and bool(_matches(texts, _GROUPS["comma"])[pointed].all())
