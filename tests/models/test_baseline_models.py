"""Baselines against numbers worked out by hand and against scikit-learn; each saved and loaded."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge as RidgeRegression
from support import tiny

from tstune.config.section import RidgeSection
from tstune.config.validation import validate
from tstune.data.defaults import BASELINES as BY_DEFAULT
from tstune.data.prepared import PreparedData, prepare_data
from tstune.data.scaler import Scaler
from tstune.errors import ConfigError
from tstune.evaluation.backtest import Backtest
from tstune.evaluation.record import KeptForecasts, forecasts_table
from tstune.models.baselines import ContextMean, Persistence, Ridge, SeasonalNaive
from tstune.models.lightgbm_lags import LightGBM
from tstune.models.registry import available_models, model_class
from tstune.runtime.distributed import DistributedManager

BOTH = ["load", "dose"]
BASELINES = (Persistence, SeasonalNaive, ContextMean, Ridge)


def config_for(context: int, prediction: int, stock: Path, seasonality: int | None = None, **data: object):
    sections = {
        "model": {"context_length": context, "prediction_length": prediction},
        "data": data,
        "evaluation": {"seasonality": seasonality, "horizons": []},
    }
    return validate(tiny.recipe(stock / "series.csv", Path("unused"), None, **sections), "test")


def prepared(config) -> PreparedData:
    return prepare_data(config.data, config.model.context_length, config.model.prediction_length)


def batch_of(past: list[list[float]], missing: tuple[int, ...] = ()) -> dict[str, torch.Tensor]:
    """One window; `past` holds a list per channel."""
    values = torch.tensor(past).T[None]
    observed = torch.ones_like(values, dtype=torch.bool)
    observed[:, list(missing)] = False
    return {"past_values": torch.where(observed, values, 0.0), "past_observed_mask": observed}


@pytest.fixture
def by_hand(stock: Path):
    """Forecast of a baseline for one window of six steps, five steps ahead."""

    def forecast(cls: type, past: list[list[float]], missing: tuple[int, ...] = (), **settings: object) -> list:
        targets = ["load", "dose"][: len(past)]
        config = config_for(6, 5, stock, target_columns=targets, **settings)
        model = cls(config)
        model.build(prepared(config).preprocessor)
        return model.forecast(batch_of(past, missing))[0].T.tolist()

    return forecast


LINE, OTHER = [1, 2, 3, 4, 5, 7], [6, 5, 4, 3, 2, 0]


@pytest.mark.parametrize(
    ("cls", "past", "settings", "expected"),
    [
        (Persistence, [LINE], {}, [[7] * 5]),
        (Persistence, [LINE, OTHER], {}, [[7] * 5, [0] * 5]),
        (Persistence, [LINE], {"missing": (4, 5)}, [[4] * 5]),
        (SeasonalNaive, [LINE], {"seasonality": 2}, [[5, 7, 5, 7, 5]]),
        (SeasonalNaive, [LINE], {"seasonality": 6}, [[1, 2, 3, 4, 5]]),
        (SeasonalNaive, [LINE], {"seasonality": 1}, [[7] * 5]),
        (SeasonalNaive, [LINE], {"seasonality": 2, "missing": (5,)}, [[5, 4, 5, 4, 5]]),  # from a season further back
        (ContextMean, [[1, 2, 3, 4, 5, 9]], {}, [[4] * 5]),
        (ContextMean, [[1, 2, 3, 4, 5, 9]], {"missing": (5,)}, [[3] * 5]),
        (ContextMean, [[1, 2, 3, 4, 5, 9], [0, 0, 0, 6, 6, 6]], {}, [[4] * 5, [3] * 5]),
    ],
)
def test_by_hand(cls: type, past: list, settings: dict, expected: list, by_hand) -> None:
    assert by_hand(cls, past, **settings) == expected


def test_seasonal_naive_needs_a_season(by_hand) -> None:
    with pytest.raises(ConfigError, match=r"season of 7 steps is longer than model\.context_length=6"):
        by_hand(SeasonalNaive, [LINE], seasonality=7)


class TestRidge:
    @pytest.mark.parametrize(
        ("targets", "own"), [(["load"], False), (["load", "dose"], False), (["load", "dose"], True)]
    )
    def test_equals_scikit_learn(self, targets: list[str], own: bool, stock: Path, tmp_path: Path) -> None:
        """One map for all targets, and with `own` one for each, with another penalty."""
        config = config_for(24, 6, stock, target_columns=targets)
        if own:
            keys = {"ridge_per_channel": True, "ridge_alpha": 30}
            section = RidgeSection(type="ridge", context_length=24, prediction_length=6, **keys)
            config = config.model_copy(update={"model": section})
        data = prepared(config)
        ridge = Ridge(config)
        ridge.build(data.preprocessor)
        ridge.train_on(data)

        scaler = data.preprocessor.scaler
        frame = tiny.series()
        past, future, test = [], [], []
        for _, table in frame.groupby("item_id"):
            scaled = (table[targets].to_numpy(np.float32) - scaler.mean) / scaler.std
            for channel in range(len(targets)):
                for start in range(240 - 29):
                    past.append(scaled[start : start + 24, channel])
                    future.append(scaled[start + 24 : start + 30, channel])
                test.append(scaled[320:344, channel])
        assert len(past) == len(data.train) * len(targets)
        past, future, test = map(np.array, (past, future, test))
        expected = np.empty((2 * len(targets), 6))
        target = np.arange(len(past)) // (240 - 29) % len(targets)
        for which in range(len(targets)) if own else [target]:
            rows, asked = target == which, slice(which, None, len(targets)) if own else slice(None)
            reference = RidgeRegression(alpha=30.0 if own else 1.0).fit(past[rows], future[rows])
            expected[asked] = reference.predict(test[asked])
        expected = expected.reshape(2, len(targets), 6).transpose(0, 2, 1) * scaler.std + scaler.mean

        first_of_each_item = [0, len(data.test) // 2]
        ridge.save(tmp_path)
        for model in (ridge, Ridge.load(tmp_path)):
            forecast = model.forecast(data.test.__getitems__(first_of_each_item))
            np.testing.assert_allclose(forecast.numpy(), expected, rtol=2e-4, atol=1e-4)


@pytest.mark.parametrize("cls", [Ridge, LightGBM])
def test_columns_of_unlike_size_are_series_of_their_own_scale(cls: type, tmp_path: Path) -> None:
    """An exchange rate of the yen beside one of the pound: neither drowns the other."""
    wide = tiny.series().pivot(index="timestamp", columns="item_id", values="load")
    wide["yen"] = 0.001 * wide.a
    found = {}
    for name, columns in {"both": ["a", "b", "yen"], "small": ["yen"], "large": ["a"]}.items():
        wide[columns].to_csv(tmp_path / "wide.csv")
        values = tiny.recipe(tmp_path / "wide.csv", tmp_path, data={"columns_as": "items"})
        values["data"] |= {"item_id_column": None, "target_columns": None}
        config = validate(values, "test")
        data, model = prepared(config), cls(config)
        model.build(data.preprocessor)
        model.train_on(data)
        (tmp_path / name).mkdir()
        model.save(tmp_path / name)
        model = cls.load(tmp_path / name)
        backtest = Backtest(data, config.evaluation, DistributedManager.for_run(config))
        found[name] = backtest.score(model)
        kept = KeptForecasts.of(forecasts_table({"model": found[name]}, backtest, data.panel.item_ids, ("target",)))
        assert kept.metrics(backtest.horizons, ())["model"] == pytest.approx(found[name].metrics, rel=1e-6)
    rmse = found["both"].rmse_by_item
    assert rmse[2] == pytest.approx(0.001 * rmse[0], rel=1e-3)
    scaled = {name: one.metrics["mse_scaled"] for name, one in found.items()}
    assert scaled["small"] == pytest.approx(scaled["large"], rel=1e-3)
    assert 0.05 < scaled["both"] < 0.5


@pytest.mark.parametrize("family", ["ttm", "patchtst"])
def test_networks_read_columns_of_unlike_size_alike(family: str, tmp_path: Path) -> None:
    """What is tuned on both forecasts the small one as it does the large one, a thousandth of it, saved or not."""
    wide = tiny.series().pivot(index="timestamp", columns="item_id", values="load")
    wide["yen"] = 0.001 * wide.a
    wide.to_csv(tmp_path / "wide.csv")
    values = tiny.recipe(tmp_path / "wide.csv", tmp_path, data={"columns_as": "items"}, tuning={"mode": "head"})
    values["data"] |= {"item_id_column": None, "target_columns": None}
    values["evaluation"] |= {"baselines": []}
    if family == "ttm":
        values["model"] = {"pretrained": str(tiny.write_checkpoint(tmp_path / "weights"))}
    else:
        values["model"] = {"type": family, "context_length": 32, "prediction_length": 8, "d_model": 16, "num_layers": 1}
        values["model"] |= {"num_heads": 2, "ffn_dim": 16, "patch_length": 8}
        values["tuning"] = {"mode": "from_scratch"}
    model = model_class(family)(validate(values, "test"))
    model.fit(output_dir=tmp_path / "run")
    for one in (model, model_class(family).load(tmp_path / "run")):
        forecast = one.predict(tmp_path / "wide.csv").set_index("item_id")["target"]
        np.testing.assert_allclose(forecast["yen"], 0.001 * forecast["a"], rtol=1e-4)
    assert Scaler.from_dict(model.preprocessor.scaler.to_dict()).by_window
    values |= {"model": {"context_length": 32, "prediction_length": 8}, "tuning": {}}
    values["data"]["target_columns"] = ["a", "b"]
    assert not prepared(validate(values, "test")).preprocessor.scaler.by_window


def test_every_baseline_is_covered() -> None:
    assert {cls.model_type for cls in BASELINES} <= set(available_models())
    assert all(model_class(cls.model_type) is cls for cls in BASELINES)
    assert set(BY_DEFAULT) <= {cls.model_type for cls in BASELINES}
