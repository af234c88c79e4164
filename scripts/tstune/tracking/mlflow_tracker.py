"""Tracking to MLflow: a server, a database, or a SQLite file of one's own."""

from __future__ import annotations

import importlib.metadata
import json
import logging
import os
import re
import shutil
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from tstune.config.schema import TrackingSection
from tstune.config.section import without_credentials
from tstune.errors import ConfigError, TrackingError
from tstune.foreign_files import read_object
from tstune.named_code import optional_module
from tstune.runtime.logs import logger
from tstune.tracking.interfaces import (
    ExperimentTracker,
    RunStatus,
    RunTracker,
    check_run_id,
    copy,
    copy_model,
    first_line,
    inside,
    numbers,
    write_figure,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from mlflow.entities import Run
    from mlflow.models import Model, ModelSignature


_PACKAGE = Path(__file__).parents[1]
_PACKAGES = ("torch", "transformers", "granite-tsfm", "peft", "accelerate", "safetensors", "numpy", "pandas")
_PACKAGES += ("pyarrow", "scikit-learn", "pydantic", "omegaconf", "PyYAML", "psutil", "tqdm")
_SAVING = threading.Lock()  # MLflow runs the file of a model with state of the whole process


def pack_model(run_folder: Path, folder: Path, description: Model) -> Path:
    """Write an MLflow model: the saved model, the file that loads it, our package, and what to install."""
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

    saved = read_object(run_folder / "preprocessor.json", TrackingError)
    roles, item, stamp = saved["roles"], saved["item_id_column"], saved["timestamp_column"]
    inputs = None
    if saved["columns_as"] != "items":
        inputs = [ColSpec(AnyType(), item)] if item else []
        stamps, as_text = ([stamp], saved["timestamp_format"]) if isinstance(stamp, str) else (stamp, True)
        inputs += [ColSpec("string" if as_text else "datetime", name) for name in stamps]
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


RUN_TAG = "tstune.run_id"
"""Tag of an MLflow run that holds our id of it."""
PARENT_TAG = "tstune.parent_run"
PARAM_TAG = "tstune.param."

_SETTINGS = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}
_SHOWN = {"description": "mlflow.note.content", "source": "mlflow.source.name", "commit": "mlflow.source.git.commit"}
"""Our name of a tag -> that under which MLflow's pages show it."""
_FORBIDDEN = re.compile(r"[^/\w.\- :]")
_MAX_KEY = 250
_REFUSALS = ("INVALID_PARAMETER_VALUE", "BAD_REQUEST")
_FIX = (
    "start the server, correct tracking.mlflow_uri or MLFLOW_TRACKING_URI, check the credentials in the environment, "
    "or set tracking.required=false to train without it"
)


