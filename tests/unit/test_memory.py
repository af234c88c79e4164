"""What a device has and needs, the estimate against real optimizers, and batches that do not fit.

Out of memory is simulated above a size, GPUs by their capability; the last tests need a real one.
"""

from __future__ import annotations

import gc
import json
import logging
import math
import mmap
import platform
import re
import subprocess
import sys
import time
import typing
import warnings
import weakref
from pathlib import Path

import pytest
import torch
from support.tiny import ARCHITECTURE
from torch import nn

from tstune.config.schema import TrainingSection
from tstune.errors import ConfigError, TrainingError
from tstune.runtime import distributed, memory
from tstune.runtime.memory import (
    GPUManager,
    MemoryEstimate,
    estimate_training_memory,
    is_out_of_memory,
)
from tstune.training.optim import build_optimizer

CPU, GPU, MPS = torch.device("cpu"), torch.device("cuda", 0), torch.device("mps")
OPTIMIZERS = typing.get_args(TrainingSection.model_fields["optimizer"].annotation)
STRATEGIES = ["none", "ddp", "zero1", "zero2", "zero3", "fsdp"]
MIB = 2**20
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")


@pytest.fixture
def gpu_of(monkeypatch: pytest.MonkeyPatch):
    """Pretend that every GPU has this compute capability."""

    def pretend(major: int, minor: int = 0) -> GPUManager:
        monkeypatch.setattr(torch.version, "hip", None)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (major, minor))
        return GPUManager(GPU)

    return pretend


# Report


def test_report_of_a_cpu_is_json_and_plausible():
    report = json.loads(json.dumps(GPUManager(CPU).report()))
    assert report["type"] == "cpu"
    assert report["name"]
    assert report["visible_gpus"] == torch.cuda.device_count()
    assert 100 < report["free_memory_mib"] < report["total_memory_mib"] < 2**30
    assert report["compute_capability"] is None
    assert (report["bf16"], report["fp16"], report["tf32"]) == (distributed.cpu_has_bf16(), False, False)


def test_report_of_a_gpu(gpu_of, monkeypatch: pytest.MonkeyPatch):
    manager = gpu_of(8, 6)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (3 * MIB, 8 * MIB))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Pretended")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert json.loads(json.dumps(manager.report())) == {
        "type": "cuda",
        "name": "Pretended",
        "visible_gpus": 4,
        "total_memory_mib": 8.0,
        "free_memory_mib": 3.0,
        "compute_capability": "8.6",
        "bf16": True,
        "fp16": True,
        "tf32": True,
    }


# Precision


@pytest.mark.parametrize(("major", "expected"), [(6, "fp16"), (7, "fp16"), (8, "bf16"), (9, "bf16"), (12, "bf16")])
def test_auto_precision_follows_the_capability(gpu_of, major: int, expected: str):
    assert gpu_of(major, 5).choose_precision("auto") == expected


def test_auto_precision_on_an_amd_gpu_is_bf16(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.version, "hip", "6.4")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: pytest.fail("not comparable on AMD"))
    assert GPUManager(GPU).choose_precision("auto") == "bf16"
    assert GPUManager(GPU).allow_tf32(True) is False


@pytest.mark.parametrize("device", [CPU, MPS])
def test_auto_precision_without_a_gpu_is_no(device: torch.device):
    assert GPUManager(device).choose_precision("auto") == "no"


@pytest.mark.parametrize("wanted", ["no", "bf16", None])
@pytest.mark.parametrize("device", [CPU, GPU, MPS])
def test_other_precisions_pass_through(device: torch.device, wanted: str | None):
    assert GPUManager(device).choose_precision(wanted) == wanted


def test_fp16_needs_a_gpu():
    assert GPUManager(GPU).choose_precision("fp16") == "fp16"
    with pytest.raises(ConfigError, match=r"fp16 needs a GPU; on a CPU set training\.mixed_precision to bf16 or no"):
        GPUManager(CPU).choose_precision("fp16")
    with pytest.raises(ConfigError, match="on a MPS"):
        GPUManager(MPS).choose_precision("fp16")


