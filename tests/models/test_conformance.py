"""The same properties for every model family: what fits behind the interface keeps all of them."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import numpy as np
import pandas as pd
import pytest
import torch
from families import ALL, BASELINES, FOUNDATION, MEMBERS, SERVICES
from support import tiny
from timegpt_server import running_service
from tsfm_public import TinyTimeMixerForPrediction

from tstune.config.schema import TuningMode
from tstune.config.validation import validate
from tstune.data.prepared import PreparedData
from tstune.errors import CheckpointError, ConfigError, Preempted
from tstune.models.base import BaseTimeSeriesFoundationModel as Model
from tstune.models.registry import available_models, load_model, model_class

QUIET = {"baselines": [], "num_plots": 0, "report": False}
ROWS, STEPS, STOP_AFTER = 300, 12, 5
TRAINING = {"max_steps": STEPS, "eval_every_steps": 4, "checkpoint_every_steps": 3, "resume_from_checkpoint": "auto"}
LEVELS = [0.1, 0.3, 0.5, 0.7, 0.9]
families = pytest.mark.parametrize("name", ALL)
foundation = pytest.mark.parametrize("name", FOUNDATION)
# what trains once more: a network of points, one of drawn paths, one with statistics of batches; the others are slow
FAST = ("ttm", "chronos_t5", "patchtst")
trained_anew = pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in FAST else pytest.mark.slow) for name in FOUNDATION]
)
ROLES = {
    "target_columns": "load",
    "conditional_columns": "dose",
    "control_columns": "plan",
    "static_real_columns": "age",
    "static_categorical_columns": "site",
    "time_features": "hour_of_day",
}
"""Keys of `data`, with a column of each kind."""
covered: set[str] = set()


@dataclass(frozen=True)
class Trained:
    """A run in full tuning that was left alone."""

    model: Model
    results: dict
    folder: Path
    before: dict[str, str]


class Desk:
    """Tiny series and one tiny checkpoint per family, and models on them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.csv = tiny.write_series(folder / "series.csv", rows=ROWS)
        self.checkpoints = {name: family.write(folder / name) for name, family in FOUNDATION.items()}
        self._windows: dict[tuple, PreparedData] = {}
        self._saved: dict[str, Path] = {}
        self._num_members = 0
        self._built: dict[tuple[str, int], Model] = {}
        self._trained: dict[str, Trained] = {}

    def model(self, name: str, **sections: object) -> Model:
        """Not built yet; an ensemble names its saved members."""
        if name == "ensemble":
            members = {"members": self._members(sections), "weights": "validation"}
            return self._without_weights({"type": name} | members, sections)
        if name == "stack":
            members = [{"model": {"type": member}} for member in ("ridge", *MEMBERS)]
            return self._without_weights({"type": name, "members": members}, sections)
        if name in BASELINES:
            return self._without_weights({"type": name}, sections)
        checkpoint = "timegpt-1" if name in SERVICES else self.checkpoints[name]
        learning_rate = ALL[name].learning_rate
        base = {"model": {"type": name}, "tuning": {"mode": "full"}, "training": {"learning_rate": learning_rate}}
        values = tiny.recipe(self.csv, self.folder / "unused", checkpoint, **base, evaluation=QUIET)
        return model_class(name)(validate(tiny.merged(values, sections), "test"))

    def _members(self, sections: dict) -> list[str]:
        folders = []
        for name in MEMBERS:
            member = self.model(name, **sections)
            member.build(member.prepare().preprocessor)
            self._num_members += 1
            folders.append(str(self.folder / f"member-{self._num_members}"))
            member.save(folders[-1])
        return folders

    def _without_weights(self, section: dict, sections: dict) -> Model:
        values = tiny.recipe(self.csv, self.folder / "unused", None, evaluation=QUIET)
        values["model"] = section | {"context_length": tiny.CONTEXT, "prediction_length": tiny.PREDICTION}
        return model_class(section["type"])(validate(tiny.merged(values, sections), "test"))

    def data(self, model: Model) -> PreparedData:
        """Windows of a series, made once for each `data` section; they do not depend on the family."""
        section = model.config.data
        key = (section.path, *(tuple(getattr(section, columns)) for columns in ROLES))
        if key not in self._windows:
            self._windows[key] = model.prepare()
        return self._windows[key]

    def built(self, name: str, batch_size: int = 64) -> Model:
        """With its weights, a baseline fitted, once per family and size of its batches: no test changes it."""
        if (name, batch_size) not in self._built:
            self._built[name, batch_size] = self.new(name, evaluation={"batch_size": batch_size})
        return self._built[name, batch_size]

    def new(self, name: str, **sections: object) -> Model:
        """The same, built now, on other data or settings."""
        covered.add(name)
        model = self.model(name, **sections)
        data = self.data(model)
        torch.manual_seed(0)
        model.build(data.preprocessor)
        if name not in FOUNDATION:
            model.train_on(data)
        return model

    def trained(self, name: str) -> Trained:
        """Trained once per family."""
        if name not in self._trained:
            before = tiny.snapshot(self.checkpoints[name])
            folder = self.folder / f"{name}-run"
            model = self.model(name, training=TRAINING)
            self._trained[name] = Trained(model, model.fit(output_dir=folder), folder, before)
        return self._trained[name]

    def final(self, name: str) -> Model:
        """Trained if it is a network, else fitted."""
        return self.trained(name).model if name in FOUNDATION else self.built(name)

    def saved(self, name: str) -> Path:
        """Where the final model was saved, once."""
        if name not in self._saved:
            self._saved[name] = self.folder / f"{name}-saved"
            self.final(name).save(self._saved[name])
        return self._saved[name]

    def variant(self, name: str, change: Callable[[pd.DataFrame], None]) -> dict[str, str]:
        """A `data` section on a changed copy of the series, written once."""
        path = self.folder / f"{name}.csv"
        if not path.exists():
            table = tiny.series(rows=ROWS)
            change(table)
            table.to_csv(path, index=False)
        return {"path": str(path)}


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    with running_service():
        yield Desk(tmp_path_factory.mktemp("desk"))