class MLflowExperimentTracker(RunTracker):
    """One MLflow run per run, found again by the tag ``tstune.run_id``.

    MLflow has rules of its own. Names hold letters, digits and ``_ - . : /`` and blanks: ``@`` becomes ``_at_``
    (``rmse@1h`` is ``rmse_at_1h``), any other character ``_``. Values of parameters are JSON, cut at 6000
    characters. A parameter cannot change: the new value becomes the tag ``tstune.param.<name>``. Metrics of the
    whole run get step 0. Infinity is stored as the largest number.

    The tags ``description``, ``source`` and ``commit`` stand where MLflow's pages show them, the data set of the run
    among its datasets. Nothing of the process is recorded but what is logged: no command line, no user, no system
    metrics, and MLflow's telemetry is off. Credentials come from MLFLOW_TRACKING_USERNAME and
    MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN.

    A dead server is given up after two attempts of 10 s, unless MLFLOW_HTTP_REQUEST_MAX_RETRIES and
    MLFLOW_HTTP_REQUEST_TIMEOUT say otherwise.

    Args:
        tracking_uri: server or database; null takes MLFLOW_TRACKING_URI, else a SQLite file in `runs/tracking`.
        run_name: name people read; null takes that of the output folder.
        parent_run: our id of the run this one is a part of, in the same experiment.
        registered_model_name: also register the logged model as a version of this name in MLflow's own registry,
            once per run; null registers nothing.

    Attributes:
        mlflow_run_id: MLflow's id of the run.
        model_uris: name of each logged model -> URI that `mlflow.pyfunc.load_model` takes.
    """

    name = "mlflow"

    def __init__(
        self,
        tracking_uri: str | None = None,
        run_name: str | None = None,
        parent_run: str | None = None,
        registered_model_name: str | None = None,
    ) -> None:
        super().__init__(run_name, parent_run)
        self.tracking_uri, self.registered_model_name = _resolved(tracking_uri), registered_model_name
        self.mlflow_run_id: str | None = None
        self.model_uris: dict[str, str] = {}
        self._client: _Client | None = None
        self._experiment_id = ""
        self._params: dict[str, str] = {}
        self._unanswered: dict[str, int] = {}

    @classmethod
    def from_config(cls, tracking: TrackingSection) -> MLflowExperimentTracker:
        """`tracking.mlflow_uri`, else MLFLOW_TRACKING_URI, else ``mlflow.db`` in `tracking.folder`."""
        uri = tracking.mlflow_uri or os.environ.get("MLFLOW_TRACKING_URI") or _database_in(tracking.folder)
        return cls(uri, tracking.run_name, tracking.parent_run, tracking.register_as)

    def settings(self) -> dict[str, object]:
        """See `ExperimentTracker.settings`; credentials in the URI are left to the environment."""
        return super().settings() | {"tracking_uri": without_credentials(self.tracking_uri)}

    def start_experiment(self, experiment_name: str, config: dict, run_id: str | None = None) -> str:
        """Create experiment and run, or go on with the run that has this id."""
        self.run_id = check_run_id(run_id)
        try:
            client = self._connect()
            self._experiment_id = self._open_experiment(experiment_name)
            run = self._find(self.run_id) if run_id is not None else None
            if run is None:
                run = client.create_run(self._experiment_id, tags=self._tags(), run_name=self._shown_name(config))
            else:
                client.update_run(run.info.run_id, status="RUNNING")
            self.mlflow_run_id, self._params = run.info.run_id, dict(run.data.params)
            client.log_dict(self.mlflow_run_id, json.loads(json.dumps(config, default=str)), "config.json")
        except OSError as error:
            raise TrackingError(f"{error}; {_FIX}") from error
        self._run = client
        return self.run_id

    def log_params(self, params: Mapping[str, object]) -> None:
        """Log in batches; what MLflow cannot change becomes a tag."""
        from mlflow.entities import Param, RunTag
        from mlflow.utils import chunk_list, validation

        limit = validation.MAX_PARAM_VAL_LENGTH
        texts = {_clean(name): _text(value) for name, value in params.items()}
        long = [name for name, text in texts.items() if len(text) > limit]
        if long:
            logger.warning("mlflow: values of %s are cut at %d characters", ", ".join(long), limit)
        texts = {name: text[:limit] for name, text in texts.items()}
        changed = {name: text for name, text in texts.items() if self._params.get(name, text) != text}
        if changed:
            logger.warning("mlflow keeps the first value of %s; the new one is a tag", ", ".join(sorted(changed)))
        new = [Param(name, text) for name, text in texts.items() if name not in self._params]
        tags = [RunTag(f"{PARAM_TAG}{name}"[:_MAX_KEY], text) for name, text in changed.items()]
        for batch in chunk_list(new, validation.MAX_PARAMS_TAGS_PER_BATCH):
            self._started.log_batch(self.mlflow_run_id, params=batch)
            self._params |= {param.key: param.value for param in batch}
        for batch in chunk_list(tags, validation.MAX_PARAMS_TAGS_PER_BATCH):
            self._started.log_batch(self.mlflow_run_id, tags=batch)

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Log in one request; null counts as NaN."""
        from mlflow.entities import Metric
        from mlflow.utils import chunk_list, validation

        # A row whose answer got lost may have arrived: sent again with the same time it is stored once.
        row = repr((step, list(metrics.items())))
        now = self._unanswered.setdefault(row, int(time.time() * 1000))
        points = [Metric(_clean(name), value, now, step or 0) for name, value in numbers(metrics).items()]
        for batch in chunk_list(points, validation.MAX_METRICS_PER_BATCH):
            self._started.log_batch(self.mlflow_run_id, metrics=batch)
        del self._unanswered[row]

    def log_tags(self, tags: Mapping[str, str]) -> None:
        """Log in one request; what is longer than a tag of MLflow is cut."""
        from mlflow.entities import RunTag
        from mlflow.utils.validation import MAX_TAG_VAL_LENGTH

        texts = {_SHOWN.get(name, _clean(name)): text[:MAX_TAG_VAL_LENGTH] for name, text in tags.items()}
        if "source" in tags:
            texts["mlflow.source.type"] = "LOCAL"
        self._started.log_batch(self.mlflow_run_id, tags=[RunTag(name, text) for name, text in texts.items()])

    def log_dataset(self, name: str, digest: str, profile: Mapping[str, object]) -> None:
        """Log the input of a training."""
        from mlflow.entities import Dataset, DatasetInput, InputTag

        source = json.dumps({"source": profile.get("source", name)})
        dataset = Dataset(name, digest, "local", source, profile=json.dumps(profile))
        used = DatasetInput(dataset, [InputTag("mlflow.data.context", "training")])
        self._started.log_inputs(self.mlflow_run_id, datasets=[used])

    def log_model(self, model_path: Path, model_name: str) -> None:
        """Log a model with signature that `mlflow.pyfunc.load_model` loads anywhere: our code goes with it."""
        from mlflow.entities import LoggedModelOutput
        from mlflow.models import Model

        client, run, name = self._started, self.mlflow_run_id, re.sub(r"[^\w-]", "_", model_name)
        with tempfile.TemporaryDirectory() as folder:
            logged = client.create_logged_model(
                self._experiment_id, name=name, source_run_id=run, tags={RUN_TAG: str(self.run_id)}
            )
            place, model_id = logged.artifact_location, logged.model_id
            description = Model(artifact_path=place, run_id=run, model_uuid=model_id, model_id=model_id)
            packed = pack_model(Path(model_path), Path(folder), description)
            client.log_outputs(run, [LoggedModelOutput(model_id, step=0)])
            client.log_model_artifacts(model_id, str(packed))
            client.finalize_logged_model(model_id, "READY")
            if self.registered_model_name is not None:
                self._register(model_id, self.registered_model_name)
        self.model_uris[model_name] = f"models:/{model_id}"

    def _register(self, model_id: str, name: str) -> None:
        """Make the logged model a version in MLflow's registry, if the run has none yet."""
        client, run = self._started, self.mlflow_run_id
        client.create_registered_model(name)
        if not client.search_model_versions(f"name = '{name}' and run_id = '{run}'"):
            tags = {RUN_TAG: str(self.run_id)}
            source = f"models:/{model_id}"
            client.create_model_version(name, source, run, tags=tags, await_creation_for=0, model_id=model_id)

    def log_artifact(self, path: Path, name: str | None = None) -> None:
        path = Path(path)
        name = name or path.name
        inside(Path("artifacts"), name)
        target = PurePosixPath(name)
        if path.is_dir():
            self._started.log_artifacts(self.mlflow_run_id, str(path), str(target))
        elif path.name != target.name:  # MLflow takes the name of the file
            with tempfile.TemporaryDirectory() as folder:
                copy(path, Path(folder) / target.name)
                self.log_artifact(Path(folder) / target.name, name)
        else:
            folder = None if target.parent == PurePosixPath(".") else str(target.parent)
            self._started.log_artifact(self.mlflow_run_id, str(path), folder)

    def log_figure(self, figure: Figure | Path, name: str) -> None:
        with tempfile.TemporaryDirectory() as folder:
            self.log_artifact(write_figure(figure, Path(folder) / PurePosixPath(name).name), name)

    def end_experiment(self, status: RunStatus = "FINISHED") -> str:
        self._started.set_terminated(self.mlflow_run_id, status)
        return str(self.run_id)

    def child(self, name: str) -> ExperimentTracker:
        """A run inside this run."""
        return type(self)(self.tracking_uri, run_name=name, parent_run=self.run_id)

    def _connect(self) -> _Client:
        if self._client is None:
            for name, value in _SETTINGS.items():
                os.environ.setdefault(name, value)
            for chatty in ("mlflow.store.db.utils", "alembic", "urllib3.connectionpool"):
                logging.getLogger(chatty).setLevel(logging.ERROR)
            database = _sqlite_file(self.tracking_uri)
            if database is not None:
                database.parent.mkdir(parents=True, exist_ok=True)
            optional_module("mlflow", "the mlflow tracker", "mlflow>=3.17,<4")
            self._client = _Client(self.tracking_uri)
        return self._client

    def _open_experiment(self, name: str) -> str:
        experiment = self._client.get_experiment_by_name(name)
        if experiment is None:
            database = _sqlite_file(self.tracking_uri)
            beside = database.with_name("mlflow-artifacts").as_uri() if database else None  # not in the current folder
            self._client.create_experiment(name, artifact_location=beside)
            experiment = self._client.get_experiment_by_name(name)
        if experiment.lifecycle_stage == "deleted":
            raise TrackingError(
                f"experiment {name!r} was deleted from MLflow at {without_credentials(self.tracking_uri)}; set "
                "another tracking.experiment, or restore it: mlflow experiments restore --experiment-id "
                f"{experiment.experiment_id}"
            )
        return experiment.experiment_id

    def _find(self, run_id: str) -> Run | None:
        found = self._client.search_runs([self._experiment_id], f"tags.`{RUN_TAG}` = '{run_id}'", max_results=1)
        return found[0] if found else None

    def _tags(self) -> dict[str, str]:
        """Of a new run."""
        tags = {RUN_TAG: str(self.run_id)}
        if self.parent_run is not None:
            tags[PARENT_TAG] = self.parent_run
            parent = self._find(check_run_id(self.parent_run))
            if parent is not None:
                tags["mlflow.parentRunId"] = parent.info.run_id
            else:
                logger.warning("mlflow knows no run %s: run %s is not nested in it", self.parent_run, self.run_id)
        return tags


