# Two commands do everything on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
RECIPE ?= recipes/ttm/cgm_sample/demo.yaml
AUDIT_HOST ?= pypi.org

.PHONY: help install demo docs test test-fast test-slow test-gpu test-slurm audit style benchmarks clean

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/'

install: $(VENV)/.installed  ## make the venv and install requirements.txt

$(VENV)/.installed: requirements.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade 'pip>=25'  # Python brings an old one: twice as slow
	DS_BUILD_OPS=0 $(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps 'fev>=0.10,<0.11'
	touch $@

demo: install  ## fine-tune on real glucose, print the scoreboard, write a report
	$(BIN)/accelerate launch --config_file accelerate_configs/cpu.yaml --num_cpu_threads_per_process 1 \
		scripts/finetune_ttm.py --config $(RECIPE) overwrite=true

test: install  ## lint, import contracts and the whole test suite
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	PYTHONPATH=scripts $(BIN)/lint-imports --no-cache
	$(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder -m "not slow and not slurm"

test-fast: install  ## unit tests and one family: the loop of a developer
	$(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder -q -m "not slow and not slurm" \
		tests/unit tests/tuning/test_modes.py tests/models/test_ttm_forecasts.py

test-slow: install  ## the tests that take minutes
	$(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder -m slow

test-gpu: install  ## every strategy on real GPUs; skipped by name where there are none
	$(BIN)/python -m pytest -m gpu tests/gpu

test-slurm: install  ## a two-node SLURM on this machine: runs go on after a requeue; needs root and Debian or Ubuntu
	@trap 'tests/slurm/cluster.sh stop' EXIT INT TERM; \
		tests/slurm/cluster.sh start && $(BIN)/python -m pytest -m slurm tests/slurm

audit: install  ## look up known weaknesses of the installed packages; skipped by name without a network
	@if $(BIN)/python -c "import socket; socket.create_connection(('$(AUDIT_HOST)', 443), 5)" 2>/dev/null; then \
		$(BIN)/python -m pip_audit --local --progress-spinner off; \
	else \
		echo "skipped: $(AUDIT_HOST) does not answer, so known weaknesses cannot be looked up"; \
	fi

style: install  ## format and fix what can be fixed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: install  ## write docs/configuration.md from the schema, docs/design_documents.md from the tests
	$(BIN)/python scripts/write_reference.py docs/configuration.md
	PYTHONPATH=scripts $(BIN)/python tests/seeds/printed.py docs/design_documents.md

benchmarks: install  ## print the measured claims of the README
	$(BIN)/python benchmarks/window_pipeline.py
	$(BIN)/python benchmarks/loop_overhead.py

clean:  ## remove the venv and caches
	rm -rf $(VENV) .pytest_cache .ruff_cache
