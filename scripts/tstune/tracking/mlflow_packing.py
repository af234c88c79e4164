"""A run folder as an MLflow model that loads anywhere."""

from __future__ import annotations

import importlib.metadata
import json
import shutil
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from tstune.runtime.logs import logger
from tstune.tracking.files import copy_model

if TYPE_CHECKING:
    from mlflow.models import Model, ModelSignature

_PACKAGE = Path(__file__).parents[1]
_PACKAGES = ("torch", "transformers", "granite-tsfm", "peft", "accelerate", "safetensors", "numpy", "pandas")
_PACKAGES += ("pyarrow", "scikit-learn", "pydantic", "omegaconf", "PyYAML", "psutil", "tqdm")
_SAVING = threading.Lock()  # MLflow runs the file of a model with state of the whole process


def pack_model(run_folder: Path, folder: Path, description: Model) -> Path:
    """Write an MLflow model: the saved model, the file that loads it, our package, and what to install.

    Args:
        run_folder: holds the saved model.
        folder: empty place to work in.
        description: where MLflow will keep it.

    Returns:
        the folder of the MLflow model.

    Raises:
        TrackingError: the run folder holds no model.
    """
    import mlflow.pyfunc

    files, code, packed = folder / "run", folder / "code" / _PACKAGE.name, folder / "packed"
    copy_model(run_folder, files)
    shutil.copytree(_PACKAGE, code, ignore=shutil.ignore_patterns("__pycache__", "assets"))  # assets are for training
    with _SAVING, warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # advice about examples and type hints
        mlflow.pyfunc.save_model(
            str(packed),
            python_model=str(Path(__file__).with_name("mlflow_model.py")),
            artifacts={"run": str(files)},
            signature=_signature(files),
            code_paths=[str(code)],
            pip_requirements=list(_installed()),  # else MLflow would load the model to find them out
            mlflow_model=description,
        )
    return packed


def _signature(run_folder: Path) -> ModelSignature:
    """Columns in, columns out. Ids may be numbers or text, values whole numbers or not: MLflow converts neither.

    Of a wide table, with a column per series, only the output is stated: its columns are whatever series there are.
    """
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, Schema
    from mlflow.types.schema import AnyType

    saved = json.loads((run_folder / "preprocessor.json").read_text(encoding="utf-8"))
    roles, item, stamp = saved["roles"], saved["item_id_column"], saved["timestamp_column"]
    inputs = None
    if saved["columns_as"] != "items":
        inputs = [ColSpec(AnyType(), item)] if item else []
        inputs.append(ColSpec("string" if saved["timestamp_format"] else "datetime", stamp))
        inputs += [ColSpec(AnyType(), name) for role in ("target", "conditional", "control") for name in roles[role]]
    outputs = [ColSpec("string", "item_id"), ColSpec("datetime", "timestamp")]
    outputs += [ColSpec("double", name) for name in roles["target"]]
    return ModelSignature(inputs and Schema(inputs), Schema(outputs))


def _installed() -> Iterator[str]:
    for name in ("mlflow", *_PACKAGES):
        try:
            yield f"{name}=={importlib.metadata.version(name).partition('+')[0]}"
        except importlib.metadata.PackageNotFoundError:
            logger.debug("%s is not installed: left out of the requirements of the logged model", name)