class MLflowExperimentLogger(MLflowExperimentTracker):
    """An MLflow tracker whose one run begins with it; `log_metric` and `log_params` write, `end_experiment` ends it."""

    def __init__(self, experiment_name: str) -> None:
        super().__init__()
        self.experiment_name = experiment_name
        self.start_experiment(experiment_name, {})


class _Client:
    """MLflow's client. A server that is away is an `OSError`, a request that it refuses a `TrackingError`."""

    def __init__(self, uri: str) -> None:
        from mlflow import MlflowClient

        self._client, self._uri = MlflowClient(uri), without_credentials(uri)

    def __getattr__(self, name: str) -> Callable[..., Any]:
        from mlflow.exceptions import MlflowException

        method = getattr(self._client, name)

        def ask(*arguments: object, **keywords: object) -> object:
            try:
                return method(*arguments, **keywords)
            except MlflowException as error:
                if error.error_code == "RESOURCE_ALREADY_EXISTS":  # another process was faster
                    return None
                if error.error_code in _REFUSALS:
                    raise TrackingError(f"MLflow at {self._uri} refuses: {_reason(error)}") from error
                raise ConnectionError(f"MLflow at {self._uri} does not answer: {_reason(error)}") from error

        return ask


def _resolved(uri: str | None) -> str:
    """The URI with credentials, if the environment has the same one with them; SQLite files as absolute paths."""
    default = os.environ.get("MLFLOW_TRACKING_URI")
    uri = uri or default or _database_in(TrackingSection().folder)
    if default and uri == without_credentials(default):
        return default
    if uri not in (default, without_credentials(uri)):
        raise ConfigError(
            "the address of MLflow holds a user name, password or token, and would be written down; put them into "
            "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
        )
    database = _sqlite_file(uri)
    return uri if database is None else f"sqlite:///{database}"


def _database_in(folder: str) -> str:
    return f"sqlite:///{Path(folder).resolve() / 'mlflow.db'}"


def _sqlite_file(uri: str) -> Path | None:
    return Path(uri.removeprefix("sqlite:///")).resolve() if uri.startswith("sqlite:///") else None


def _clean(name: str) -> str:
    cleaned = _FORBIDDEN.sub("_", name.replace("@", "_at_"))
    return "/".join(part for part in cleaned.split("/") if part not in ("", ".", ".."))[:_MAX_KEY] or "_"


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str)


def _reason(error: Exception) -> str:
    known = "Connection refused", "timed out", "Name or service not known", "Temporary failure in name resolution"
    return next((short for short in known if short in str(error)), first_line(error))
