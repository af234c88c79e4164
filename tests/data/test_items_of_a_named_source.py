"""A model of a named source forecasts each person of a table, told apart by `item_id`."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from support import tiny

from tstune.config.validation import validate
from tstune.data.panel import OBSERVED
from tstune.models.ttm import TTMForecaster


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
