"""Tune a challenger on new readings; it takes over the alias only if it is clearly better where neither has looked.

    python scripts/retune.py registry:cgm@champion --input new.csv --output runs/retuned
    python scripts/retune.py registry:cgm@champion --input new.csv --since 2024-07-18 --output runs/retuned \
        training.max_steps=400
    python scripts/manage_registry.py rollback cgm@champion

The champion's recipe is tuned on the earlier readings: a network goes on from the champion's weights, what is fitted
is fitted anew, and key=value changes the recipe. Both are then judged on the end of each series (data.split.test), on
the same windows, which neither learned from; a champion that did is refused. If the 95 % interval of the
paired verdict lies below 0, the challenger is registered and the alias moves. --output holds champion/, challenger/
and verdict/ (report.html). Killed after the verdict, the same command does what is left. Exit codes: 0 promoted,
4 not clearly better (the alias stays), 2 your input needs a change (one `error:` line says which).
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tstune import command_line
from tstune.errors import EXIT_NOT_PROMOTED, EXIT_OK, ConfigError, DataError, RegistryError, exits_cleanly
from tstune.named_code import trusting

if TYPE_CHECKING:
    from tstune.config.schema import RunConfig
    from tstune.data.table import SourceTable
    from tstune.runs.folder import RunFolder

SPLIT = {"by": "time", "mode": "deployment", "train": 0.6, "validation": 0.15, "test": 0.25}
"""Of each series' new readings: the last quarter judges."""

NOT_FOLLOWED = ("output_dir", "overwrite", "data.path", "data.source", "tracking.register_as")
UNFINISHED = "unfinished.json"
"""What was asked, in --output from the verdict to the end of a call."""


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = command_line.script_parser(__doc__)
    parser.add_argument("champion", help="registry:name@alias")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="changes to the recipe of the champion")
    parser.add_argument("--input", required=True, type=Path, help="table with the new readings (CSV, Parquet, …)")
    parser.add_argument("--since", help="leave out what was read before this day or moment")
    parser.add_argument("--output", required=True, type=Path, metavar="folder", help="where both and the verdict go")
    told = "the readings are right, however much larger or smaller than those that the champion knows"
    parser.add_argument("--allow-other-scale", action="store_true", help=told)
    parser.add_argument("--overwrite", action="store_true", help="replace what an earlier call left there")
    command_line.add_registry_argument(parser)
    command_line.add_rename_argument(parser)
    command_line.add_trust_argument(parser)
    args = parser.parse_intermixed_args(argv)
    prefix, _, reference = args.champion.partition(":")
    if prefix != "registry" or "@" not in reference:
        parser.error(f"{args.champion} is no alias that could move: give registry:name@alias")
    return args


@exits_cleanly
def main(argv: Sequence[str] | None = None) -> int:
    """Tune, judge both, and promote or leave."""
    args = parse_args(argv)
    from tstune.runs.folder import VERDICT, RunFolder, put_back_left, refuse_full, replacing
    from tstune.runtime.distributed import refuse_ranks

    refuse_ranks("scripts/retune.py", "several would promote")
    refuse_full("--output", args.output, overwrite=True)
    from tstune.evaluation.verdict import Verdict
    from tstune.models.registry import model_class
    from tstune.registry import open_registry
    from tstune.runs.compare.evaluate import configured_data, evaluate_models
    from tstune.runtime.logs import setup_logging

    setup_logging()
    registry, reference = open_registry(args.registry), args.champion.partition(":")[2]
    name, _, alias = reference.partition("@")
    champion = registry.get(reference)
    inputs = {"--input": str(args.input), "the registry": registry.location}
    places = {part: args.output / part for part in ("champion", "challenger", "verdict")}
    asked = {"holder": champion.reference} | {key: str(value) for key, value in vars(args).items()}
    put_back_left(args.output)
    goes_on = RunFolder(args.output).read_optional(UNFINISHED) == asked
    if not goes_on:
        with trusting(args.trust_code), replacing(args.output, args.overwrite, inputs):
            registry.download(champion.reference, places["champion"])
            config = challenger_config(RunFolder(places["champion"]), args)
            table = readings_since(config, places["champion"], args.since)
            refuse_to_learn(table, config, places["champion"], args.allow_other_scale)
            model_class(config.model.type)(config).fit(table, output_dir=places["challenger"])
            models = [str(places["challenger"]), str(places["champion"])]
            told = {"output": places["verdict"], "flag": "model"}
            found = evaluate_models(models, config, **told, prepare=lambda one: configured_data(one, table))
            RunFolder(args.output).write_json(UNFINISHED, asked)  # a kill after it does not tune again
    judged = Verdict.from_dict(RunFolder(places["verdict"]).read_json(VERDICT))
    told = f"the verdict of the earlier start: {judged.sentence}" if goes_on else found.scoreboard()
    print(f"\n{told}\n\nfolder: {args.output}")
    if judged.effect == "helped":
        if registry.get(reference).version != champion.version:
            raise RegistryError(
                f"{reference} has moved from {champion.reference} meanwhile; judge against the new holder"
            )
        tags = {"replaces": champion.reference}
        version = registry.register_once(places["challenger"], name, judged.sentence[:1000], tags)
        registry.set_alias(version.reference, alias)
    (args.output / UNFINISHED).unlink()
    if judged.effect != "helped":
        print(f"{reference} stays {champion.reference}: the challenger is not clearly better")
        return EXIT_NOT_PROMOTED
    print(f"{reference} is {version.reference} now, after {champion.reference}")
    print(f"back: python scripts/manage_registry.py rollback {reference}")
    return EXIT_OK


