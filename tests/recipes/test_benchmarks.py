"""Each benchmark runs and ends with its `RESULT` line; the figures themselves are for a quiet machine."""

from __future__ import annotations

import os
import re
import sys

import pytest
from documented import ROOT
from support import forks

QUICK = {
    "window_pipeline.py": "--rows 2000 --repeats 2",
    "cost_growth.py": "--decades 1 --repeats 1",
    "int8_export.py": "",
    "kaggle_conversion.py": "--rows 2000",
    "large_panel.py": "--items 4 --rows 2000 --windows 200 --repeats 1",
    "loop_overhead.py": "--steps 3 --repeats 1",
    "monitoring.py": "--people 2 --days 45 --new-sensor-day 22 --learned-days 5 --reference-days 5 --new-days 20",
    "pretraining_pays.py": "--shares 0.05 --seeds 1 --set training.max_steps=2 data.test_stride=200",
    "public_tasks.py": "--data {shared}/data --output {out} --model builtin",
    "scaling.py": "--steps 2 --repeats 1 --batch-size 4 --strategies ddp --processes 2 --no-checkpoints",
    "serving.py": "--quick",
    "short_contexts.py": "--set training.max_steps=2 data.test_stride=200",
    "startup.py": "--megabytes 0.1 --repeats 1 --no-budget",
    "synthetic_generator.py": "--batch-size 16 --generated 2 --steps 1 --repeats 1",
    "time_budget.py": "--minutes 0.5 --only national_illness",
    "tuning_modes.py": "--weights none --modes from_scratch --set training.max_steps=2 evaluation.num_plots=0",
    "vs_autogluon.py": "--minutes 0.5 --series 40 --only national_illness",
    "vs_chronos.py": "--sizes tiny --train-windows 32 --validation-windows 32 --epochs 1 --repeats 1",
    "vs_granite_trainer.py": "--channels 1 --repeats 1 --train-windows 64 --validation-windows 64 --frozen 1 --full 1",
    "zero_shot.py": "",
}
# The others are slow.
FAST = ("kaggle_conversion.py", "window_pipeline.py")


def test_every_benchmark_is_run():
    assert sorted(QUICK) == sorted(path.name for path in (ROOT / "benchmarks").glob("*.py"))


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in FAST else [pytest.mark.slow]) for name in sorted(QUICK)]
)
def test_benchmark_ends_with_a_result(name, tmp_path, tmp_path_factory, request):
    shared = request.getfixturevalue("shared") if "{shared}" in QUICK[name] else None
    words = QUICK[name].format(shared=shared, out=tmp_path_factory.mktemp("out") / "made").split()
    if name == "vs_autogluon.py":
        theirs = os.environ.get("AUTOGLUON_PYTHON")  # an environment of its own
        words += ["--python", theirs or pytest.skip("AUTOGLUON_PYTHON names no interpreter")]
    answer = forks.run([sys.executable, ROOT / "benchmarks" / name, *words], cwd=tmp_path)
    assert answer.returncode == 0, answer.stderr
    last = answer.stdout.splitlines()[-1]
    assert re.fullmatch(r"RESULT( \w+=[\d.]+)+", last), last
    figures = [float(value) for value in re.findall(r"=([\d.]+)", last)]
    assert min(figures) > 0
    assert list(tmp_path.iterdir()) == []
