"""General code knows glucose by hooks alone, and any other domain the same way."""

from __future__ import annotations

import ast
import os
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from support import forks, tiny

from tstune import domains
from tstune.config.schema import DataSection
from tstune.data.cleaning import CleaningRules, clean_table
from tstune.data.table import ITEM, TIMESTAMP, Roles, SourceTable
from tstune.domains import domain_of, domain_of_column, register_domain
from tstune.errors import ConfigError
from tstune.evaluation.metrics import builtin_metrics, compute_metrics
from tstune.evaluation.scored_windows import ScoredWindows

SCRIPTS = Path(domains.__file__).parents[1]
MAY_IMPORT = ("tstune/glucose/", "tstune/data/sources/")

OWN = """
import numpy as np
from tstune.domains import Domain
from tstune.evaluation.metrics import BuiltinMetric

class Weather(Domain):
    name, about, units, warning = "weather", "temperatures in degC", ("degC",), "Take an umbrella."

    def unit_of(self, text):
        return "degC" if text == "degC" else None

    def owns_column(self, name):
        return name == "temperature"

    def find_unit(self, column, declared, rules, report):
        report.add("unit", 0, "read from the name", unit="degC")
        return "degC"

    def doubtful(self, column, unit, rules, report):
        return column.values > 60

    def metrics(self):
        return {"frost": BuiltinMetric(lambda windows: float((windows.forecast < 0).mean()), domain="weather")}

DOMAIN = Weather()
"""


def imported(path: Path) -> set[str]:
    """Modules that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return found


def test_only_sources_import_glucose():
    files = [path for path in SCRIPTS.rglob("*.py") if not path.relative_to(SCRIPTS).as_posix().startswith(MAY_IMPORT)]
    assert len(files) > 100
    wrong = [str(path) for path in files if any(name.startswith("tstune.glucose") for name in imported(path))]
    assert wrong == []


def test_a_run_on_another_unit_reads_no_more_of_glucose_than_its_units(tmp_path: Path):
    evaluation = {"metrics": ["smape"], "baselines": ["ridge"]}
    desk = tiny.write_desk(tmp_path, data={"unit": "MW"}, evaluation=evaluation, training={"max_steps": 1})
    code = (
        "import sys; from tstune import TTMForecaster, SimpleConfigManager; "
        "TTMForecaster(SimpleConfigManager().load_config('recipe.yaml')).fit(output_dir='run'); "
        "print(sorted(name for name in sys.modules if name.startswith('tstune.glucose')))"
    )
    run = forks.run([sys.executable, "-c", code], cwd=desk, env=os.environ | {"PYTHONPATH": str(SCRIPTS)})
    assert (desk / "run/report.html").is_file(), run.stderr
    assert run.stdout.splitlines()[-1] == "['tstune.glucose', 'tstune.glucose.units']"


@pytest.fixture
def weather(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "own_weather.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(domains, "_DOMAINS", dict(domains._DOMAINS))
    register_domain("weather", "own_weather:DOMAIN")


def test_a_domain_of_the_user(weather: None):
    assert domain_of("degC").name == domain_of_column("temperature").name == "weather"
    assert domain_of("mg/dL").name == domain_of_column("Sensor Glucose").name == "glucose"
    assert domain_of(None) is domain_of("MW") is domain_of_column("load") is None
    assert domain_of("degC", 1) is None, "it has no part of its own in the record"
    stamps = pd.date_range("2024-01-01", periods=4, freq="h")
    frame = pd.DataFrame({ITEM: "a", TIMESTAMP: stamps, "temperature": [1.0, 2, 99, 3]})
    cleaned = clean_table(SourceTable(frame, Roles(("temperature",))), CleaningRules.from_config(DataSection()))
    assert cleaned.unit == "degC"
    assert np.isnan(cleaned.frame["temperature"].to_numpy()).tolist() == [False, False, True, False]
    with pytest.raises(ConfigError, match="no target is glucose in a known unit"):
        clean_table(SourceTable(frame, Roles(("temperature",))), CleaningRules(convert_to="mg/dL"))
    values = np.array([[1.0, -2.0]])
    assert compute_metrics(["frost"], ScoredWindows(values, values, values < 9, unit="degC")) == {"frost": 0.5}
    assert {"frost", "clarke", "rmse"} <= set(builtin_metrics())


def test_hooks_that_a_domain_leaves_out_add_nothing(weather: None):
    own = domain_of("degC")
    assert (own.cohort_columns(np.ones(3), "degC"), own.part({}, {}, {}, (), None, None, "a")) == ({}, {})
    assert own.example(None) is own.band("degC") is own.typical("degC") is own.metric_kind("frost") is None
    assert (own.report_parts(), own.other_units(None, "rmse"), dict(own.published_splits())) == ((), [], {})
    assert own.factor("degC", "degC") == own.cleaning_factor("degC", "degC") == own.copy_factor("degC") == 1


@pytest.mark.parametrize("place", ["no_such_module:DOMAIN", "own_weather:NOTHING"])
def test_a_domain_that_cannot_be_loaded(weather: None, place: str):
    register_domain("weather", place)
    with pytest.raises(ConfigError, match=rf"domain {place} cannot be loaded \(.*; is its folder on PYTHONPATH\?"):
        domain_of("K")
