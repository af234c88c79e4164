"""The two files: how each is written, described and run."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
import torch
from torch.overrides import TorchFunctionMode

from tstune.errors import ConfigError, MissingDependencyError
from tstune.export.graph import ForecastGraph

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
    onnx.helper.set_model_props(model, {key: json.dumps(value, ensure_ascii=False) for key, value in facts.items()})
    onnx.save_model(model, str(path))


def write_torch_export(graph: ForecastGraph, program: torch.export.ExportedProgram, path: Path, facts: Mapping) -> None:
    """Write a .pt2 that `torch.export.load` reads; `facts` lie in it as `METADATA_FILE`."""
    facts = dict(facts) | {"inputs": graph.inputs, "outputs": graph.outputs}
    text = json.dumps(facts, ensure_ascii=False)
    buffer = io.BytesIO()  # given a path, torch writes the name of the file into it
    with _quiet():
        torch.export.save(program, buffer, extra_files={METADATA_FILE: text})
    path.write_bytes(buffer.getvalue())


def onnx_runner(path: Path) -> Run:
    """The file behind onnxruntime on the CPU.

    Raises:
        ConfigError: onnxruntime does not take the file.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what goes wrong is raised, too
    options.intra_op_num_threads = torch.get_num_threads()
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
