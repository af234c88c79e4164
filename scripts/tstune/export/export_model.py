"""Write a model as one file in the format of another runtime, and compare the file with PyTorch before it is kept."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import tempfile
import timeit
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from torch.overrides import TorchFunctionMode

import tstune
from tstune.data.panel import MISSING, OBSERVED
from tstune.data.preprocess import build_panel
from tstune.data.table import ITEM, TIMESTAMP, SourceTable
from tstune.data.windows import Batch, WindowDataset, padded_context
from tstune.errors import CheckpointError, ConfigError, MissingDependencyError, OutputError
from tstune.export.graph import FORECAST, FUTURE, ORIGIN, PAST, QUANTILES, STATIC, ForecastGraph
from tstune.models.contract import ForecastModel

OPSET = 20
"""Of the ONNX operators; onnxruntime 1.17 and later have them."""
SUFFIXES = {"onnx": ".onnx", "torch_export": ".pt2"}
"""Format -> suffix of its file."""
METADATA_FILE = "tstune.json"
"""Extra file inside a .pt2."""

Run = Callable[[Mapping[str, torch.Tensor]], list[np.ndarray]]
"""Inputs by name -> the outputs in their order."""


def trace(graph: ForecastGraph, inputs: Mapping[str, torch.Tensor]) -> torch.export.ExportedProgram:
    """The model as a graph in which the number of windows is free.

    Raises:
        ConfigError: the network does something that a graph cannot hold; the message has torch's reason.
    """
    batch = torch.export.Dim("batch", min=1, max=2**20)
    values = tuple(inputs[name] for name in graph.inputs)
    try:
        with torch.no_grad(), _quiet(), _LibraryChecksPass():
            program = torch.export.export(graph, values, dynamic_shapes={"inputs": tuple({0: batch} for _ in values)})
            program = program.run_decompositions({})
    except Exception as error:  # torch raises many kinds
        raise ConfigError(f"this model cannot become a graph: {_reason(error)}") from None
    for node in program.graph.nodes:  # they hold the paths of this machine's source files
        node.meta.pop("stack_trace", None)
    return program


def write_onnx(graph: ForecastGraph, program: torch.export.ExportedProgram, path: Path, facts: Mapping) -> None:
    """Write an ONNX file; `facts` become its metadata, each value as JSON.

    Raises:
        MissingDependencyError: a package is not installed.
        ConfigError: an operator has no counterpart in ONNX.
    """
    try:
        import onnx
        import onnxruntime  # noqa: F401 - the file is run afterwards
        import onnxscript  # noqa: F401 - torch's exporter needs it and says so late
    except ModuleNotFoundError as error:
        raise MissingDependencyError(f"ONNX needs a package: pip install {error.name}") from None
    try:
        with torch.no_grad(), _quiet():
            written = torch.onnx.export(
                program.run_decompositions({torch.ops.aten.einsum.default: _einsum_of_one_type}),
                input_names=graph.inputs,
                output_names=graph.outputs,
                opset_version=OPSET,
                verbose=False,
            )
            model = written.model_proto
    except Exception as error:  # torch raises many kinds
        raise ConfigError(f"this model cannot be written as ONNX: {_reason(error)}") from None
    _forget_source(model)
    _put_facts(model, facts)
    onnx.save_model(model, str(path))


def _put_facts(model: object, facts: Mapping) -> None:
    import onnx

    onnx.helper.set_model_props(model, {key: json.dumps(value, ensure_ascii=False) for key, value in facts.items()})


def write_torch_export(graph: ForecastGraph, program: torch.export.ExportedProgram, path: Path, facts: Mapping) -> None:
    """Write a .pt2 that `torch.export.load` reads; `facts` lie in it as `METADATA_FILE`."""
    facts = dict(facts) | {"inputs": graph.inputs, "outputs": graph.outputs}
    text = json.dumps(facts, ensure_ascii=False)
    buffer = io.BytesIO()  # given a path, torch writes the name of the file into it
    with _quiet():
        torch.export.save(program, buffer, extra_files={METADATA_FILE: text})
    path.write_bytes(buffer.getvalue())


def onnx_runner(path: Path, num_threads: int | None = None) -> Run:
    """The file behind onnxruntime on the CPU, with as many threads as torch has or as many as are said.

    Raises:
        ConfigError: onnxruntime does not take the file.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what goes wrong is raised, too
    options.intra_op_num_threads = num_threads or torch.get_num_threads()
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # classes of a C++ extension
        raise ConfigError(f"onnxruntime does not take what was written: {_reason(error)}") from None
    return lambda inputs: session.run(None, {name: value.numpy() for name, value in inputs.items()})


