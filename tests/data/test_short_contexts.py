"""Windows at the start of a segment, with their contexts padded; contexts cut short in training and in the test."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from unit.builders import grid_table, prepared, random_grids, single_table

from tstune.config.schema import RunConfig
from tstune.config.validation import validate
from tstune.data.leaks import check_leaks, spans
from tstune.data.prepared import PreparedData, context_windows
from tstune.data.splits import WindowRanges
from tstune.data.table import Roles
from tstune.data.windows import ContextDropping, MirroredWindows, WindowDataset, context_dropping, padded_context
from tstune.errors import ConfigError, DataError, LeakError

ROLES = Roles(("y",), ("dose",))
CONTEXT, PREDICTION, SHORTEST = 12, 3, 4
NAN = np.nan


def prepare(
    lengths: tuple[int, ...] = (150, 90), min_context: int | None = SHORTEST, **section: object
) -> PreparedData:
    grids = random_grids(ROLES, lengths, seed=3, longest_gap=6, gap_share=0.04)
    table = grid_table(grids, ROLES)
    return prepared(table, CONTEXT, PREDICTION, max_gap=2, min_context=min_context, **section)


def every(windows: WindowDataset) -> dict[str, torch.Tensor]:
    return windows.__getitems__(range(len(windows)))


def test_a_part_that_comes_in_short_pieces_is_padded_too_and_said(caplog):
    caplog.set_level("INFO")
    values = np.random.default_rng(0).normal(10, 1, (200, 1))
    values[118:130] = values[140:150] = NAN  # validation, from 120 to 160: pieces of ten, too short for a whole window
    table = grid_table({"a": values}, Roles(("y",)))
    split = {"train": 0.6, "validation": 0.2, "test": 0.2, "mode": "strict"}
    with pytest.raises(DataError, match="the validation part has no window"):
        prepared(table, CONTEXT, PREDICTION, max_gap=2, split=split)
    data = prepared(table, CONTEXT, PREDICTION, max_gap=2, min_context=SHORTEST, split=split)
    assert "no whole validation window: histories are padded there too" in caplog.text
    assert {part: windows.padding for part, windows in data.windows.items()} == {
        "train": CONTEXT - SHORTEST, "validation": CONTEXT - SHORTEST, "test": 0,
    }  # fmt: skip
    batch = every(data.validation)
    origins = data.panel.row_position()[batch["start"] + CONTEXT]
    assert origins.tolist() == [*range(134, 138), *range(154, 158)]
    assert batch["past_observed_mask"].sum(dim=(1, 2)).tolist() == [4, 5, 6, 7, 4, 5, 6, 7]
    assert batch["future_observed_mask"].all()


def test_each_window_is_one_of_its_segment():
    """Worked out one by one: every origin of the training part with enough history in its segment, and no other."""
    data = prepare()
    panel, batch = data.panel, every(data.train)
    position, expected = panel.row_position(), []
    borders = data.split.borders[panel.row_item(), 0]
    for first, end in zip(panel.segment_start[:-1], panel.segment_start[1:], strict=True):
        for origin in range(first + SHORTEST, end - PREDICTION + 1):
            last = origin + PREDICTION - 1
            if position[last] < borders[last]:
                expected.append((origin, first))
    origins = batch["start"].numpy() + CONTEXT
    assert origins.tolist() == [origin for origin, _ in expected]
    padded = 0
    for k, (origin, first) in enumerate(expected):
        missing = max(CONTEXT - (origin - first), 0)
        padded += missing > 0
        assert not batch["past_observed_mask"][k, :missing].any()
        assert (batch["past_values"][k, :missing] == 0).all()
        known = np.s_[origin - CONTEXT + missing : origin]
        usable = batch["past_observed_mask"][k, missing:].numpy()
        np.testing.assert_array_equal(usable, panel.status[known] != 0)
        seen = panel.status[known] == 2
        np.testing.assert_array_equal(batch["past_values"][k, missing:].numpy()[seen], panel.values[known][seen])
        assert panel.item_ids[batch["item"][k]] == panel.item_ids[panel.row_item()[origin]]
        np.testing.assert_array_equal(batch["future_values"][k].numpy(), panel.values[origin : origin + PREDICTION])
    assert padded > 20
    assert batch["start"][0] < 0, "the first segment is padded too"


def test_whole_windows_are_as_before():
    short, whole = prepare(), prepare(min_context=None)
    batch, plain = every(short.train), every(whole.train)
    where = torch.isin(batch["start"], plain["start"])
    assert where.sum() == len(plain["start"]) < len(where)
    for name, tensor in plain.items():
        assert torch.equal(batch[name][where], tensor), name
    for part in ("validation", "test"):
        assert torch.equal(every(short.windows[part])["past_values"], every(whole.windows[part])["past_values"])


def test_a_gap_at_the_origin_of_a_padded_window():
    values = [1.0, 2, 3, 4, NAN, NAN, 7, 8, 9, *np.arange(10.0, 210)]
    data = prepared(single_table(values), CONTEXT, PREDICTION, max_gap=2, min_context=SHORTEST)
    window = data.train[1]
    assert window["past_values"][:, 0].tolist() == [0] * 7 + [1, 2, 3, 4, 4], "held, and not a line to 7"
    assert window["past_observed_mask"][:, 0].tolist() == [False] * 7 + [True] * 5


def test_shares_of_the_windows_and_of_the_items():
    data = prepare((150, 90, 120), train_fraction=0.5, train_fraction_from="uniform")
    batch = every(data.train)
    counted = 0
    for item in range(3):
        mine = every(data.train.of_item(item))
        for name, tensor in mine.items():
            assert torch.equal(tensor, batch[name][batch["item"] == item]), name
        counted += len(mine["item"])
    assert counted == len(data.train) == sum(row["windows"]["train"] for row in data.manifest["items"])
    assert data.manifest["window"]["min_context"] == SHORTEST
    latest = prepare(train_fraction=0.3, train_fraction_from="last").train
    first = latest.starts([0])[0]
    assert first >= 0, "where a share begins inside a segment there is history enough"


def test_items_shorter_than_a_context_are_trained_on():
    grids = {"long": np.arange(200.0)[:, None], "short": np.arange(10.0)[:, None] + 500}
    split = {"train": 0.7}
    table = grid_table(grids, Roles(("y",)))
    whole = prepared(table, CONTEXT, PREDICTION, split=split)
    short = prepared(table, CONTEXT, PREDICTION, split=split, min_context=SHORTEST)
    assert [row["windows"]["train"] for row in whole.manifest["items"]] == [126, 0]
    assert [row["windows"]["train"] for row in short.manifest["items"]] == [134, 1]


def test_more_padding_than_allowed_is_a_leak():
    data = prepare()
    assert (spans(data.train).first >= 0).all()
    ranges = data.train.ranges
    planted = WindowRanges(ranges.first - 1, ranges.count, ranges.stride)
    windows = data.windows | {"train": WindowDataset(data.panel, planted, CONTEXT, PREDICTION, None, SHORTEST)}
    from tstune.data.fingerprints import bin_levels, hash_readings

    stretches = hash_readings(data.panel, None, bin_levels(data.panel, None), 1)
    with pytest.raises(LeakError, match=r"run over the end of its segment|over a border"):
        check_leaks(data.panel, data.split, windows, data.preprocessor.scaler, "standard", stretches)


@pytest.mark.parametrize("value", [13, "13h"])
def test_a_min_context_that_is_none(value: int | str):
    with pytest.raises(ConfigError, match=r"data\.min_context=13h? is 13 steps of h; it must be from 1 to .*=12"):
        prepare(min_context=value)
    with pytest.raises(ConfigError, match="min_context 0 is no history"):
        validate({"data": {"min_context": 0}}, "test")


# A forecast


def test_the_context_of_a_short_history():
    data = prepare()
    grids = {"a": np.arange(40.0).reshape(20, 2), "b": np.arange(10.0).reshape(5, 2), "c": np.ones((30, 2))}
    panel, starts = context_windows(grid_table(grids, ROLES), data.preprocessor, CONTEXT)
    values, status = padded_context(panel, starts, CONTEXT)
    assert values[0].tolist() == grids["a"][8:].tolist()
    assert values[1].tolist() == [[0, 0]] * 7 + grids["b"].tolist()
    assert (status[1] > 0).all(axis=1).tolist() == [False] * 7 + [True] * 5
    assert (values[2] == 1).all()
    with pytest.raises(DataError, match=r"series 'b' has 3 steps of h; .* history of 4 \(data\.min_context of its tr"):
        context_windows(grid_table(grids | {"b": np.ones((3, 2))}, ROLES), data.preprocessor, CONTEXT)
    whole = replace(data.preprocessor, min_context=None)
    with pytest.raises(DataError, match=r"series 'b' has 5 steps of h; .* history of 12 \(model\.context_length\)"):
        context_windows(grid_table(grids, ROLES), whole, CONTEXT)


# Judged on short histories


def test_only_the_last_steps_are_shown():
    data = prepare(min_context=None)
    shown = data.judged_on("5h")
    assert shown.train is data.train
    for part in ("validation", "test"):
        batch, whole = every(shown.windows[part]), every(data.windows[part])
        assert not batch["past_observed_mask"][:, :7].any()
        assert (batch["past_values"][:, :7] == 0).all()
        for name in ("past_values", "past_observed_mask"):
            assert torch.equal(batch[name][:, 7:], whole[name][:, 7:])
        assert torch.equal(batch["future_values"], whole["future_values"])
    assert torch.equal(every(shown.as_judged().train)["past_values"][:, 7:], every(data.train)["past_values"][:, 7:])
    assert not every(shown.as_judged().train)["past_observed_mask"][:, :7].any()
    for steps, message in ((13, "13 steps of h; it must be from 1 to"), (2, "max_gap=2 is not shorter")):
        with pytest.raises(ConfigError, match=message):
            data.judged_on(steps)


# Dropping in training


def test_what_is_dropped_depends_on_seed_and_window_alone():
    dropping = ContextDropping(share=0.5, shortest=72, longest=512, seed=7)
    starts = np.arange(-440, 20_000)
    kept = dropping.kept_steps(starts, 512)
    order = np.random.default_rng(0).permutation(len(starts))
    np.testing.assert_array_equal(dropping.kept_steps(starts[order], 512), kept[order])
    assert not np.array_equal(replace(dropping, seed=8).kept_steps(starts, 512), kept)
    assert (kept < 512).mean() == pytest.approx(0.5, abs=0.02)
    cut = kept[kept < 512]
    assert cut.min() == 72
    assert np.median(cut) == pytest.approx((72 * 512) ** 0.5, rel=0.05)  # even on a logarithmic scale
    always = ContextDropping(share=1.0, shortest=72, longest=72, seed=0).kept_steps(starts, 512)
    assert (always == 72).all()


def test_dropping_masks_the_oldest_part():
    windows = prepare(min_context=None).train
    dropping = ContextDropping(share=0.7, shortest=3, longest=11, seed=1)
    batch, whole = every(windows.with_dropping(dropping)), every(windows)
    kept = dropping.kept_steps(whole["start"].numpy(), CONTEXT)
    assert len(set(kept.tolist())) > 5
    for k, steps in enumerate(kept):
        assert not batch["past_observed_mask"][k, : CONTEXT - steps].any()
        for name in ("past_values", "past_observed_mask"):
            assert torch.equal(batch[name][k, CONTEXT - steps :], whole[name][k, CONTEXT - steps :])
    alone = windows.with_dropping(dropping).__getitems__([9])
    assert torch.equal(alone["past_observed_mask"][0], batch["past_observed_mask"][9])
    mirrored = MirroredWindows(windows.with_dropping(dropping), np.zeros(2)).__getitems__([9, 9 + len(windows)])
    assert torch.equal(mirrored["past_observed_mask"][0], mirrored["past_observed_mask"][1])


def config(**sections: object) -> RunConfig:
    return validate({"model": {"context_length": 512}} | sections, "test")


def test_the_range_of_what_is_left():
    assert context_dropping(config(), "5min") is None
    training = {"context_dropping": 0.5}
    found = context_dropping(config(training=training, data={"min_context": "6h"}), "5min")
    assert found == ContextDropping(0.5, 72, 512, 42)
    found = context_dropping(config(training=training, evaluation={"context_steps": 100}), "5min")
    assert (found.shortest, found.longest) == (100, 512)
    given = training | {"context_dropping_range": ["6h", "24h"]}
    assert context_dropping(config(training=given), "5min") == ContextDropping(0.5, 72, 288, 42)
    for section, message in (
        (training, "needs the shortest history"),
        ({"context_dropping_range": [72, 80]}, "drops nothing"),
        (training | {"context_dropping_range": [80, 72]}, "80 to 72 steps; it must grow"),
        (training | {"context_dropping_range": [80, 513]}, "from 1 to model.context_length=512"),
    ):
        with pytest.raises(ConfigError, match=message):
            context_dropping(config(training=section), "5min")
