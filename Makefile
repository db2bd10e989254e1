# make train | test | test-slow | test-gpu | bench | lint | format      VENV=path: use another environment; what it holds is not reinstalled
VENV ?= .venv
PYTHON ?= python3
ARGS ?=
RUN := $(VENV)/bin/python

# The pinned lines of requirements.txt whose package the environment lacks, in any version.
define MISSING
import importlib.metadata as m, re
have = {re.sub("[-_.]+", "-", d.metadata["Name"]).lower() for d in m.distributions()}
lines = [l.strip() for l in open("requirements.txt") if "==" in l]
print(*[l for l in lines if re.sub("[-_.]+", "-", l.split("==")[0]).lower() not in have])
endef
export MISSING

.PHONY: setup train test test-slow test-gpu bench lint format
# pip would compile all 20,000 modules, a minute and a half of a slow core; Python compiles those that are imported.
setup:
	@if [ ! -x $(RUN) ]; then \
		$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
			echo "error: SVD-MV needs Python 3.11 or newer, and $(PYTHON) is $$($(PYTHON) --version 2>&1): name one, as in make $(MAKECMDGOALS) PYTHON=python3.12"; exit 2; }; \
		$(PYTHON) -m venv $(VENV); \
	fi
	@missing="$$($(RUN) -c "$$MISSING")"; if [ -n "$$missing" ]; then echo "installing $$missing"; $(RUN) -m pip install --quiet --no-compile $$missing; fi

# The views are encoded once, before the training: half of each step.
train: setup
	$(RUN) main.py cache train_config/tiny_cpu.yaml cache.out=runs/dummy_latents $(ARGS)
	$(RUN) main.py train train_config/tiny_cpu.yaml data.cache=runs/dummy_latents $(ARGS)

# Three processes, also on two cores: the launches mostly wait. A file stays in one process, for its fixtures, and
# files go in the order of their names.
test: setup
	$(RUN) -m pytest --numprocesses 3 --dist loadfile --no-loadscope-reorder $(ARGS)

test-slow: setup
	$(RUN) -m pytest -m slow $(ARGS)

test-gpu: setup
	$(RUN) -m pytest -m gpu $(ARGS)

bench: setup
	$(RUN) benchmarks/bench.py $(ARGS)

lint: setup
	$(RUN) -m ruff format --check .
	$(RUN) -m ruff check .

format: setup
	$(RUN) -m ruff format .
	$(RUN) -m ruff check --fix .