def some(data: PreparedData, indices: object = (0, 3, 11, 19)) -> dict[str, torch.Tensor]:
    return data.test.__getitems__(list(indices))


def forecast(model: Model, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    with torch.inference_mode():
        return model.forecast(batch)


def changed(batch: dict[str, torch.Tensor], change: Callable[[dict], None]) -> dict[str, torch.Tensor]:
    copy = {name: tensor.clone() for name, tensor in batch.items()}
    change(copy)
    return copy


def test_every_registered_family_is_here() -> None:
    assert sorted(ALL) == available_models()


# Forecasts


@families
def test_shape_and_type(name: str, desk: Desk) -> None:
    model = desk.built(name)
    found = forecast(model, some(desk.data(model)))
    assert (found.shape, found.dtype) == ((4, tiny.PREDICTION, 1), torch.float32)
    assert torch.isfinite(found).all()


@families
def test_several_targets(name: str, desk: Desk) -> None:
    model = desk.new(name, data={"target_columns": ["load", "dose"]})
    found = forecast(model, some(desk.data(model)))
    assert found.shape == (4, tiny.PREDICTION, 2)
    assert torch.isfinite(found).all()


@families
def test_forecasts_come_in_the_unit_of_the_readings(name: str, desk: Desk) -> None:
    def ten_times(table: pd.DataFrame) -> None:
        table["load"] *= 10

    plain, scaled = desk.built(name), desk.new(name, data=desk.variant("ten", ten_times))
    found, expected = forecast(scaled, some(desk.data(scaled))), 10 * forecast(plain, some(desk.data(plain)))
    assert torch.allclose(found, expected, rtol=1e-3, atol=1e-2 * expected.std().item())


@families
def test_what_is_masked_does_not_matter(name: str, desk: Desk) -> None:
    def mask(batch: dict) -> None:
        batch["past_observed_mask"][:, 5:17] = False
        batch["past_observed_mask"][0, -1] = False

    def spoil(batch: dict) -> None:
        batch["past_values"][~batch["past_observed_mask"]] = 1e6

    model = desk.built(name)
    masked = changed(some(desk.data(model)), mask)
    assert torch.equal(forecast(model, masked), forecast(model, changed(masked, spoil)))


@families
def test_a_mask_is_not_a_zero(name: str, desk: Desk) -> None:
    def mask(batch: dict) -> None:
        batch["past_observed_mask"][:, -24:] = False

    def zero(batch: dict) -> None:
        batch["past_values"][:, -24:] = 0

    model = desk.built(name)
    batch = some(desk.data(model))
    masked = forecast(model, changed(batch, mask))
    assert torch.isfinite(masked).all()
    assert not torch.allclose(masked, forecast(model, batch), atol=1e-4)
    if name != "ridge":  # of which a gap is the mean of the training part, by construction
        assert not torch.allclose(masked, forecast(model, changed(batch, zero)), atol=1e-4)


@families
def test_an_empty_context_gives_numbers(name: str, desk: Desk) -> None:
    def mask(batch: dict) -> None:
        batch["past_observed_mask"][1] = False

    model = desk.built(name)
    assert torch.isfinite(forecast(model, changed(some(desk.data(model)), mask))).all()


@families
def test_the_future_is_not_read(name: str, desk: Desk) -> None:
    def spoil(batch: dict) -> None:
        batch["future_values"] += 1000
        batch["future_observed_mask"][:] = False

    model = desk.built(name)
    batch = some(desk.data(model))
    assert torch.equal(forecast(model, batch), forecast(model, changed(batch, spoil)))


@families
def test_the_same_twice(name: str, desk: Desk) -> None:
    model, again = desk.built(name), desk.built(name, batch_size=7)
    batch = some(desk.data(model))
    first = forecast(model, batch)
    assert torch.equal(first, forecast(model, batch))
    assert torch.equal(first, forecast(again, batch))


@families
def test_windows_do_not_see_each_other(name: str, desk: Desk) -> None:
    model = desk.built(name)
    data, order = desk.data(model), [19, 0, 11, 3]
    together = forecast(model, some(data))
    turned = forecast(model, some(data, order))
    alone = torch.cat([forecast(model, some(data, [index])) for index in order])
    assert torch.allclose(turned, together[[3, 0, 2, 1]], rtol=1e-4, atol=1e-4)
    assert torch.allclose(alone, turned, rtol=1e-4, atol=1e-4)


@families
def test_scores_do_not_depend_on_the_batch_size(name: str, desk: Desk) -> None:
    models = [desk.built(name, batch_size=7), desk.built(name)]  # an uneven last batch, and all at once
    scores = [model.evaluate(desk.data(model)) for model in models]
    assert scores[0]["num_windows"] > 40
    assert scores[1] == pytest.approx(scores[0], rel=1e-4)


# Saved models


@families
def test_a_saved_model_is_the_same_model(name: str, desk: Desk) -> None:
    model, loaded = desk.final(name), load_model(desk.saved(name))
    assert type(loaded) is type(model)
    assert loaded.config == model.config
    batch = some(desk.data(model))
    assert torch.equal(forecast(loaded, batch), forecast(model, batch))


@families
def test_the_table_of_a_forecast(name: str, desk: Desk) -> None:
    model = desk.final(name)
    table = model.predict(tiny.series(rows=ROWS))
    assert list(table.columns) == ["item_id", "timestamp", "load"]
    assert table["item_id"].tolist() == ["a"] * tiny.PREDICTION + ["b"] * tiny.PREDICTION
    assert table["timestamp"].iloc[0] == pd.Timestamp("2024-01-13 12:00")
    assert np.isfinite(table["load"]).all()
    turned = model.predict(tiny.series(rows=ROWS).iloc[::-1])
    pd.testing.assert_frame_equal(turned, table)
    one = model.predict(tiny.series(rows=ROWS).query("item_id == 'b'"))
    assert one["load"].to_numpy() == pytest.approx(table["load"].to_numpy()[tiny.PREDICTION :], rel=1e-4)


@families
def test_a_folder_of_another_family_is_refused(name: str, desk: Desk) -> None:
    other = "persistence" if name == "ttm" else "ttm"
    with pytest.raises(CheckpointError, match=f"holds a {name} model, not {other}"):
        model_class(other).load(desk.saved(name))


@foundation
def test_the_library_of_the_family_loads_what_we_save_and_the_reverse(name: str, desk: Desk) -> None:
    """With its own from_pretrained, tensor by tensor; forecasts are compared in the tests of each library."""
    library = TinyTimeMixerForPrediction if name == "ttm" else model_class(name).architecture.network_class
    untuned, tuned = desk.new(name, tuning={"mode": "zero_shot"}), desk.trained(name)
    for folder, network in ((desk.checkpoints[name], untuned.network), (tuned.folder / "model", tuned.model.network)):
        theirs, report = library.from_pretrained(folder, output_loading_info=True)
        assert not report["missing_keys"]
        assert not report["unexpected_keys"]
        ours, theirs = network.state_dict(), theirs.state_dict()
        assert [key for key in theirs if not torch.equal(theirs[key], ours[key])] == []
    size = sum(path.stat().st_size for path in desk.checkpoints[name].iterdir())
    assert size <= 150_000, "tests build it anew each time"


# Tuning


@foundation
def test_every_tuning_mode_is_counted(name: str) -> None:
    assert set(FOUNDATION[name].counts) == set(get_args(TuningMode))


@pytest.mark.parametrize(
    ("name", "mode"), [(name, mode) for name, family in FOUNDATION.items() for mode in family.counts]
)
def test_a_mode_trains_exactly_these_parameters(name: str, mode: str, desk: Desk) -> None:
    expected = FOUNDATION[name].counts[mode]
    if isinstance(expected, str):
        with pytest.raises(ConfigError, match=expected):
            desk.new(name, tuning={"mode": mode})
        return
    info = desk.new(name, tuning={"mode": mode}).get_model_info()
    assert (info["total"], info["trainable"]) == expected


@foundation
def test_the_loss_falls(name: str, desk: Desk) -> None:
    history = desk.trained(name).results["training"].history
    validation = [row["validation_loss"] for row in history if "validation_loss" in row]
    assert [row["step"] for row in history if "validation_loss" in row] == [0, 4, 8, 12]
    assert validation[-1] < 0.9 * validation[0]


@foundation
def test_tuning_leaves_the_checkpoint_alone(name: str, desk: Desk) -> None:
    assert tiny.snapshot(desk.checkpoints[name]) == desk.trained(name).before


@trained_anew
def test_a_run_that_was_stopped_goes_on_as_if_it_had_not_been(name: str, desk: Desk, tmp_path: Path) -> None:
    """And a run is the same twice: this one begins anew beside the one that was left alone."""
    whole = desk.trained(name)
    folder = tmp_path / "stopped"
    stopped = desk.model(name, training=TRAINING)
    plain, calls = stopped.window_losses, []

    def stop_in_time(module: torch.nn.Module, batch: dict) -> tuple[torch.Tensor, torch.Tensor]:
        calls.extend([None] * torch.is_grad_enabled())
        if len(calls) == STOP_AFTER and torch.is_grad_enabled():
            os.kill(os.getpid(), signal.SIGTERM)
        return plain(module, batch)

    stopped.window_losses = stop_in_time
    with pytest.raises(Preempted, match="checkpoint of step"):
        stopped.fit(output_dir=folder)
    assert not folder.exists()
    resumed = desk.model(name, training=TRAINING).fit(output_dir=folder)
    assert STOP_AFTER <= resumed["training"].resumed_from < STEPS
    assert resumed["training"].history == whole.results["training"].history
    assert resumed["metrics"] == whole.results["metrics"]
    weights = Path("model") / "model.safetensors"
    assert (folder / weights).read_bytes() == (whole.folder / weights).read_bytes()


@trained_anew
def test_a_merged_adapter_is_the_adapter(name: str, desk: Desk, tmp_path: Path) -> None:
    model = desk.model(name, tuning={"mode": "lora"}, training={"max_steps": 4, "eval_every_steps": 4})
    model.fit(output_dir=tmp_path / "run")
    batch = some(desk.data(model))
    base = desk.new(name, tuning={"mode": "zero_shot"})
    untuned = forecast(base, batch)
    base.load_adapter(tmp_path / "run" / "adapter")
    tuned = forecast(load_model(tmp_path / "run"), batch)
    assert torch.allclose(forecast(base, batch), tuned, rtol=1e-4, atol=1e-3)
    assert not torch.allclose(untuned, tuned, atol=1e-2)


# Quantiles


@trained_anew
def test_quantiles_ascend_around_the_forecast(name: str, desk: Desk, tmp_path: Path) -> None:
    """Those of the network where it has any, else those of its validation errors."""
    own = FOUNDATION[name].forecasts_quantiles
    method = "quantile_head" if own else "split_conformal"
    sections = {"forecast": {"quantiles": LEVELS, "method": method}, "training": {"max_steps": 4}}
    model = desk.model(name, **sections)
    results = model.fit(output_dir=tmp_path / "run")
    assert "fine_tuned" in results["metrics"]
    assert model.quantile_levels == tuple(LEVELS)
    assert model.native_levels == (tuple(LEVELS) if own else ())
    batch = some(desk.data(model))
    with torch.inference_mode():
        native = model.native_quantiles(batch) if own else None
        final = model.forecast_quantiles(batch)
    for found in (native, final) if own else (final,):
        assert (found.shape, found.dtype) == ((4, tiny.PREDICTION, 1, len(LEVELS)), torch.float32)
        assert (found.diff(dim=-1) >= 0).all()
        assert (found[..., -1] > found[..., 0]).any()
    table = load_model(tmp_path / "run").predict(tiny.series(rows=ROWS))
    assert list(table.columns[2:]) == ["load", *(f"load_q{level:g}" for level in LEVELS)]


@pytest.mark.parametrize("name", [name for name, family in FOUNDATION.items() if not family.forecasts_quantiles])
def test_quantiles_that_the_network_does_not_forecast_are_refused(name: str, desk: Desk) -> None:
    with pytest.raises(ConfigError, match=r"forecasts points only; use forecast\.method=split_conformal"):
        desk.new(name, forecast={"quantiles": LEVELS, "method": "quantile_head"})


# Refusals


@pytest.mark.parametrize(("name", "key"), [(name, key) for name, f in FOUNDATION.items() for key in f.refused])
def test_columns_it_cannot_read_are_refused(name: str, key: str, desk: Desk) -> None:
    def with_constants(table: pd.DataFrame) -> None:
        table["age"], table["site"] = table["item_id"].map({"a": 30.0, "b": 50.0}), table["item_id"] + "x"

    model = desk.model(name, data=desk.variant("constants", with_constants) | {key: [ROLES[key]]})
    with pytest.raises(ConfigError, match=FOUNDATION[name].refused[key]) as error:
        model.build(desk.data(model).preprocessor)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "other"), [(name, other) for name in FOUNDATION for other in FOUNDATION if name != other]
)
def test_a_checkpoint_of_another_family_is_refused(name: str, other: str, desk: Desk) -> None:
    with pytest.raises(CheckpointError) as error:
        desk.new(name, model={"pretrained": str(desk.checkpoints[other])})
    message = str(error.value)
    assert "\n" not in message
    assert str(desk.checkpoints[other]) in message
    assert " is a " in message
    assert ", not a " in message