def torch_export_runner(path: Path) -> Run:
    """The file behind PyTorch, without any code of ours."""
    with _quiet():
        extra = {METADATA_FILE: ""}
        module = torch.export.load(io.BytesIO(path.read_bytes()), extra_files=extra).module()
    names = json.loads(extra[METADATA_FILE])["inputs"]

    def run(inputs: Mapping[str, torch.Tensor]) -> list[np.ndarray]:
        with torch.inference_mode():
            return [output.numpy() for output in module(*(inputs[name] for name in names))]

    return run


WRITERS = {"onnx": write_onnx, "torch_export": write_torch_export}
RUNNERS = {"onnx": onnx_runner, "torch_export": torch_export_runner}


class _LibraryChecksPass(TorchFunctionMode):
    """Answers `if tensor.any():` with no: chronos-forecasting refuses some inputs that way, a graph has no branches.

    The file is compared with PyTorch afterwards, so a branch that mattered would be seen.
    """

    def __torch_function__(
        self, function: Callable, types: object, arguments: tuple = (), keywords: dict | None = None
    ) -> object:
        if function is torch.Tensor.__bool__:
            return False
        return function(*arguments, **(keywords or {}))


def _einsum_of_one_type(equation: str, operands: list[torch.Tensor], *, path: list[int] | None = None) -> torch.Tensor:
    """Chronos-2 multiplies truth values with numbers, which ONNX does not."""
    types = {operand.dtype for operand in operands}
    if len(types) == 1:
        return NotImplemented  # keep the operator
    number = next(kind for kind in types if kind.is_floating_point)
    return torch.ops.aten.einsum.default(equation, [operand.to(number) for operand in operands])