@pytest.mark.parametrize(("flags", "native"), [("fpu avx512_bf16 sse", True), ("fpu avx2", False), (None, False)])
def test_bf16_of_a_processor_is_what_its_flags_say(flags: str | None, native: bool, tmp_path: Path, monkeypatch):
    if flags is not None:
        (tmp_path / "cpuinfo").write_text(f"flags : {flags}")
    monkeypatch.setattr(distributed, "Path", lambda _: tmp_path / "cpuinfo")
    assert distributed.cpu_has_bf16() is native
    assert GPUManager(CPU).report()["bf16"] is native


@pytest.mark.parametrize(
    ("wanted", "native", "fallback", "runs", "said"),
    [
        ("fp16", True, True, "no", "float32 runs instead, as training.precision_fallback=true allows"),
        ("bf16", False, True, "no", "float32 runs instead"),
        ("bf16", False, False, "bf16", "only emulates bf16.*set training.mixed_precision=no"),
        ("bf16", True, True, "bf16", None),
        ("auto", False, False, "no", None),
    ],
)
def test_what_runs_where_the_processor_lacks_it_is_said(wanted, native, fallback, runs, said, monkeypatch, caplog):
    monkeypatch.setattr(distributed, "cpu_has_bf16", lambda: native)
    monkeypatch.setattr(logging.getLogger("tstune"), "propagate", True)
    assert distributed.choose_precision(CPU, wanted, fallback) == runs
    assert bool(re.search(said, caplog.text)) if said else not caplog.text


@pytest.fixture
def tf32_flags():
    """Put torch's flags back."""
    flags = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    yield
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = flags


@pytest.mark.usefixtures("tf32_flags")
@pytest.mark.parametrize(("enabled", "new", "old"), [(True, "tf32", "high"), (False, "ieee", "highest")])
def test_tf32_is_set_for_readers_of_both_apis(gpu_of, enabled: bool, new: str, old: str):
    assert gpu_of(8).allow_tf32(enabled) is True
    assert torch.backends.cuda.matmul.fp32_precision == new
    assert torch.backends.cuda.matmul.allow_tf32 is enabled
    assert torch.backends.cudnn.allow_tf32 is enabled
    assert (torch.backends.cudnn.conv.fp32_precision == "tf32") is enabled
    assert torch.get_float32_matmul_precision() == old  # raises after matmul.fp32_precision = "tf32"; inductor reads it


@pytest.mark.usefixtures("tf32_flags")
def test_tf32_is_left_alone_where_there_is_none(gpu_of):
    torch.backends.cuda.matmul.allow_tf32 = False
    for manager in (GPUManager(CPU), GPUManager(MPS), gpu_of(7)):
        assert manager.allow_tf32(True) is False
    assert torch.backends.cuda.matmul.allow_tf32 is False


# Phases


def hold(mib: int) -> torch.Tensor:
    return torch.ones(mib * MIB, dtype=torch.uint8)


def resets_its_peak() -> bool:
    return memory._reset_peak_resident()


needs_reset = pytest.mark.skipif(not resets_its_peak(), reason="the system cannot reset the peak of resident memory")


@needs_reset
def test_phase_measures_its_own_peak_and_time():
    manager = GPUManager(CPU)
    with manager.phase("large"):
        hold(200)
    with manager.phase("small"):
        time.sleep(0.05)
        kept = mmap.mmap(-1, 20 * MIB)  # not from memory that Python has kept
        kept.write(bytes(20 * MIB))
    large, small = manager.phases["large"], manager.phases["small"]
    assert 190 < large["host_peak_mib"] - large["host_begin_mib"] < 260
    assert large["host_end_mib"] < large["host_peak_mib"] - 150
    assert small["host_peak_mib"] < large["host_peak_mib"] - 120  # not the peak of the phase before
    assert small["host_end_mib"] > small["host_begin_mib"] + 15
    assert 0.05 <= small["seconds"] < 60
    assert len(kept) == 20 * MIB
    assert json.loads(json.dumps(manager.phases)) == manager.phases


