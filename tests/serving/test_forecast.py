"""The answer of `POST /forecast` is what `predict` returns, alone or in company."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from fastapi.testclient import TestClient
from serving_stock import frame_of, future_plan, rich_series, rows_of, train
from support import tiny

from tstune.config.validation import validate
from tstune.errors import ConfigError, DataError
from tstune.models.registry import load_model, model_class
from tstune.registry.model_registry import open_registry
from tstune.serving import ServingLimits
from tstune.serving.service import ForecastService, fingerprint, open_model

Start = Callable[..., TestClient]


@pytest.fixture
def history() -> pd.DataFrame:
    return tiny.series(rows=50)[["item_id", "timestamp", "load"]]


def ask(client: TestClient, **fields: object) -> dict:
    answer = client.post("/forecast", json=fields)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_the_answer_is_that_of_predict(start: Start, plain: tuple, plain_run: Path, history: pd.DataFrame) -> None:
    answer = ask(start(plain), rows=rows_of(history))
    pd.testing.assert_frame_equal(frame_of(answer), load_model(plain_run).predict(history), check_exact=True)
    assert answer["model"] == {"name": "run", "version": fingerprint(plain_run), "type": "ttm"}
    assert (answer["unit"], answer["frequency"], answer["columns"]) == (None, "h", ["load"])


def test_every_kind_of_column_and_quantiles(start: Start, rich: tuple, rich_run: Path) -> None:
    history, future = rich_series(), future_plan()
    answer = ask(start(rich), rows=rows_of(history), future=rows_of(future))
    expected = load_model(rich_run).predict(history, future=future)
    assert answer["columns"] == ["load", "load_q0.1", "load_q0.5", "load_q0.9"]
    pd.testing.assert_frame_equal(frame_of(answer), expected, check_exact=True)


def test_null_is_a_missing_reading(start: Start, plain: tuple, plain_run: Path, history: pd.DataFrame) -> None:
    history.loc[[20, 21, 30, 70], "load"] = np.nan
    rows = rows_of(history)
    assert sum(row["load"] is None for row in rows) == 4
    answer = ask(start(plain), rows=rows)
    pd.testing.assert_frame_equal(frame_of(answer), load_model(plain_run).predict(history), check_exact=True)


def test_rows_in_any_order_and_times_with_a_zone(start: Start, plain: tuple, history: pd.DataFrame) -> None:
    client = start(plain)
    expected = ask(client, rows=rows_of(history))
    rows = rows_of(history.sample(frac=1, random_state=0))
    assert ask(client, rows=rows) == expected
    for row in rows:
        row["timestamp"] = (pd.Timestamp(row["timestamp"]) + pd.Timedelta("2h")).isoformat() + "+02:00"
    moved = ask(client, rows=rows)
    for row in expected["forecast"]:  # it comes back on the clock of the request
        row["timestamp"] = (pd.Timestamp(row["timestamp"]) + pd.Timedelta("2h")).isoformat() + "+02:00"
    assert moved == expected


def test_names_of_the_training_file_do_not_matter(start: Start, tmp_path: Path) -> None:
    wide = tiny.series()[["item_id", "timestamp", "load"]].pivot(index="timestamp", columns="item_id", values="load")
    data = {"timestamp_column": "when", "item_id_column": None, "target_columns": ["a"]}
    run = train(tmp_path, wide.rename_axis("when").reset_index()[["when", "a"]], data=data)
    model, client = load_model(run), start(open_model(str(run)))
    history = wide[["a"]].tail(50).rename_axis("when").reset_index()
    rows = rows_of(history.rename(columns={"when": "timestamp"}).assign(item_id="somebody"))
    answer = frame_of(ask(client, rows=rows))
    np.testing.assert_array_equal(answer["a"], model.predict(history)["a"])
    assert set(answer["item_id"]) == {"somebody"}
    # two series to a model that was trained on one
    both = frame_of(ask(client, rows=rows + [row | {"item_id": "other"} for row in rows]))
    assert both["item_id"].tolist() == ["other"] * 8 + ["somebody"] * 8


def test_the_example_works(start: Start, plain: tuple, rich: tuple) -> None:
    statics = [("size", "static_real"), ("site", "static_categorical")]
    both = [("load", "target")], [("load", "target"), ("dose", "conditional"), ("plan", "control"), *statics]
    for served, columns in zip((plain, rich), both, strict=True):
        client = start(served)
        described = client.get("/model").json()
        assert len(ask(client, **described["example"])["forecast"]) == tiny.PREDICTION
        assert described["context_length"] == described["shortest_history"] == tiny.CONTEXT
        roles = [(column["name"], column["role"]) for column in described["rows"]]
        assert roles == [("item_id", "item_id"), ("timestamp", "timestamp"), *columns]
        document = client.get("/openapi.json").json()
        body = document["paths"]["/forecast"]["post"]["requestBody"]["content"]["application/json"]
        assert body["examples"]["complete"]["value"] == described["example"]
    assert [column["name"] for column in described["future"]] == ["item_id", "timestamp", "plan"]
    assert described["quantile_levels"] == [0.1, 0.5, 0.9]


def test_the_example_of_glucose_is_plausible(plain: tuple, monkeypatch: pytest.MonkeyPatch) -> None:
    for unit, low, high in (("mg/dL", 80, 160), ("mmol/L", 4, 9)):
        monkeypatch.setattr(plain[0], "preprocessor", replace(plain[0].preprocessor, unit=unit))
        service = ForecastService(*plain, ServingLimits())
        values = [row["load"] for row in service.example["rows"]]
        assert low < min(values) < max(values) < high
        service.close()


class TestTogether:
    """Requests at one time."""

    def bodies(self, count: int) -> list[bytes]:
        tables = [
            tiny.series(rows=40, items=tuple("abcdef"[: 1 + n % 3]), seed=n)[["item_id", "timestamp", "load"]]
            for n in range(count)
        ]
        return [json.dumps({"rows": rows_of(table)}).encode() for table in tables]

    def all_at_once(self, service: ForecastService, bodies: list[bytes]) -> list[dict | Exception]:
        """Every request is known to be on its way before the first is read."""
        gate = threading.Barrier(len(bodies))

        def one(body: bytes) -> dict | Exception:
            with service.admitted():
                gate.wait(timeout=300)
                try:
                    return json.loads(service.answer(body))
                except DataError as error:
                    return error

        with ThreadPoolExecutor(len(bodies)) as pool:
            return list(pool.map(one, bodies))

    @pytest.fixture
    def service(self, plain: tuple):
        service = ForecastService(*plain, ServingLimits(batch_wait=20_000, max_queue=32))
        self.passes: list[tuple[int, int]] = []
        service._queue._observe = lambda *sizes: self.passes.append(sizes)
        yield service
        service.close()

    def test_each_gets_its_own_answer(self, service: ForecastService) -> None:
        bodies = self.bodies(12)
        alone = [self.all_at_once(service, [body])[0] for body in bodies]
        assert self.passes == [(1, 1 + n % 3) for n in range(12)], "one client waits for nobody"
        self.passes.clear()
        together = self.all_at_once(service, bodies)
        assert self.passes == [(12, 24)], "one pass for all of them"
        for one, other in zip(alone, together, strict=True):
            pd.testing.assert_frame_equal(frame_of(one), frame_of(other), rtol=1e-5)
        assert len({str(answer["forecast"]) for answer in together}) == 12

    def test_a_bad_request_spoils_nothing(self, service: ForecastService) -> None:
        good = self.bodies(4)
        short = json.dumps({"rows": json.loads(good[0])["rows"][:5]}).encode()
        found = self.all_at_once(service, [*good[:2], short, *good[2:]])
        assert "has 5 steps of h; a forecast needs a history of 32" in str(found.pop(2))
        assert self.passes == [(4, 7)]
        for body, answer in zip(good, found, strict=True):
            [alone] = self.all_at_once(service, [body])
            pd.testing.assert_frame_equal(frame_of(alone), frame_of(answer), rtol=1e-5)

    def test_a_pass_that_fails_is_repeated_one_by_one(self, service: ForecastService, monkeypatch) -> None:
        whole = service.model.forecast

        def forecast(batch: dict) -> object:
            if (batch["past_values"] > 1000).any():
                raise DataError("more than this network can bear")
            return whole(batch)

        monkeypatch.setattr(service.model, "forecast", forecast)
        bodies = self.bodies(4)
        spoilt = json.loads(bodies[1])
        spoilt["rows"][-1]["load"] = 5000.0
        bodies[1] = json.dumps(spoilt).encode()
        found = self.all_at_once(service, bodies)
        assert str(found.pop(1)) == "more than this network can bear"
        assert sorted(self.passes) == [(1, 1), (1, 1), (1, 3)]
        assert all(answer["forecast"] for answer in found)

    def test_a_pass_holds_no_more_than_it_may(self, plain: tuple) -> None:
        service = ForecastService(*plain, ServingLimits(batch_wait=20_000, max_batch=5))
        try:
            passes: list[tuple[int, int]] = []
            service._queue._observe = lambda *sizes: passes.append(sizes)
            assert len(self.all_at_once(service, self.bodies(10))) == 10
            assert [requests for requests, _ in passes] == [5, 5]
        finally:
            service.close()


class TestModels:
    """Whatever `load_model` gives is served."""

    def test_an_adapter_per_series(self, start: Start, tmp_path: Path) -> None:
        tuning = {"mode": "decoder", "per_item": True, "per_item_epochs": 2, "per_item_learning_rate": 0.02}
        run = train(tmp_path, tiny.series()[["item_id", "timestamp", "load"]], tuning=tuning)
        model = load_model(run)
        assert model.item_adapters.adapters, "an adapter was kept"
        client = start(open_model(str(run)))
        assert "adapter of their own" in client.get("/model").json()["items"]
        history = tiny.series(rows=40, items=("a", "b", "stranger"), seed=3)[["item_id", "timestamp", "load"]]
        found = frame_of(ask(client, rows=rows_of(history)))
        pd.testing.assert_frame_equal(found, model.predict(history), check_exact=True)
        renamed = history.assign(item_id=history["item_id"] + "2")
        others = frame_of(ask(client, rows=rows_of(renamed)))
        assert (found["load"] != others["load"]).any(), "the name chooses the adapter"

    def test_an_ensemble_of_baselines(self, start: Start, tmp_path: Path) -> None:
        csv = tiny.write_series(tmp_path / "series.csv")
        values = tiny.recipe(csv, tmp_path / "run", None)

        def made(name: str) -> str:
            model = model_class(name)(validate(values, "test"))
            data = model.prepare()
            model.build(data.preprocessor)
            model.train_on(data)
            model.save(tmp_path / name)
            return str(tmp_path / name)

        folders = [made("persistence"), made("seasonal_naive")]
        lengths = {"context_length": tiny.CONTEXT, "prediction_length": tiny.PREDICTION}
        values |= {"model": {"type": "ensemble", "members": folders, "weights": "mean"} | lengths}
        made("ensemble")
        history = tiny.series(rows=40)[["item_id", "timestamp", "load"]]
        for folder in (folders[0], str(tmp_path / "ensemble")):
            found = frame_of(ask(start(open_model(folder)), rows=rows_of(history)))
            pd.testing.assert_frame_equal(found, load_model(folder).predict(history), check_exact=True)

    def test_a_registry_alias(self, start: Start, plain_run: Path, tmp_path: Path, history: pd.DataFrame) -> None:
        registry = open_registry(tmp_path / "registry")
        registry.register(plain_run, "power")
        registry.set_alias("power:1", "champion")
        client = start(open_model("registry:power@champion", str(tmp_path / "registry")))
        answer = ask(client, rows=rows_of(history))
        assert answer["model"] == {"name": "power", "version": "1", "type": "ttm"}
        pd.testing.assert_frame_equal(frame_of(answer), load_model(plain_run).predict(history), check_exact=True)

    def test_a_paid_service_is_refused(self, plain: tuple, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(type(plain[0]), "is_paid_service", True)
        with pytest.raises(ConfigError, match="would send readings to a paid service"):
            ForecastService(*plain, ServingLimits())

    def test_the_fingerprint_is_of_what_was_loaded(self, plain_run: Path, tmp_path: Path) -> None:
        import shutil

        copy = shutil.copytree(plain_run, tmp_path / "copy")
        (copy / "README.md").write_text("other words")
        assert fingerprint(copy) == fingerprint(plain_run)
        config = copy / "config.yaml"
        config.write_text(config.read_text() + "\n# changed\n")
        assert fingerprint(copy) != fingerprint(plain_run)
