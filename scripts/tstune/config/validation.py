"""Turn a plain mapping into a `RunConfig`, or into one message that lists every problem with its fix."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence

from pydantic import BaseModel, ValidationError

from tstune.config.names import paths_of, subsection
from tstune.config.schema import RunConfig
from tstune.config.section import DEFAULT_FAMILY, known_family, without_credentials
from tstune.errors import ConfigError
from tstune.foreign_files import missing_blank


def validate(values: Mapping, origin: str) -> RunConfig:
    """Build the `RunConfig`.

    Raises:
        ConfigError: listing all problems, unknown keys with a suggestion.
    """
    try:
        return RunConfig.model_validate(values)
    except ValidationError as error:
        problems = _explain_all(error, known_family(values.get("model", {})) or DEFAULT_FAMILY)
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        raise ConfigError(f"{origin}: {count}: " + "; ".join(problems)) from None


def _explain_all(error: ValidationError, family: str) -> list[str]:
    """One line per key: pydantic reports each branch of a union on its own."""
    by_key: dict[str, list[Mapping]] = {}
    for problem in error.errors():
        location = problem["loc"]
        whose = family if location[:1] == ("model",) else DEFAULT_FAMILY
        by_key.setdefault(_key(location, whose), []).append(problem | {"family": whose})
    return [without_credentials(_explain(key, problems)) for key, problems in by_key.items()]


def _key(location: tuple, family: str) -> str:
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
        section = subsection(known, family) if known is not None else None
    return ".".join(parts)


def _explain(key: str, problems: list[Mapping]) -> str:
    first = problems[0]
    if first["type"] == "extra_forbidden":
        return f"{key}: unknown key{_suggestion(first['loc'], first['family'])}"
    messages = dict.fromkeys(_message(problem) for problem in problems)
    text = " or ".join(messages)
    if not key:
        return text
    if first["type"] == "unknown_family":
        return f"{key}.type: {text} (got {first['input']['type']!r})"
    value = first.get("input")
    shown = "" if isinstance(value, dict | BaseModel) else f" (got {value!r})"
    lack = missing_blank(value) if isinstance(value, str) and "valid dictionary" in text else None
    return f"{key}: {text}{shown}{f': {lack}' if lack else ''}"


def _message(problem: Mapping) -> str:
    text = problem["msg"].removeprefix("Value error, ")
    return text[:1].lower() + text[1:]


def _suggestion(location: tuple, family: str) -> str:
    *parents, key = (str(part) for part in location)
    written = ".".join([*parents, key])
    if "." in key and written in leaf_paths(family=family):
        *sections, name = written.split(".")
        return f", write it as {': {'.join([*sections, name])}: …{'}' * len(sections)}"
    section = section_at(parents, family)
    siblings = list(section.model_fields) if section else []
    paths = {path: path.rpartition(".")[2] for path in leaf_paths(family=family)}
    inside, same = ".".join([*parents, ""]), [path for path, name in paths.items() if name == key]
    found = (
        [path for path in same if path.startswith(inside)]
        or [inside + name for name in difflib.get_close_matches(key, siblings, n=1, cutoff=0.85)]
        or [inside + name for name in siblings if name.endswith(f"_{key}")][:1]
        or same  # the right name in the wrong section
        or [inside + name for name in difflib.get_close_matches(key, siblings, n=1)]
        or [path for path, name in paths.items() if difflib.get_close_matches(key, [name], cutoff=0.85)][:1]
    )
    if found:
        return f", did you mean {' or '.join(found)}?"
    return f" (keys here: {', '.join(siblings)})" if siblings else ""


def section_at(parents: Sequence[str], family: str = DEFAULT_FAMILY) -> type[BaseModel] | None:
    """The section that these keys lead to; None where there is no such section."""
    section: type[BaseModel] = RunConfig
    for name in parents:
        field = section.model_fields.get(name)
        section = None if field is None else subsection(field, family)
        if section is None:
            return None
    return section


def leaf_paths(family: str = DEFAULT_FAMILY) -> Iterator[str]:
    """Yield every key of the schema as a dotted path, for example ``training.learning_rate``."""
    return paths_of(RunConfig, family)
