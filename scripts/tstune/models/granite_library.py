"""What we use of granite-tsfm beside TTM, or the pip line that brings it."""

from __future__ import annotations

from tstune.errors import MissingDependencyError

try:
    from tsfm_public.models.flowstate.configuration_flowstate import FlowStateConfig
    from tsfm_public.models.flowstate.modeling_flowstate import (
        FlowStateEncoderOutput,
        FlowStateForPrediction,
        FlowStateModel,
    )
    from tsfm_public.models.patchtst_fm.configuration_patchtst_fm import PatchTSTFMConfig
    from tsfm_public.models.patchtst_fm.modeling_patchtst_fm import PatchTSTFMForPrediction, PatchTSTFMModel
except ModuleNotFoundError as error:
    if error.name is None or error.name.partition(".")[0] != "tsfm_public":
        raise
    raise MissingDependencyError(
        "FlowState and PatchTST-FM need a package: pip install 'granite-tsfm>=0.3.11,<0.4'"
    ) from None

__all__ = [
    "FlowStateConfig",
    "FlowStateEncoderOutput",
    "FlowStateForPrediction",
    "FlowStateModel",
    "PatchTSTFMConfig",
    "PatchTSTFMForPrediction",
    "PatchTSTFMModel",
]
