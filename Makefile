# Two commands do everything, set-up included: `make run` and `make test`.

VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# The first Python of a supported version that is there.
PYTHON ?= $(shell for p in python3.13 python3.12 python3.11 python3; do \
	command -v $$p >/dev/null && $$p -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' \
	2>/dev/null && { echo $$p; break; }; done)

# A package index with builds of torch for CPUs only, which need a fraction of the disk: make run TORCH_INDEX=URL
TORCH_INDEX ?=
TORCH := $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX))
# Of what pip says, the large downloads and what takes long.
SAY := '/^ *Downloading .*[( ][0-9.]+ [MG]B/ { size = $$0; sub(/ [MG]B.*/, "", size); sub(/.*[( ]/, "", size); \
	if (size + 0 > 50 || /GB/) { sub(/^ */, ""); print "setup: " $$0 } } \
	/^Collecting/ { if (++n % 50 == 0) print "setup: " n " packages chosen" } \
	/^Installing collected/ { print "setup: unpacking all of them, which takes minutes" } { fflush() }'

export PATH := $(CURDIR)/$(BIN):$(PATH)
# Nothing reports home.
export DO_NOT_TRACK := true
export PREFECT_SERVER_ANALYTICS_ENABLED := false
export MLFLOW_DISABLE_TELEMETRY := true
export DVC_NO_ANALYTICS := 1
# Beside other busy processes a second thread makes torch slower, not faster.
export OMP_NUM_THREADS := 1
export OMP_WAIT_POLICY := PASSIVE
export PREFECT_HOME ?= $(CURDIR)/.prefect

# The embedded data. Outside git, as in an unpacked archive, DVC has to be told that it can do without.
define FETCH
@git rev-parse --git-dir >/dev/null 2>&1 || test -e .git || dvc config --local core.no_scm true
@dvc pull -r embedded data.dvc >/dev/null
endef

.PHONY: help setup run serve stop test test-all lint bench docs clean
help:  ## show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12
	@echo "make run TORCH_INDEX=URL takes torch from that package index, for instance one with builds for CPUs only"

setup: $(READY)  ## make the environment

$(READY): constraints.txt pyproject.toml
	@test -n "$(PYTHON)" || { echo "error: no Python 3.11 or newer with venv found; install one, or give it: make PYTHON=/path/to/python3.12" >&2; exit 2; }
	@df -Pk . | awk 'NR == 2 && $$4 < 10e6 { printf "warning: %.1f GB are free here; the environment takes 7, and some 3 more while it is made\n", $$4 / 1e6 }' >&2
	@echo "setup: making $(VENV), once; some 5 GB are downloaded, and far less with TORCH_INDEX (make help)"
	@$(PYTHON) -m venv $(VENV)
	@{ $(BIN)/python -m pip install --progress-bar off --disable-pip-version-check $(TORCH) -c constraints.txt \
	-e '.[dev]'; echo $$? >$(VENV)/.status; } | awk $(SAY); test "$$(cat $(VENV)/.status)" -eq 0
	@touch $@

run: $(READY)  ## the main job: data, training of every method, report, leaderboard
	$(FETCH)
	@python -m flows.repro; status=$$?; test $$status -ne 2 || exit 2; \
	test $$status -eq 0 || python -m flows.report; \
	python -m flows.report --show; exit $$status

serve: $(READY) data/digits  ## start Prefect (server and worker), MLflow and the reports here; OUT=FOLDER: other results
	@python -m flows.serve start $(if $(OUT),--out "$(OUT)")

stop: $(READY)  ## end what `make serve` started
	@python -m flows.serve stop

test: $(READY) data/digits  ## run the tests that take minutes, with lint and types
	ruff check . && ruff format --check . && mypy
	python -m pytest -n 2 --dist loadfile -m 'not slow'

test-all: $(READY) data/digits  ## run every test
	ruff check . && ruff format --check . && mypy
	python -m pytest -n 2 --dist loadfile

data/digits: $(READY)
	$(FETCH)

lint: $(READY)  ## format the code, mend what ruff can mend, check types
	ruff format . && ruff check --fix . && mypy

bench: $(READY) data/digits  ## measure the loop beside a hand-written one, and where a run's time goes
	python -m benchmarks.loop
	python -m benchmarks.whole_run

docs: $(READY)  ## the pages as a site with search, in out/site; fails where a link leads nowhere
	@python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[docs]'
	@NO_MKDOCS_2_WARNING=1 mkdocs build --quiet
	@echo "docs: out/site/index.html; with search: python -m http.server --directory out/site 8000"

clean:  ## remove `out`: results, checkpoints, unfinished work, MLflow's database
	rm -rf out
