"""A run on several ranks whose group gives up after a few seconds, and whose tracker takes longer to get the model."""

from __future__ import annotations

import sys
import time
from datetime import timedelta
from pathlib import Path

import torch.distributed as dist

SECONDS_OF_THE_GROUP, SECONDS_OF_THE_UPLOAD = 10, 25
_init = dist.init_process_group


def init_process_group(*args: object, **keywords: object) -> None:
    """The same with a short patience."""
    keywords["timeout"] = timedelta(seconds=SECONDS_OF_THE_GROUP)
    _init(*args, **keywords)


dist.init_process_group = init_process_group

from tstune.config.managers import SimpleConfigManager  # noqa: E402
from tstune.models.ttm import TTMForecaster  # noqa: E402
from tstune.runtime.distributed import DistributedManager  # noqa: E402
from tstune.tracking.simple_tracker import SimpleExperimentTracker  # noqa: E402


class SlowUpload(SimpleExperimentTracker):
    """Needs its time for the model."""

    def log_model(self, model_path: Path, model_name: str) -> None:
        """Wait, then log."""
        time.sleep(SECONDS_OF_THE_UPLOAD)
        super().log_model(model_path, model_name)


config = SimpleConfigManager().load_config(sys.argv[1])
manager = DistributedManager(config.distributed)
TTMForecaster(config).fit(output_dir=sys.argv[2], manager=manager, tracker=SlowUpload(sys.argv[3]))
print(f"rank {manager.rank} of {manager.num_processes} is done")
