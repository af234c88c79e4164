"""What a run in another process reports, read while it goes on."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from tstune.config.schema import RunConfig
from tstune.runs.folder import RunFolder
from tstune.runs.life import noted_run_id


class FollowedMetric:
    """A metric of a run, followed as it appears in the files of its file tracker.

    Args:
        config: the run.
        metric: that is measured from time to time.

    Attributes:
        file: where it appears, once the run has begun.
    """

    def __init__(self, config: RunConfig, metric: str) -> None:
        self._metric = metric
        self.file: Path | None = None
        self._output_dir = Path(config.output_dir)
        self._runs = Path(config.tracking.folder) / "files" / config.tracking.experiment
        self._offset, self._last_step, self._count = 0, -1, 0

    def new(self) -> Iterator[tuple[int, int, float]]:
        """Yield (number, optimizer step, value) of each measurement since the last call.

        Number 0 are the weights the training starts from, if they are measured; then the measurements are counted.
        """
        self.file = self.file or self._find()
        if self.file is None or not self.file.exists():
            return
        with self.file.open("rb") as stream:
            stream.seek(self._offset)
            for line in stream:
                if not line.endswith(b"\n"):  # it is being written
                    return
                self._offset += len(line)
                row = json.loads(line)
                step, value = row["step"], row.get(self._metric)
                if value is not None and step > self._last_step:  # a run that goes on repeats some steps
                    self._last_step = step
                    self._count += step > 0
                    yield self._count, step, value

    def _find(self) -> Path | None:
        """The run notes its id beside its checkpoints while it goes on, and in its folder at the end."""
        run_id = noted_run_id(self._output_dir) or RunFolder(self._output_dir).run_id
        return None if run_id is None else self._runs / run_id / "metrics.jsonl"
