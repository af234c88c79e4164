"""Cold start: the error on people whom a shared model has never seen, against 0, 1, 3, 7, 14 days of their own data.

    python scripts/cold_start.py runs/base --output runs/cold_start
    python scripts/cold_start.py runs/base data.path=new.csv --days 0 1 3 7 --output runs/cold_start

The model is a finished run, or registry:name@alias; its recipe says how the data is read, key=value changes it. New are
the people (series of any kind) that it neither learned from nor was chosen by, or those of --people. Judged are the
windows behind the longest of --days from the beginning of each of them, the same ones whatever the days, which are the
last before these windows. Three quarters of a person's own days train a LoRA adapter on the shared model
(tuning.per_item_epochs, tuning.per_item_learning_rate, lora.rank, …), the last quarter validates: where an adapter does
not lower that loss, the shared model forecasts. Beside it stand the untuned weights, persistence, and ridge on the same
own days (persistence where they hold no window).

--output gets cold_start.csv, cold_start.json (with what each person's days brought) and report.html, all or nothing.
Exit codes: 0 done, 2 your input needs a change (one `error:` line says which).
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

from tstune.command_line import add_registry_argument, add_trust_argument, script_parser
from tstune.errors import EXIT_OK, ConfigError, DataError, exits_cleanly
from tstune.named_code import trusting

if TYPE_CHECKING:
    from tstune.config.schema import RunConfig
    from tstune.data.prepared import PreparedData
    from tstune.evaluation.backtest import Scores
    from tstune.models.contract import ForecastModel
    from tstune.runs.folder import RunFolder
    from tstune.runs.report.blocks import ReportSection

BASE, UNTUNED, PERSISTENCE, ADAPTER, RIDGE = "shared_base", "zero_shot", "persistence", "own_adapter", "ridge"
EVERY_WINDOW = ("data.train_stride=1", "data.validation_stride=1", "data.train_fraction=1")
"""Of a few days; the command line has the last word."""
NOT_FOLLOWED = ("model.", "data.split.", "tuning.mode", "output_dir")


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = script_parser(__doc__)
    option = parser.add_argument
    option("model", help="run folder of the shared model, or registry:name@alias, registry:name:version")
    option("overrides", nargs="*", metavar="key=value", help="changes to its recipe, e.g. data.path=new.csv")
    days = (0.0, 1.0, 3.0, 7.0, 14.0)
    option("--days", nargs="+", type=number, default=days, metavar="N", help="(default: 0 1 3 7 14)")
    told = "who is new (default: whom the model does not know)"
    option("--people", nargs="+", metavar="NAME", help=told)
    option("--output", required=True, type=Path, metavar="folder", help="where tables and page go")
    option("--overwrite", action="store_true", help="replace what an earlier call left there")
    add_registry_argument(parser)
    add_trust_argument(parser)
    args = parser.parse_intermixed_args(argv)
    for name in ("days", "people"):  # a key=value that follows an option with several values belongs to the recipe
        given = vars(args)[name] or ()
        args.overrides += [word for word in given if "=" in str(word)]
        setattr(args, name, [word for word in given if "=" not in str(word)])
    return args


def number(word: str) -> float | str:
    """One of --days, or a key=value that follows them."""
    return word if "=" in word else float(word)


@exits_cleanly
def main(argv: Sequence[str] | None = None) -> int:
    """Load, cut, tune, judge, write."""
    args = parse_args(argv)
    from tstune.runs.folder import NewFolder, RunFolder, refuse_full
    from tstune.runtime.distributed import refuse_ranks

    refuse_ranks("scripts/cold_start.py", "several would tune the same adapters")
    refuse_full("--output", args.output, args.overwrite)
    from tstune.registry.model_registry import saved_folder
    from tstune.runs.compare.evaluate import configured_data
    from tstune.runtime.logs import setup_logging

    setup_logging()
    with trusting(args.trust_code), ExitStack() as stack:
        run = RunFolder(stack.enter_context(saved_folder(args.model, args.registry))).require()
        config = recipe_of(run, args.overrides)
        reads = {"model": str(run.path), "data.path": config.data.path}
        new = stack.enter_context(NewFolder(args.output, args.overwrite, inputs=reads, key="--output"))
        data = configured_data(config).judged_on(config.evaluation.context_steps)
        people = new_people(run, data, args.people)
        result = Study(run, config, data, people, sorted({0.0, *args.days})).result()
        write(new.folder, {"model": args.model, "unit": data.preprocessor.unit} | result)
        new.commit()
    print("\n".join(row["sentence"] for row in result["rows"] if row["days"]))
    print(f"report: {args.output}/report.html")
    return EXIT_OK


def recipe_of(run: RunFolder, overrides: Sequence[str]) -> RunConfig:
    """The recipe of the shared model for a few days of everybody: every window, and nothing is split yet."""
    from tstune.runs.compare.evaluate import without_parts

    for one in overrides:
        if one.startswith(NOT_FOLLOWED) and not one.startswith("data.split.allow_overlap"):
            raise ConfigError(f"{one}: the model is tuned already, and --days split the data; leave it out")
    config = run.config_with([*EVERY_WINDOW, *overrides])
    return without_parts(config.changing("evaluation", refit="none"), "deployment")


def new_people(run: RunFolder, data: PreparedData, asked: Sequence[str] | None) -> list[str]:
    """Who is new: those that were asked for, else those that the run of the model did not learn from."""
    from tstune.data.splits import some_names
    from tstune.runs.folder import MANIFEST

    ids, manifest = data.panel.item_ids, run.read_json(MANIFEST, "items", "unseen_items")
    if missing := [name for name in asked or () if name not in ids]:
        raise DataError(f"--people {missing[0]}: no such series; the data has {some_names(ids)}")
    learned = {one["item_id"] for one in manifest["items"]} - set(manifest["unseen_items"])
    found = asked or [name for name in ids if name not in learned or manifest["source"] != data.config.source]
    if not found:
        told = "give other data (data.path=…), a model of data.split.by=item, or --people NAME if names alone agree"
        raise DataError(f"nobody is new: the model learned from {some_names(ids)}; {told}")
    return found


class Study:
    """The windows of new people behind the longest of `days`, and every forecast of them."""

    def __init__(
        self, run: RunFolder, config: RunConfig, data: PreparedData, people: Sequence[str], days: Sequence[float]
    ) -> None:
        import numpy as np

        from tstune.data.frequency import to_steps
        from tstune.models.registry import model_class
        from tstune.runs.compare.evaluate import evaluate_models

        self.config, self.data, self.ids = config, data, data.panel.item_ids
        self.steps = {number: to_steps(f"{number:g}D", data.panel.frequency, "--days") for number in days}
        self.is_new = np.isin(self.ids, people)
        self.nothing = self.cut(0)
        if self.nothing is None:
            raise DataError(f"--days {days[-1]:g}: nobody has a window behind them; give fewer days")
        self.base = shared_model(run, config, self.nothing)
        judged = replace(self.nothing, preprocessor=self.base.preprocessor)
        untuned = [] if config.tuning.mode in ("zero_shot", "from_scratch") else [config.model.pretrained]
        models = [str(run.path), *untuned, PERSISTENCE]
        judge = evaluate_models(models, config, prepare=lambda _: judged, flag="model").judge
        self.backtest, self.manager = judge.test, judge.manager
        self.base.to(self.manager.device)
        self.persistence = model_class(PERSISTENCE)(config)
        self.persistence.build(self.base.preprocessor)
        self.without = dict(zip((BASE, *(UNTUNED for _ in untuned), PERSISTENCE), judge.scores.values(), strict=True))

    def cut(self, own: int) -> PreparedData | None:
        """The last so many steps to learn from; None where they hold no window, whoever's they are."""
        from tstune.data.plan import NoWindow
        from tstune.data.splits import own_days

        try:
            return self.data.with_split(own_days(self.data.panel, self.is_new, max(self.steps.values()), own))
        except NoWindow:
            return None

    def result(self) -> dict:
        """``rows``: every forecast and number of days; ``people``: what the days of each brought."""
        rows, people = [self.row(name, 0.0, None, found) for name, found in self.without.items()], []
        for days in self.steps:
            used, found, about = self.after(days)
            rows += [self.row(name, days, used[name], scores) for name, scores in found.items()]
            people += about
        return {"rows": rows, "people": people}

    def after(self, days: float) -> tuple[dict[str, int], dict[str, Scores], list[dict]]:
        """How many people got an adapter and a ridge of their own in so many days, the scores, and each of them."""
        import numpy as np

        from tstune.data.fingerprints import times_of_rows
        from tstune.data.leaks import extents
        from tstune.models.adapters import PerItemForecaster
        from tstune.models.combined import ChosenForecaster
        from tstune.models.registry import model_class
        from tstune.runs.finetune import tune_item

        own, adapters, about = self.cut(self.steps[days]) or self.nothing, {}, {}
        ridges, reach = [self.persistence] * len(self.ids), extents(self.data.panel, own.windows)
        for item in np.flatnonzero(self.nothing.test.by_item()).tolist():
            parts = {part: windows.of_item(item) for part, windows in own.windows.items()}
            result, adapter = tune_item(self.base, self.ids[item], parts["train"], parts["validation"], self.manager)
            adapters |= {} if adapter is None else {self.ids[item]: adapter}
            if len(parts["train"]):
                ridges[item] = model_class(RIDGE)(self.config)
                ridges[item].build(own.preprocessor)
                ridges[item].train_on(replace(own, windows=parts).as_judged(), self.manager)
            seen = {part: times_of_rows(self.data.panel, rows[item]) for part, rows in reach.items()}
            counts = {f"{part}_windows": len(windows) for part, windows in parts.items()}
            about[item] = {"days": days} | asdict(result) | counts | seen
        used = {ADAPTER: len(adapters), RIDGE: len(ridges) - ridges.count(self.persistence)}
        shared, adapted = self.without[BASE], PerItemForecaster(self.base, adapters, self.ids)
        fits = ChosenForecaster(ridges, lambda batch: batch["item"])
        found = {ADAPTER: self.backtest.score(adapted, ADAPTER) if used[ADAPTER] else shared}
        found |= {RIDGE: self.backtest.score(fits, RIDGE)} if used[RIDGE] else {}
        for name, scores in ({BASE: shared} | found).items():
            for item, one in about.items():
                one[f"rmse_{name}"] = float(scores.rmse_by_item[item])
        return used, found, list(about.values())

    def row(self, name: str, days: float, used: int | None, scores: Scores) -> dict:
        """A forecast: errors, the 95 % interval of its RMSE, and the verdict against the shared model."""
        from tstune.evaluation.bootstrap import rmse_band
        from tstune.evaluation.verdict import verdict, window_blocks

        windows, seen = self.backtest.windows, scores.window_count > 0
        sums = scores.window_square[seen][:, None], scores.window_count[seen][:, None]
        low, high = rmse_band(*sums, window_blocks(scores, windows, seen)) or ([None], [None])
        errors = {metric: one for metric, one in scores.metrics.items() if metric in ("rmse", "mae") or "@" in metric}
        judged = verdict({name: scores, BASE: self.without[BASE]}, windows, name, 0, name, self.backtest.horizons)
        against = {key: value for one in judged.comparisons for key, value in asdict(one).items()}
        against.pop("lead_times", None)
        sentence = judged.sentence if used != 0 else f"{BASE} forecasts for everybody."
        kept = "adapters kept" if name == ADAPTER else "ridges fitted"
        if used is not None:
            sentence = f"{days:g} d of own data, {used} of {judged.num_items} {kept}: {sentence}"
        about = {"model": name, "days": days, "people_used": used, "num_people": judged.num_items}
        about |= {"num_windows": judged.num_windows} | errors | {"rmse_from": low[0], "rmse_to": high[0]}
        return about | against | {"sentence": sentence}