@needs_reset
def test_peak_of_the_run_outlives_the_phases():
    manager = GPUManager(CPU)
    before = memory._resident()
    hold(200)
    for name in ("one", "two"):
        with manager.phase(name):
            pass
    assert manager.peak_memory()["host"] > before + 150 > manager.phases["two"]["host_peak_mib"]
    assert list(manager.peak_memory()) == ["host"]


@needs_reset
@pytest.mark.parametrize("before", [True, False])
def test_outer_phase_keeps_a_peak_on_either_side_of_an_inner_one(before: bool):
    manager = GPUManager(CPU)
    with manager.phase("outer"):
        if before:
            hold(200)
        with manager.phase("inner"):
            hold(50)
        if not before:
            hold(200)
    outer, inner = manager.phases["outer"], manager.phases["inner"]
    assert outer["host_peak_mib"] > inner["host_peak_mib"] + 100
    assert outer["seconds"] >= inner["seconds"]


@needs_reset
def test_outer_phases_know_the_peaks_of_all_inner_ones():
    manager = GPUManager(CPU)
    with manager.phase("outer"), manager.phase("middle"):
        hold(200)
        with manager.phase("inner"):
            pass
    phases = manager.phases
    assert phases["middle"]["host_peak_mib"] > phases["inner"]["host_peak_mib"] + 150
    assert phases["outer"]["host_peak_mib"] >= phases["middle"]["host_peak_mib"]


@needs_reset
def test_phase_entered_again_adds_time_and_keeps_the_larger_peak():
    manager = GPUManager(CPU)
    with manager.phase("same"):
        time.sleep(0.03)
        hold(200)
    first = manager.phases["same"]
    with manager.phase("same"):
        time.sleep(0.03)
    again = manager.phases["same"]
    assert again["seconds"] >= first["seconds"] + 0.03
    assert again["host_peak_mib"] == first["host_peak_mib"]


def test_phase_is_recorded_when_it_fails():
    manager = GPUManager(CPU)
    with pytest.raises(KeyError), manager.phase("failing"):
        raise KeyError("as it is")
    assert manager.phases["failing"]["seconds"] >= 0
    with manager.phase("next"):
        pass
    assert set(manager.phases) == {"failing", "next"}


