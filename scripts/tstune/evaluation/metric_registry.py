"""Metrics by name, and metrics of the user as `package.module:function`.

A metric is a function of one `ScoredWindows` that returns a number, or several by name. Register none: name the
function, for example

    def worst_error(windows):
        return float(abs(windows.forecast - windows.truth)[windows.observed].max())

in `my_metrics.py` on PYTHONPATH, as `my_metrics:worst_error`; its column is `worst_error`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from numbers import Real

from tstune.domains import domains
from tstune.errors import ConfigError
from tstune.evaluation import metrics
from tstune.evaluation.scored_windows import ScoredWindows
from tstune.named_code import import_named

Metric = Callable[[ScoredWindows], float | Mapping[str, float]]


@dataclass(frozen=True)
class BuiltinMetric:
    """A metric of ours.

    Attributes:
        needs: attributes of `ScoredWindows` that must be there.
        domain: name of the domain whose readings it is about; None for any.
    """

    compute: Metric
    needs: tuple[str, ...] = ()
    domain: str | None = None


def _point(metric: metrics.PointMetric) -> BuiltinMetric:
    return BuiltinMetric(lambda windows: metric(windows.truth, windows.forecast, windows.observed))


def _quantile(metric: Callable[..., float]) -> BuiltinMetric:
    return BuiltinMetric(
        lambda windows: metric(windows.truth, windows.quantiles, windows.levels, windows.observed),
        ("quantiles", "levels"),
    )


def _coverage(windows: ScoredWindows) -> dict[str, float]:
    found = {}
    for nominal in metrics.available_intervals(windows.levels):
        ends = metrics.central_interval(windows.quantiles, windows.levels, nominal)
        one = metrics.interval_coverage(windows.truth, *ends, windows.observed, nominal, windows.item)
        found |= {f"coverage_{100 * nominal:g}": one.coverage, f"width_{100 * nominal:g}": one.width}
    return found


METRICS: dict[str, BuiltinMetric] = {
    **{name: _point(getattr(metrics, name)) for name in ("rmse", "mae", "bias", "mape", "smape", "mard")},
    "mase": BuiltinMetric(
        lambda windows: metrics.mase(windows.truth, windows.forecast, windows.observed, windows.mase_scale),
        ("mase_scale",),
    ),
    "pinball": _quantile(lambda *windows: float(metrics.pinball_loss(*windows).mean())),
    "wql": _quantile(metrics.mean_weighted_quantile_loss),
    "crps": _quantile(metrics.crps_from_quantiles),
    "coverage": BuiltinMetric(_coverage, ("quantiles", "levels")),
    "calibration_error": _quantile(metrics.calibration_error),
}
"""Name -> metric of any series. Those that give several numbers name each, as `coverage` gives `coverage_80`."""


def builtin_metrics() -> dict[str, BuiltinMetric]:
    """`METRICS`, and those of every domain."""
    return METRICS | {name: metric for domain in domains() for name, metric in domain.metrics().items()}


def builtin_metric(name: str) -> BuiltinMetric | None:
    """The metric of that name; None for one of the user's, or none at all."""
    if name in METRICS or ":" in name:
        return METRICS.get(name)
    return builtin_metrics().get(name)


def find_metric(name: str) -> Metric:
    """The function behind the name of a built-in metric or behind ``package.module:function``.

    Raises:
        ConfigError: unknown, not importable, or no function.
    """
    metric = builtin_metric(name)
    if metric is not None:
        return metric.compute
    module_name, _, function_name = name.partition(":")
    if not module_name or not function_name:
        raise ConfigError(
            f"evaluation.metrics: unknown metric {name!r}; use {', '.join(builtin_metrics())}, "
            "or your own function as package.module:function"
        )
    found = import_named("evaluation.metrics:", name)
    if not callable(found):
        raise ConfigError(f"evaluation.metrics: {name} is not a function of {module_name}")
    return found


def compute_metrics(names: Iterable[str], windows: ScoredWindows) -> dict[str, float]:
    """Column -> value of all metrics, in the order of the names.

    Raises:
        ConfigError: an unknown metric, one that needs what the windows do not have, one that gives no numbers, or two
            that give the same column.
    """
    found: dict[str, float] = {}
    windows = windows.counted_from_zero()
    for name in names:
        compute = find_metric(name)
        missing = missing_for(name, windows)
        if missing:
            raise ConfigError(f"evaluation.metrics: {name} needs {', '.join(missing)}, which these windows do not have")
        for column, value in _columns(name, compute(windows)).items():
            if column in found:
                raise ConfigError(f"evaluation.metrics: {column!r} is computed twice, again by {name}; name it once")
            found[column] = value
    return found


def missing_for(name: str, windows: ScoredWindows) -> tuple[str, ...]:
    """What a built-in metric needs and the windows do not have; a user's metric says so itself."""
    metric = builtin_metric(name)
    return tuple(need for need in (metric.needs if metric else ()) if getattr(windows, need) is None)


def _columns(name: str, value: float | Mapping[str, float]) -> dict[str, float]:
    by_column = value if isinstance(value, Mapping) else {name.rpartition(":")[2]: value}
    for column, number in by_column.items():
        if not isinstance(number, Real):
            raise ConfigError(
                f"evaluation.metrics: {name} gave {type(number).__name__} for {column!r}; "
                "a metric returns a number, or numbers by name"
            )
    return {str(column): float(number) for column, number in by_column.items()}