def _forget_source(model: object) -> None:
    """Remove what torch notes of each operator: the lines of source code it came from, with this machine's paths."""
    for part in (model.graph, *model.functions):
        del part.metadata_props[:]
        for piece in (*part.node, *part.value_info, *getattr(part, "initializer", ())):
            del piece.metadata_props[:]
            piece.doc_string = ""
    for piece in (*model.graph.input, *model.graph.output):
        del piece.metadata_props[:]
    del model.metadata_props[:]
    model.graph.doc_string = model.doc_string = ""


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporters' progress and deprecations off the screen."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _reason(error: Exception) -> str:
    """The last cause in at most 200 characters of its first line."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:200] if lines else type(error).__name__


TOLERANCE = 1e-5
"""Largest difference from PyTorch, as a share of the target's deviation or of the window's largest value, if more."""
BATCH_SIZES = (1, 3, 64)
INT8_LOSS = 0.01
"""Share by which eight bits may raise the RMSE of the validation windows."""
INT8_WINDOWS, INT8_ROUNDS = 1024, 50
"""Validation windows at most, and forecasts of one of them, the fastest of which is stated."""


class Examples(NamedTuple):
    """Windows as arguments of a `ForecastGraph`, gaps as NaN, and as the data pipeline fills and masks them."""

    inputs: dict[str, torch.Tensor]
    batch: Batch


class OutputDifference(NamedTuple):
    """How far an exported file is from PyTorch on windows that were made up for the purpose.

    Attributes:
        batch_size: windows at once.
        absolute: largest difference, original units.
        relative: largest difference over max(deviation of the target in training, largest forecast of its window):
            float32 is as exact as the largest number in a sum.
    """

    batch_size: int
    absolute: float
    relative: float


class Int8(NamedTuple):
    """What eight bits cost and bring, beside the same file in float32.

    Attributes:
        loss: how much the RMSE of the validation windows rises, as a share.
        num_bytes: in float32, in eight bits.
        milliseconds: of one forecast on one core, in float32, in eight bits.
    """

    loss: float
    num_bytes: tuple[int, int]
    milliseconds: tuple[float, float]


class Exported(NamedTuple):
    """An exported file: its outputs, how far it is from PyTorch by batch size, and the time of the largest batch.

    Attributes:
        milliseconds: in the file's runtime, and in PyTorch.
        int8: if the file was made smaller afterwards; what stands above is of the one in float32.
    """

    path: Path
    num_bytes: int
    outputs: tuple[str, ...]
    differences: tuple[OutputDifference, ...]
    milliseconds: tuple[float, float]
    int8: Int8 | None = None

    @property
    def worst(self) -> OutputDifference:
        """The largest relative difference."""
        return max(self.differences, key=lambda difference: difference.relative)


def make_examples(model: ForecastModel, num_windows: int, seed: int = 0) -> Examples:
    """Windows like the training data in level and spread; all but the first have short and long gaps."""
    preprocessor, section = model.preprocessor, model.config.model
    roles, scaler, length = preprocessor.roles, preprocessor.scaler, section.context_length
    random, columns, num_statics = np.random.default_rng(seed), len(roles.columns), len(roles.static_real)
    waves = np.sin(np.arange(length)[:, None] / random.uniform(3, 40, (num_windows, 1, columns)))
    noisy = waves + 0.3 * random.standard_normal(waves.shape)
    past = (scaler.mean[:columns] + scaler.std[:columns] * noisy).astype(np.float32)
    for window in range(1, num_windows):
        for channel in range(columns):
            _cut_gaps(past[window, :, channel], random)
    stamps = pd.date_range("2024-01-01", periods=length, freq=preprocessor.frequency)
    items = [f"{window:06d}" for window in range(num_windows)]
    frame = pd.DataFrame(past.reshape(-1, columns), columns=list(roles.columns))
    frame.insert(0, TIMESTAMP, np.tile(stamps.to_numpy(), num_windows))
    frame.insert(0, ITEM, np.repeat(items, length))
    place = slice(columns, columns + num_statics)
    constants = scaler.mean[place] + scaler.std[place] * random.standard_normal((num_windows, num_statics))
    statics = pd.DataFrame(constants, index=items, columns=list(roles.static_real))
    table = SourceTable(frame, roles, statics=statics).with_settings(dict(preprocessor.fill), roles.time_features)
    panel = build_panel(table, preprocessor.frequency, preprocessor.max_gap, cut=False)
    values, status = padded_context(panel, panel.segment_start[1:] - length, length)
    future = np.zeros((num_windows, section.prediction_length, len(roles.channels)), np.float32)
    known = roles.control_indices
    future[..., known] = scaler.mean[known] + scaler.std[known] * random.standard_normal(future[..., known].shape)
    batch = {"past_values": torch.from_numpy(values), "past_observed_mask": torch.from_numpy(status != MISSING)}
    batch["past_read_mask"] = torch.from_numpy(status == OBSERVED)
    batch["future_values"] = torch.from_numpy(future)
    if model.reads_clock:
        batch["origin"] = torch.from_numpy(random.integers(0, 2_000_000_000, num_windows))
    if roles.static_categorical:
        codes = random.integers(0, roles.num_categories, (num_windows, len(roles.static_categorical)))
        batch["static"] = torch.from_numpy(codes)
    readings = torch.from_numpy(np.concatenate([past, values[..., columns:]], axis=-1))
    return Examples(_arguments(model, readings, batch), batch)


def real_windows(model: ForecastModel, windows: WindowDataset, most: int) -> Examples:
    """So many windows of a part of the data at most, evenly spread."""
    chosen = np.unique(np.linspace(0, len(windows) - 1, min(most, len(windows))).astype(int))
    batch = windows.__getitems__(chosen.tolist())
    past = torch.where(batch["past_observed_mask"], batch["past_values"], torch.nan)
    return Examples(_arguments(model, past, batch), batch)


def _arguments(model: ForecastModel, past: torch.Tensor, batch: Batch) -> dict[str, torch.Tensor]:
    roles, inputs = model.preprocessor.roles, {PAST: past}
    if model.reads_clock:
        inputs[ORIGIN] = batch["origin"]
    if roles.control_indices:
        inputs[FUTURE] = batch["future_values"][..., roles.control_indices].contiguous()
    if roles.static_categorical:
        inputs[STATIC] = batch["static"]
    return inputs


def _cut_gaps(readings: np.ndarray, random: np.random.Generator) -> None:
    """A few gaps of one step to half of the context; the first and the last reading stay, they say where it lies."""
    longest = max(1, len(readings) // 2)
    for size in (1, 2, int(random.integers(1, min(12, longest) + 1)), int(random.integers(1, longest + 1))):
        begin = int(random.integers(1, max(2, len(readings) - 1 - size)))
        readings[begin : min(begin + size, len(readings) - 1)] = np.nan


def quantize_onnx(path: Path, model: ForecastModel, facts: Mapping) -> Int8:
    """Turn the weights of an ONNX file into eight bits, and say what that costs on the validation windows.

    Activations are scaled by what they are in a batch: static ranges are no more exact on validation windows, slower,
    and would cut what a new window has beyond them. Weights take seven of the bits, so that no sum overflows on
    processors without instructions for eight.

    Raises:
        CheckpointError: the forecasts become worse by more than `INT8_LOSS`.
        DataError: the data of the run cannot be read, so nobody knows what eight bits cost.
    """
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    validation = model.prepare().validation
    examples = real_windows(model, validation, INT8_WINDOWS)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".partial-") as folder, _quiet():
        file = Path(folder, "int8.onnx")
        products = {"op_types_to_quantize": ["MatMul"], "per_channel": True, "reduce_range": True}
        quantize_dynamic(path, file, weight_type=QuantType.QInt8, **products)
        runs = [onnx_runner(place, num_threads=1) for place in (path, file)]
        before, after = (rmse_scaled(model, run, examples) for run in runs)
        if not after <= before * (1 + INT8_LOSS):
            raise CheckpointError(
                f"{path.name.removeprefix('.partial-')} was not kept: eight bits raise the error on the validation "
                f"windows by {after / before - 1:.1%}, and {INT8_LOSS:.0%} is allowed; leave out --int8"
            )
        one = {name: value[:1] for name, value in examples.inputs.items()}
        times = [[timeit.timeit(lambda run=run: run(one), number=1) for run in runs] for _ in range(INT8_ROUNDS)]
        smaller, size = onnx.load(file), path.stat().st_size
    _forget_source(smaller)
    _put_facts(smaller, dict(facts) | {"quantization": "int8"})
    onnx.save_model(smaller, str(path))
    return Int8(after / before - 1, (size, path.stat().st_size), tuple(1000 * np.min(times, axis=0)))


def rmse_scaled(model: ForecastModel, run: Run, examples: Examples) -> float:
    """Of a file's forecasts over the readings that follow, each target by its deviation in training."""
    targets, batch = model.preprocessor.roles.num_targets, examples.batch
    error = run(examples.inputs)[0] - batch["future_values"][..., :targets].numpy()
    error = error / model.preprocessor.scaler.std[:targets]
    return float(np.sqrt(np.square(error[batch["future_observed_mask"][..., :targets].numpy()]).mean()))


