"""Register finished runs as numbered versions of a model, compare, promote, roll back, move them.

    python scripts/manage_registry.py register runs/ttm/cgm_sample/demo --name cgm
    python scripts/manage_registry.py list
    python scripts/manage_registry.py show cgm:1
    python scripts/manage_registry.py compare cgm:1 cgm:2
    python scripts/manage_registry.py promote cgm:2 --alias champion --metric test/fine_tuned/rmse
    python scripts/manage_registry.py rollback cgm@champion
    python scripts/manage_registry.py download cgm@champion --to runs/champion
    python scripts/manage_registry.py export cgm@champion --to cgm.tar.gz

The registry is a folder: --registry, else the environment variable TSTUNE_REGISTRY, else registry/. A version is named
name:version or name@alias.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

from tstune.command_line import script_parser
from tstune.errors import EXIT_OK, RegistryError, exits_cleanly

if TYPE_CHECKING:
    from tstune.registry import ModelRegistry, ModelVersion

DEFAULT_METRIC = "test/fine_tuned/rmse"


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = script_parser(__doc__)
    parser.add_argument("--registry", help="folder of the registry")
    common = argparse.ArgumentParser(add_help=False)  # the same option after the command
    common.add_argument("--registry", default=argparse.SUPPRESS, help="folder of the registry")
    commands = parser.add_subparsers(dest="command", metavar="command", required=True)

    def command(name: str, summary: str, *positional: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=summary, description=summary, parents=[common])
        for argument in positional:
            sub.add_argument(argument)
        return sub

    sub = command("register", "store a finished run as the next version of a model", "run_folder")
    sub.add_argument("--name", required=True, help="name of the model, e.g. cgm")
    sub.add_argument("--description", help="free text")
    sub.add_argument("--tag", action="append", default=[], metavar="key=value", help="may be given several times")
    sub = command("list", "all models and versions, or those of one model")
    sub.add_argument("name", nargs="?")
    sub.add_argument("--metric", default=DEFAULT_METRIC, help=f"number to show (default: {DEFAULT_METRIC})")
    sub = command("show", "everything that is known about a version", "reference")
    sub.add_argument("--json", action="store_true", help="as JSON, with configuration and files")
    command("compare", "settings that differ, then metrics, then data", "left", "right")
    sub = command("alias", "point an alias to a version, whatever its metrics are", "reference")
    action = sub.add_mutually_exclusive_group(required=True)
    action.add_argument("--set", metavar="alias", help="with a version as reference: alias cgm:3 --set candidate")
    action.add_argument("--remove", action="store_true", help="with an alias: alias cgm@candidate --remove")
    sub = command("promote", "point an alias to a version if a metric is better than the present holder's", "reference")
    sub.add_argument("--alias", required=True, help="e.g. champion")
    sub.add_argument("--metric", required=True, help=f"e.g. {DEFAULT_METRIC}")
    better = sub.add_mutually_exclusive_group()
    better.add_argument("--lower-is-better", dest="lower", action="store_true", default=True, help="the default")
    better.add_argument("--higher-is-better", dest="lower", action="store_false")
    sub.add_argument("--allow-other-data", action="store_true", help="although the data manifests differ")
    command("rollback", "point an alias to the version before: rollback cgm@champion", "reference")
    command("history", "every move of an alias: history cgm@champion", "reference")
    sub = command("download", "write a version to a new folder, every file checked", "reference")
    sub.add_argument("--to", required=True, metavar="folder")
    sub = command("verify", "check every file of a version, or of all versions")
    sub.add_argument("reference", nargs="?")
    command("delete", "forget a version that no alias points to; clean frees its space", "reference")
    sub = command("export", "write a version as one archive", "reference")
    sub.add_argument("--to", required=True, metavar="file", help=".tar.gz or .zip")
    sub.add_argument("--overwrite", action="store_true", help="replace an existing file")
    sub = command("import", "store an exported archive", "archive")
    sub.add_argument("--name", help="another name for the model")
    command("clean", "remove what killed registrations and deleted versions left")
    return parser.parse_args(argv)


@exits_cleanly
def main(argv: Sequence[str] | None = None) -> int:
    """Open the registry, do one thing, say what was done."""
    args = parse_args(argv)
    from tstune.registry import open_registry

    print(_do(open_registry(args.registry), args))
    return EXIT_OK


def _do(registry: ModelRegistry, args: argparse.Namespace) -> str:
    """Carry out the command; returns what to say."""
    match args.command:
        case "register":
            version = registry.register(args.run_folder, args.name, args.description, dict(map(_tag, args.tag)))
            return f"{version.reference} registered from {args.run_folder}: {_contents(version)}"
        case "list":
            return _list(registry, args.name, args.metric)
        case "show":
            return _show(registry.get(args.reference), args.json)
        case "compare":
            return str(registry.compare(args.left, args.right))
        case "alias" if args.remove:
            name, alias = _name_and_alias(args.reference)
            registry.remove_alias(name, alias)
            return f"{args.reference} points nowhere now"
        case "alias":
            version = registry.set_alias(args.reference, args.set)
            return f"{version.name}@{args.set} is {version.reference}"
        case "promote":
            done = registry.promote(args.reference, args.alias, args.metric, args.lower, args.allow_other_data)
            new, old = done.version, done.replaced
            before = "nothing before" if old is None else f"{old.reference} with {done.replaced_value:.6g}"
            return f"{new.name}@{args.alias} is {new.reference}: {args.metric} {done.value:.6g}, after {before}"
        case "rollback":
            return f"{args.reference} is {registry.rollback(*_name_and_alias(args.reference)).reference} again"
        case "history":
            return _history(registry, *_name_and_alias(args.reference))
        case "download":
            return f"{args.reference}: {registry.download(args.reference, args.to)}"
        case "verify" if args.reference is not None:
            return f"{args.reference} is intact: {_contents(registry.verify(args.reference))}"
        case "verify":
            return _verify_all(registry)
        case "delete":
            deleted = registry.delete(args.reference)
            return f"{deleted.reference} deleted; `clean` frees what no other version needs"
        case "export":
            return f"{args.reference}: {registry.export_archive(args.reference, args.to, args.overwrite)}"
        case "import":
            version, old = registry.import_archive(args.archive, args.name)
            note = "" if version.version == old.version else f" (it was {old.reference}, a number not free here)"
            return f"{version.reference} imported from {args.archive}{note}: {_contents(version)}"
        case "clean":
            cleaned = registry.clean()
            return f"{cleaned.count} leftovers removed, {_megabytes(cleaned.size)}"
    raise AssertionError(args.command)


def _list(registry: ModelRegistry, name: str | None, metric: str) -> str:
    from tstune.registry.versions import table

    known = registry.names()
    if name is not None and name not in known:
        raise RegistryError(f"{registry.location} has no model {name}; models here: {', '.join(known) or 'none'}")
    rows = [("version", "aliases", metric, "size", "registered", "commit", "run", "description")]
    for version in (found for model in ([name] if name else known) for found in registry.versions(model)):
        value = version.flat_metrics().get(metric)
        shown = "-" if value is None else f"{value:.6g}"
        first = (version.reference, ", ".join(version.aliases) or "-", shown, _megabytes(version.size))
        rows.append((*first, version.created, _commit(version), version.run_id or "-", version.description or ""))
    return "\n".join(table(rows)) if len(rows) > 1 else f"{registry.location} is empty"


def _show(version: ModelVersion, as_json: bool) -> str:
    if as_json:
        shown = version.to_dict() | {"aliases": list(version.aliases), "manifest_sha256": version.manifest_sha256}
        return json.dumps(shown, indent=2)
    from tstune.registry.versions import table

    config = version.config
    rows = [
        ("version", version.reference),
        ("aliases", ", ".join(version.aliases) or "-"),
        ("registered", version.created),
        ("description", version.description or "-"),
        ("tags", ", ".join(f"{key}={value}" for key, value in (version.tags or {}).items()) or "-"),
        ("model", f"{config['model']['type']}, tuning mode {config['tuning']['mode']}"),
        ("data", f"{config['data']['source']}, manifest {(version.manifest_sha256 or '-')[:12]}…"),
        ("commit", _commit(version)),
        ("run", version.run_id or "-"),
    ]
    metrics = [(name, f"{value:.6g}") for name, value in version.flat_metrics().items()]
    files = [(file.path, f"{file.size} bytes", f"{file.sha256[:12]}…") for file in version.files]
    lines = [*table(rows), "", "metrics:", *(f"  {line}" for line in table(metrics))]
    return "\n".join([*lines, "", "files:", *(f"  {line}" for line in table(files))])


def _history(registry: ModelRegistry, name: str, alias: str) -> str:
    from tstune.registry.versions import table

    changes = registry.alias_history(name, alias)
    rows = [(move.changed, move.action, f"{name}:{move.version}" if move.version else "-") for move in changes]
    return "\n".join(table(rows)) if rows else f"{name}@{alias} was never set"


def _verify_all(registry: ModelRegistry) -> str:
    versions = [version for name in registry.names() for version in registry.versions(name)]
    damaged = []
    for version in versions:
        try:
            registry.verify(version.reference)
        except RegistryError as error:
            damaged.append(str(error))
    if damaged:
        raise RegistryError(f"damaged versions: {len(damaged)} of {len(versions)}: {'; '.join(damaged)}")
    return f"every version is intact ({len(versions)})"


def _tag(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals:
        raise RegistryError(f"--tag {text!r} is not of the form key=value")
    return key, value


def _name_and_alias(text: str) -> tuple[str, str]:
    name, at, alias = text.partition("@")
    if not at:
        raise RegistryError(f"{text!r} names a version, not an alias; write name@alias, e.g. cgm@champion")
    return name, alias


def _contents(version: ModelVersion) -> str:
    return f"{len(version.files)} files, {_megabytes(version.size)}"


def _commit(version: ModelVersion) -> str:
    if version.git_commit is None:
        return "-"
    return version.git_commit[:10] + (" (dirty)" if version.git_dirty else "")


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.1f} MB"


if __name__ == "__main__":
    raise SystemExit(main())
