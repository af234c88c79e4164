"""Quantiles for point forecasts: conformal prediction and its relatives, one method per file."""