def test_phase_says_so_where_the_peak_cannot_be_reset(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(memory, "_reset_peak_resident", lambda: False)
    manager = GPUManager(CPU)
    with manager.phase("large"):
        hold(100)
    with manager.phase("small"):
        pass
    small = manager.phases["small"]
    assert "host_peak_mib" not in small
    assert small["host_peak_since_process_start_mib"] >= manager.phases["large"]["host_peak_since_process_start_mib"]


def test_reset_of_the_peak_that_is_refused(monkeypatch: pytest.MonkeyPatch):
    def refuse(path: object, text: str) -> None:
        raise PermissionError(13, "read-only")

    monkeypatch.setattr(memory.Path, "write_text", refuse)
    assert memory._reset_peak_resident() is False


def test_peak_without_proc_is_the_one_of_getrusage(monkeypatch: pytest.MonkeyPatch):
    with_proc = memory._peak_resident()
    monkeypatch.setattr(memory.Path, "exists", lambda path: False)
    assert memory._peak_resident() == pytest.approx(with_proc, rel=0.2)


def test_phases_of_a_gpu_are_measured_apart(monkeypatch: pytest.MonkeyPatch):
    class FakeGPU:
        peak, synchronized = 0, 0

        def reset(self, device: torch.device) -> None:
            self.peak = 0

        def synchronize(self, device: torch.device) -> None:
            self.synchronized += 1

    gpu = FakeGPU()
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", gpu.reset)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: gpu.peak)
    monkeypatch.setattr(torch.cuda, "synchronize", gpu.synchronize)
    manager = GPUManager(GPU)
    with manager.phase("outer"):
        gpu.peak = 30 * MIB
        with manager.phase("inner"):
            gpu.peak = 10 * MIB
    with manager.phase("after"):
        gpu.peak = 5 * MIB
    peaks = {name: phase["device_peak_mib"] for name, phase in manager.phases.items()}
    assert peaks == {"inner": 10.0, "outer": 30.0, "after": 5.0}
    assert manager.peak_memory()["device"] == 30.0
    assert gpu.synchronized == 3


# Estimate


class Half(nn.Module):
    """A frozen half and a learning half: 100 x 70 and 300 frozen, 90 x 80 and 80 learn."""

    def __init__(self) -> None:
        super().__init__()
        self.frozen = nn.Linear(70, 100)
        self.learns = nn.Linear(80, 90)
        self.register_buffer("ignored", torch.zeros(1000))
        self.frozen.requires_grad_(False)


FROZEN, LEARNS = 100 * 70 + 100, 90 * 80 + 90


@pytest.mark.filterwarnings("ignore")  # bitsandbytes on CPUs
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_estimate_is_what_the_optimizer_really_holds(name: str):
    module = Half()
    optimizer = build_optimizer(module, TrainingSection(optimizer=name), 1e-3, [])
    module.learns(torch.ones(2, 80)).sum().backward()
    optimizer.step()
    states = [tensor for state in optimizer.state.values() for key, tensor in state.items() if is_state(key, tensor)]
    estimate = estimate_training_memory(module, name, "none", 1, "no")
    assert estimate.optimizer_states == sum(tensor.numel() * tensor.element_size() for tensor in states)
    assert estimate.weights == 4 * (FROZEN + LEARNS)
    assert estimate.gradients == 4 * LEARNS == sum(4 * p.grad.numel() for p in module.parameters() if p.requires_grad)
    assert estimate.total == estimate.weights + estimate.gradients + estimate.optimizer_states


def is_state(key: str, value: object) -> bool:
    """Not single numbers such as the step, and not the table that all parameters of bitsandbytes share."""
    return isinstance(value, torch.Tensor) and value.numel() > 1 and not key.startswith("qmap")


@pytest.mark.parametrize(
    ("strategy", "weights", "gradients", "optimizer"),
    [
        ("none", 1, 1, 8),
        ("ddp", 1, 1, 8),
        ("fsdp", 1 / 4, 1 / 4, 8 / 4),
        ("zero1", 1, 1, 12 / 4),
        ("zero2", 1, 1 / 4, 12 / 4),
        ("zero3", 1 / 4, 1 / 4, 8 / 4),
    ],
)
def test_estimate_shards_as_the_strategy_does(strategy: str, weights: float, gradients: float, optimizer: float):
    estimate = estimate_training_memory(Half(), "adamw", strategy, 4, "no")
    assert estimate.weights == math.ceil(weights * 4 * (FROZEN + LEARNS))
    assert estimate.gradients == math.ceil(gradients * 4 * LEARNS)
    assert estimate.optimizer_states == math.ceil(optimizer * LEARNS)


@pytest.mark.parametrize(("stage", "per_value"), [(1, 4 + 12 / 64), (2, 2 + 14 / 64), (3, 16 / 64)])
def test_estimate_agrees_with_the_zero_paper(stage: int, per_value: float):
    """Figure 1 of arXiv 1910.02054: 7.5 B parameters on 64 GPUs take 31.4, 16.6 and 1.9 GB."""
    module = nn.Linear(1024, 1024, bias=False)
    estimate = estimate_training_memory(module, "adamw", f"zero{stage}", 64, "bf16")
    assert estimate.total == per_value * 1024**2
    assert 7.5 * per_value == pytest.approx({1: 31.4, 2: 16.6, 3: 1.9}[stage], abs=0.05)


def test_estimate_counts_half_weights_shared_weights_and_packed_weights_as_stored():
    module = nn.ModuleList([nn.Linear(64, 64, bias=False, dtype=torch.bfloat16) for _ in range(2)])
    module[1].weight = module[0].weight
    estimate = estimate_training_memory(module, "adamw", "none", 1, "bf16")
    assert (estimate.weights, estimate.gradients, estimate.optimizer_states) == (2 * 64**2, 2 * 64**2, 4 * 64**2)
    packed = nn.Module()
    packed.weight = nn.Parameter(torch.zeros(1000, dtype=torch.uint8), requires_grad=False)
    assert estimate_training_memory(packed, "adamw", "zero3", 2, "bf16") == MemoryEstimate(
        500, 0, 0, ("activations", "communication buffers")
    )


def test_estimate_describes_itself_and_what_is_missing():
    line = MemoryEstimate(3 * MIB, 2 * MIB, MIB // 2).describe()
    assert line == "5.5 MiB per process (weights 3.0, gradients 2.0, optimizer 0.5), without activations"
    ddp = estimate_training_memory(Half(), "paged_adamw_8bit", "ddp", 2, "bf16").describe()
    for missing in ("activations", "half-precision copies", "DDP's buckets", "paging"):
        assert missing in ddp


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_estimate_on_more_processes_is_never_larger(strategy: str, name: str):
    totals = [estimate_training_memory(Half(), name, strategy, number, "bf16").total for number in (1, 2, 8)]
    assert totals == sorted(totals, reverse=True)
    assert (totals[0] == totals[2]) is (strategy in ("none", "ddp"))


def test_estimate_refuses_what_it_does_not_know():
    with pytest.raises(ConfigError, match=r"'deepspeed' is not one of none, ddp, zero1"):
        estimate_training_memory(Half(), "adamw", "deepspeed", 2, "no")
    with pytest.raises(ConfigError, match=r"training\.optimizer=lion"):
        estimate_training_memory(Half(), "lion", "none", 1, "no")


# Batches that fit


def fails_above(limit: int, error: Exception) -> tuple[typing.Callable[[int], None], list[int]]:
    tried = []

    def try_batch(size: int) -> None:
        tried.append(size)
        if size > limit:
            raise error

    return try_batch, tried


CUDA_FULL = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


@pytest.mark.parametrize(
    ("batch_size", "limit", "expected", "sizes"),
    [
        (64, 64, (64, 1), [64]),
        (64, 63, (32, 2), [64, 32]),
        (64, 5, (4, 16), [64, 32, 16, 8, 4]),
        (7, 4, (4, 2), [7, 4]),
        (7, 3, (2, 4), [7, 4, 2]),
        (5, 1, (1, 5), [5, 3, 2, 1]),
        (1, 1, (1, 1), [1]),
    ],
)
def test_batch_is_halved_until_it_fits(batch_size: int, limit: int, expected: tuple[int, int], sizes: list[int]):
    try_batch, tried = fails_above(limit, CUDA_FULL)
    micro, number = GPUManager.fit_batch_size(try_batch, batch_size)
    assert (micro, number) == expected
    assert tried == sizes
    assert (number - 1) * micro < batch_size <= number * micro


def test_batch_is_halved_where_another_rank_has_no_room():
    try_batch, tried = fails_above(100, CUDA_FULL)
    said = []

    def agree(fits: bool) -> bool:
        said.append(fits)
        return fits and tried[-1] <= 8

    assert GPUManager.fit_batch_size(try_batch, 32, agree) == (8, 4)
    assert said == [True, True, True]


def test_every_rank_says_whether_it_fits():
    try_batch, _ = fails_above(3, CUDA_FULL)
    said = []
    assert GPUManager.fit_batch_size(try_batch, 8, lambda fits: said.append(fits) or fits) == (2, 4)
    assert said == [False, False, True]


def test_a_window_that_does_not_fit_is_an_error_of_the_user():
    try_batch, tried = fails_above(0, CUDA_FULL)
    with pytest.raises(TrainingError, match=r"training\.per_device_batch_size=4.*tuning\.mode=head") as caught:
        GPUManager.fit_batch_size(try_batch, 4)
    assert tried == [4, 2, 1]
    assert "\n" not in str(caught.value)
    assert caught.value.__context__ is None  # which would keep the tensors of the attempt


@pytest.mark.parametrize(
    "error",
    [
        CUDA_FULL,
        MemoryError(),
        RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported"),
        RuntimeError("MPS backend out of memory (MPS allocated: 8.00 GB)"),
        RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 8 bytes."),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    ],
)
def test_out_of_memory_is_recognised(error: Exception):
    try_batch, tried = fails_above(2, error)
    assert GPUManager.fit_batch_size(try_batch, 4) == (2, 2)
    assert tried == [4, 2]


def test_real_refusal_of_the_cpu_allocator_is_recognised():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60, dtype=torch.uint8)
    assert is_out_of_memory(caught.value)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("mat1 and mat2 shapes cannot be multiplied"),
        RuntimeError("cuDNN error: CUDNN_STATUS_NOT_SUPPORTED."),  # of a layout, not of the memory
        RuntimeError(13),
        RuntimeError(),
        ValueError("out of memory"),
        KeyboardInterrupt(),
    ],
)
def test_other_exceptions_pass_untouched(error: BaseException):
    try_batch, tried = fails_above(0, error)
    with pytest.raises(type(error)) as caught:
        GPUManager.fit_batch_size(try_batch, 4)
    assert caught.value is error
    assert tried == [4]


