"""Code that a text names as ``package.module:name``, imported here and nowhere else, if somebody answers for it.

A name in a recipe, on the command line or in Python is the user's own. A name in a folder that is loaded, in its
config.yaml, its preprocessor.json or a tracker's backlog, is data until ``--trust-code`` or ``trust_code=True`` says
otherwise. What the user named, or what was imported before, stays allowed whoever names it again. Packages that need
not be there are found here too.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from types import ModuleType
from typing import Any

from tstune.errors import ConfigError, MissingDependencyError

_NAMED = re.compile(r"[^:]+:[^:]+")
_trusting: ContextVar[bool] = ContextVar("trusting", default=False)
_ours: set[str] = set()
_foreign: dict[str, Path] = {}


def resolve(place: str) -> Any:
    """What ``module:name`` of a table of ours is."""
    module, _, name = place.partition(":")
    return getattr(importlib.import_module(module), name)


def optional_module(name: str, user: str, package: str) -> ModuleType:
    """Import a module of an optional package; where it is not installed, the error has the line that brings it."""
    root = name.partition(".")[0]
    try:
        importlib.import_module(root)
        return importlib.import_module(name)
    except ImportError as error:
        missing = (isinstance(error, ModuleNotFoundError) and error.name) or root
        if missing.partition(".")[0] != root:
            raise
        raise MissingDependencyError(f"{user} needs a package: pip install '{package}'") from None


def import_named(what: str, place: str) -> Any:
    """What ``package.module:name`` is; None where the module has no such name.

    `what` begins the messages of the `ConfigError`: it cannot be imported, or a folder names it and nobody trusts that.
    """
    module, _, name = place.partition(":")
    if place in _foreign:
        raise ConfigError(
            f"{what} {place} is code that {_foreign[place]} names, and a folder that is loaded imports nothing; if you "
            f"trust the module {module}, give --trust-code (in Python: trust_code=True)"
        )
    try:
        found = getattr(importlib.import_module(module), name, None)
    except Exception as error:  # it runs code that is not ours
        reason = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no reason given'}"
        raise ConfigError(f"{what} {place} cannot be imported ({reason}); is its folder on PYTHONPATH?") from None
    _ours.add(place)
    return found


def ours(values: object) -> None:
    """The user wrote these values: the code they name may be imported."""
    for name in _names(values):
        _ours.add(name)
        _foreign.pop(name, None)


def foreign(values: object, origin: Path) -> None:
    """A folder holds these values: the code they name is not imported, unless somebody said that it is trusted."""
    if _trusting.get():
        ours(values)
    else:
        _foreign.update({name: origin for name in _names(values) if name not in _ours})


@contextmanager
def trusting(trust_code: bool) -> Iterator[None]:
    """Folders that are loaded in here may name code, if `trust_code` is True."""
    before = _trusting.set(trust_code or _trusting.get())
    try:
        yield
    finally:
        _trusting.reset(before)


def _names(values: object) -> Iterator[str]:
    """Every text that could be a name of code, however deep."""
    if isinstance(values, Mapping):
        values = list(values.values())
    if isinstance(values, str):
        if _NAMED.fullmatch(values):
            yield values
    elif isinstance(values, list | tuple):
        for value in values:
            yield from _names(value)