def challenger_config(champion: RunFolder, args: argparse.Namespace) -> RunConfig:
    """The champion's recipe on the new readings, which are read as the champion reads them."""
    from tstune.config.managers import SimpleConfigManager, load_saved_config
    from tstune.config.validation import validate
    from tstune.data.files import read_table
    from tstune.data.preprocess import OF_A_FILE, Preprocessor
    from tstune.domains import domain_of
    from tstune.models.registry import model_class

    if passed_over := [one for one in args.overrides if one.startswith(NOT_FOLLOWED)]:
        raise ConfigError(f"{passed_over[0]}: --input and --output say what is read and written; leave it out")
    values = champion.config.model_dump(mode="json")
    of_the_file = [one for one in args.overrides if one.startswith(OF_A_FILE)]
    how = Preprocessor.read(champion.path)[1].changed(of_the_file)
    how = how.for_file(args.input, command_line.read_renames(args.rename) or None)
    export = how.export_section(args.input)
    section = export or how.section_for(read_table(args.input, skip_rows=how.skip_rows), args.input)
    read_as = section.model_dump(mode="json", include=section.model_fields_set)
    nothing = dict.fromkeys(("validation_path", "test_path", "cache"))
    values["data"] |= read_as | nothing | {"path": str(args.input), "source_options": {}, "fill": dict(how.fill)}
    values["data"] |= {"max_gap": how.max_gap, "split": SPLIT}
    if export or values["data"]["convert_to"] is None:
        values["data"]["unit"] = None if export else how.unit  # an export says its own
        values["data"]["convert_to"] = how.unit if domain_of(how.unit) else None
    if "pretrained" in values["model"] and not model_class(values["model"]["type"]).is_baseline:
        values["model"]["pretrained"] = str(champion.path)
        if values["tuning"]["mode"] == "from_scratch":
            values["tuning"]["mode"] = "full"  # it goes on too
    values |= {"output_dir": str(args.output / "challenger"), "overwrite": False}
    values["tracking"]["register_as"] = None
    recipe = args.output / "recipe.yaml"
    SimpleConfigManager().save_config(validate(values, origin=str(champion.path)), recipe)
    config = load_saved_config(recipe, args.overrides)
    if config.tuning.mode == "zero_shot":
        raise ConfigError("tuning.mode=zero_shot learns nothing from new readings; add e.g. tuning.mode=decoder")
    return config


def readings_since(config: RunConfig, champion: Path, since: str | None) -> SourceTable:
    """The new readings, or those from a moment on."""
    from dataclasses import replace

    import pandas as pd

    from tstune.data.preprocess import Preprocessor
    from tstune.data.sources import load_source
    from tstune.data.table import TIMESTAMP

    table = load_source(config.data)
    if config.data.source != "csv":  # an export may hold more than the champion reads
        table = Preprocessor.read(champion)[1].own_columns(table, Path(config.data.path))
    if since is None:
        return table
    try:
        moment = pd.Timestamp(since)
        moment = moment if moment.tz is None else moment.tz_convert("UTC").tz_localize(None)
    except ValueError:
        raise ConfigError(f"--since {since}: write a day or a moment, e.g. 2024-07-18") from None
    frame = table.frame[table.frame[TIMESTAMP] >= moment]
    if frame.empty:
        raise DataError(f"--since {since}: {config.data.path} ends on {table.frame[TIMESTAMP].max()}")
    return replace(table, frame=frame.reset_index(drop=True))


def refuse_to_learn(table: SourceTable, config: RunConfig, champion: Path, allow_other_scale: bool) -> None:
    """Stop where dates jump, and at another unit: a challenger would learn it, and beat who cannot know it."""
    from tstune.data.cleaning import CleaningRules, clean_table
    from tstune.data.preprocess import Preprocessor
    from tstune.data.table import ITEM
    from tstune.runs.compare.monitoring import refuse_long_pause
    from tstune.runs.folder import MANIFEST, RunFolder

    refuse_long_pause(table.frame)
    if allow_other_scale:
        return
    cleaned = clean_table(table, CleaningRules.from_config(config.data), log=False)
    readings = cleaned.frame[list(cleaned.roles.target)].to_numpy(float)
    learned = {one[ITEM] for one in RunFolder(champion).read_json(MANIFEST, "items")["items"]}
    if told := Preprocessor.read(champion)[1].other_scale(readings, learned <= set(cleaned.frame[ITEM])):
        raise DataError(f"--input {config.data.path}: {told}; if they are right: --allow-other-scale")


if __name__ == "__main__":
    raise SystemExit(main())
