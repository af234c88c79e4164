"""Long tables that are known by their columns: Nixtla, GluonTS, AutoGluon; and csv under its other name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tstune.config.schema import DataSection
from tstune.data.prepared import context_windows, prepare_data
from tstune.data.sources import load_source
from tstune.data.sources.csv import table_from_frame
from tstune.data.table import ITEM, TIMESTAMP, Roles
from tstune.errors import TstuneError

NIXTLA, GLUONTS = ("unique_id", "ds", "y"), ("item_id", "timestamp", "target")


def long_table(names: tuple[str, str, str], **more: object) -> pd.DataFrame:
    stamps = pd.date_range("2024-01-01", periods=200, freq="h")
    parts = [
        pd.DataFrame({names[0]: item, names[1]: stamps, names[2]: np.arange(200.0) + 1000 * item}) for item in (1, 2)
    ]
    return pd.concat(parts, ignore_index=True).assign(**more)


@pytest.mark.parametrize("names", [NIXTLA, GLUONTS], ids=["Nixtla", "GluonTS"])
@pytest.mark.parametrize("kind", ["csv", "csv.gz", "parquet"])
def test_no_option_is_needed(tmp_path: Path, names: tuple[str, str, str], kind: str):
    path, raw = tmp_path / f"long.{kind}", long_table(names)
    raw.to_parquet(path) if kind == "parquet" else raw.to_csv(path, index=False)
    table = load_source(DataSection(source="parquet" if kind == "parquet" else "csv", path=str(path)))
    assert table.roles == Roles((names[2],))
    assert table.frame[ITEM].tolist() == ["1"] * 200 + ["2"] * 200
    assert table.frame[names[2]].tolist() == raw[names[2]].tolist()
    assert table.frame[TIMESTAMP].tolist() == raw[names[1]].tolist()
    assert table.notes == {"layout": "Nixtla" if names is NIXTLA else "GluonTS"}


def test_what_is_left_out_is_said_and_roles_can_be_given():
    raw = long_table(NIXTLA, price=3.0, plan=1.0)
    table = table_from_frame(raw, DataSection(), "input")
    assert table.roles == Roles(("y",))
    assert table.notes["columns_not_used"] == ["price", "plan"]
    table = table_from_frame(raw, DataSection(conditional_columns=["price"], control_columns=["plan"]), "input")
    assert table.roles == Roles(("y",), ("price",), ("plan",))
    assert table.notes == {"layout": "Nixtla"}


@pytest.mark.parametrize(
    "section",
    [
        {"item_id_column": "site"},
        {"timestamp_column": "when"},
        {"target_columns": ["load"]},
        {"columns_as": "items"},
    ],
    ids=lambda section: next(iter(section)),
)
def test_a_name_of_ones_own_turns_it_off(section: dict):
    raw = long_table(NIXTLA).rename(columns={"ds": "when"}).assign(ds=pd.Timestamp("2024-01-01"), load=1.0, site="a")
    with pytest.raises(TstuneError):  # read as it is told, in which these tables make no sense
        table_from_frame(raw, DataSection(**section), "input")


def test_a_timestamp_column_beside_ds_is_the_users_choice():
    raw = long_table(NIXTLA).assign(timestamp=pd.Timestamp("2024-01-01"))
    with pytest.raises(TstuneError, match=r"unique_id|ds"):
        table_from_frame(raw.drop(columns="unique_id").assign(unique_id="a"), DataSection(), "input")


def test_a_saved_model_reads_the_same_layout():
    raw = long_table(NIXTLA)
    table = table_from_frame(raw, DataSection(), "input")
    data = prepare_data(DataSection(), 16, 4, table)
    again = data.preprocessor.read_frame(raw, "new data")
    panel, starts = context_windows(again, data.preprocessor, 16)
    assert panel.item_ids == ("1", "2")
    assert panel.values[starts[1] : starts[1] + 16, 0].tolist() == list(np.arange(2184.0, 2200.0))
