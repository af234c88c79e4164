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
        problems = _explain_all(error)
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        raise ConfigError(f"{origin}: {count}: " + "; ".join(problems)) from None


def _explain_all(error: ValidationError) -> list[str]:
    """One line per key: pydantic reports each branch of a union on its own."""
    by_key: dict[str, list[Mapping]] = {}
    for problem in error.errors():
        by_key.setdefault(_key(problem["loc"]), []).append(problem)
    return [_explain(key, problems) for key, problems in by_key.items()]


def _key(location: tuple) -> str:
    """Dotted path of the key, and the index in a list, without the union branches pydantic appends."""
    section: type[BaseModel] | None = RunConfig
    parts = []
    for position, part in enumerate(location):
        if section is None:  # below a key: only an index says more
            if isinstance(part, int):
                parts.append(str(part))
            break
        parts.append(str(part))
        known = section.model_fields.get(str(part))
        if known is None and position == len(location) - 1:
            break
        section = known.annotation if known is not None and _is_section(known.annotation) else None
    return ".".join(parts)


def _explain(key: str, problems: list[Mapping]) -> str:
    first = problems[0]
    if first["type"] == "extra_forbidden":
        return f"{key}: unknown key{_suggestion(first['loc'])}"
    messages = dict.fromkeys(_message(problem) for problem in problems)
    text = " or ".join(messages)
    if not key:
        return text
    value = first.get("input")
    shown = "" if isinstance(value, dict | BaseModel) else f" (got {value!r})"
    return f"{key}: {text}{shown}"


def _message(problem: Mapping) -> str:
    text = problem["msg"].removeprefix("Value error, ")
    return text[:1].lower() + text[1:]


def _suggestion(location: tuple) -> str:
    *parents, key = (str(part) for part in location)
    section = _section(parents)
    siblings = list(section.model_fields) if section else []
    elsewhere = {path.rsplit(".", 1)[-1]: path for path in leaf_paths()}
    if key in elsewhere:  # the right name in the wrong section
        return f", did you mean {elsewhere[key]}?"
    close = difflib.get_close_matches(key, siblings, n=1, cutoff=0.6)
    if close:
        return f", did you mean {'.'.join([*parents, close[0]])}?"
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