def export_model(
    model: ForecastModel, kind: str, output: str | Path, overwrite: bool = False, int8: bool = False
) -> Exported:
    """Write a model as ``onnx`` or ``torch_export`` and compare the file with PyTorch.

    Args:
        model: loaded; its own forecasts are the measure.
        kind: a key of `SUFFIXES`.
        output: the file, or a folder to write ``model.onnx`` or ``model.pt2`` into.
        overwrite: replace a file that is already there.
        int8: an ONNX file with weights of eight bits, judged on the validation windows of the run; see `quantize_onnx`.

    Raises:
        ConfigError: the model is not one function of one window, or the format has no operator for it.
        CheckpointError: the file does not forecast what PyTorch does; it is not kept.
        OutputError: the file cannot be written.
    """
    path = output_file(output, kind, overwrite)
    graph = ForecastGraph(model)
    program = trace(graph, make_examples(model, 4, seed=1).inputs)
    aside = path.with_name(f".partial-{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        facts = describe(model, graph, kind)
        WRITERS[kind](graph, program, aside, facts)
        run = RUNNERS[kind](aside)
        differences = tuple(_difference(model, graph, run, size) for size in BATCH_SIZES)
        for size, _, share in differences:
            if not share < TOLERANCE:
                raise CheckpointError(
                    f"{path.name} was not kept: with {size} window(s) it differs from PyTorch by {share:.1e} of the "
                    f"scale of the target, and {TOLERANCE:.0e} is allowed"
                )
        largest = make_examples(model, max(BATCH_SIZES))
        works = (lambda: run(largest.inputs)), (lambda: _expected(model, graph, largest))
        milliseconds = tuple(1000 * min(timeit.repeat(work, number=1, repeat=3)) for work in works)
        smaller = quantize_onnx(aside, model, facts) if int8 else None
        aside.replace(path)
    except OSError as error:
        raise OutputError(f"--output {path} cannot be written: {error.strerror}") from None
    finally:
        aside.unlink(missing_ok=True)
    return Exported(path, path.stat().st_size, tuple(graph.outputs), differences, milliseconds, smaller)


def output_file(output: str | Path, kind: str, overwrite: bool) -> Path:
    """The file to write.

    Raises:
        OutputError: it exists, or its name is of another kind.
    """
    path, suffix = Path(output), SUFFIXES[kind]
    if path.is_dir() or str(output).endswith("/") or not path.suffix:
        path = path / f"model{suffix}"
    if path.suffix != suffix:
        raise OutputError(f"--output {path}: a file of format {kind} ends with {suffix}")
    if path.exists() and not overwrite:
        raise OutputError(f"--output {path} exists; add --overwrite or choose another file")
    if path.is_dir():
        raise OutputError(f"--output {path} is a folder; choose another file")
    return path


def describe(model: ForecastModel, graph: ForecastGraph, kind: str) -> dict[str, object]:
    """What somebody needs who has the file and nothing else; no data, no paths."""
    preprocessor, section, roles = model.preprocessor, model.config.model, model.preprocessor.roles
    facts = {
        "model_type": model.model_type,
        "tuning_mode": model.config.tuning.mode,
        "context_length": section.context_length,
        "prediction_length": section.prediction_length,
        "frequency": preprocessor.frequency,
        "unit": preprocessor.unit,
        "targets": roles.target,
        f"{PAST}_channels": roles.channels,
        "missing": "NaN",
        "max_gap": preprocessor.max_gap,
        "tstune_version": tstune.__version__,
        "torch_version": torch.__version__,
    }
    if FUTURE in graph.inputs:
        facts[f"{FUTURE}_channels"] = [roles.channels[index] for index in roles.control_indices]
    if STATIC in graph.inputs:
        facts[f"{STATIC}_columns"] = roles.static_categorical
        facts[f"{STATIC}_codes"] = [["unknown", *values] for values in roles.categories]
    if ORIGIN in graph.inputs:
        facts[ORIGIN] = "time of the first forecast step in seconds since 1970, on the clock of the readings"
    if QUANTILES in graph.outputs:
        facts["quantile_levels"] = model.quantile_levels
    return facts | ({"opset": OPSET} if kind == "onnx" else {})


def _expected(model: ForecastModel, graph: ForecastGraph, examples: Examples) -> list[np.ndarray]:
    """What PyTorch forecasts, through the code that `predict` uses."""
    with torch.inference_mode():
        found = [model.forecast(examples.batch)]
        if QUANTILES in graph.outputs:
            found.append(model.forecast_quantiles(examples.batch, found[0]))
    return [values.numpy() for values in found]


def _difference(model: ForecastModel, graph: ForecastGraph, run: Run, size: int) -> OutputDifference:
    examples = make_examples(model, size, seed=size)
    expected = dict(zip(graph.outputs, _expected(model, graph, examples), strict=True))
    found = dict(zip(graph.outputs, run(examples.inputs), strict=True))
    absolute, relative = 0.0, 0.0
    deviation = model.preprocessor.scaler.std[: model.preprocessor.roles.num_targets]
    for name, values in expected.items():
        if found[name].shape != values.shape:
            raise CheckpointError(f"the file forecasts {found[name].shape} values of {name}, PyTorch {values.shape}")
        scale = deviation if name == FORECAST else deviation[:, None]
        difference = np.abs(found[name].astype(np.float64) - values)
        difference[np.isnan(difference)] = np.inf
        absolute = max(absolute, float(difference.max()))
        largest = np.abs(values).max(axis=tuple(range(1, values.ndim)), keepdims=True)
        relative = max(relative, float((difference / np.maximum(scale, largest)).max()))
    return OutputDifference(size, absolute, relative)


def summary(exported: Exported, kind: str) -> dict[str, str]:
    """Lines for people, by their title."""
    runtime = {"onnx": "onnxruntime", "torch_export": "torch.export"}[kind]
    theirs, ours = exported.milliseconds
    checked = ", ".join(f"{d.relative:.1e} with {d.batch_size}" for d in exported.differences)
    lines = {
        "file": f"{exported.path} ({exported.num_bytes / 1e6:.1f} MB), outputs {', '.join(exported.outputs)}",
        "difference from PyTorch": f"{checked} window(s), relative to the scale of the target; "
        f"at most {exported.worst.absolute:.1e} in its unit",
        "time": f"{max(BATCH_SIZES)} windows in {theirs:.1f} ms with {runtime}, {ours:.1f} ms with PyTorch",
    }
    if exported.int8 is not None:
        (large, small), (slow, fast) = exported.int8.num_bytes, exported.int8.milliseconds
        lines["int8"] = (
            f"{large / 1e6:.2f} to {small / 1e6:.2f} MB, RMSE of the validation windows {exported.int8.loss:+.2%}, one "
            f"forecast on one core {slow:.2f} to {fast:.2f} ms"
        )
    return lines