@foundation
def test_a_damaged_checkpoint_is_refused(name: str, desk: Desk, tmp_path: Path) -> None:
    folder = FOUNDATION[name].write(tmp_path / "damaged")
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:2000])
    with pytest.raises(CheckpointError, match=r"the weights cannot be read|model\.safetensors is damaged"):
        desk.new(name, model={"pretrained": str(folder)})


@foundation
def test_weights_that_are_not_there_are_refused(name: str, desk: Desk, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match=r"the folder holds no config\.json"):
        desk.new(name, model={"pretrained": str(tmp_path / "empty")})


@foundation
def test_a_run_folder_stands_for_its_model(name: str, desk: Desk) -> None:
    folder = desk.trained(name).folder
    whole, inside = (desk.new(name, model={"pretrained": str(place)}) for place in (folder, folder / "model"))
    assert not whole.fresh
    for (key, tensor), other in zip(
        whole.module.state_dict().items(), inside.module.state_dict().values(), strict=True
    ):
        assert torch.equal(tensor, other), key


def test_all_families_were_covered() -> None:
    """Last in this file: what the tests above really built."""
    if covered:  # empty when this test runs alone
        assert sorted(covered) == available_models()


# The table of families in recipes/README.md says what is covered here

README = (Path(__file__).parents[2] / "recipes/README.md").read_text(encoding="utf-8")
SECTION = README.partition("## Model families")[2].partition("\n## ")[0]
HEADER, _, *LINES = next(part for part in SECTION.split("\n\n") if part.startswith("|")).splitlines()
COLUMNS = [cell.strip() for cell in HEADER.strip("|").split("|")]
FAMILIES = {
    re.search(r"`(\w+)`", line)[1]: dict(zip(COLUMNS, (c.strip() for c in line.strip("|").split("|")), strict=True))
    for line in LINES
}
REFUSED_BY = {
    "past-only columns": "conditional_columns",
    "known-future columns, `time_features`": "control_columns",
    "static columns": "static_real_columns",
}


