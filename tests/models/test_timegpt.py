"""TimeGPT against a local server that speaks the protocol of nixtla's client, failures included."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from support import tiny
from timegpt_server import DROP, HANG, INPUT_SIZE, KEY, Service, running_service

import eval_forecast
import finetune_timegpt
from tstune.config.validation import validate
from tstune.data.prepared import PreparedData
from tstune.errors import CheckpointError, ConfigError, DistributedError, MissingDependencyError, ServiceError
from tstune.models import timegpt_service
from tstune.models.registry import load_model
from tstune.models.timegpt import TimeGPTForecaster
from tstune.models.timegpt_service import intervals_of, training_series

ROWS = 300
MODEL = {"type": "timegpt", "pretrained": "timegpt-1", "retry_wait": 0, "max_attempts": 3}
QUIET = {"baselines": ["persistence"], "num_plots": 0, "report": False}
LEVELS = [0.025, 0.1, 0.5, 0.9, 0.975]


@pytest.fixture(scope="module")
def server() -> Iterator[Service]:
    with running_service() as service:
        yield service


@pytest.fixture
def service(server: Service) -> Service:
    server.failures.clear()
    server.requests.clear()
    server.stored.clear()
    return server


@pytest.fixture(scope="module")
def csv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_series(tmp_path_factory.mktemp("timegpt") / "series.csv", rows=ROWS)


def values(csv: Path, output: Path = Path("unused"), **sections: object) -> dict:
    base = tiny.recipe(csv, output, model=MODEL, tuning={"mode": "zero_shot"}, evaluation=QUIET)
    base["model"] = {
        name: value for name, value in base["model"].items() if name in (*MODEL, "context_length", "prediction_length")
    }
    return tiny.merged(base, sections)


def built(csv: Path, **sections: object) -> tuple[TimeGPTForecaster, PreparedData]:
    model = TimeGPTForecaster(validate(values(csv, **sections), "test"))
    data = model.prepare()
    model.build(data.preprocessor)
    return model, data


def batch_of(data: PreparedData, count: int = 3) -> dict[str, torch.Tensor]:
    return data.test.__getitems__(list(range(count)))


# What is sent


def test_windows_are_sent_as_series(csv: Path, service: Service) -> None:
    model, data = built(csv)
    batch = batch_of(data)
    found = model.forecast(batch)
    assert torch.allclose(found, batch["past_values"][:, -1:].expand(-1, tiny.PREDICTION, -1))
    ((path, headers, body),) = service.requests
    assert (path, headers["nixtla-model"], headers["authorization"]) == ("/v2/forecast", "timegpt-1", f"Bearer {KEY}")
    assert (body["model"], body["h"], body["freq"], body["level"]) == ("timegpt-1", tiny.PREDICTION, "h", None)
    assert (body["finetune_steps"], body["finetuned_model_id"]) == (0, None)
    assert body["series"]["sizes"] == [tiny.CONTEXT] * 3
    assert body["series"]["y"] == pytest.approx(batch["past_values"].flatten().tolist())
    assert (body["series"]["X"], body["series"]["X_future"]) == (None, None)


def test_several_targets_and_requests_keep_their_order(csv: Path, service: Service) -> None:
    model, data = built(csv, model={"windows_per_request": 3}, data={"target_columns": ["load", "dose"]})
    batch = batch_of(data, 4)
    found = model.forecast(batch)
    assert torch.allclose(found, batch["past_values"][:, -1:].expand(-1, tiny.PREDICTION, -1))
    assert [len(body["series"]["sizes"]) for body in service.bodies()] == [3, 3, 2]


def test_conditional_columns_are_historic_and_control_columns_future(csv: Path, service: Service) -> None:
    columns = {"conditional_columns": ["dose"], "control_columns": ["plan"], "time_features": ["hour_of_day"]}
    model, data = built(csv, data=columns)
    batch = batch_of(data)
    plan, waves = batch["future_values"][..., 2], batch["future_values"][..., 3:].sum(dim=-1)
    expected = batch["past_values"][:, -1, 0, None] + plan + waves
    assert torch.allclose(model.forecast(batch)[..., 0], expected, atol=1e-4)
    (body,) = service.bodies()
    past, future = body["series"]["X"], body["series"]["X_future"]
    assert (len(past), len(future)) == (4, 3)
    assert future[0] == pytest.approx(plan.flatten().tolist())
    assert past[0] == pytest.approx(batch["past_values"][..., 2].flatten().tolist())
    assert past[3] == pytest.approx(batch["past_values"][..., 1].flatten().tolist())


def test_gaps_are_filled_from_the_past_and_padding_is_left_out(csv: Path, service: Service) -> None:
    model, data = built(csv)
    batch = {name: tensor.clone() for name, tensor in batch_of(data, 4).items()}
    mask, past = batch["past_observed_mask"], batch["past_values"]
    mask[0, :10] = False
    mask[1, 5:8] = False
    mask[1, -2:] = False
    mask[2] = False
    mask[3, 1:] = False
    past[~mask] = 1e6
    found = model.forecast(batch)
    (body,) = service.bodies()
    assert body["series"]["sizes"] == [tiny.CONTEXT - 10, tiny.CONTEXT]
    second = np.array(body["series"]["y"][tiny.CONTEXT - 10 :])
    left, right = float(past[1, 4, 0]), float(past[1, 8, 0])
    assert second[5:8] == pytest.approx(left + (right - left) * np.array([0.25, 0.5, 0.75]), rel=1e-5)
    assert second[-3:] == pytest.approx([float(past[1, -3, 0])] * 3)
    assert found[2, :, 0].tolist() == pytest.approx([float(data.preprocessor.scaler.mean[0])] * tiny.PREDICTION)
    assert found[3, :, 0].tolist() == pytest.approx([float(past[3, 0, 0])] * tiny.PREDICTION)


def test_a_window_is_paid_for_once(csv: Path, service: Service) -> None:
    model, data = built(csv, forecast={"quantiles": LEVELS, "method": "quantile_head"})
    batch = batch_of(data)
    points, quantiles = model.forecast(batch), model.native_quantiles(batch)
    assert torch.equal(model.forecast(batch_of(data, 2)), points[:2])
    assert len(service.requests) == 1
    assert service.bodies()[0]["level"] == [80, 95]
    assert quantiles.shape == (3, tiny.PREDICTION, 1, len(LEVELS))
    assert (quantiles.diff(dim=-1) > 0).all()
    assert torch.equal(quantiles[..., 2], points)
    spread = batch["past_values"].std(dim=1, unbiased=False)[:, None]
    assert torch.allclose(quantiles[..., 1], points - 80 / 50 * spread, atol=1e-3)
    assert torch.allclose(quantiles[..., 4], points + 95 / 50 * spread, atol=1e-3)


def test_a_large_request_is_packed(tmp_path: Path, service: Service) -> None:
    csv = tiny.write_series(tmp_path / "long.csv", rows=20000)
    model, _ = built(csv, tuning={"mode": "full"}, model={"selection_windows": 1}, data={"test_stride": 800})
    series = [(times, values) for times, values in training_series(model.prepare().train) for _ in range(12)]
    model._service().finetune(series, None)
    ((path, headers, body),) = service.requests
    assert (path, headers["content-encoding"]) == ("/v2/finetune", "zstd")
    assert sum(body["series"]["sizes"]) == sum(len(values) for _, values in series) > 200_000


def test_months_keep_their_calendar(tmp_path: Path, service: Service) -> None:
    table = tiny.series(rows=120)
    stamps = pd.date_range("2000-01-01", periods=120, freq="MS")
    table["timestamp"] = [*stamps, *stamps]
    table.to_csv(tmp_path / "months.csv", index=False)
    model, data = built(
        tmp_path / "months.csv", model={"context_length": 12, "prediction_length": 3}, evaluation={"horizons": [1, 3]}
    )
    assert model.forecast(batch_of(data)).shape == (3, 3, 1)
    assert service.bodies()[0]["freq"] == "MS"


# Fine-tuning


def test_a_run_is_tuned_judged_saved_and_loaded(csv: Path, service: Service, tmp_path: Path) -> None:
    recipe = tiny.write_recipe(
        tmp_path / "recipe.yaml",
        values(
            csv,
            tmp_path / "run",
            model={"finetune_steps": 7, "finetune_depth": 3, "finetune_loss": "mae"},
            tuning={"mode": "full"},
            forecast={"quantiles": [0.1, 0.5, 0.9], "method": "quantile_head"},
        ),
    )
    assert finetune_timegpt.main(["--config", str(recipe)]) == 0
    (tuning,) = service.bodies("/v2/finetune")
    assert {name: tuning[name] for name in ("finetune_steps", "finetune_depth", "finetune_loss")} == {
        "finetune_steps": 7,
        "finetune_depth": 3,
        "finetune_loss": "mae",
    }
    assert tuning["series"]["sizes"] == [180, 180], "the training part of both items, and nothing else"
    table = tiny.series(rows=ROWS)
    first = table[table["item_id"] == "a"]["load"].to_numpy()[:180]
    assert tuning["series"]["y"][:180] == pytest.approx(first.tolist(), rel=1e-5)
    metrics = tiny.read_json(tmp_path / "run" / "metrics.json")["test"]
    assert metrics["fine_tuned"]["rmse"] < metrics["zero_shot"]["rmse"]
    assert metrics["zero_shot"]["rmse"] == pytest.approx(metrics["persistence"]["rmse"], rel=1e-5)
    assert tiny.read_json(tmp_path / "run" / "model" / "config.json")["finetuned_model_id"] == "tuned-0"
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) > 5
    assert [path for path in files if KEY.encode() in path.read_bytes()] == []

    assert eval_forecast.main(["--run", str(tmp_path / "run")]) == 0, "rebuilt from its folder to the last digit"
    service.requests.clear()
    forecast = load_model(tmp_path / "run").predict(table)
    assert {body["finetuned_model_id"] for body in service.bodies()} == {"tuned-0"}
    expected = (table[table["item_id"] == "b"]["load"].iloc[-1] + service.stored["tuned-0"]) / 2
    assert forecast["load"].iloc[-1] == pytest.approx(expected, rel=1e-5)
    (tmp_path / "run" / "model" / "config.json").write_text("{}", encoding="utf-8")
    (tmp_path / "run" / "checksums.json").unlink()
    with pytest.raises(CheckpointError, match=r"config\.json is damaged: the key 'model' is missing"):
        load_model(tmp_path / "run")


def test_a_stored_model_forecasts_and_is_tuned_further(csv: Path, service: Service) -> None:
    service.stored["mine"] = 1000.0
    model, data = built(csv, model={"finetuned_model_id": "mine"}, tuning={"mode": "full"})
    batch = batch_of(data)
    assert torch.allclose(model.forecast(batch)[:, 0], (batch["past_values"][:, -1] + 1000) / 2)
    result = model.train_on(data)
    assert service.bodies("/v2/finetune")[0]["finetuned_model_id"] == "mine"
    assert model.finetuned_model_id == "tuned-1"
    assert (result.best_step, [row["step"] for row in result.history]) == (10, [0, 10])
    assert result.best_validation_loss == result.history[1]["validation_loss"] < result.history[0]["validation_loss"]


def test_tuning_that_makes_it_worse_is_not_kept(csv: Path, service: Service) -> None:
    model, data = built(csv, tuning={"mode": "full"})
    service.failures[:] = [None, lambda answer: service.stored.update({"tuned-0": 1e6}) or answer]
    assert model.train_on(data).best_step == 0
    assert model.finetuned_model_id is None


def test_few_training_windows_are_few_series(csv: Path, service: Service) -> None:
    data = built(csv)[1]
    windows = data.train.only(np.array([0, 10, 100]))
    starts, length = windows.starts(np.arange(3)), tiny.CONTEXT + tiny.PREDICTION
    series = training_series(windows)
    assert [len(readings) for _, readings in series] == [length + 10, length]
    assert series[1][1].tolist() == data.panel.values[starts[2] : starts[2] + length, 0].tolist()
    assert service.requests == []


# What goes wrong


@pytest.mark.parametrize(
    ("failure", "words"),
    [
        ((402, {"detail": "out of credit"}), "the quota of this account is used up.* 402: .*out of credit"),
        ((422, {"detail": "series too short"}), "the request was not accepted; .*series too short"),
        ((200, b"<html>gateway</html>"), "its answer cannot be read: Could not parse JSON"),
        ((200, {"mean": [1.0], "intervals": None, "weights_x": None}), "its answer cannot be read: ValueError"),
        ((200, {"data": {}}), "its answer cannot be read: KeyError"),
        ((200, []), "its answer cannot be read: "),
        (lambda answer: answer | {"mean": [None] * len(answer["mean"])}, "a forecast is not a number"),
        (lambda answer: answer | {"intervals": None}, "TimeGPT-lo-80 is not in it"),
    ],
)
def test_a_refusal_is_one_line_and_not_tried_again(failure: object, words: str, csv: Path, service: Service) -> None:
    model, data = built(csv, forecast={"quantiles": [0.1, 0.5, 0.9]})
    service.failures.append(failure)
    with pytest.raises(ServiceError, match=words) as error:
        model.forecast(batch_of(data))
    assert "\n" not in str(error.value)
    assert len(service.requests) == 1


@pytest.mark.parametrize("failure", [(500, {"detail": "oops"}), (503, b"busy"), (429, {"detail": "slow down"}), DROP])
def test_what_may_pass_is_tried_again(failure: object, csv: Path, service: Service) -> None:
    model, data = built(csv)
    batch = batch_of(data)
    service.failures[:] = [failure, failure]
    assert torch.allclose(model.forecast(batch)[:, 0], batch["past_values"][:, -1])
    assert len(service.requests) == 3


@pytest.mark.parametrize(
    ("status", "words"),
    [(429, "too many requests .attempt 3.: the rate limit, or the quota"), (500, "the service failed .attempt 3.")],
)
def test_attempts_end_and_waits_double(
    status: int, words: str, csv: Path, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []
    monkeypatch.setattr(timegpt_service.time, "sleep", waits.append)
    model, data = built(csv, model={"retry_wait": 40})
    service.failures[:] = [(status, {"detail": "no"})] * 3
    with pytest.raises(ServiceError, match=words):
        model.forecast(batch_of(data))
    assert waits == [40, 60]


def test_tuning_that_may_have_begun_is_not_paid_for_twice(csv: Path, service: Service) -> None:
    model, data = built(csv, tuning={"mode": "full"})
    series = training_series(data.train)
    service.failures.append(DROP)
    with pytest.raises(ServiceError, match="may have begun and be paid for, so it is not tried again"):
        model._service().finetune(series, None)
    assert len(service.requests) == 1
    service.failures[:] = [(429, {"detail": "slow down"})]
    assert model._service().finetune(series, None) == "tuned-0"
    service.failures[:] = [(200, {"finetuned_model_id": None})]
    with pytest.raises(ServiceError, match="finetuned_model_id is None"):
        model._service().finetune(series, None)


@pytest.mark.parametrize(
    ("model", "environment", "failure", "words"),
    [
        ({"request_timeout": 1, "max_attempts": 1}, {}, HANG, r"no answer within model\.request_timeout=1 s"),
        ({}, {"NIXTLA_BASE_URL": "http://127.0.0.1:9"}, None, "connection failed .ConnectError.*NIXTLA_BASE_URL"),
        ({}, {"NIXTLA_API_KEY": ""}, None, "NIXTLA_API_KEY is not set"),
        ({"finetuned_model_id": "gone"}, {}, None, r"not found; check model\.finetuned_model_id=gone"),
    ],
    ids=["silent server", "no server", "no key", "no such model"],
)
def test_what_is_not_there_is_named(
    model: dict, environment: dict, failure: object, words: str, csv: Path, service: Service, monkeypatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    forecaster, data = built(csv, model=model)
    service.failures[:] = [failure] if failure else []
    with pytest.raises((ServiceError, ConfigError), match=words):
        forecaster.forecast(batch_of(data))


def test_a_wrong_key_is_named_and_not_shown(
    csv: Path, service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("NIXTLA_API_KEY", "nixak-wrong")
    recipe = tiny.write_recipe(tmp_path / "recipe.yaml", values(csv, tmp_path / "run"))
    assert finetune_timegpt.main(["--config", str(recipe)]) == 2
    captured = capsys.readouterr()
    assert "error: TimeGPT forecast: the key in NIXTLA_API_KEY was refused" in captured.err
    assert "nixak-wrong" not in captured.err + captured.out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["recipe.yaml"]


# Money


def test_a_dry_run_shows_what_would_be_sent(
    csv: Path, service: Service, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    sections = {"model": {"dry_run": True, "max_windows": 50}, "tuning": {"mode": "full"}}
    recipe = tiny.write_recipe(tmp_path / "recipe.yaml", values(csv, tmp_path / "run", **sections))
    monkeypatch.delenv("NIXTLA_API_KEY")
    assert finetune_timegpt.main(["--config", str(recipe)]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("dry run, nothing was sent\nthis run would send forecasts of at most 168 series in ")
    assert "(windows: test 84, selection 84), fine-tuning on 2 series with 360 readings" in shown
    assert "POST /v2/forecast, 42 series, 1,344 steps, " in shown
    assert "POST /v2/finetune, 2 series, 360 steps, " in shown
    assert "model.max_windows=50: too few, 168 are needed" in shown
    assert service.requests == []
    assert not (tmp_path / "run").exists()


def test_the_size_that_is_shown_is_the_size_that_is_sent(
    csv: Path, service: Service, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = str(tiny.write_recipe(tmp_path / "recipe.yaml", values(csv, tmp_path / "run")))
    assert finetune_timegpt.main(["--config", recipe, "model.dry_run=true"]) == 0
    shown = capsys.readouterr().out
    assert finetune_timegpt.main(["--config", recipe]) == 0
    ((_, headers, _),) = service.requests
    assert f"{int(headers['content-length']):,} bytes" in shown


def test_nothing_is_sent_by_other_ways_of_a_dry_run(csv: Path, service: Service) -> None:
    model, data = built(csv, model={"dry_run": True})
    with pytest.raises(ConfigError, match=r"model\.dry_run=true: nothing is sent"):
        model.forecast(batch_of(data))
    assert service.requests == []


def test_a_run_that_would_send_more_than_allowed_stops_first(csv: Path, service: Service) -> None:
    with pytest.raises(ConfigError, match=r"model\.max_windows=41, but this run may send 42 series"):
        built(csv, model={"max_windows": 41})
    model, data = built(csv, model={"max_windows": 42})
    model.evaluate(data)
    model.evaluate(data)
    assert sum(len(body["series"]["sizes"]) for body in service.bodies()) == 42
    with pytest.raises(ConfigError, match=r"model\.max_windows=42: 42 series were sent, 3 more are needed"):
        model.forecast(data.train.__getitems__([0, 1, 2]))


def test_a_run_sends_no_more_than_was_planned(csv: Path, service: Service) -> None:
    sections = {"tuning": {"mode": "full"}, "forecast": {"quantiles": [0.1, 0.5, 0.9], "method": "quantile_head"}}
    model = TimeGPTForecaster(validate(values(csv, **sections), "test"))
    model.fit()
    sent = sum(len(body["series"]["sizes"]) for body in service.bodies())
    assert sent == 2 * (42 + 6) + 22, "test and validation windows, by the model before and after; calibration"


# Refusals


@pytest.mark.parametrize(
    ("sections", "words"),
    [
        ({"tuning": {"mode": "lora"}}, r"tuning\.mode=lora: the weights of TimeGPT are not here"),
        ({"forecast": {"quantiles": [0.0125, 0.5]}}, r"0\.0125 borders an interval of 97\.5 %"),
        ({"data": {"mirror_train_windows": True}}, r"data\.mirror_train_windows=true"),
        ({"model": {"finetune_depth": 6}}, r"model\.finetune_depth: "),
        ({"model": {"api_key": "nixak"}}, r"model\.api_key: unknown key"),
    ],
)
def test_what_it_cannot_do_is_refused(sections: dict, words: str, csv: Path, service: Service) -> None:
    with pytest.raises(ConfigError, match=words):
        built(csv, **sections)
    assert service.requests == []


def test_several_ranks_are_refused(
    csv: Path, service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    recipe = tiny.write_recipe(tmp_path / "recipe.yaml", values(csv, tmp_path / "run"))
    assert finetune_timegpt.main(["--config", str(recipe)]) == 2
    assert "error: WORLD_SIZE=2: scripts/finetune_timegpt.py is for one process" in capsys.readouterr().err
    with pytest.raises(DistributedError, match=r"WORLD_SIZE=2: model\.type=timegpt is for one process"):
        built(csv)


def test_another_family_is_one_line(csv: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = tiny.write_recipe(tmp_path / "recipe.yaml", tiny.recipe(csv, tmp_path / "run"))
    assert finetune_timegpt.main(["--config", str(recipe)]) == 2
    assert "error: model.type=ttm: this script tunes timegpt" in capsys.readouterr().err


def test_a_missing_client_names_its_pip_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "nixtla", None)
    timegpt_service.nixtla.cache_clear()
    with pytest.raises(MissingDependencyError, match=r"pip install 'nixtla>=0\.8,<0\.9'"):
        timegpt_service.nixtla()


def test_whole_intervals_survive_rounding() -> None:
    for level in np.arange(1, 200) / 200:
        (interval,) = intervals_of([float(level)]) or [0]
        assert interval == abs(100 - round(200 * level))
    assert all(later > earlier for earlier, later in itertools.pairwise(sorted(set(intervals_of([0.05, 0.1, 0.6])))))


def test_the_context_fits_into_what_the_server_reads() -> None:
    assert tiny.CONTEXT <= INPUT_SIZE, "else the client would cut what these tests compare"
