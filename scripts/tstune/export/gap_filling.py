"""The filling of short gaps that `tstune.data.preprocess` does, as tensor operations that can be exported."""

from __future__ import annotations

import torch
from torch import nn

from tstune.data.frequency import to_steps
from tstune.data.prepared import Preprocessor


class GapFilling(nn.Module):
    """Fills the gaps of a context as they were filled in training; longer ones stay missing.

    Args:
        preprocessor: its longest gap and what stands in the gaps of each channel.
    """

    def __init__(self, preprocessor: Preprocessor) -> None:
        super().__init__()
        roles = preprocessor.roles
        policies = [preprocessor.fill.get(name, "interpolate") for name in roles.columns]
        policies += ["none"] * (len(roles.channels) - len(roles.columns))  # constants and features of the time
        steps = to_steps(preprocessor.max_gap, preprocessor.frequency, "max_gap")
        gaps = [0 if policy == "none" else steps for policy in policies]
        self.longest = max(gaps)
        self.zeros = "zero" in policies
        for name, values in {
            "gaps": torch.tensor(gaps),
            "holds": torch.tensor([policy == "hold" for policy in policies]),
            "is_zero": torch.tensor([policy == "zero" for policy in policies]),
        }.items():
            self.register_buffer(name, values, persistent=False)

    def forward(self, readings: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Values and mask [batch, context, channels] of readings with NaN where there is none."""
        if self.zeros:
            readings = torch.where(self.is_zero & torch.isnan(readings), 0.0, readings)
        seen = ~torch.isnan(readings)
        values = torch.where(seen, readings, 0.0)
        if not self.longest:
            return values, seen
        length = readings.shape[1]
        rows = torch.arange(length, device=readings.device)[None, :, None]
        last, before = self._nearest(torch.where(seen, rows, -1), values, -1)
        following, after = self._nearest(torch.where(seen, length - 1 - rows, -1).flip(1), values.flip(1), -1)
        following, after = length - 1 - following.flip(1), after.flip(1)  # `length` where there is none
        share = (rows - last).to(values.dtype) / (following - last).clamp_min(1).to(values.dtype)
        line = torch.where(self.holds, before, before + (after - before) * share)
        inside = (last >= 0) & (following < length) & (following - last - 1 <= self.gaps)
        at_end = (last >= 0) & (following >= length) & (length - 1 - last <= self.gaps)
        filled = torch.where(inside, line, torch.where(at_end, before, 0.0))
        return torch.where(seen, values, filled), seen | inside | at_end

    def _nearest(self, rows: torch.Tensor, values: torch.Tensor, none: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Row and value of the last reading at or before each row, as far back as a gap may be long.

        In doubling shifts, because ONNX has no running maximum.
        """
        shift = 1
        while shift < 2 * self.longest:
            earlier = torch.cat([torch.full_like(rows[:, :shift], none), rows[:, :-shift]], dim=1)
            theirs = torch.cat([torch.zeros_like(values[:, :shift]), values[:, :-shift]], dim=1)
            newer = earlier > rows
            rows, values = torch.where(newer, earlier, rows), torch.where(newer, theirs, values)
            shift *= 2
        return rows, values
