# make report: Table 1 on the phantom release.   make test: the tests.   make bench: the benchmarks.
# All make .venv first, from pinned requirements; nothing outside this folder is touched.

PYTHON ?= python3
CORES ?= all
BIN := .venv/bin

.PHONY: report test bench lint lock clean

report: .venv/workflow
	$(BIN)/snakemake --cores $(CORES)

test: .venv/test
	$(BIN)/python -m pytest

bench: .venv/bench
	$(BIN)/python benchmarks

lint: .venv/test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/snakefmt --check Snakefile workflow
	$(BIN)/snakemake --lint

.venv/workflow: requirements.txt pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python >= 3.11 is needed")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	touch $@

.venv/test: .venv/workflow requirements-test.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-test.txt
	touch $@

.venv/bench: .venv/workflow requirements-bench.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-bench.txt
	touch $@

# Resolve anew, for Linux, macOS and ARM alike.
LOCK := uv pip compile --universal --python-version 3.11 --generate-hashes --no-header \
	--no-emit-index-url --no-emit-find-links --no-annotate --quiet
lock:
	$(LOCK) --extra workflow -o requirements.txt pyproject.toml
	$(LOCK) --extra workflow --extra test -c requirements.txt -o requirements-test.txt pyproject.toml
	$(LOCK) --extra workflow --extra bench -c requirements.txt -o requirements-bench.txt pyproject.toml

clean:
	rm -rf .venv results .snakemake
