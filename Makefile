# Everything is installed into .venv by the first target that needs it: python3 with pip is all that must be there.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test test-interpreters check coverage stress random-tables kill-sweep bench docs dist clean

$(VENV)/.installed: pyproject.toml hatch_build.py $(wildcard src/shmlease/*/*.c src/shmlease/*/*/*.c)
	$(PYTHON) -m venv --without-pip $(VENV)
	$(PYTHON) -m pip --python $(BIN)/python install --quiet --disable-pip-version-check -e ".[dev]"
	touch $@

demo: $(VENV)/.installed  ## text files into HDF5, a killed worker, a planted leak: the point in thirty lines
	$(BIN)/python benchmarks/demo.py

test: $(VENV)/.installed  ## the whole suite, about five minutes on two cores
	$(BIN)/python -m pytest -n auto --dist worksteal $(PYTEST_ARGS)

test-interpreters: $(VENV)/.installed  ## unit and conformance tests on every other supported Python that this machine has
	$(BIN)/python tests/interpreters.py $(PYTEST_ARGS)

check: $(VENV)/.installed  ## lint, format and types
	$(BIN)/ruff check src tests benchmarks hatch_build.py
	$(BIN)/ruff format --check src tests benchmarks hatch_build.py
	$(BIN)/mypy
	$(BIN)/check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/ci.yml

coverage: $(VENV)/.installed  ## how much of the code the tests within one process reach
	$(BIN)/python -m pytest -n auto --dist worksteal --cov --cov-report=term:skip-covered tests/unit tests/conformance tests/property

stress: $(VENV)/.installed  ## the long stress and chaos runs
	$(BIN)/python -m pytest -m "stress or hypothesis" --timeout 1800 --hypothesis-profile explore $(PYTEST_ARGS)
	$(BIN)/shmlease stress --seconds 2min --chaos all --clients 8

random-tables: $(VENV)/.installed  ## random small tables, read by the parsers and by an obvious reader; RANDOM_ARGS="--count 1000000 --seed 7"
	PYTHONPATH=tests OPENBLAS_NUM_THREADS=1 $(BIN)/python -m random_tables $(RANDOM_ARGS)

kill-sweep: $(VENV)/.installed  ## kills at every system call of clients, registries and successors; KILL_ARGS="--points 3000" for fewer
	PYTHONPATH=tests $(BIN)/python -m kill_sweep $(KILL_ARGS)

# in the order of the page
MEASURED := handover objects throughput leases shared_memory existing_code ingest
bench: $(VENV)/.installed  ## measure everything beside its references (half an hour, a quiet machine), and make docs/benchmarks.md of it
	mkdir -p build/bench
	set -e; for name in $(MEASURED); do $(BIN)/python benchmarks/$$name.py --json build/bench/$$name.json; done
	$(BIN)/python benchmarks/report.py $(MEASURED:%=build/bench/%.json)
	$(BIN)/python benchmarks/reclaim.py
	$(BIN)/python benchmarks/audit.py speed
	$(BIN)/python benchmarks/overhead.py
	$(BIN)/python benchmarks/sink.py

docs: $(VENV)/.installed  ## the site of documentation, into build/docs
	$(PYTHON) -m pip --python $(BIN)/python install --quiet --disable-pip-version-check -e ".[docs]"
	$(BIN)/sphinx-build -q -W --keep-going -b html -d build/doctrees docs build/docs

dist: $(VENV)/.installed  ## wheel and sdist, checked
	rm -rf dist
	$(BIN)/python -m build --quiet
	$(BIN)/twine check --strict dist/*

clean:
	rm -rf $(VENV) dist build demo .pytest_cache .mypy_cache .ruff_cache .hypothesis
