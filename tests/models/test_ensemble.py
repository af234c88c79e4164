"""The average of saved models is a model: weights, forecasts, a folder that stands on its own, refusals."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from support import tiny

from tstune.config.validation import validate
from tstune.errors import CheckpointError, ConfigError, DataError, LeakError, OutputError
from tstune.models.ensemble import NOT_COPIED, Ensemble, inverse_error_weights
from tstune.models.registry import load_model, model_class
from tstune.registry import load_saved_model, open_registry

QUIET = {"baselines": [], "num_plots": 0, "report": False}
SHORT = 24


class Desk:
    """Members on the tiny series: ridge, a seasonal naive with a shorter context, and a tuned TTM in a registry."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.csv = tiny.write_series(folder / "series.csv", rows=300)
        self.ridge = self.baseline("ridge")
        self.naive = self.baseline("seasonal_naive", model={"context_length": SHORT})
        self.mean = self.baseline("context_mean")
        ttm = model_class("ttm")(validate(self.recipe(evaluation=QUIET), "test"))
        ttm.fit(output_dir=folder / "ttm")
        self.registry = folder / "registry"
        open_registry(self.registry).register(folder / "ttm", "load")

    def recipe(self, **sections: object) -> dict:
        return tiny.recipe(self.csv, self.folder / "unused", **sections)

    def baseline(self, name: str, folder: str | None = None, **sections: object) -> str:
        model = model_class(name)(validate(self.recipe(**sections), "test"))
        data = model.prepare()
        model.build(data.preprocessor)
        model.train_on(data)
        place = self.folder / (folder or name)
        model.save(place)
        (place / "plots").mkdir()
        (place / "plots" / "loss.png").write_bytes(b"a picture")
        return str(place)

    def values(self, *members: str, weights: str = "mean", **sections: object) -> dict:
        model = {"type": "ensemble", "members": list(members), "weights": weights}
        values = self.recipe(evaluation=QUIET)
        values["model"] = model | {"context_length": tiny.CONTEXT, "prediction_length": tiny.PREDICTION}
        values["tuning"] = {}
        return tiny.merged(values, {"tracking": {"registry": str(self.registry)}} | sections)

    def ensemble(self, *members: str, **options: object) -> Ensemble:
        return Ensemble(validate(self.values(*members, **options), "test"))


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Desk:
    return Desk(tmp_path_factory.mktemp("desk"))


@pytest.fixture(scope="module")
def run(desk: Desk) -> Path:
    """A whole run, judged and saved, with a member of each kind."""
    evaluation = {"baselines": ["persistence", "ridge"], "num_plots": 1, "report": True}
    model = desk.ensemble(desk.ridge, desk.naive, "registry:load:1", weights="validation", evaluation=evaluation)
    model.fit(output_dir=desk.folder / "run")
    return desk.folder / "run"


