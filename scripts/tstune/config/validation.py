"""Turn a plain mapping into a `RunConfig`, or into one message that lists every problem with its fix."""

from __future__ import annotations

import difflib
import typing
from collections.abc import Iterator, Mapping

from pydantic import BaseModel, ValidationError

from tstune.config.schema import RunConfig
from tstune.errors import ConfigError


def validate(values: Mapping, origin: str) -> RunConfig:
    """Build the `RunConfig`.

    Args:
        values: nested mapping as read from YAML or keywords.
        origin: where the values came from, named in the error.

    Raises:
        ConfigError: listing all problems, unknown keys with a suggestion.
    """
    try:
        return RunConfig.model_validate(values)
    except ValidationError as error:
        problems = [_explain(problem) for problem in error.errors()]
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        raise ConfigError(f"{origin}: {count}: " + "; ".join(problems)) from None


def _explain(problem: Mapping) -> str:
    location = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        return f"{location}: unknown key{_suggestion(problem['loc'])}"
    message = problem["msg"].removeprefix("Value error, ")
    message = message[:1].lower() + message[1:]
    if not location:
        return message
    value = problem.get("input")
    shown = "" if isinstance(value, dict | BaseModel) else f" (got {value!r})"
    return f"{location}: {message}{shown}"


def _suggestion(location: tuple) -> str:
    *parents, key = (str(part) for part in location)
    section = _section(parents)
    siblings = list(section.model_fields) if section else []
    close = difflib.get_close_matches(key, siblings, n=1, cutoff=0.6)
    if close:
        return f", did you mean {'.'.join([*parents, close[0]])}?"
    elsewhere = {path.rsplit(".", 1)[-1]: path for path in leaf_paths()}
    close = difflib.get_close_matches(key, list(elsewhere), n=1, cutoff=0.8)
    if close:
        return f", did you mean {elsewhere[close[0]]}?"
    return f" (keys here: {', '.join(siblings)})" if siblings else ""


def _section(parents: list[str]) -> type[BaseModel] | None:
    section: type[BaseModel] = RunConfig
    for name in parents:
        field = section.model_fields.get(name)
        if field is None or not _is_section(field.annotation):
            return None
        section = field.annotation
    return section


def _is_section(annotation: object) -> bool:
    return isinstance(annotation, type) and not typing.get_origin(annotation) and issubclass(annotation, BaseModel)


def leaf_paths(section: type[BaseModel] = RunConfig, prefix: str = "") -> Iterator[str]:
    """Yield every key of the schema as a dotted path, for example ``training.learning_rate``."""
    for name, field in section.model_fields.items():
        path = f"{prefix}{name}"
        if _is_section(field.annotation):
            yield from leaf_paths(field.annotation, f"{path}.")
        else:
            yield path