def shared_model(run: RunFolder, config: RunConfig, data: PreparedData) -> ForecastModel:
    """The model of the run, which must have a network and read such data, with settings for adapters."""
    from tstune.models.combined import fitted
    from tstune.models.registry import load_model

    base = load_model(run.path)
    if base.module is None:
        raise ConfigError(
            f"{run.path}: model.type={config.model.type} has no network for an adapter; give a run with one"
        )
    lengths = data.test.context_length, data.test.prediction_length
    if fitted(base, "the model", *lengths, None, data.preprocessor) is not base:
        raise ConfigError(f"{run.path} learned in {base.preprocessor.unit}, or other columns; give such data")
    base.config = config.model_copy(update={"model": base.config.model})
    return base


def write(folder: RunFolder, result: Mapping) -> None:
    """Tables and page."""
    import pandas as pd

    from tstune.domains import domain_of
    from tstune.runs.report.render import as_html
    from tstune.runtime.files import without_formulas

    folder.write_json("cold_start.json", result)
    folder.write_text("cold_start.csv", without_formulas(pd.DataFrame(result["rows"])).to_csv(index=False))
    domain = domain_of(result["unit"])
    folder.write_text("report.html", as_html("Cold start", sections(result), domain and domain.warning))


def sections(result: Mapping) -> list[ReportSection]:
    """The error by days of own data, and what came of each person's."""
    from tstune.runs.report.blocks import Cells, Figure, LegendEntry, ReportSection, Table, Text
    from tstune.runs.report.charts import Axes, Line, both, line_chart
    from tstune.runs.report.words import label, metric_header

    rows, people, title = result["rows"], result["people"], "RMSE by days of own data"
    x, names = sorted({one["days"] for one in rows}), list(dict.fromkeys(one["model"] for one in rows))

    def values(name: str, key: str = "rmse") -> list[float | None]:
        mine = {one["days"]: one[key] for one in rows if one["model"] == name}
        return [mine.get(0.0 if name in (BASE, UNTUNED, PERSISTENCE) else day) for day in x]

    band = [(values(ADAPTER, "rmse_from"), values(ADAPTER, "rmse_to"))]
    top = 1.2 * max(one["rmse"] for one in rows if one["model"] != RIDGE)  # of a day, a ridge is off any scale
    lines = []
    for number, name in enumerate(names):
        drawn = [value if value is not None and value < top else None for value in values(name)]
        lines.append(Line(name, f"c{number}", drawn, band if name == ADAPTER else [], points=name in (ADAPTER, RIDGE)))
    legend = [LegendEntry(line.key, label(line.key), line.style) for line in lines]
    who = f"{rows[0]['num_windows']:,} windows of {rows[0]['num_people']} new people, the same at every point"
    caption = f"{who}; the 95 % interval is that of own adapters. A ridge above all of them is in the table alone."
    axes = Axes(x, "days of own data", metric_header("rmse", result["unit"] or ""))
    columns = [Cells.decimal("Days", x, 1), *(Cells.number(label(name), values(name), key=name) for name in names)]
    plots = both(lambda width: line_chart(axes, lines, width, title))
    figure = Figure("by-days", title, plots, Table(title, columns), caption, legend)
    own = [
        Cells.text("Person", [one["item_id"] for one in people]),
        Cells.decimal("Days", [one["days"] for one in people], 1),
        Cells.text("Adapter", ["kept" if one["kept"] else one["reason"] for one in people]),
        *(Cells.number(label(name), [one.get(f"rmse_{name}") for one in people]) for name in (BASE, ADAPTER, RIDGE)),
    ]
    return [
        ReportSection(
            "days", "Days of own data", [figure, *(Text(one["sentence"], note=True) for one in rows if one["days"])]
        ),
        ReportSection("people", "Person by person", [Table.capped("RMSE of each person", own)]),
    ]


if __name__ == "__main__":
    raise SystemExit(main())