def forecast(model, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    with torch.inference_mode():
        return model.forecast(batch)


def shortened(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensor[:, -SHORT:] if name.startswith("past_") else tensor for name, tensor in batch.items()}


def test_the_mean_is_the_mean_of_what_each_member_says_of_its_own_context(desk: Desk) -> None:
    model = desk.ensemble(desk.ridge, desk.naive)
    data = model.prepare()
    model.build(data.preprocessor)
    model.train_on(data)
    batch = data.test.__getitems__([0, 4, 9])
    ridge, naive = forecast(load_model(desk.ridge), batch), forecast(load_model(desk.naive), shortened(batch))
    assert model.weights == [0.5, 0.5]
    assert not torch.allclose(ridge, naive, atol=0.1)
    assert torch.allclose(forecast(model, batch), (ridge + naive) / 2, atol=1e-5)


def test_validation_weights_are_those_of_the_errors(desk: Desk) -> None:
    model = desk.ensemble(desk.ridge, desk.mean, weights="validation")
    data = model.prepare()
    model.build(data.preprocessor)
    model.train_on(data)
    errors = [load_model(folder).evaluate(data, part="validation")["rmse"] ** 2 for folder in (desk.ridge, desk.mean)]
    expected = (1 / np.array(errors)) / (1 / np.array(errors)).sum()
    assert model.weights == pytest.approx(expected, rel=1e-4)
    assert model.weights[0] > 0.9


@pytest.mark.parametrize(
    ("errors", "weights"),
    [([1, 1], [0.5, 0.5]), ([1, 3], [0.75, 0.25]), ([2, 2, 4], [0.4, 0.4, 0.2]), ([0, 0], [0.5, 0.5])],
)
def test_inverse_error_weights(errors: list[float], weights: list[float]) -> None:
    assert inverse_error_weights(np.array(errors, float)) == pytest.approx(weights)


def test_a_member_without_error_takes_nearly_all() -> None:
    weights = inverse_error_weights(np.array([0.0, 5.0]))
    assert weights[0] > 1 - 1e-6
    assert sum(weights) == pytest.approx(1)


def test_it_is_judged_like_any_model(run: Path, desk: Desk) -> None:
    metrics = tiny.read_json(run / "metrics.json")["test"]
    assert list(metrics) == ["fine_tuned", "persistence", "ridge"]
    assert metrics["fine_tuned"]["rmse"] < metrics["persistence"]["rmse"]
    parameters = tiny.read_json(run / "environment.json")["parameters"]
    ttm = tiny.read_json(desk.folder / "ttm" / "environment.json")["parameters"]
    assert parameters["members"] == [desk.ridge, desk.naive, "registry:load:1"]
    assert (parameters["total"], parameters["trainable"]) == (ttm["total"], 0)
    assert tiny.read_json(run / "verdict.json")["kept"] == "fine_tuned"
    assert "3 members" in (run / "README.md").read_text(encoding="utf-8")
    assert "registry:load:1" in (run / "report.md").read_text(encoding="utf-8")


def test_what_its_members_were_trained_on_is_written_down(run: Path, desk: Desk) -> None:
    records = tiny.read_json(run / "manifest.json")["weights"]["trained_on"]
    (own,) = [tiny.read_json(desk.folder / "ttm" / "manifest.json")["trained_on"]]
    assert [record["series"] for record in records] == [own["series"]]


def test_the_folder_stands_on_its_own(run: Path, desk: Desk, tmp_path: Path, heard: pytest.LogCaptureFixture) -> None:
    first = load_model(run)
    batch = first.prepare(desk.ensemble(desk.ridge, desk.mean).prepare()).test.__getitems__([0, 4, 9])
    expected = forecast(first, batch)
    shutil.copytree(run, tmp_path / "run")
    hidden = [Path(place) for place in (desk.ridge, desk.naive, desk.registry)]
    for place in hidden:
        place.rename(f"{place}-hidden")
    try:
        moved = load_saved_model(tmp_path / "run")
        assert torch.equal(forecast(moved, batch), expected)
        moved.save(tmp_path / "again")
    finally:
        for place in hidden:
            Path(f"{place}-hidden").rename(place)
    assert "3 members copied, 0." in heard.text
    assert moved.weights == first.weights
    assert torch.equal(forecast(load_model(tmp_path / "again"), batch), expected)
    members = tmp_path / "again" / "model" / "members"
    assert sorted(path.name for path in members.iterdir()) == ["00", "01", "02"]
    assert not [path for folder in members.iterdir() for path in folder.iterdir() if path.name in NOT_COPIED]
    assert (members / "02" / "manifest.json").is_file()


def test_it_can_be_registered_and_be_a_member(run: Path, desk: Desk, tmp_path: Path) -> None:
    registry = open_registry(desk.registry)
    reference = registry.register(run, "both").reference
    again = load_saved_model(f"registry:{reference}", desk.registry)
    assert again.weights == load_model(run).weights
    nested = desk.ensemble(str(run), desk.mean)
    data = nested.prepare()
    nested.build(data.preprocessor)
    batch = data.test.__getitems__([2])
    expected = (forecast(again, batch) + forecast(load_model(desk.mean), batch)) / 2
    assert torch.allclose(forecast(nested, batch), expected, atol=1e-5)


def test_quantiles_are_calibrated_around_it(desk: Desk, tmp_path: Path) -> None:
    model = desk.ensemble(desk.ridge, desk.mean, forecast={"quantiles": [0.1, 0.5, 0.9]})
    model.fit(output_dir=tmp_path / "run")
    table = load_model(tmp_path / "run").predict(tiny.series(rows=300))
    assert list(table.columns[3:]) == ["load_q0.1", "load_q0.5", "load_q0.9"]
    assert (table["load_q0.1"] < table["load_q0.9"]).all()


def test_a_member_that_was_trained_on_the_test_part_is_refused(desk: Desk) -> None:
    split = {"train": 0.3, "validation": 0.3, "test": 0.4}
    model = desk.ensemble(desk.ridge, str(desk.folder / "ttm"), data={"split": split})
    with pytest.raises(LeakError, match=r"model\.members\[1\]=.*ttm was trained on readings of"):
        model.fit()
    allowed = desk.ensemble(desk.ridge, str(desk.folder / "ttm"), data={"split": split | {"allow_overlap": True}})
    assert allowed.prepare().manifest["weights"]["overlap"]


def test_a_run_cannot_replace_its_member(desk: Desk) -> None:
    model = desk.ensemble(desk.ridge, desk.mean)
    with pytest.raises(OutputError, match=r"holds model\.members\.0="):
        model.fit(output_dir=desk.ridge, overwrite=True)
    assert load_model(desk.ridge).model_type == "ridge"


@pytest.mark.parametrize(
    ("sections", "words"),
    [
        ({"model": {"context_length": SHORT}}, "sees 32 steps, the windows have 24"),
        ({"model": {"prediction_length": 12}}, "forecasts 8 steps, the evaluation asks for 12"),
        ({"data": {"target_columns": ["dose"]}}, "forecasts load, the targets of the evaluation are dose"),
    ],
)
def test_members_that_do_not_fit_are_refused(sections: dict, words: str, desk: Desk) -> None:
    with pytest.raises(DataError, match=words):
        desk.ensemble(desk.ridge, desk.mean, **sections).fit()


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ({"members": ["a"]}, r"model\.members: list should have at least 2 items"),
        ({"members": ["a", "b", "a"]}, "members names a twice"),
        ({"members": ["a", "b"], "pretrained": "c"}, "pretrained is not for ensembles"),
        ({"members": ["a", "b"], "weights": "best"}, r"model\.weights: input should be 'mean' or 'validation'"),
        ({"members": ["a", "b"], "d_model": 3}, r"model\.d_model: unknown key"),
    ],
)
def test_a_wrong_section_is_refused(model: dict, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        validate({"model": {"type": "ensemble"} | model}, "test")


def test_a_member_that_is_not_there_is_named(desk: Desk, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"model\.members\[1\]: .*nowhere is not a run folder"):
        desk.ensemble(desk.ridge, str(tmp_path / "nowhere")).fit()


def test_a_network_is_asked_for_where_there_is_none(desk: Desk) -> None:
    with pytest.raises(ConfigError, match=r"tuning\.mode=head is for networks, and model\.type=ensemble has none"):
        desk.ensemble(desk.ridge, desk.mean, tuning={"mode": "head"}).fit()
    with pytest.raises(ConfigError, match=r"evaluation\.baselines: ensemble is not a baseline"):
        desk.ensemble(desk.ridge, desk.mean, evaluation={"baselines": ["ensemble"]}).fit()


@pytest.mark.parametrize("text", ["{", "{}", '{"members": ["a"], "weights": [1, 2]}', '{"members": [], "weights": []}'])
def test_a_damaged_folder_is_refused(text: str, run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "run")
    (tmp_path / "run" / "model" / "config.json").write_text(text, encoding="utf-8")
    with pytest.raises(CheckpointError, match="damaged"):
        load_model(tmp_path / "run")
