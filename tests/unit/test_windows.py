"""Windows: every value and mask against a step-by-step reference, no look into the future, no memory per window."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from unit.builders import grid_table, prepared, random_grids, reference_windows, single_table

from tstune.config.schema import DataSection, SplitSection
from tstune.data.panel import OBSERVED, Panel
from tstune.data.prepared import PreparedData, prepare_data
from tstune.data.splits import PARTS, split_panel, window_ranges
from tstune.data.table import Roles
from tstune.data.windows import EpochBatchSampler, RankWindows, WindowDataset, training_loader, window_loader
from tstune.errors import ConfigError

ROLES = Roles(("x", "y"), ("dose",), ("plan",))
CONTEXT, PREDICTION = 8, 4
STRIDES = {"train": 1, "validation": 2, "test": 5}
NAN = np.nan


def prepare(grids: dict[str, np.ndarray], max_gap: int, mode: str = "strict", context: int = CONTEXT) -> PreparedData:
    strides = {f"{part}_stride": stride for part, stride in STRIDES.items()}
    split = {"train": 0.6, "validation": 0.2, "test": 0.2, "mode": mode}
    return prepared(grid_table(grids, ROLES), context, PREDICTION, max_gap=max_gap, split=split, **strides)


def every(windows: WindowDataset) -> dict[str, torch.Tensor]:
    return windows.__getitems__(range(len(windows)))


# Against the reference


@pytest.mark.parametrize("mode", ["strict", "deployment"])
@pytest.mark.parametrize(("max_gap", "seed"), [(0, 0), (2, 1), (4, 2), (7, 3)])
def test_every_window_equals_the_reference(mode: str, max_gap: int, seed: int):
    share = 0.02 if max_gap == 0 else 0.05
    grids = random_grids(ROLES, (260, 180), seed, gap_share=share)
    data = prepare(grids, max_gap, mode)
    section = SplitSection(train=0.6, validation=0.2, test=0.2, mode=mode)
    compared = held = 0
    for part in PARTS:
        expected = reference_windows(grids, 2, section, part, CONTEXT, PREDICTION, STRIDES[part], max_gap)
        batch = every(data.windows[part])
        assert len(data.windows[part]) == len(expected) > 0
        position = data.panel.row_position()[batch["start"].numpy()]
        found = list(zip(batch["item"].tolist(), position.tolist(), strict=True))
        assert found == [(window.item, window.position) for window in expected]
        past = np.stack([window.past for window in expected])
        usable = np.stack([window.past_usable for window in expected])
        readings = np.stack([window.future_readings for window in expected])
        np.testing.assert_array_equal(batch["past_observed_mask"], usable)
        np.testing.assert_allclose(batch["past_values"], past, rtol=1e-6)
        rows = batch["start"].numpy()[:, None] + np.arange(CONTEXT)
        np.testing.assert_array_equal(batch["past_read_mask"], data.panel.status[rows] == OBSERVED)
        seen = ~np.isnan(readings)
        np.testing.assert_array_equal(batch["future_observed_mask"], seen)
        np.testing.assert_array_equal(batch["future_values"].numpy()[seen], readings[seen].astype(np.float32))
        assert torch.isfinite(batch["future_values"]).all()
        compared += len(expected)
        last = batch["start"].numpy() + CONTEXT - 1
        held += int((data.panel.status[last] != OBSERVED).any(axis=1).sum())
    assert compared > 60
    assert held > 5  # the origin fell into a gap often enough to matter


def test_a_batch_has_the_promised_types_and_shapes():
    data = prepare(random_grids(ROLES, (200,)), 7)
    batch = data.train.__getitems__([5, 3, 3])
    assert {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in batch.items()} == {
        "past_values": ((3, CONTEXT, 4), torch.float32),
        "past_observed_mask": ((3, CONTEXT, 4), torch.bool),
        "past_read_mask": ((3, CONTEXT, 4), torch.bool),
        "future_values": ((3, PREDICTION, 4), torch.float32),
        "future_observed_mask": ((3, PREDICTION, 4), torch.bool),
        "future_known_mask": ((3, PREDICTION, 4), torch.bool),  # with control columns
        "item": ((3,), torch.int64),
        "start": ((3,), torch.int64),
        "origin": ((3,), torch.int64),
    }
    starts = data.train.starts([5, 3, 3])
    assert batch["start"].tolist() == starts.tolist()
    origins = data.panel.timestamps[starts + CONTEXT]
    assert batch["origin"].numpy().astype("datetime64[s]").tolist() == origins.astype("datetime64[s]").tolist()


def test_one_window_is_a_row_of_the_batch():
    windows = prepare(random_grids(ROLES, (200, 150)), 7).train
    batch = every(windows)
    for index in (0, 1, len(windows) // 2, len(windows) - 1):
        window = windows[index]
        assert set(window) == set(batch)
        for name, tensor in window.items():
            assert torch.equal(tensor, batch[name][index]), name
    for index in (-1, len(windows)):
        with pytest.raises(IndexError):
            windows[index]


def test_gathering_does_not_change_the_panel():
    data = prepare(random_grids(ROLES, (300,)), 7)
    before = data.panel.values.copy(), data.panel.status.copy()
    first = every(data.train)
    first["past_values"].fill_(-1)
    first["future_values"].fill_(-1)
    again = every(data.train)
    assert (again["past_values"] != -1).all()
    np.testing.assert_array_equal(data.panel.values, before[0])
    np.testing.assert_array_equal(data.panel.status, before[1])


@pytest.mark.parametrize("num_workers", [0, 1])
def test_masks_without_a_gap_are_true_and_each_batch_s_own(num_workers: int):
    data = prepared(single_table(list(range(200))), CONTEXT, PREDICTION, max_gap=3)
    assert data.panel.is_gapless
    masks = ("past_observed_mask", "past_read_mask", "future_observed_mask")
    batches = iter(window_loader(data.train, 16, num_workers=num_workers))
    for write in (lambda mask: mask[0, 0].fill_(False), lambda mask: mask.numpy().fill(False)):
        batch = next(batches)
        assert all(batch[name].all() and batch[name].dtype == torch.bool for name in masks)
        write(batch["past_observed_mask"])
        assert not batch["past_observed_mask"][0, 0]
        assert batch["past_read_mask"].all()
    assert all(next(batches)[name].all() for name in masks)


def test_one_missing_reading_is_a_gap():
    values = [float(step) for step in range(200)]
    values[50] = NAN
    data = prepared(single_table(values), CONTEXT, PREDICTION, max_gap=3)
    assert not data.panel.is_gapless
    batch = every(data.train)
    rows = batch["start"][:, None] + torch.arange(CONTEXT)
    assert (rows == 50).any()
    assert torch.equal(batch["past_read_mask"][..., 0], rows != 50)


# No look into the future


def test_the_last_reading_is_held_up_to_the_origin():
    #                 context ........  | targets
    values = [1.0, 2, NAN, 4, NAN, NAN, NAN, 8, 9, 10, 11, 12]
    data = prepared(single_table(values * 20), 6, 2, max_gap=3)
    window = data.train[0]
    assert window["past_values"][:, 0].tolist() == [1, 2, 3, 4, 4, 4]  # the gap inside is a line, the open one is flat
    assert window["past_observed_mask"].all()
    assert window["past_read_mask"][:, 0].tolist() == [True, True, False, True, False, False]
    assert window["future_observed_mask"][:, 0].tolist() == [False, True]
    later = data.train[2]
    assert later["past_values"][:, 0].tolist() == [3, 4, 5, 6, 7, 8]  # now 8 is known


@pytest.mark.parametrize("channel", range(4), ids=["first target", "second target", "past only", "known future"])
def test_holding_leaves_the_other_channels_alone(channel: int):
    grid = np.arange(200.0)[:, None] * np.array([1.0, 10.0, 100.0, 1000.0])
    whole = prepare({"a": grid.copy()}, 3).train
    grid[CONTEXT - 2 : CONTEXT + 1, channel] = NAN
    gappy = prepare({"a": grid}, 3).train
    assert whole.starts([0]) == gappy.starts([0])
    difference = (whole[0]["past_values"] != gappy[0]["past_values"]).numpy()
    assert np.argwhere(difference).tolist() == [[CONTEXT - 2, channel], [CONTEXT - 1, channel]]


@pytest.mark.parametrize(
    ("context", "max_gap"),
    [(8, 0), (8, 3), (8, 7)],
    ids=["no filling", "short gaps", "gaps almost as long as the context"],
)
def test_a_value_after_the_origin_never_reaches_a_context(context: int, max_gap: int):
    """Brute force: for every origin, all later readings are replaced; the context must not notice."""
    grids = random_grids(ROLES, (240, 160), seed=5, gap_share=0.02 if max_gap == 0 else 0.06)
    before = prepare(grids, max_gap, "deployment", context)
    origins: dict[int, list[tuple[str, int]]] = {}
    for part in PARTS:
        batch = every(before.windows[part])
        position = before.panel.row_position()[batch["start"].numpy()]
        for index, start in enumerate(position.tolist()):
            origins.setdefault(start + context, []).append((part, index))
    random = np.random.default_rng(6)
    checked = noticed = 0
    for origin, windows in sorted(origins.items()):
        changed = {item: grid.copy() for item, grid in grids.items()}
        for grid in changed.values():  # other values at the same times: what is missing stays missing
            grid[origin:] += random.normal(0, 1e4, grid[origin:].shape)
        after = prepare(changed, max_gap, "deployment", context)
        for part, index in windows:
            one, other = before.windows[part][index], after.windows[part][index]
            assert one["start"] == other["start"]
            assert torch.equal(one["past_values"], other["past_values"]), (part, index, origin)
            assert torch.equal(one["past_observed_mask"], other["past_observed_mask"])
            noticed += not torch.equal(one["future_values"], other["future_values"])
            checked += 1
    assert checked == noticed > 50


def test_a_gap_longer_than_the_context_is_refused_or_keeps_the_future_out():
    """All of such a context lies in the gap: a line through it comes from the reading after the origin."""
    values = np.arange(60.0)
    values[5:10] = NAN
    contexts = []
    for next_reading in (10.0, 999.0):
        values[10] = next_reading
        try:
            windows = prepared(single_table(values), 4, 2, max_gap=5).train
        except ConfigError as error:
            assert "data.max_gap" in str(error)  # noqa: PT017  (refusing is right too)
            return
        contexts.append(windows.gather(np.array([5]))["past_values"])
    assert torch.equal(*contexts)


# Memory


def held_bytes(thing: object, seen: set[int] | None = None) -> int:
    """Bytes of all arrays and tensors reachable from an object, memory they share counted once."""
    seen = set() if seen is None else seen
    if isinstance(thing, torch.Tensor):
        address, size = thing.untyped_storage().data_ptr(), thing.untyped_storage().nbytes()
    elif isinstance(thing, np.ndarray):
        owner = thing
        while isinstance(owner.base, np.ndarray):
            owner = owner.base
        address, size = owner.__array_interface__["data"][0], owner.nbytes
    elif dataclasses.is_dataclass(thing) or isinstance(thing, WindowDataset):
        return sum(held_bytes(value, seen) for value in vars(thing).values())
    elif isinstance(thing, list | tuple | dict):
        values = thing.values() if isinstance(thing, dict) else thing
        return sum(held_bytes(value, seen) for value in values)
    else:
        assert isinstance(thing, str | int | float | None), type(thing)
        return 0
    if address in seen or size == 0:
        return 0
    seen.add(address)
    return size


@pytest.mark.parametrize(("num_segments", "num_windows"), [(1, 700_000 - 607), (1000, 700 * (1000 - 607))])
def test_memory_grows_with_the_series_and_not_with_the_windows(num_segments: int, num_windows: int):
    rows, context, prediction = 1_000_000, 512, 96
    segment_start = np.linspace(0, rows, num_segments + 1).astype(np.int64)
    panel = Panel(
        values=np.zeros((rows, 1), np.float32),
        status=np.full((rows, 1), OBSERVED, np.uint8),
        timestamps=np.arange(rows).astype("datetime64[s]").astype("datetime64[ns]"),
        segment_start=segment_start,
        segment_item=np.zeros(num_segments, np.int64),
        segment_position=segment_start[:-1].copy(),
        item_ids=("a",),
        item_length=np.array([rows]),
        roles=Roles(("y",)),
        frequency="s",
    )
    split = split_panel(panel, SplitSection(), None)
    windows = WindowDataset(panel, window_ranges(panel, split, "train", context, prediction, 1), context, prediction)
    assert len(windows) == num_windows
    of_the_panel = held_bytes(panel)
    assert of_the_panel == rows * (4 + 1 + 8) + 8 * (num_segments + 1) + 2 * 8 * num_segments + 8
    beyond_the_panel = held_bytes(windows) - of_the_panel
    # two masks of a byte per value and three numbers per segment; one int64 per window would be 2 to 5 MB more
    assert beyond_the_panel <= 2 * rows + 3 * 8 * num_segments
    assert windows[num_windows - 1]["start"] == 700_000 - context - prediction


# Order and batches


@pytest.mark.parametrize(("num_windows", "batch_size"), [(10, 3), (12, 4), (1, 5), (1000, 64)])
def test_each_epoch_is_a_permutation(num_windows: int, batch_size: int):
    sampler = EpochBatchSampler(num_windows, batch_size, shuffle=True, seed=3)
    orders = []
    for epoch in range(3):
        sampler.set_epoch(epoch)
        batches = list(sampler)
        assert len(batches) == len(sampler) == -(-num_windows // batch_size)
        assert [len(batch) for batch in batches[:-1]] == [batch_size] * (len(batches) - 1)
        order = [index for batch in batches for index in batch]
        assert sorted(order) == list(range(num_windows))
        assert all(type(index) is int for index in order)
        orders.append(order)
    if num_windows > 1:
        assert orders[0] != orders[1] != orders[2] != orders[0]
        assert orders[0] != list(range(num_windows))


def test_the_order_depends_on_seed_and_epoch_only():
    def order(seed: int, epoch: int) -> list[list[int]]:
        sampler = EpochBatchSampler(100, 8, shuffle=True, seed=seed)
        sampler.set_epoch(epoch)
        return list(sampler)

    used = EpochBatchSampler(100, 8, shuffle=True, seed=1)
    for epoch in (0, 1, 2):
        used.set_epoch(epoch)
        list(used)
    np.random.seed(9)
    torch.manual_seed(9)
    used.set_epoch(5)
    assert list(used) == list(used) == order(1, 5)
    assert order(1, 5) != order(2, 5)
    assert order(1, 5) != order(1, 4)
    assert order(1, 2) != order(2, 1)


def test_without_shuffling_windows_come_in_order():
    sampler = EpochBatchSampler(7, 3, shuffle=False, seed=1)
    assert list(sampler) == [[0, 1, 2], [3, 4, 5], [6]]
    sampler.set_epoch(4)
    assert list(sampler) == [[0, 1, 2], [3, 4, 5], [6]]


@pytest.mark.parametrize("num_ranks", [1, 2, 3, 8])
@pytest.mark.parametrize("num_windows", [1, 5, 48, 53])
def test_ranks_share_each_global_batch_and_see_the_epoch_once(num_windows: int, num_ranks: int):
    samplers = [EpochBatchSampler(num_windows, 4, True, 3, rank, num_ranks) for rank in range(num_ranks)]
    alone = EpochBatchSampler(num_windows, 4 * num_ranks, True, 3)
    for sampler in [*samplers, alone]:
        sampler.set_epoch(2)
    dealt = [list(sampler) for sampler in samplers]
    assert {len(batches) for batches in dealt} == {len(alone)} == {len(sampler) for sampler in samplers}
    for step, expected in enumerate(alone):
        together = [index for batches in dealt for index in batches[step] if index >= 0]
        assert together == expected
        fillers = [batches[step] for batches in dealt if batches[step][0] < 0]
        assert len(fillers) == max(0, num_ranks - len(expected))
        assert all(filler == [~expected[0]] for filler in fillers)
    samplers[0].set_epoch(2, first_batch=1)
    assert list(samplers[0]) == dealt[0][1:]


def test_a_filler_weighs_nothing():
    windows = prepare(random_grids(ROLES, (200, 150)), 7).train
    loader = training_loader(windows, batch_size=len(windows), seed=1, rank=1, num_ranks=2)
    (batch,) = loader
    assert len(batch["start"]) == len(windows) // 2
    filler = RankWindows(windows).__getitems__([~3])
    assert not filler["future_observed_mask"].any()
    assert torch.equal(filler["past_values"], windows.__getitems__([3])["past_values"])


@pytest.mark.parametrize("num_workers", [0, 1])
@pytest.mark.parametrize("shuffle", [False, True])
def test_a_loader_batch_is_what_getitems_gives(shuffle: bool, num_workers: int):
    windows = prepare(random_grids(ROLES, (200, 150)), 7).train
    loader = window_loader(windows, 16, shuffle, seed=4, num_workers=num_workers)
    loader.batch_sampler.set_epoch(2)
    indices = list(loader.batch_sampler)
    batches = list(loader)
    assert len(batches) == len(loader) == len(indices) == -(-len(windows) // 16)
    for batch, chosen in zip(batches, indices, strict=True):
        expected = windows.__getitems__(chosen)
        assert set(batch) == set(expected)
        for name, tensor in expected.items():
            assert torch.equal(batch[name], tensor), name


def test_start_rows_of_many_short_ranges():
    data = prepare(random_grids(ROLES, (900, 700), gap_share=0.02), 2)
    for part, windows in data.windows.items():
        ranges = windows.ranges
        assert len(ranges.first) > 3
        expected = [
            first + step * STRIDES[part]
            for first, count in zip(ranges.first.tolist(), ranges.count.tolist(), strict=True)
            for step in range(count)
        ]
        assert windows.starts(range(len(windows))).tolist() == expected
        assert windows.starts([len(windows) - 1, 0]).tolist() == [expected[-1], expected[0]]


# A share of the windows


@pytest.mark.parametrize("fraction_from", ["first", "last", "uniform"])
def test_a_fraction_of_the_training_windows(fraction_from: str):
    table = single_table(np.arange(1000.0))
    section = {"train_fraction": 0.25, "train_fraction_from": fraction_from}
    whole, some = prepared(table, CONTEXT, PREDICTION), prepared(table, CONTEXT, PREDICTION, **section)
    found, possible = some.train.starts(range(len(some.train))), whole.train.starts(range(len(whole.train)))
    assert len(set(found.tolist())) == len(found) == pytest.approx(0.25 * len(possible), abs=PREDICTION)
    assert np.isin(found, possible).all()
    if fraction_from == "first":
        assert found.tolist() == possible[: len(found)].tolist()
    elif fraction_from == "last":
        assert found.tolist() == possible[-len(found) :].tolist()
    else:
        assert found[-1] - found[0] > 500
    for part in ("validation", "test"):
        assert len(some.windows[part]) == len(whole.windows[part])


def test_the_uniform_share_depends_on_the_seed_only():
    table = single_table(np.arange(1000.0))
    config = DataSection(train_fraction=0.1, train_fraction_from="uniform")

    def drawn(seed: int) -> list[int]:
        windows = prepare_data(config, CONTEXT, PREDICTION, table, seed).train
        return windows.starts(range(len(windows))).tolist()

    assert drawn(1) == drawn(1)
    assert drawn(1) != drawn(2)


@pytest.mark.parametrize("fraction_from", ["first", "uniform"])
def test_the_windows_of_one_item(fraction_from: str):
    grids = random_grids(ROLES, (300, 200, 250))
    section = {"train_fraction": 0.5, "train_fraction_from": fraction_from, "max_gap": 7}
    windows = prepared(grid_table(grids, ROLES), CONTEXT, PREDICTION, **section).train
    batch = every(windows)
    for item in range(3):
        mine = every(windows.of_item(item))
        assert len(mine["item"]) == (batch["item"] == item).sum() > 0
        for name, tensor in mine.items():
            assert torch.equal(tensor, batch[name][batch["item"] == item]), name


def test_a_batch_without_contexts():
    windows = prepare(random_grids(ROLES, (200,)), 7).train
    starts = windows.starts([0, 4])
    whole, some = windows.gather(starts), windows.gather(starts, past=False)
    assert set(whole) - set(some) == {"past_values", "past_observed_mask", "past_read_mask"}
    assert all(torch.equal(some[name], whole[name]) for name in some)
