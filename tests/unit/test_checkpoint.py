"""Checkpoints on disk: whole or not there, kept or pruned, and only for the run that wrote them."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch

from tstune.errors import CheckpointError, OutputError
from tstune.foreign_files import broken_seal
from tstune.runtime.distributed import DistributedManager
from tstune.training.checkpoint import (
    CheckpointStore,
    find_checkpoint,
    load_random_state,
    require_same_run,
    save_random_state,
)


@pytest.fixture(scope="module")
def manager() -> DistributedManager:
    return DistributedManager()


@pytest.fixture
def store(tmp_path: Path, manager: DistributedManager) -> CheckpointStore:
    return CheckpointStore(tmp_path / "run.checkpoints", 2, manager)


def write(folder: Path) -> None:
    (folder / "shards").mkdir()
    (folder / "shards" / "weights.bin").write_bytes(bytes(1000))
    (folder / "run.json").write_text(json.dumps({"num_processes": 1, "seed": 1}))


def names(store: CheckpointStore) -> list[str]:
    return sorted(path.name for path in store.folder.iterdir())


def test_the_newest_and_the_best_stay(store: CheckpointStore):
    for step in (10, 20, 30, 40, 50):
        store.save(step, best_step=20, write=write)
    assert names(store) == ["step-00000020", "step-00000040", "step-00000050"]
    assert store.newest() == store.folder / "step-00000050"
    (store.folder / ".step-00000055.partial").mkdir()  # of a run that was killed
    store.save(60, best_step=60, write=write)
    assert names(store) == ["step-00000050", "step-00000060"]


def test_a_checkpoint_of_the_same_step_is_replaced(store: CheckpointStore):
    store.save(10, 0, write)
    store.save(10, 0, lambda folder: (folder / "other").write_text("x"))
    assert sorted(path.name for path in store.newest().iterdir()) == ["checksums.json", "other"]


def flip_a_bit(folder: Path) -> None:
    content = bytearray((folder / "shards" / "weights.bin").read_bytes())
    content[500] ^= 1
    (folder / "shards" / "weights.bin").write_bytes(content)


DAMAGES = {
    "shards/weights.bin has changed": flip_a_bit,
    "run.json is missing": lambda folder: (folder / "run.json").unlink(),
    "checksums.json is missing": lambda folder: (folder / "checksums.json").unlink(),
    "expected value": lambda folder: (folder / "checksums.json").write_text("oops"),
}


@pytest.mark.parametrize("words", DAMAGES)
def test_a_damaged_one_is_noticed_and_passed_over(words: str, store: CheckpointStore):
    for step in (10, 20):
        store.save(step, 0, write)
    newest = store.newest()
    assert broken_seal(newest) is None
    DAMAGES[words](newest)
    assert words in broken_seal(newest)
    assert store.newest() == store.folder / "step-00000010"
    if "checksums" not in words and "Expecting" not in words:
        with pytest.raises(CheckpointError, match="is damaged"):
            find_checkpoint(str(newest), store)


def test_what_is_asked_for_is_found(store: CheckpointStore, tmp_path: Path):
    assert find_checkpoint("auto", store) is None
    store.save(10, 0, write)
    store.save(20, 0, write)
    assert find_checkpoint("auto", store) == store.newest()
    assert find_checkpoint(str(store.folder), store) == store.newest()
    assert find_checkpoint(str(store.folder / "step-00000010"), store) == store.folder / "step-00000010"
    with pytest.raises(CheckpointError, match="holds no whole checkpoint"):
        find_checkpoint(str(tmp_path), store)


def test_another_run_is_named_key_by_key(store: CheckpointStore):
    store.save(10, 0, write)
    require_same_run(store.newest(), {"num_processes": 1, "seed": 1})
    with pytest.raises(CheckpointError, match=r"seed: 1 → 2; scheduler: None → constant"):
        require_same_run(store.newest(), {"num_processes": 1, "seed": 2, "scheduler": "constant"})
    with pytest.raises(CheckpointError, match=r"written by 1 process\(es\), now there are 4"):
        require_same_run(store.newest(), {"num_processes": 4, "seed": 1})


def test_a_write_that_fails_leaves_nothing(store: CheckpointStore):
    store.save(10, 0, write)

    def full(folder: Path) -> None:
        write(folder)
        raise OSError(28, "No space left on device")

    with pytest.raises(OutputError, match=r"checkpoint of step 20 cannot be written to .*: No space left on device"):
        store.save(20, 0, full)
    assert names(store) == ["step-00000010"]


def test_other_errors_in_a_write_are_not_taken_for_a_full_disk(store: CheckpointStore):
    def bug(_: Path) -> None:
        raise RuntimeError("size mismatch")

    with pytest.raises(RuntimeError, match="size mismatch"):
        store.save(10, 0, bug)


def test_random_states_come_back(tmp_path: Path):
    def draws() -> tuple:
        return random.random(), random.gauss(0, 1), np.random.normal(), torch.rand(3).tolist()

    random.gauss(0, 1)  # Python and NumPy keep the second number of a pair
    np.random.normal()
    save_random_state(tmp_path, rank=3)
    expected = draws()
    draws()
    load_random_state(tmp_path, rank=3)
    assert draws() == expected
    assert sorted(path.name for path in tmp_path.iterdir()) == ["random-rank3.json", "random-rank3.safetensors"]
