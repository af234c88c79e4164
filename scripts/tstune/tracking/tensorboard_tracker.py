"""Tracking to TensorBoard event files."""

from __future__ import annotations

import json
import struct
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from tstune.config.schema import TrackingSection
from tstune.errors import TrackingError
from tstune.named_code import optional_module
from tstune.tracking.interfaces import HEADLINE, RunStatus, RunTracker, check_run_id, inside, numbers, write_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_STATUS = {"FINISHED": "STATUS_SUCCESS", "FAILED": "STATUS_FAILURE", "KILLED": "STATUS_FAILURE"}
_FLUSH_SECONDS = 10
_FOLDER = Path(TrackingSection().folder) / "tensorboard"


class TensorBoardExperimentTracker(RunTracker):
    """One folder of event files per run: ``<log_dir>/<experiment>/<run_id>/``.

    Numbers are single precision, and the file is written every 10 seconds. Metrics of the whole run are points at
    step 0; those of the group ``at_a_glance`` (without them: all) are, with the parameters and the status, the
    run's line in the HPARAMS tab. TensorBoard keeps no files: of a model or an artifact it gets the path, as text;
    pictures are stored. A run that goes on writes a second file, and steps that are done again come twice.

    Args:
        log_dir: what ``tensorboard --logdir`` is given.
    """

    name = "tensorboard"

    def __init__(self, log_dir: str | Path = _FOLDER) -> None:
        super().__init__()
        self.log_dir = Path(log_dir)
        self._params: dict[str, object] = {}
        self._results: dict[str, float] = {}

    @classmethod
    def from_config(cls, tracking: TrackingSection) -> TensorBoardExperimentTracker:
        """``tensorboard`` in `tracking.folder`."""
        return cls(Path(tracking.folder) / "tensorboard")

    def start_experiment(self, experiment_name: str, config: dict, run_id: str | None = None) -> str:
        """Open an event file."""
        optional_module("tensorboard", "the tensorboard tracker", "tensorboard>=2.19,<3")
        from torch.utils.tensorboard import SummaryWriter

        self.run_id = check_run_id(run_id)
        folder = inside(self.log_dir, experiment_name, "experiment") / self.run_id
        self._params, self._results = {}, {}
        self._run = SummaryWriter(str(folder), flush_secs=_FLUSH_SECONDS)
        self._run.add_text("config", f"```json\n{json.dumps(config, indent=2, default=str)}\n```")
        return self.run_id

    def log_params(self, params: Mapping[str, object]) -> None:
        """Write them as a text table; they also go to the HPARAMS tab at the end."""
        self._params |= params
        rows = [f"| {name} | {json.dumps(value, default=str)} |" for name, value in self._params.items()]
        self._started.add_text("params", "\n".join(["| name | value |", "|---|---|", *rows]))

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Add a point to each curve."""
        for name, value in numbers(metrics).items():
            self._started.add_scalar(name, value, step or 0)
        if step is None:
            self._results |= numbers(metrics)

    def log_tags(self, tags: Mapping[str, str]) -> None:
        """Write each as text."""
        for name, text in tags.items():
            self._started.add_text(name, text)

    def log_model(self, model_path: Path, model_name: str) -> None:
        """Write down where it lies."""
        self._started.add_text(f"models/{model_name}", str(Path(model_path).resolve()))

    def log_artifact(self, path: Path, name: str | None = None) -> None:
        """Write down where it lies."""
        self._started.add_text(f"artifacts/{name or path.name}", str(Path(path).resolve()))

    def log_figure(self, figure: Figure | Path, name: str) -> None:
        """Store the PNG file byte by byte."""
        from tensorboard.compat.proto.summary_pb2 import Summary

        with tempfile.TemporaryDirectory() as folder:
            content = write_figure(figure, Path(folder) / "figure.png").read_bytes()
        if content[:8] != b"\x89PNG\r\n\x1a\n":
            raise TrackingError(f"tensorboard: {figure} is not a PNG file")
        width, height = struct.unpack(">II", content[16:24])
        image = Summary.Image(height=height, width=width, colorspace=4, encoded_image_string=content)
        self._started._get_file_writer().add_summary(Summary(value=[Summary.Value(tag=name, image=image)]), 0)

    def end_experiment(self, status: RunStatus = "FINISHED") -> str:
        """Write the line of the HPARAMS tab and close the file."""
        shown = {name: value for name, value in self._results.items() if name.startswith(f"{HEADLINE}/")}
        for summary in _hparams(self._params, shown or self._results, status):
            self._started._get_file_writer().add_summary(summary)  # add_hparams would make a run of its own
        self._started.close()
        self._run = None
        return str(self.run_id)


def _hparams(params: Mapping[str, object], results: Mapping[str, float], status: RunStatus) -> list:
    """Summaries of the experiment, the begin and the end of the session, as the HPARAMS tab reads them."""
    from tensorboard.plugins.hparams.api_pb2 import Status
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
    from torch.utils.tensorboard.summary import hparams

    simple = {
        name: value if isinstance(value, int | float | str) else json.dumps(value, default=str)
        for name, value in params.items()
    }
    experiment, begin, end = hparams(simple, dict(results))
    plugin = end.value[0].metadata.plugin_data
    data = HParamsPluginData.FromString(plugin.content)
    data.session_end_info.status = Status.Value(_STATUS[status])
    plugin.content = data.SerializeToString()
    return [experiment, begin, end]