def test_every_family_has_a_row():
    assert set(FAMILIES) == {*FOUNDATION, *SERVICES, "ensemble", "stack"}


@pytest.mark.parametrize("name", FOUNDATION)
def test_a_row_is_what_is_tested(name):
    family, row = FOUNDATION[name], FAMILIES[name]
    assert row["learns"].startswith("all modes")
    for mode in ("bias", "decoder"):
        assert (row[mode] == "yes") == (not isinstance(family.counts[mode], str)), mode
    for mode in ("zero_shot", "full", "head", "lora", "dora", "from_scratch"):
        assert not isinstance(family.counts[mode], str), mode
    for column, key in REFUSED_BY.items():
        given = row[column] == "yes" or row[column].startswith("with ")
        assert given == (key not in family.refused) or row[column].startswith("with "), column
    assert row["own quantiles"].startswith("–") == (not family.forecasts_quantiles)


def test_every_blank_has_its_reason():
    used = {number for row in FAMILIES.values() for cell in row.values() for number in re.findall(r"\((\d)\)", cell)}
    given = set(re.findall(r"\((\d)\)", SECTION.partition("Why a blank is blank:")[2]))
    assert used == given
    assert [cell for name, row in FAMILIES.items() for cell in row.values() if cell == "–" and name != "ensemble"] == []