def test_failed_attempt_keeps_no_tensor_alive():
    """Not through the traceback, nor through a cycle of frames that only the collector finds."""
    alive: list[weakref.ref] = []
    seen: list[int] = []

    def try_batch(size: int) -> None:
        seen.append(sum(reference() is not None for reference in alive))
        activations = torch.ones(size)
        alive.append(weakref.ref(activations))
        if size > 2:
            cycle = torch.OutOfMemoryError("CUDA out of memory.")
            raise cycle  # the frame holds the exception, which holds the frame

    gc.disable()
    try:
        assert GPUManager.fit_batch_size(try_batch, 16) == (2, 8)
    finally:
        gc.enable()
    assert seen == [0, 0, 0, 0]


# Gradient checkpointing


class Block(nn.Module):
    """Stands for a transformers model from before the method was renamed."""

    supports_gradient_checkpointing = True

    def gradient_checkpointing_enable(self, options: dict) -> None:
        self.options = options


def test_gradient_checkpointing_is_enabled_without_reentry():
    block = Block()
    GPUManager.enable_gradient_checkpointing(nn.Sequential(nn.Linear(2, 2), block))
    assert block.options == {"use_reentrant": False}


def tiny_bert() -> nn.Module:
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    return BertModel(BertConfig(**sizes, vocab_size=11, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0))


