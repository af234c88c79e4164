"""What a search for the best forecaster found: a row for all that was tried, files and a page that say so."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from tstune.evaluation.bootstrap import Interval
from tstune.evaluation.learning_curve import Foretold, change_of_rmse, said
from tstune.evaluation.verdict import OURS, Verdict
from tstune.runs.report.blocks import Cells, Figure, LegendEntry, ReportSection, Table, Text
from tstune.runs.report.charts import Axes, Line, both, line_chart
from tstune.runs.report.render import as_html, as_markdown, write_page
from tstune.runtime.files import aside

LEADERBOARD, PAYS = "leaderboard.json", "will_tuning_pay.json"


@dataclass
class Row:
    """What came of a candidate."""

    name: str  # the candidate's, and its folder's
    # ``baseline``, ``zero_shot``, ``tuned`` (also what is made of several), or ``share``: trained on a share of the
    # data, a point of the learning curve that cannot win
    kind: str
    # ``decoder``, … (the mode), ``from_scratch``, or how it was made on the way: ``stack``, ``trees``, ``per_item``, …
    how: str = ""
    made_of: list[str] = field(default_factory=list)  # names of what it was made of on the way
    # ``finished``, ``pruned`` (ended early, as others were better after as many steps), ``stopped`` (out of time) or
    # ``failed``
    state: str = "finished"
    score: float | None = None  # the metric on the validation windows; None of a failed one
    # to train, and to forecast the validation windows
    fit_seconds: float = 0.0
    predict_seconds: float = 0.0
    seconds: float = 0.0  # all in all
    parameters: int = 0  # of the model, 0 where it has none
    losses: list[float] = field(default_factory=list)  # validation after validation
    squares: list[float] = field(default_factory=list)  # of its errors, see `block_squares`
    reason: str | None = None  # why it failed
    process: int = 0  # that tried it

    @property
    def tunes_weights(self) -> bool:
        """True for pretrained weights, tuned on all of the data."""
        return self.kind == "tuned" and self.how not in ("from_scratch", "stack", "trees")


@dataclass(frozen=True)
class Autotuned:
    """What a search found."""

    winner: Row  # the best candidate by the validation windows
    rows: list[Row]  # all of them, the best first
    not_tried: dict[str, str]  # name -> why
    test: dict[str, dict[str, float]]  # row of the winner's scoreboard -> metrics on the test windows
    sentence: str  # the verdict of the winner's run
    foretold: Foretold | None  # what tuning was expected to bring; None where there was no time to ask
    found: dict[str, Interval | None]  # part -> what it did bring; None where it was not looked at
    # with `best` (the winner's run folder), `best.yaml`, `leaderboard.json`, `will_tuning_pay.json`, `report.html`
    folder: Path

    @property
    def came_true(self) -> str:
        """What tuning brought, beside what was expected; empty where nothing was."""
        if self.foretold is None:
            return ""
        told = [f"{said(value)} on the {part} windows" for part, value in self.found.items() if value is not None]
        came = " and ".join(told) or "nothing was tuned in the time"
        return f"Expected of tuning: {said(self.foretold.curve[1.0])} RMSE; found: {came}."


def ranked(rows: Iterable[Row], higher: bool) -> list[Row]:
    """The best first, those without a score last."""
    sign = -1 if higher else 1
    return sorted(rows, key=lambda row: (row.score is None, sign * (row.score or 0.0)))


def may_win(row: Row) -> bool:
    """True for a model of all the data that has a score."""
    return row.score is not None and row.kind != "share"


def is_simple(row: Row) -> bool:
    """True for what is forecast at the end whoever wins."""
    return row.kind == "baseline" and row.name != "lightgbm"


def live_line(cells: Sequence[str]) -> str:
    """A line of the table that is printed meanwhile."""
    return f"{cells[0]:<32} {cells[1]:>12} {cells[2]:>8}   {cells[3]:<36} {cells[4]:>7}"


def brought(rows: Sequence[Row], foretold: Foretold, judged: Verdict) -> dict[str, Interval | None]:
    """Part -> change of RMSE that tuning on all of the data brought against the best without it.

    `rows` come the best first. The verdict of the winner says nothing of a tuned model that did not win.
    """
    tuned = next((row for row in rows if row.tunes_weights and row.squares), None)
    if tuned is None:
        return {}
    before = next(row for row in rows if row.name == foretold.reference)
    name = "zero_shot" if before.name == foretold.untuned else before.name
    against = judged.against(name) if rows[0] is tuned else None
    on_test = against and Interval(against.change, against.low, against.high)
    return {"validation": change_of_rmse(tuned.squares, before.squares), "test": on_test}


def write(found: Autotuned, metric: str, same_weights: Sequence[str], time: str, warning: str | None) -> None:
    """Write files and page; `same_weights` are the rows of which the winner's scoreboard tells as ``zero_shot``."""
    best, test, rows = found.winner, found.test, found.rows
    measured = {best.name: next(name for name in OURS if name in test)}
    measured |= {row.name: row.name for row in rows if row.name in test}
    if "zero_shot" in test:
        measured = dict.fromkeys(same_weights, "zero_shot") | measured
    scores = [test[measured[row.name]].get(metric) if row.name in measured else None for row in rows]
    about = {"winner": best.name, "metric": metric, "not_tried": found.not_tried}
    kept = [asdict(row) | {"test": score} for row, score in zip(rows, scores, strict=True)]
    about["rows"] = [{name: value for name, value in row.items() if name != "squares"} for row in kept]
    _write_json(found.folder / LEADERBOARD, about)
    if found.foretold is not None:
        _write_json(found.folder / PAYS, found.foretold.beside(found.found))
    columns = [
        Cells.text("Candidate", [row.name for row in rows]),
        Cells.number(f"{metric}, validation", [row.score for row in rows]),
        Cells.number(f"{metric}, test", scores),
        Cells.decimal("Train (s)", [row.fit_seconds for row in rows], 1),
        Cells.decimal("Predict (s)", [row.predict_seconds for row in rows], 2),
        Cells.count("Parameters", [row.parameters or None for row in rows]),
        Cells.text("State", ["cannot win" if row.kind == "share" else row.state for row in rows]),
    ]
    said = [
        f"The winner, chosen on the validation windows by {metric}: {best.name}.",
        found.sentence,
        "The test windows were forecast once, by the winner and the simple forecasts beside it; seconds to predict are "
        "those of the validation windows. The whole report of the winner is best/report.html; best.yaml runs it again.",
        time,
    ]
    reasons: dict[str, list[str]] = {}
    for name, why in ({row.name: row.reason for row in rows if row.reason} | found.not_tried).items():
        reasons.setdefault(why, []).append(name)
    missed = [f"{', '.join(names)}: {why.rstrip('.')}." for why, names in reasons.items()]
    missed.append("Not part of a search: weights of the Hub that are not named by --weights.")
    sections = [
        ReportSection("winner", "Winner", [Text(line) for line in said]),
        ReportSection("leaderboard", "Leaderboard", [Table("All candidates", columns, frozenset({rows.index(best)}))]),
        ReportSection("pays", "Will tuning pay?", _curve(found)),
        ReportSection("not-tried", "What was not tried, or came to nothing", [Text(line) for line in missed]),
    ]
    page = "The best forecaster in the time", sections, warning
    write_page(found.folder / "report.html", as_html(*page))
    write_page(found.folder / "report.md", as_markdown(*page))


