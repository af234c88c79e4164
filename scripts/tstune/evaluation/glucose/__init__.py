"""What a run on glucose reports beyond the scoreboard."""

from tstune.evaluation.glucose.markdown import format_glucose_markdown
from tstune.evaluation.glucose.section import glucose_section

__all__ = ["format_glucose_markdown", "glucose_section"]