def calls_and_gradients(model: nn.Module) -> tuple[int, list[torch.Tensor]]:
    """How often one layer ran in a forward and backward pass."""
    calls = []
    layer = next(part for name, part in model.named_modules() if name.endswith("encoder.layer.0.intermediate"))
    layer.register_forward_hook(lambda *_: calls.append(1))
    model.train()
    model(input_ids=torch.arange(8)[None]).last_hidden_state.square().sum().backward()
    return len(calls), [p.grad for p in model.parameters() if p.grad is not None]


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")  # peft asks by the old name
@pytest.mark.parametrize("adapted", [False, True])
def test_gradient_checkpointing_recomputes_and_gives_the_same_gradients(adapted: bool):
    from peft import LoraConfig, get_peft_model

    models = [tiny_bert(), tiny_bert()]
    if adapted:
        lora = LoraConfig(target_modules=["query"], init_lora_weights=False)
        for index in range(2):
            torch.manual_seed(1)
            models[index] = get_peft_model(models[index], lora)
    with warnings.catch_warnings():
        warnings.simplefilter("error", FutureWarning)
        GPUManager.enable_gradient_checkpointing(models[1])
    plain, recomputed = (calls_and_gradients(model) for model in models)
    assert (plain[0], recomputed[0]) == (1, 2)
    assert len(plain[1]) == len(recomputed[1]) > 0
    for one, other in zip(plain[1], recomputed[1], strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("wrapped", [False, True])
def test_ttm_does_not_support_gradient_checkpointing(wrapped: bool):
    from tsfm_public import TinyTimeMixerConfig, TinyTimeMixerForPrediction

    model = TinyTimeMixerForPrediction(TinyTimeMixerConfig(**ARCHITECTURE))
    with pytest.raises(ConfigError, match=r"training\.gradient_checkpointing.*TinyTimeMixerForPrediction"):
        GPUManager.enable_gradient_checkpointing(nn.Sequential(model) if wrapped else model)


def test_network_of_no_library_does_not_support_gradient_checkpointing():
    with pytest.raises(ConfigError, match=r"training\.gradient_checkpointing.*Linear"):
        GPUManager.enable_gradient_checkpointing(nn.Linear(2, 2))


# With a real GPU


@needs_gpu
def test_gpu_phase_measures_what_torch_allocated():
    manager = GPUManager(GPU)
    with manager.phase("large"):
        torch.ones(64 * MIB, dtype=torch.uint8, device=GPU)
    with manager.phase("small"):
        torch.ones(MIB, dtype=torch.uint8, device=GPU)
    assert manager.phases["large"]["device_peak_mib"] >= 64
    assert manager.phases["small"]["device_peak_mib"] <= manager.phases["large"]["device_peak_mib"] - 60
    assert manager.peak_memory()["device"] >= 64


@needs_gpu
def test_gpu_that_is_full_gets_a_smaller_batch():
    free, _ = torch.cuda.mem_get_info(GPU)

    def try_batch(size: int) -> None:
        torch.empty(size * (free // 3), dtype=torch.uint8, device=GPU)

    micro, number = GPUManager.fit_batch_size(try_batch, 8)
    assert (micro, number) == (2, 4)


@needs_gpu
@pytest.mark.usefixtures("tf32_flags")
def test_gpu_compiles_after_tf32_was_allowed():
    manager = GPUManager(GPU)
    assert manager.allow_tf32(True) is (torch.cuda.get_device_capability(GPU)[0] >= 8)
    network = torch.compile(nn.Linear(64, 64).to(GPU), options={"max_autotune": True})
    assert network(torch.ones(8, 64, device=GPU)).shape == (8, 64)


@needs_gpu
def test_gpu_report_is_json():
    report = json.loads(json.dumps(GPUManager(GPU).report()))
    assert report["type"] == "cuda"
    assert 0 < report["free_memory_mib"] <= report["total_memory_mib"]


_GIVES_BACK = """
import resource, sys
import numpy as np
from tstune.runtime.environment import keep_freed_memory
assert len(sys.argv) == 1 or keep_freed_memory()
for _ in range(6):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    arrays = [np.ones(28 << 17) for _ in range(6)]
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
    del arrays
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries cannot be asked for it")
def test_freed_memory_is_kept():
    faults, scripts = [], {"PYTHONPATH": str(Path(memory.__file__).parents[2])}
    for words in ([], ["kept"]):
        words = [sys.executable, "-c", _GIVES_BACK, *words]
        answer = subprocess.run(words, capture_output=True, text=True, check=True, env=scripts)
        faults.append(sum(map(int, answer.stdout.split()[1:])))
    assert faults[1] < faults[0] / 3, faults