def _write_json(path: Path, values: object) -> None:
    with aside(path) as file:
        file.write_text(json.dumps(values, indent=2), encoding="utf-8")


def _curve(found: Autotuned) -> list[Text | Figure]:
    """The learning curve, with what was expected beside what was found."""
    told = found.foretold
    if told is None:
        return [Text("There was no time for trainings on shares of the data that would tell.")]
    tuned = found.found.get("validation")
    law = {end: [getattr(one, end) for one in told.curve.values()] for end in ("change", "low", "high")}
    columns = {
        "Measured": [told.measured.get(share) for share in told.curve],
        "Found by the search": [tuned.change if tuned and share == 1 else None for share in told.curve],
    }
    columns |= dict(zip(("Law", "Low", "High"), law.values(), strict=True))
    percent = {
        name: [100 * one if one is not None and one < 10 else None for one in values]  # beyond it there is no telling
        for name, values in columns.items()
    }
    bands = [(percent["Low"], percent["High"])] if None not in percent["Low"] + percent["High"] else []
    lines = [
        Line("measured", "c1", percent["Measured"], points=True),
        Line("found", "c2", percent["Found by the search"], points=True),
        Line("law", "c0", percent["Law"], bands),
    ]
    x = [100 * share for share in told.curve]
    title, unit = "RMSE by the share of the training windows", f"RMSE against {told.reference} (%)"
    axes = Axes(x, "training windows (%)", unit, expected=((x[0], 0.0), (x[-1], 0.0)))
    cells = [Cells.percent(name, values, 2, signed=True) for name, values in columns.items()]
    table = Table(title, [Cells.decimal("Training windows (%)", x, 0), *cells])
    caption = (
        f"Weights tuned on the latest share of each series, against {told.reference} (dashed), on the validation "
        f"windows. Law: error(s) = error(0) · (1 + s / {told.pretraining:.3g}) ^ -{told.exponent:.3g}, with its 95 % "
        "interval. The search has the best of several tunings, the law one of them."
    )
    names = ("measured", "found by the search", "law")
    legend = [LegendEntry(line.key, name, line.style) for line, name in zip(lines, names, strict=True)]
    plots = both(lambda width: line_chart(axes, lines, width, title))
    return [Text(told.sentence), Text(found.came_true), Figure("curve", title, plots, table, caption, legend)]
