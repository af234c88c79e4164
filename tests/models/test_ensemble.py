"""Models made of others are models: weights, forecasts, a folder that stands on its own, refusals."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from support import tiny

from tstune.config.validation import validate
from tstune.errors import CheckpointError, ConfigError, DataError, Interrupted, LeakError, OutputError
from tstune.foreign_files import CHECKSUMS
from tstune.models.contract import ForecastModel
from tstune.models.ensemble import (
    FOLDS,
    NOT_COPIED,
    Ensemble,
    Stack,
    convex_weights,
    inverse_error_weights,
    judged_shrinkage,
    time_folds,
)
from tstune.models.registry import load_model, model_class
from tstune.registry import load_saved_model, open_registry
from tstune.runs.judging import Judge

QUIET = {"baselines": [], "num_plots": 0, "report": False}
SHORT = 24
OWN_MAPS = {"ridge_per_channel": True}


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

    def untuned(self) -> dict:
        """A member that learned nothing from the training windows."""
        if not (self.folder / "weights").is_dir():
            tiny.write_checkpoint(self.folder / "weights")
        return {"model": {"type": "ttm", "pretrained": str(self.folder / "weights")}, "tuning": {"mode": "zero_shot"}}

    def stack(self, *members: object, combiner: str = "auto", **sections: object) -> Stack:
        values = self.values(self.ridge, self.naive)
        lengths = {name: values["model"][name] for name in ("context_length", "prediction_length")}
        values["model"] = {"type": "stack", "members": list(members), "combiner": combiner} | lengths
        return Stack(validate(tiny.merged(values, sections), "test"))


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


# Stacks


def member(name: str, **sections: object) -> dict:
    return {"model": {"type": name}} | sections


def trained(stack: Stack) -> tuple[Stack, dict[str, torch.Tensor]]:
    data = stack.prepare()
    stack.build(data.preprocessor)
    stack.train_on(data)
    return stack, data.test.__getitems__([0, 4, 9])


def products(variances: list[float], correlation: float = 0.0, steps: int = 24) -> np.ndarray:
    deviation = np.sqrt(variances)
    one = np.outer(deviation, deviation) * (correlation + (1 - correlation) * np.eye(len(variances)))
    return 100 * np.stack([one] * steps)


@pytest.mark.parametrize(
    ("variances", "correlation", "shrinkage", "weights"),
    [
        ([1.0, 1.0], 0.0, 0.0, [0.5, 0.5]),
        ([1.0, 3.0], 0.0, 0.0, [0.75, 0.25]),
        ([1.0, 3.0], 0.0, 1.0, [0.625, 0.375]),  # half-way to the mean
        ([1.0, 4.0], 0.9, 0.0, [1.0, 0.0]),  # the optimum without a sign would be negative
        ([0.0, 0.0], 0.0, 0.0, [0.5, 0.5]),
        ([1.0, 2.0, 2.0], 0.0, 0.0, [0.5, 0.25, 0.25]),
    ],
)
def test_convex_weights(variances: list, correlation: float, shrinkage: float, weights: list) -> None:
    found = convex_weights(products(variances, correlation), np.full(24, 100), shrinkage)
    assert found == pytest.approx(np.tile(weights, (24, 1)), abs=1e-3)


def test_close_steps_have_close_weights_and_one_without_readings_those_of_its_neighbours() -> None:
    steps = np.concatenate([products([1.0, 9.0], steps=12), products([9.0, 1.0], steps=12)])
    steps[5] = 0
    counts = np.where(np.arange(24) == 5, 0, 100)
    found = convex_weights(steps, counts, 0.0)[:, 0]
    assert found[[0, 5, 23]] == pytest.approx([0.9, 0.9, 0.1], abs=1e-3)
    assert np.abs(np.diff(found)).max() < 0.5


def test_weights_are_judged_on_times_that_they_were_not_fitted_to(desk: Desk) -> None:
    windows = desk.stack(member("ridge"), member("context_mean")).prepare().train
    starts = windows.starts(np.arange(len(windows)))
    folds = time_folds(windows)
    assert sorted(np.concatenate([judged for _, judged in folds])) == list(range(len(windows)))
    for fit, judged in folds:
        assert len(fit) > len(windows) / 2
        assert np.abs(np.subtract.outer(starts[fit], starts[judged])).min() >= tiny.PREDICTION
    assert len(folds) == FOLDS


def test_too_few_validation_windows_choose_no_weights() -> None:
    counts, errors = np.ones((4, 24)), np.stack([products([1.0, 2.0])] * 4)
    rows = np.arange(4)
    assert judged_shrinkage(errors, counts, [(rows[:0], rows)]) == {}
    assert list(judged_shrinkage(errors, counts, [(rows[:2], rows[2:])]))


def test_a_stack_trains_its_members_and_weighs_them_by_step(desk: Desk) -> None:
    stack, batch = trained(desk.stack(member("ridge"), member("seasonal_naive"), desk.mean))
    assert stack.combiner == "convex"
    assert stack.validation_rmse["convex"] < stack.validation_rmse["mean"]
    weights = torch.tensor(stack.weights)
    assert weights.shape == (3, tiny.PREDICTION)
    assert torch.allclose(weights.sum(0), torch.ones(tiny.PREDICTION), atol=1e-5)
    said = torch.stack([forecast(one.model, batch) for one in stack.members])
    assert torch.allclose(forecast(stack, batch), (weights[..., None, None].movedim(1, 2) * said).sum(0), atol=1e-4)
    assert torch.allclose(said[0], forecast(load_model(desk.ridge), batch), atol=1e-4)


def test_what_validation_says_is_the_error_of_that_forecast(desk: Desk) -> None:
    stack, _ = trained(desk.stack(member("ridge"), member("context_mean"), combiner="mean"))
    std = stack.preprocessor.scaler.std[0]
    assert stack.validation_rmse["mean"] * std == pytest.approx(stack.evaluate(part="validation")["rmse"], rel=1e-4)


@pytest.mark.parametrize(
    ("combiner", "keys"), [("ridge", {}), ("ridge", {"ridge_per_channel": True}), ("lightgbm", {})]
)
def test_forecasts_of_untuned_weights_are_inputs(combiner: str, keys: dict, desk: Desk, tmp_path: Path) -> None:
    training = {"split": {"train": 0.6, "validation": 0.2, "test": 0.2}, "train_stride": 1}
    stack, batch = trained(
        desk.stack(desk.untuned(), member("persistence"), combiner=combiner, data=training, model=keys)
    )
    assert set(stack.validation_rmse) == {"mean", "convex", combiner}
    found = forecast(stack, batch)
    stack.save(tmp_path / "stack")
    again = load_model(tmp_path / "stack")
    assert (again.combiner, again.validation_rmse) == (combiner, stack.validation_rmse)
    assert torch.allclose(forecast(again, batch), found, atol=1e-5)
    for number, one in enumerate(again.members):
        one.model.forecast = lambda _, n=number: torch.full((3, tiny.PREDICTION, 1), 1e3 * (n + 1))
    assert not torch.allclose(forecast(again, batch), found, atol=1e-2), "it does not read what its members say"


def test_a_stack_in_a_stack_is_judged_saved_and_gives_quantiles(desk: Desk, tmp_path: Path) -> None:
    inner = {"model": {"type": "stack", "members": [desk.untuned()], "combiner": "ridge"}}
    stack = desk.stack(inner, member("seasonal_naive"), forecast={"quantiles": [0.1, 0.5, 0.9]})
    stack.fit(output_dir=tmp_path / "run")
    information = tiny.read_json(tmp_path / "run" / "training_metadata.json")
    assert (information["combiner"], information["members"]) == (stack.combiner, ["stack", "seasonal_naive"])
    assert "2 members: stack, seasonal_naive" in (tmp_path / "run" / "README.md").read_text(encoding="utf-8")
    reference = open_registry(desk.registry).register(tmp_path / "run", "stack").reference
    table = load_saved_model(f"registry:{reference}", desk.registry).predict(tiny.series(rows=300))
    assert (table["load_q0.1"] < table["load_q0.9"]).all()
    assert table["load"].to_numpy() == pytest.approx(stack.predict(tiny.series(rows=300))["load"].to_numpy(), abs=1e-4)


@pytest.mark.parametrize("kind", ["stack of ridge", "stack of weights", "ridge", "lightgbm"])
def test_what_was_fitted_is_kept_when_the_judging_is_stopped(
    kind: str, desk: Desk, tmp_path: Path, monkeypatch
) -> None:
    def started() -> ForecastModel:
        if kind == "stack of ridge":
            return desk.stack(member("ridge"), member("seasonal_naive"))
        if kind == "stack of weights":
            return desk.stack(desk.untuned(), combiner="lightgbm")
        values = tiny.merged(desk.values(desk.ridge), {"tuning": {"mode": None}})
        lengths = {name: values["model"][name] for name in ("context_length", "prediction_length")}
        return model_class(kind)(validate(values | {"model": {"type": kind} | lengths}, "test"))

    started().fit(output_dir=tmp_path / "whole")
    resume = {"output_dir": tmp_path / "run", "resume_from_checkpoint": "auto"}
    with monkeypatch.context() as patch:
        patch.setattr(Judge, "score", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(Interrupted, match="checkpoint of step 0 is in"):
            started().fit(**resume)
    assert not (tmp_path / "run").exists()
    again = started()
    with monkeypatch.context() as patch:
        patch.setattr(type(again), "train_on", lambda *_: pytest.fail("it was fitted already"))
        again.fit(**resume)
    assert (tmp_path / "run/metrics.json").read_bytes() == (tmp_path / "whole/metrics.json").read_bytes()
    assert not list(tmp_path.glob("run.checkpoints*"))
    again.save(tmp_path / "copy")
    batch = again.prepare().test.__getitems__([0, 3])
    assert torch.equal(forecast(load_model(tmp_path / "run"), batch), forecast(load_model(tmp_path / "whole"), batch))


@pytest.mark.parametrize(
    ("members", "combiner", "words"),
    [
        ([member("ridge")], "lightgbm", r"model\.combiner=lightgbm is fitted .* and ridge was, or may have been"),
        ([member("persistence"), member("stack")], "auto", r"model\.members\[1\]: .*model\.members: field required"),
        ([member("ridge", data={})], "auto", r"members\[0\]\.data: unknown key; a member has the sections"),
        ([{"tuning": {}}], "auto", r"members\[0\]: no section model"),
        ([{"model": {"context_length": 8}}], "auto", r"members\[0\]\.model\.context_length is that of the stack"),
        ([member("ttm", tuning={"mode": "most"})], "auto", r"model\.members\[0\]: .*tuning\.mode"),
        ([], "auto", r"model\.members: list should have at least 1 item"),
        ([member("ridge")], "best", r"model\.combiner: input should be"),
    ],
)
def test_a_stack_that_cannot_be_is_refused(members: list, combiner: str, words: str, desk: Desk) -> None:
    with pytest.raises(ConfigError, match=words):
        desk.stack(*members, combiner=combiner).fit()


def test_what_a_member_of_a_member_was_trained_on_is_refused(desk: Desk) -> None:
    inner = {"model": {"type": "stack", "members": [str(desk.folder / "ttm")]}}
    split = {"train": 0.3, "validation": 0.3, "test": 0.4}
    with pytest.raises(LeakError, match=r"model\.members\[1\]\.model\.members\[0\]=.*ttm was trained on readings of"):
        desk.stack(member("ridge"), inner, data={"split": split}).fit()


def test_trees_read_forecasts_of_weights_whose_record_holds_other_windows(desk: Desk) -> None:
    """Not the name of the weights decides, nor that they have a record, but what it says."""
    member = {"model": {"type": "ttm", "pretrained": str(desk.folder / "ttm")}, "tuning": {"mode": "zero_shot"}}
    stack, others = desk.stack(member), tiny.series(rows=300, seed=5)
    data = stack.prepare()
    assert len(stack._learned_members(data)) == 1, "the windows it was trained on"
    others["load"] += np.random.default_rng(5).normal(0, 3, len(others))
    assert stack._learned_members(desk.stack(member).prepare(others)) == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"weights": [[1.0]]}, "damaged: 1 weights for 8 steps"),
        ({"combiner": "lightgbm"}, r"combiner.model.target-0-step-0001\.txt is missing"),
        ({"combiner": "none"}, "damaged: combiner is 'none'"),
        ({"validation_rmse": 3}, "damaged"),
    ],
)
def test_a_damaged_stack_is_refused(change: dict, words: str, desk: Desk, tmp_path: Path) -> None:
    stack, _ = trained(desk.stack(member("context_mean"), combiner="mean"))
    stack.save(tmp_path / "stack")
    path = tmp_path / "stack" / "model" / "config.json"
    path.write_text(json.dumps(tiny.read_json(path) | change), encoding="utf-8")
    (tmp_path / "stack" / CHECKSUMS).unlink()
    with pytest.raises(CheckpointError, match=words):
        load_model(tmp_path / "stack")
