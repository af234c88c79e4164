"""The rehearsal leans on private parts of Accelerate: these tests fail when they change."""

from __future__ import annotations

import inspect
import os
from contextlib import suppress

import pytest
from accelerate.state import PartialState
from accelerate.utils import DistributedType

from tstune.runtime.distributed import is_rehearsal, rehearsing

FLAGS = ("ACCELERATE_USE_CPU", "ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED")
LEFT_SET = ("ACCELERATE_TORCH_DEVICE", "DS_ACCELERATOR")


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in (*FLAGS, *LEFT_SET):
        monkeypatch.setenv(name, "")  # so that what the code sets is taken back afterwards
        monkeypatch.delenv(name)
    return monkeypatch


def test_accelerate_still_chooses_its_backend_here() -> None:
    parameters = inspect.signature(PartialState._prepare_backend).parameters
    assert list(parameters) == ["self", "cpu", "sagemaker_dp", "backend"]
    assert "_prepare_backend(" in inspect.getsource(PartialState.__init__)
    annotation = inspect.signature(PartialState._prepare_backend).return_annotation
    assert annotation in (tuple[str, DistributedType], "tuple[str, DistributedType]")


@pytest.mark.parametrize("name", ["ACCELERATE_TORCH_DEVICE", "ACCELERATE_USE_CPU"])
def test_accelerate_still_reads_the_variable(name: str) -> None:
    assert name in inspect.getsource(inspect.getmodule(PartialState))


@pytest.mark.parametrize("written", ["true", "1", "yes"])
def test_rehearsing_puts_everything_back(environment: pytest.MonkeyPatch, written: str) -> None:
    environment.setenv("ACCELERATE_USE_CPU", written)
    original = PartialState._prepare_backend
    with suppress(RuntimeError), rehearsing():
        assert PartialState._prepare_backend(None, cpu=False, backend=None) == ("gloo", DistributedType.MULTI_GPU)
        assert os.environ["ACCELERATE_USE_CPU"] == "false"
        assert os.environ["ACCELERATE_TORCH_DEVICE"] == os.environ["DS_ACCELERATOR"] == "cpu"
        raise RuntimeError
    assert PartialState._prepare_backend is original
    assert os.environ["ACCELERATE_USE_CPU"] == written
    assert os.environ["DS_ACCELERATOR"] == "cpu"  # DeepSpeed looks at it when the engine is made, later


@pytest.mark.parametrize(
    ("cpu", "fsdp", "deepspeed", "expected"),
    [
        (None, None, None, False),
        ("true", None, None, False),
        (None, "true", None, False),
        (None, None, "true", False),
        ("false", "true", None, False),
        ("false", None, "true", False),
        ("true", "false", "false", False),
        ("true", "true", None, True),
        ("true", None, "true", True),
        ("1", "true", "false", True),
        ("TRUE", "false", "yes", True),
    ],
)
def test_rehearsal_is_cpu_and_a_sharding_strategy(
    environment: pytest.MonkeyPatch, cpu: str | None, fsdp: str | None, deepspeed: str | None, expected: bool
) -> None:
    for name, value in zip(FLAGS, (cpu, fsdp, deepspeed), strict=True):
        if value is not None:
            environment.setenv(name, value)
    assert is_rehearsal() is expected
