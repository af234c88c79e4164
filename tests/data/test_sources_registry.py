"""What sources say about themselves, options, and a source of the user's own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from support import tiny

import describe_data
import finetune_ttm
from tstune.config.schema import DataSection
from tstune.config.validation import validate
from tstune.data.panel import OBSERVED
from tstune.data.prepared import prepare_data
from tstune.data.sources import available_sources, describe_sources, load_source, source_info
from tstune.errors import ConfigError, DataError, TstuneError
from tstune.models.ttm import TTMForecaster

OWN = """
import pandas as pd
from tstune.data.table import Roles, SourceTable

def readings(config):
    stamps = pd.date_range("2024-01-01", periods=200, freq="h")
    frame = pd.DataFrame({"item_id": "a", "timestamp": stamps, "y": range(config.source_options.get("first", 0),
        200 + config.source_options.get("first", 0))})
    return SourceTable(frame, Roles(("y",)), frequency="h")

def spoilt(change):
    return lambda config: SourceTable(change(readings(config).frame), Roles(("y",)))

no_table = lambda config: readings(config).frame
no_column = spoilt(lambda frame: frame.drop(columns="y"))
no_rows = spoilt(lambda frame: frame.head(0))
text = spoilt(lambda frame: frame.astype({"y": str}))
zoned = spoilt(lambda frame: frame.assign(timestamp=frame["timestamp"].dt.tz_localize("UTC")))
nameless = spoilt(lambda frame: frame.assign(item_id=None))
a_number = 5
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Name of a module of the user's."""
    name = f"my_sources_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    return name


def test_every_source_says_what_it_is():
    for name in available_sources():
        info = source_info(name)
        assert info is not None, name
        assert info.name == name or name == "parquet"
        assert min(map(len, (info.summary, info.licence, info.where))) >= 5, name
        text = describe_sources(name)
        assert all(f"data.{key}" in text for key in info.keys)
        assert all(f"data.source_options.{option.name}" in text for option in info.options)
        known = set(DataSection.model_fields)
        assert set(info.keys) <= known, "only keys of the schema are promised"


def test_the_scripts_list_all_sources(capsys: pytest.CaptureFixture[str]):
    assert describe_data.main(["--list-sources"]) == 0
    text = capsys.readouterr().out
    names = [line for line in text.splitlines() if line and not line.startswith(" ")]
    assert set(available_sources()) - {"parquet"} <= set(names)
    with pytest.raises(SystemExit) as stop:
        finetune_ttm.parse_args(["--list-sources"])
    assert stop.value.code == 0
    assert capsys.readouterr().out == text
    assert describe_data.main(["--list-sources", "t1d_uom"]) == 0
    one = capsys.readouterr().out
    assert one.startswith("t1d_uom\n")
    assert "doi.org/10.5281/zenodo.15806142" in one
    assert "csv" not in one.splitlines()[0]
    assert describe_data.main(["--list-sources", "t1d_uon"]) == 2
    assert "did you mean t1d_uom?" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["brist1d_open", "ett", "hf_dataset", "t1d_uom"])
def test_missing_files_are_named_with_where_they_come_from(name: str, tmp_path: Path):
    where = source_info(name).where
    with pytest.raises(ConfigError) as caught:
        load_source(DataSection(source=name))
    assert f"source {name} needs data.path" in str(caught.value)
    assert where in str(caught.value)
    for path in (tmp_path / "nowhere", tmp_path):  # a place that is not there, and one without a file
        with pytest.raises(DataError) as caught:
            load_source(DataSection(source=name, path=str(path)))
        text = str(caught.value)
        assert str(path) in text
        assert where in text
        assert "\n" not in text


@pytest.mark.parametrize(
    ("source", "options", "words"),
    [
        ("simulated_t1d", {"peple": 3}, "options.peple: source simulated_t1d has no such option; did you mean people?"),
        ("simulated_t1d", {"days": "ten"}, "source_options.days='ten': source simulated_t1d takes a number (int)"),
        ("simulated_t1d", {"gaps": 1}, "source_options.gaps=1: source simulated_t1d takes true or false"),
        ("simulated_t1d", {"people": 0}, "people=0 must be 1 or more"),
        ("cgm_sample", {"people": 3}, "source cgm_sample has no such option; options: none"),
        ("csv", {"people": 1}, "source csv has no such option"),
        ("no_such_module_of_mine:f", {}, "no_such_module_of_mine:f cannot be imported"),
    ],
)
def test_options_of_a_source_are_checked(source: str, options: dict, words: str):
    path = "x.csv" if source == "csv" else None
    with pytest.raises(ConfigError) as caught:
        load_source(DataSection(source=source, path=path, source_options=options))
    assert words in str(caught.value)


def test_a_function_of_ones_own(own: str):
    config = DataSection(source=f"{own}:readings", source_options={"first": 7})
    data = prepare_data(config, 16, 4)
    assert data.panel.values[:, 0].tolist() == list(range(7, 207))
    assert data.manifest["source"] == f"{own}:readings"


@pytest.mark.parametrize(
    ("function", "words"),
    [
        ("no_table", "returned a DataFrame, not a SourceTable"),
        ("no_column", "has no column 'y'"),
        ("no_rows", "has no rows"),
        ("text", "column 'y' must hold numbers"),
        ("zoned", "'timestamp' must hold times without a zone"),
        ("nameless", "'item_id' must name a series in every row"),
        ("a_number", "names no function"),
        ("absent", "names no function"),
        ("", "names no function"),
    ],
)
def test_a_function_that_gives_no_table(own: str, function: str, words: str):
    with pytest.raises(TstuneError) as caught:
        load_source(DataSection(source=f"{own}:{function}"))
    assert words in str(caught.value)
    assert f"{own}:{function}" in str(caught.value)


# A model of a named source forecasts each person of a table, told apart by item_id


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> TTMForecaster:
    folder = tmp_path_factory.mktemp("named")
    values = tiny.recipe(folder / "none.csv", folder / "run", tiny.write_checkpoint(folder / "weights"))
    values["data"] = {"source": "simulated_t1d", "source_options": {"people": 2, "days": 6}}
    values |= {"tuning": {"mode": "zero_shot"}, "evaluation": {"horizons": ["30min"]}}
    model = TTMForecaster(validate(values, "test"))
    model.build(model.prepare().preprocessor)
    return model


def test_people_are_told_apart(model: TTMForecaster) -> None:
    panel = model.prepare().panel
    seen = panel.status[:, 0] == OBSERVED
    people = np.array(panel.item_ids)[panel.row_item()[seen]]
    table = {"item_id": people, "timestamp": panel.timestamps[seen], "glucose": panel.values[seen, 0]}
    table = pd.DataFrame(table)
    both = model.predict(table)
    assert list(both["item_id"].unique()) == list(panel.item_ids)
    assert len(both) == 2 * tiny.PREDICTION
    for person, alone in table.groupby("item_id"):
        expected = both[both["item_id"] == person]["glucose"].to_numpy()
        assert model.predict(alone)["glucose"].to_numpy() == pytest.approx(expected, rel=1e-5)
        assert model.predict(alone.drop(columns="item_id"))["glucose"].to_numpy() == pytest.approx(expected, rel=1e-5)
