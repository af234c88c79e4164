"""Write the page of every configuration key, docs/configuration.md, from the schema.

    python scripts/write_reference.py docs/configuration.md

Its test fails when the page is older than the schema. `make docs` runs this.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from tstune.command_line import script_parser
from tstune.config.names import subsection
from tstune.config.schema import RunConfig
from tstune.config.section import ModelSection, section_classes
from tstune.errors import EXIT_OK, exits_cleanly

HEADER = """# Every key of a recipe

Written by `make docs` from the schema (`scripts/tstune/config/schema.py`); do not edit. Every key stands in a YAML file
under its section, on the command line as `section.key=value`, and in Python as a keyword of `TTMConfig` and its sisters
(`TTMConfig(context_length=512)`; where a name would be unclear alone it has its section before it, as in `lora_rank`).
Unknown keys are errors, with the nearest known one. *Duration* is text such as `45min`, or a number of steps.
"""
_TABLE = "| key | value | default | what |\n|---|---|---|---|\n"
_BOUNDS = {"minimum": "≥ {}", "exclusiveMinimum": "> {}", "maximum": "≤ {}", "exclusiveMaximum": "< {}"}
_TYPES = {"integer": "integer", "number": "number", "string": "text", "boolean": "true, false", "null": "null"}


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = script_parser(__doc__)
    parser.add_argument("page", type=Path, help="file to write")
    return parser.parse_args(argv)


@exits_cleanly
def main(argv: Sequence[str] | None = None) -> int:
    """Write it."""
    args = parse_args(argv)
    args.page.write_text(reference(), encoding="utf-8")
    print(args.page)
    return EXIT_OK


def reference() -> str:
    """The whole page."""
    return "\n".join([HEADER, *_sections(RunConfig, "")])


def _sections(section: type[BaseModel], prefix: str) -> Iterator[str]:
    """A section's own keys, then the sections below it."""
    below = {name: subsection(field) for name, field in section.model_fields.items()}
    own = [name for name, found in below.items() if found is None]
    yield _table(section, prefix, own)
    for name, found in below.items():
        if found is None:
            continue
        if name == "model":
            yield from _families()
        else:
            yield f"## {prefix}{name}\n\n{_text(found.__doc__)}\n"
            yield from _sections(found, f"{prefix}{name}.")


def _families() -> Iterator[str]:
    yield f"## model\n\n{_text(ModelSection.__doc__)}\n"
    yield _table(ModelSection, "model.", [name for name in ModelSection.model_fields if name != "type"])
    sections = section_classes()
    for section in dict.fromkeys(sections.values()):
        names = [name for name, one in sections.items() if one is section]
        yield f"### model.type: {', '.join(names)}\n\n{_text(section.__doc__)}\n"
        own = [key for key, field in section.model_fields.items() if key != "type" and _differs(key, field)]
        yield _table(section, "model.", own) if own else "No further keys.\n"


def _differs(key: str, field: FieldInfo) -> bool:
    common = ModelSection.model_fields.get(key)
    return common is None or (common.default, common.description) != (field.default, field.description)


def _table(section: type[BaseModel], prefix: str, names: list[str]) -> str:
    schema = section.model_json_schema()
    rows = []
    for name in names:
        field = section.model_fields[name]
        default = "required" if field.is_required() else f"`{_plain(field.get_default(call_default_factory=True))}`"
        allowed = value_text(schema["properties"][name], schema.get("$defs", {}))
        rows.append(f"| `{prefix}{name}` | {allowed} | {default} | {_text(field.description)} |\n")
    return _TABLE + "".join(rows)


def value_text(schema: Mapping, definitions: Mapping) -> str:
    """What a key accepts in a few words, from its JSON schema."""
    if "$ref" in schema:
        schema = definitions[schema["$ref"].rpartition("/")[2]]
    if "anyOf" in schema:
        words = list(dict.fromkeys(value_text(one, definitions) for one in schema["anyOf"]))
        if words[:2] == ["text", "integer ≥ 0"]:
            words[:2] = ["*duration*"]
        return " or ".join(words)
    if "enum" in schema or "const" in schema:
        return ", ".join(f"`{choice}`" for choice in schema.get("enum", [schema.get("const")]))
    if "prefixItems" in schema:
        return "[" + "; ".join(value_text(one, definitions) for one in schema["prefixItems"]) + "]"
    if schema.get("type") == "array":
        return f"list of {value_text(schema['items'], definitions)}" if schema.get("items") else "list"
    if schema.get("type") == "object":
        return "mapping"
    bounds = [words.format(_number(schema[key])) for key, words in _BOUNDS.items() if key in schema]
    return " ".join([_TYPES[schema["type"]], ", ".join(bounds)]).strip() if "type" in schema else "anything"


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:g}"


def _plain(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _text(text: str | None) -> str:
    return " ".join((text or "").replace("|", "\\|").split())


if __name__ == "__main__":
    raise SystemExit(main())
