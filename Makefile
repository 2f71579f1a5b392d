# Every target sets itself up: only Python >= 3.10 and make are needed.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Python compiles what is imported; most of what pip installs never is
PIP := $(BIN)/pip install --quiet --no-compile --disable-pip-version-check --constraint constraints.txt
SETUP := pyproject.toml constraints.txt setup.py $(wildcard csrc/*/*) csrc/bindings.cpp
SOURCES := $(wildcard csrc/*/*) csrc/bindings.cpp

# the tests of the page need a browser of the system
BROWSER := $(shell command -v chromium)

.PHONY: demo test test-all test-fast browser check docs format bench results resources soak fuzz stress matrix sbom audit clean

demo: $(VENV)/.demo
	@$(BIN)/gliclass-fast classify \
	  "A NASA rover has found organic molecules in a Martian crater." \
	  "The central bank raised interest rates to slow inflation." \
	  "Add this song to my workout playlist, please." \
	  "What a delightful film, I smiled from start to finish." \
	  --labels "space exploration,banking and finance,music,cooking,positive review,negative review" --table

# tests start many processes, which start in half the time where Python keeps bytecode
test test-fast test-all: export PYTHONDONTWRITEBYTECODE :=
JOBS ?= 2
# a process takes a file at a time, in the order of tests/conftest.py
PYTEST = OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses $(JOBS) --dist loadfile --no-loadscope-reorder
test: $(VENV)/.dev
	@test -n "$(BROWSER)" || echo "no chromium: the tests of the page are left out; 'make browser' installs it"
	$(PYTEST) -m "not nightly$(if $(BROWSER),, and not browser)"

# with what guards rarely touched parts too, such as builds without a compiler
test-all: $(VENV)/.dev
	$(PYTEST)

# without what builds, compiles or takes more than a second, for every small change
test-fast: $(VENV)/.dev
	$(PYTEST) -m "not slow and not long and not nightly"

# Debian's chromium, for the tests of the page; as root
browser:
	apt-get update -qq
	apt-get install -y -qq --no-install-recommends chromium chromium-driver

check: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/clang-format --dry-run -Werror $(SOURCES)
	$(BIN)/mypy -p gliclass_fast -p tools
	$(BIN)/lint-imports --no-cache

docs: $(VENV)/.dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(SOURCES)

# has anything become slower? ratios to the reference, against recorded ones
bench: $(VENV)/.dev
	$(BIN)/python -m pytest tools/test_speed.py

# the figures of the README and the docs, about an hour on two cores; DATA is a folder of labelled sentences
CPU_BENCH := $(BIN)/gliclass-fast bench --device cpu
# results of several kinds of CPUs stand side by side, named after their makers and instructions
KIND = $(shell $(BIN)/python -c "from gliclass_fast.bench import tables, timing; print(tables.cpu_kind(timing.machine()))")
results: $(VENV)/.dev
	@test -d "$(DATA)" || { echo "make results DATA=FOLDER: see bench/quality.py"; exit 2; }
	$(CPU_BENCH) --preset standard --model deberta-v3-base,modernbert-base --json bench/results/cpu.json
	$(CPU_BENCH) --preset peers --model deberta-v3-base,modernbert-base --json bench/results/peers-$(KIND).json
	$(CPU_BENCH) --preset card --model ettin-32m --json bench/results/card-cpu.json
	$(CPU_BENCH) --preset card --model deberta-v3-base --repeats 2 --json bench/results/card-base-cpu.json
	$(CPU_BENCH) --preset paper --model ettin-32m --json bench/results/paper-cpu.json
	$(CPU_BENCH) --preset paper --model deberta-v3-base --repeats 2 --json bench/results/paper-base-cpu.json
	$(CPU_BENCH) --preset families --json bench/results/families-cpu.json
	$(CPU_BENCH) --preset streaming --json bench/results/streaming-$(KIND).json
	$(CPU_BENCH) --preset cold-start --json bench/results/cold-start-cpu.json
	$(CPU_BENCH) --preset memory --json bench/results/memory-cpu.json
	$(CPU_BENCH) --preset threads --json bench/results/threads-cpu.json
	$(CPU_BENCH) --preset refresh --json bench/results/refresh-cpu.json
	$(CPU_BENCH) --preset adapters --json bench/results/adapters-$(KIND).json
	$(CPU_BENCH) --preset serving --json bench/results/serving-cpu.json
	$(CPU_BENCH) --preset quality --data $(DATA) --json bench/results/quality-cpu.json
	$(BIN)/python -m tools.report

# a server for ten minutes, while its replicas are killed; then one process alone, whose memory must not grow
soak: $(VENV)/.dev
	$(BIN)/python -m gliclass_fast.bench.serving_soak --minutes 10 --json bench/results/serving-soak-cpu.json
	$(BIN)/python -m gliclass_fast.bench.serving_soak --minutes 10 --json bench/results/serving-soak-cpu.json --alone

# random requests, damaged files or kernels of random sizes, for MINUTES: a new SEED gives new ones
MINUTES ?= 1
SEED ?= 0
TARGET ?= pipelines
fuzz: $(VENV)/.dev
	$(BIN)/python -m tools.fuzz --target $(TARGET) --minutes $(MINUTES) --seed $(SEED)

# threads, processes and event loops share pipelines for MINUTES
stress: $(VENV)/.dev
	$(BIN)/python -m tools.stress --minutes $(MINUTES)

# the core tests on every Python, with the oldest and the newest libraries; it downloads several builds of torch
matrix: $(VENV)/.dev
	$(BIN)/python -m tools.matrix

# what the compilers made of every kernel, recorded: after a change to csrc or to a Triton kernel
OLDER_TRITON := 3.6.0
resources: $(VENV)/.dev
	$(BIN)/python -m tools.compiled_resources --output bench/results/compiled.json
	$(BIN)/python -m tools.kernel_resources --output bench/results/kernels.json
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --upgrade --target $(VENV)/triton-$(OLDER_TRITON) triton==$(OLDER_TRITON)
	PYTHONPATH=$(VENV)/triton-$(OLDER_TRITON) $(BIN)/python -m tools.kernel_resources \
	  --output bench/results/kernels-triton-$(OLDER_TRITON).json

# what is installed in .venv, as CycloneDX JSON; the tools of this and of audit have a venv of their own
sbom: $(VENV)/.demo $(VENV)/.audit
	$(VENV)/audit/bin/cyclonedx-py environment $(BIN)/python --pyproject pyproject.toml --no-validate --output-file sbom.json

# known faults of what is installed in .venv; it asks pypi.org, and fails where that cannot be reached
audit: $(VENV)/.demo $(VENV)/.audit
	$(VENV)/audit/bin/pip-audit --strict --skip-editable --path "$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')"

clean:
	rm -rf $(VENV) build dist site *.egg-info kernels/*.so kernels/_not_built.txt sbom.json

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Python >= 3.10 is needed; set PYTHON=")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: $(BIN)/python $(SETUP)
	$(PIP) --editable ".[cli]"
	@touch $@

$(VENV)/.audit: $(BIN)/python
	$(PYTHON) -m venv $(VENV)/audit
	$(VENV)/audit/bin/pip install --quiet --disable-pip-version-check cyclonedx-bom pip-audit
	@touch $@

$(VENV)/.dev: $(BIN)/python $(SETUP)
	$(PIP) --editable ".[dev]"
	@touch $@ $(VENV)/.demo
